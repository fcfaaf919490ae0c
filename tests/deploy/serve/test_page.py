"""The page in a real browser, used as people use it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from ggam.deploy.predictor import Predictor
from ggam.deploy.serve.examples import Examples
from serving import NAMES, SlowPredictor, encoded, photo, serving

expect.set_options(timeout=15_000)
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with examples of two classes."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("1.png", "1-b.png", "3.png"):
        (folder / name).write_bytes(encoded(photo()))
    with serving(predictor, examples=Examples(folder, len(NAMES))) as client:
        yield str(client.base_url)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose errors, and whose requests to anywhere else, fail the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 860})
    opened.set_default_timeout(10_000)
    trouble: list[str] = []
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on(
        "console",
        lambda said: trouble.append(said.text) if "Content Security Policy" in said.text else None,
    )
    opened.on(
        "request",
        lambda asked: (
            trouble.append(asked.url)
            if not asked.url.startswith(("http://127.0.0.1", "blob:", "data:"))
            else None
        ),
    )
    yield opened
    opened.close()
    assert not trouble


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"picture {seed}.png")
        photo(300, 200, seed).save(paths[-1])
    return paths


def upload(page: Page, *paths: Path) -> None:
    page.set_input_files("#files", list(paths))
    expect(page.locator(".guess").first).to_be_visible()


def test_a_picture_is_named_and_its_map_shown(page: Page, address: str, pictures: list[Path]) -> None:
    answer = httpx.post(f"{address}/predict", files={"images": pictures[0].read_bytes()}).json()
    best = answer["pictures"][0]["classes"][0]
    page.goto(address)
    expect(page.locator("#result")).to_be_hidden()
    upload(page, pictures[0])
    expect(page.locator("#name")).to_have_text(best["name"])
    expect(page.locator(".guess")).to_have_count(5)
    expect(page.locator(".guess.shown .share")).to_have_text(f"{100 * best['probability']:.1f} %")
    expect(page.locator("#said")).to_contain_text(best["name"])
    expect(page.locator("#photo")).to_have_attribute("alt", "Your picture, picture 0.png")
    # The frame lies where the answer says: a centred square of 64/86 of the height.
    frame, stage = page.locator("#seen").bounding_box(), page.locator("#stage").bounding_box()
    assert frame is not None and stage is not None
    assert frame["height"] == pytest.approx(stage["height"] * 64 / 86, abs=2)
    assert frame["x"] + frame["width"] / 2 == pytest.approx(stage["x"] + stage["width"] / 2, abs=2)


def test_another_class_shows_its_own_map(page: Page, address: str, pictures: list[Path]) -> None:
    page.goto(address)
    upload(page, pictures[0])
    first = page.locator("#heat").get_attribute("src")
    with page.expect_response("**/predict"):
        page.locator(".guess").nth(1).click()
    name = page.locator(".guess").nth(1).locator(".title").inner_text()
    expect(page.locator(".guess").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#caption")).to_contain_text(name)
    assert page.locator("#heat").get_attribute("src") != first
    page.locator(".guess").nth(0).click()  # this map is known already: nothing is asked
    expect(page.locator("#heat")).to_have_attribute("src", first or "")
    expect(page.locator("#other")).to_be_hidden()  # all five classes are in the list


def test_examples_of_the_class_that_is_shown(page: Page, address: str, pictures: list[Path]) -> None:
    page.goto(address)
    upload(page, pictures[0])
    for name, count in (("booby", 2), ("crake", 0), ("dunlin", 1)):
        page.locator(".guess", has_text=name).click()
        expect(page.locator("#examples img")).to_have_count(count)
        expect(page.locator("#examples")).to_be_visible(visible=count > 0)


def test_the_slider_fades_the_map_also_by_keys(page: Page, address: str, pictures: list[Path]) -> None:
    page.goto(address)
    upload(page, pictures[0])
    slider = page.get_by_label("Heat map", exact=True)
    slider.fill("20")
    expect(page.locator("#heat")).to_have_css("opacity", "0.2")
    expect(page.locator("#percent")).to_have_text("20 %")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#percent")).to_have_text("21 %")


def test_a_wrong_file_is_named_and_the_others_are_not_lost(
    page: Page, address: str, pictures: list[Path], tmp_path: Path
) -> None:
    wrong = tmp_path / "notes.png"
    wrong.write_text("not a picture")
    page.goto(address)
    upload(page, *pictures, wrong)
    thumbnails = page.locator("#strip button")
    expect(thumbnails).to_have_count(3)
    expect(page.locator("#strip .failed")).to_have_count(1)
    page.get_by_role("button", name="notes.png, not readable").click()
    expect(page.get_by_role("alert")).to_have_text(
        "This file is not a JPEG, PNG or WebP picture, or is damaged."
    )
    expect(page.locator("#verdict")).to_be_hidden()
    thumbnails.nth(1).click()
    expect(page.locator("#verdict")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_file_that_is_too_large_is_not_sent(page: Page, address: str, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(16 * 2**20 + 1))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.set_input_files("#files", large)
    expect(page.get_by_role("alert")).to_have_text("This file has 16 MB; at most 16 MB are accepted.")
    assert not [url for url in asked if "predict" in url]


SEND = """async ([kind, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "sent.png", { type: "image/png" }));
    const options = { bubbles: true, cancelable: true };
    document.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
        : new DragEvent(kind, { ...options, dataTransfer: transfer }));
}"""


def test_dropped_and_pasted_pictures(page: Page, address: str) -> None:
    content = list(encoded(photo()))
    page.goto(address)
    page.evaluate(SEND, ["dragenter", content])
    expect(page.locator("#veil")).to_be_visible()
    page.evaluate(SEND, ["drop", content])
    expect(page.locator("#veil")).to_be_hidden()
    expect(page.locator(".guess").first).to_be_visible()
    page.evaluate(SEND, ["paste", content])
    expect(page.locator("#strip button")).to_have_count(2)


def test_keys_alone_are_enough(page: Page, address: str, pictures: list[Path]) -> None:
    # Before the page is loaded: the browser must know by the time of the key that we choose the file.
    page.on("filechooser", lambda chooser: chooser.set_files(pictures[0]))
    page.goto(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.locator("#drop").evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    page.keyboard.press("Space")
    expect(page.locator(".guess").first).to_be_visible()
    for expected in ("slider", "0", "1"):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id || document.activeElement.className")
        assert ("guess" in focused) == (expected != "slider")
    page.keyboard.press("Enter")
    expect(page.locator(".guess").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".guess").nth(1)).to_be_focused()


def test_everything_has_a_name(page: Page, address: str, pictures: list[Path]) -> None:
    page.goto(address)
    upload(page, *pictures)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select")].filter(it => it.offsetParent)
            .filter(it => !(it.ariaLabel || it.labels?.length || it.textContent.trim()))
            .map(it => it.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_and_can_be_read(
    browser: Browser, address: str, pictures: list[Path], scheme: Literal["light", "dark"], width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto(address)
    upload(page, *pictures)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#lead", ".guess.shown .title", ".guess .share", "#caption", "#hint", "#about"):
        ratio = page.locator(selector).first.evaluate(CONTRAST)
        assert ratio >= 4.5, f"{selector}: contrast {ratio:.1f}"
    page.close()


CONTRAST = """element => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const light = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => value / 255)
            .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    let behind = element;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const pair = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


def test_a_model_with_one_map_says_so(page: Page, pictures: list[Path]) -> None:
    with serving(SlowPredictor("top")) as client:
        page.goto(str(client.base_url))
        upload(page, pictures[0])
        expect(page.locator("#hint")).to_contain_text("first class only")
        expect(page.locator("button.guess")).to_have_count(0)
        expect(page.locator("#caption")).to_contain_text("its heat map is empty")
    with serving(SlowPredictor("none")) as client:
        page.goto(str(client.base_url))
        upload(page, pictures[0])
        expect(page.locator("#hint")).to_have_text("This model file has no heat maps.")
        expect(page.locator("#strength")).to_be_hidden()


def test_classes_may_be_named_like_the_index_of_another(page: Page, pictures: list[Path]) -> None:
    predictor = SlowPredictor()
    predictor.class_names = ("1", "2", "0")
    with serving(predictor) as client:
        page.goto(str(client.base_url))
        upload(page, pictures[0])
        for place, name in enumerate(("1", "2", "0")):
            page.locator(".guess").nth(place).click()
            expect(page.locator("#caption")).to_contain_text(f"speaks for {name}:")


def test_a_token_is_asked_for_and_remembered(page: Page, predictor: Predictor, pictures: list[Path]) -> None:
    with serving(predictor, token="open-sesame") as client:
        page.goto(str(client.base_url))
        field = page.get_by_label("This service asks for a token")
        field.fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        field.fill("open-sesame")
        page.keyboard.press("Enter")
        upload(page, pictures[0])
        page.reload()
        upload(page, pictures[0])


def test_a_service_that_is_gone(page: Page, predictor: Predictor, pictures: list[Path]) -> None:
    with serving(predictor) as client:
        page.goto(str(client.base_url))
        expect(page.locator("#about")).not_to_be_empty()
    page.set_input_files("#files", pictures[0])
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
