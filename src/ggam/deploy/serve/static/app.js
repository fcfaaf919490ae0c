"use strict";
// One entry for each picture; the page shows the current one. Nothing leaves this page but to /predict.
const at = id => document.getElementById(id);
const items = [];
let current = null, model = null, ready = null, token = sessionStorage.getItem("token");
let sending = 0;
const waiting = [];
const AT_A_TIME = 3, TRIES = 4;

const percent = share => share > 0 && share < 0.001 ? "< 0.1 %"
  : share < 1 && share >= 0.9995 ? "> 99.9 %" : (100 * share).toFixed(1) + " %";
const megabytes = bytes => (bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 1 }) + " MB";
const make = (tag, values = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
};

class Problem extends Error {}

async function ask(path, options = {}) {
  for (let attempt = 1; ; attempt++) {
    const headers = token ? { Authorization: "Bearer " + token } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Problem("The service cannot be reached. Is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 429 && attempt < TRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise(resolve => setTimeout(resolve, 1000 * seconds * attempt));
      continue;
    }
    if (response.status === 401) signIn();
    const answer = await response.json().catch(() => ({}));
    throw new Problem(sentence(answer.error || "The service answered with error " + response.status));
  }
}

const sentence = text => {
  const plain = text.replace(/^picture 1 /, "this file ");
  return plain[0].toUpperCase() + plain.slice(1) + ".";
};

/* The model, and the token where one is asked for */

async function start() {
  try {
    model = await (await ask("model")).json();
  } catch (problem) {
    if (at("sign-in").hidden) { at("lead").textContent = problem.message; at("lead").setAttribute("role", "alert"); }
    return;
  }
  at("sign-in").hidden = true;
  at("pick").hidden = false;
  const about = model.description, count = model.class_names.length;
  at("lead").textContent = "It names the likeliest of " + count + " classes" +
    (model.maps === "none" ? "." : ", and shows where in the picture it saw it.");
  at("accepted").textContent = "JPEG, PNG or WebP, up to " + megabytes(model.limits.max_bytes);
  const facts = [about.method, about.backbone, about.image_size && about.image_size + " pixels"];
  if (about.accuracy) facts.push(percent(about.accuracy.top1) + " right on " + about.accuracy.pictures + " test pictures");
  at("about").textContent = facts.filter(Boolean).join(" · ") + ". Pictures are not kept.";
  const sorted = model.class_names.map((name, index) => ({ name, index })).sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  at("choice").replaceChildren(
    make("option", { value: "", textContent: "Choose a class" }),
    ...sorted.map(entry => make("option", { value: entry.index, textContent: entry.name })));
}

function signIn() {
  at("sign-in").hidden = false;
  at("pick").hidden = at("result").hidden = at("strip").hidden = true;
  at("token-wrong").hidden = token === null;
  at("token").focus();
}

at("sign-in").addEventListener("submit", async event => {
  event.preventDefault();
  token = at("token").value;
  ready = start();
  await ready;
  if (!model) return;
  sessionStorage.setItem("token", token);
  items.filter(item => item.problem).forEach(look);
  if (current) show(current);
});

/* Pictures come in: picked, dropped or pasted */

async function add(files) {
  const given = [...files];  // the list empties itself while we wait
  await ready;
  if (!model || !given.length) return;
  const fresh = given.map(file => ({
    file, url: URL.createObjectURL(file), name: file.name || "Pasted picture", maps: new Map(), answer: null, problem: null, shown: null,
  }));
  items.push(...fresh);
  document.body.classList.add("busy");
  fresh.forEach(look);
  show(fresh[0]);
  if (matchMedia("(max-width: 760px)").matches) at("result").scrollIntoView({ block: "start" });
}

at("files").addEventListener("change", event => { add(event.target.files); event.target.value = ""; });
document.addEventListener("paste", event => { if (event.clipboardData.files.length) { event.preventDefault(); add(event.clipboardData.files); } });
let depth = 0;
const dragging = change => { depth = change === null ? 0 : Math.max(0, depth + change); document.body.classList.toggle("dragging", depth > 0); };
document.addEventListener("dragenter", event => { if (event.dataTransfer.types.includes("Files")) { event.preventDefault(); dragging(1); } });
document.addEventListener("dragleave", () => dragging(-1));
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => { event.preventDefault(); dragging(null); add(event.dataTransfer.files); });

/* Asking: a few pictures at a time, so that a folder of them does not crowd out everybody else */

function look(item) {
  item.problem = null;
  waiting.push(item);
  next();
}

async function next() {
  if (sending >= AT_A_TIME || !waiting.length) return;
  const item = waiting.shift();
  sending++;
  try {
    item.answer = await predict(item, null);
    item.shown = item.answer.classes[0].index;
  } catch (problem) {
    item.problem = problem.message;
  }
  sending--;
  next();
  drawStrip();
  if (item === current) { draw(); tell(); }
}

async function predict(item, index) {
  if (item.file.size > model.limits.max_bytes) {
    throw new Problem("This file has " + megabytes(item.file.size) + "; at most " + megabytes(model.limits.max_bytes) + " are accepted.");
  }
  const form = new FormData();
  form.append("images", item.file, "picture");
  form.append("map", model.maps === "none" ? "none" : "overlay");
  // A class can be named like the index of another, and a name goes first.
  const taken = index !== null && model.class_names.includes(String(index));
  if (index !== null) form.append("classes", taken ? model.class_names[index] : index);
  const answer = (await (await ask("predict", { method: "POST", body: form })).json()).pictures[0];
  for (const map of answer.maps) item.maps.set(map.index, map);
  return answer;
}

async function explain(item, index) {
  item.shown = index;
  draw();
  if (!item.maps.has(index)) {
    try {
      await predict(item, index);
    } catch (problem) {
      if (item === current && item.shown === index) at("caption").textContent = problem.message;
      return;
    }
  }
  if (item === current && item.shown === index) { draw(); tell(); }
}

/* Showing */

function show(item) {
  current = item;
  at("photo").hidden = false;
  at("photo").src = item.url;
  at("photo").alt = "Your picture, " + item.name;
  drawStrip();
  draw();
  tell();
}

at("photo").addEventListener("error", () => { at("photo").hidden = true; draw(); });
at("photo").addEventListener("load", () => { if (!current.answer) shape(at("photo").naturalWidth, at("photo").naturalHeight); });

function shape(width, height) {
  const ratio = Math.min(4, Math.max(0.25, width / height));
  at("stage").style.aspectRatio = ratio;
  at("stage").style.width = "min(100%, " + 64 * ratio + "vh)";
}

function draw() {
  const { answer, problem } = current;
  at("result").hidden = false;
  at("result").classList.toggle("loading", !answer && !problem);
  at("result").setAttribute("aria-busy", !answer && !problem);
  at("problem").hidden = !problem;
  at("problem").textContent = problem || "";
  at("verdict").hidden = at("seen").hidden = !answer;
  at("result").classList.toggle("nothing", at("photo").hidden);
  at("strength").hidden = !answer || model.maps === "none";
  at("name").textContent = answer ? answer.classes[0].name : problem ? current.name : "Looking…";
  if (!answer) { at("caption").textContent = ""; return; }
  shape(answer.width, answer.height);
  drawClasses();
  drawHeat();
  drawExamples();
}

function drawClasses() {
  const choosable = model.maps === "any", { answer, shown, maps } = current;
  const rows = [...answer.classes];
  if (!rows.some(guess => guess.index === shown) && maps.has(shown)) rows.push(maps.get(shown));
  const focused = document.activeElement?.dataset?.index;
  at("classes").replaceChildren(...rows.map(guess => {
    const bar = make("span", { className: "bar" }, make("i"));
    bar.firstChild.style.width = 100 * guess.probability + "%";
    bar.setAttribute("aria-hidden", "true");
    const row = make(choosable ? "button" : "div", { className: "guess" },
      make("span", { className: "title", textContent: guess.name }),
      make("span", { className: "share", textContent: percent(guess.probability) }), bar);
    row.dataset.index = guess.index;
    row.classList.toggle("shown", guess.index === shown && model.maps !== "none");
    if (choosable) {
      row.type = "button";
      row.setAttribute("aria-pressed", guess.index === shown);
      row.addEventListener("click", () => explain(current, guess.index));
    }
    return make("li", {}, row);
  }));
  at("classes").querySelector("button[data-index='" + focused + "']")?.focus();
  at("hint").textContent = {
    any: "Choose a class to see what in the picture speaks for it.",
    top: "This model file can show the heat map of its first class only. Exported with --classes-input it shows any.",
    none: "This model file has no heat maps.",
  }[model.maps];
  at("other").hidden = !choosable || answer.classes.length === model.class_names.length;
  at("choice").value = answer.classes.some(guess => guess.index === shown) ? "" : shown;
}

function drawHeat() {
  const { answer, shown, maps } = current, box = answer.region, map = maps.get(shown), name = model.class_names[shown];
  const place = { left: box.left / answer.width, top: box.top / answer.height, width: (box.right - box.left) / answer.width, height: (box.bottom - box.top) / answer.height };
  for (const [side, share] of Object.entries(place)) at("seen").style[side] = 100 * share + "%";
  at("heat").hidden = !map || map.empty;
  if (map) { at("heat").src = "data:image/png;base64," + map.overlay; at("heat").alt = "Heat map of " + name; }
  const frame = "The model looks at the framed square.";
  at("caption").textContent = model.maps === "none" ? frame
    : !map ? "Looking for " + name + "…"
    : map.empty ? "Nothing here speaks for " + name + ": its heat map is empty. " + frame
    : "Bright is what speaks most for " + name + ". " + frame;
}

async function drawExamples() {
  const index = current.shown, count = model.examples[index] || 0;
  if (at("examples").dataset.index === String(index)) return;
  at("examples").dataset.index = index;
  at("examples").hidden = count === 0;
  at("examples-of").textContent = "Examples of " + model.class_names[index];
  const pictures = Array.from({ length: count }, (_, number) => make("img", { alt: "Example " + (number + 1) + " of " + model.class_names[index] }));
  at("examples").lastElementChild.replaceChildren(...pictures);
  pictures.forEach(async (picture, number) => {
    try {
      const blob = await (await ask("examples/" + index + "/" + number)).blob();
      picture.src = URL.createObjectURL(blob);
      picture.onload = () => URL.revokeObjectURL(picture.src);
    } catch {
      picture.remove();
    }
  });
}

function drawStrip() {
  at("strip").hidden = items.length < 2;
  at("strip").firstElementChild.replaceChildren(...items.map(item => {
    const state = item.answer ? item.answer.classes[0].name : item.problem ? "not readable" : "waiting";
    const button = make("button", { type: "button", ariaLabel: item.name + ", " + state }, make("img", { src: item.url, alt: "", onerror: event => event.target.remove() }));
    button.className = item.answer ? "" : item.problem ? "failed" : "waiting";
    if (item === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      show(item);
      at("strip").querySelector("[aria-current]")?.focus();
    });
    return make("li", {}, button);
  }));
}

/* For those who listen */
function tell() {
  const { answer, problem, shown, maps } = current;
  if (problem) at("said").textContent = "";  // the alert says it
  else if (!answer) at("said").textContent = "Looking at " + current.name;
  else if (shown === answer.classes[0].index) {
    at("said").textContent = current.name + ": " + answer.classes.slice(0, 3).map(guess => guess.name + " " + percent(guess.probability)).join(", ");
  } else if (maps.has(shown)) {
    at("said").textContent = (maps.get(shown).empty ? "The heat map is empty for " : "Heat map of ") + model.class_names[shown] + ", " + percent(maps.get(shown).probability);
  }
}

function fade() {
  at("heat").style.opacity = at("slider").value / 100;
  at("percent").textContent = at("slider").value + " %";
}
at("slider").addEventListener("input", fade);
at("choice").addEventListener("change", event => { if (event.target.value !== "") explain(current, Number(event.target.value)); });
fade();
ready = start();
