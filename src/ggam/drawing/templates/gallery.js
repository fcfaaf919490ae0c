const store = JSON.parse(document.getElementById("gallery-data").textContent);
const shots = store.shots.map(([sheet, start, label, said, sure, own, name, located, empty]) =>
  ({ sheet, start, label, said, sure, own, name, located, empty, right: label === said }));
const form = document.querySelector(".filters"), list = document.getElementById("shots");
const more = document.getElementById("more"), count = document.getElementById("count");
const PAGE = 36;
const ORDERS = {
  hardest: (a, b) => a.own - b.own,
  easiest: (a, b) => b.own - a.own,
  surest: (a, b) => b.sure - a.sure,
  unsure: (a, b) => a.sure - b.sure,
  off: (a, b) => a.located - b.located,
  on: (a, b) => b.located - a.located,
  class: (a, b) => a.label - b.label,
};
let found = [], shown = 0;

const make = (tag, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));
const share = thousandths => `${(thousandths / 10).toFixed(1)}\u00a0%`;

// A sheet is fetched when the first of its tiles comes near the screen.
const near = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    target.style.backgroundImage = `url("${target.dataset.sheet}")`;
    near.unobserve(target);
  }
}, { rootMargin: "400px" });

function addTile(strip, shot, place, title, text) {
  const [file, rows] = store.sheets[shot.sheet], at = shot.start + place;
  const figure = make("figure", strip), picture = make("span", figure);
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", text);
  picture.dataset.sheet = file;
  picture.style.backgroundSize = `${100 * store.columns}% ${100 * rows}%`;
  const x = 100 * (at % store.columns) / (store.columns - 1);
  const y = rows > 1 ? 100 * Math.floor(at / store.columns) / (rows - 1) : 0;
  picture.style.backgroundPosition = `${x}% ${y}%`;
  near.observe(picture);
  make("figcaption", figure, { textContent: title });
}

function addShot(shot) {
  const name = store.classes[shot.label], said = store.classes[shot.said];
  const item = make("li", list, { className: shot.right ? "shot" : "shot wrong" });
  const strip = make("div", item, { className: "strip" });
  addTile(strip, shot, 0, "picture", `Test picture ${shot.name} of ${name}`);
  const bare = bit => shot.empty & bit ? " (empty)" : "";
  addTile(strip, shot, 1, (shot.right ? "Grad-CAM" : "for the answer") + bare(1), `Its Grad-CAM map for ${said}${bare(1)}`);
  if (!shot.right) addTile(strip, shot, 2, `for its class${bare(2)}`, `Its Grad-CAM map for ${name}${bare(2)}`);
  const text = make("p", item, { textContent: name });
  const verdict = make("span", text, { className: shot.right ? "says right" : "says wrong" });
  verdict.textContent = shot.right ? ` ✓ ${share(shot.sure)}` : ` → ${said} ${share(shot.sure)}`;
  const notes = shot.right ? [] : [`${name} got ${share(shot.own)}`];
  if (shot.located >= 0) notes.push(`${shot.located}\u00a0% of the heat on the object`);
  notes.push(shot.name);
  make("small", text, { textContent: notes.join(" · ") });
}

function extend() {
  for (const shot of found.slice(shown, shown + PAGE)) addShot(shot);
  shown = Math.min(shown + PAGE, found.length);
  more.hidden = shown === found.length;
  const rest = more.hidden ? "" : `, the first ${shown} shown`;
  count.textContent = found.length ? `${found.length} of ${shots.length} pictures${rest}` : "No picture is like that.";
}

function refresh() {
  const { true: label, said, answer, order } = Object.fromEntries(new FormData(form));
  found = shots.filter(shot =>
    (label === "" || shot.label === +label) && (said === "" || shot.said === +said)
    && (answer === "" || shot.right === (answer === "right"))
    && (!["on", "off"].includes(order) || shot.located >= 0));
  found.sort(ORDERS[order]);
  list.replaceChildren();
  near.disconnect();
  shown = 0;
  extend();
}

for (const [number, name] of store.classes.entries())
  for (const key of ["true", "said"]) make("option", form.elements[key], { value: number, textContent: name });
if (shots.every(shot => shot.located < 0)) for (const option of form.querySelectorAll("[data-located]")) option.remove();
form.addEventListener("change", refresh);
form.addEventListener("reset", () => setTimeout(refresh));
form.addEventListener("submit", event => event.preventDefault());
more.addEventListener("click", extend);
for (const button of document.querySelectorAll("[data-true]")) {
  button.parentElement.hidden = false;
  button.addEventListener("click", () => {
    form.reset();
    form.elements.true.value = button.dataset.true;
    form.elements.said.value = button.dataset.said;
    refresh();
    document.getElementById("gallery").scrollIntoView();
    form.elements.true.focus({ preventScroll: true });
  });
}
document.getElementById("browser").hidden = false;
document.getElementById("sheets").hidden = true;
refresh();
