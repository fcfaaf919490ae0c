"""The report in a real browser: the gallery filters and sorts, a pair opens, nothing comes from elsewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel
from ggam.report import write_report
from ggam.runs.run import Results, Run

COPIES = 8
expect.set_options(timeout=15_000)
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(
    models: dict[str, FineGrainedModel],
    annotated: FineGrainedDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, EvalReport]:
    """The address of a report of 72 pictures, and its evaluation."""
    run = Run(tmp_path_factory.mktemp("run"))
    dataset = annotated.subset(list(range(len(annotated))) * COPIES)
    found = evaluate(models["ggam"], dataset)
    found.write(run.evaluation("last"))
    run.write_results(Results("last epoch", "last", {"last": {"epoch": 1}}, {"test": len(dataset)}, 1.0))
    return write_report(run, models["ggam"], dataset).as_uri(), found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose errors, and whose requests to anywhere but files, fail the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 860})
    trouble: list[str] = []
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("requestfailed", lambda asked: trouble.append(asked.url))
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:")) else trouble.append(asked.url),
    )
    yield opened
    opened.close()
    assert not trouble


def choose(page: Page, name: str, value: str) -> None:
    page.locator(f"select[name={name}]").select_option(value)


def test_the_gallery_filters(page: Page, report: tuple[str, EvalReport]) -> None:
    address, found = report
    page.goto(address)
    expect(page.locator("#sheets")).to_be_hidden()
    expect(page.locator(".shot")).to_have_count(36)
    expect(page.locator("#count")).to_have_text("72 of 72 pictures, the first 36 shown")
    page.get_by_role("button", name="Show more").press("Enter")
    expect(page.locator(".shot")).to_have_count(72)
    expect(page.locator("#more")).to_be_hidden()
    choose(page, "true", "1")
    expect(page.locator(".shot")).to_have_count(24)
    right = [p for p in found.predictions if p.label == 1 and p.rank == 1]
    choose(page, "answer", "right")
    expect(page.locator(".shot")).to_have_count(len(right))
    choose(page, "answer", "wrong")
    expect(page.locator(".shot.wrong")).to_have_count(24 - len(right))
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#count")).to_contain_text("72 of 72")


@pytest.mark.parametrize(
    ("order", "field", "sign"),
    [
        ("hardest", "label_probability", 1),
        ("easiest", "label_probability", -1),
        ("surest", "probability", -1),
        ("unsure", "probability", 1),
    ],
)
def test_the_gallery_sorts(
    page: Page, report: tuple[str, EvalReport], order: str, field: str, sign: int
) -> None:
    address, found = report
    page.goto(address)
    choose(page, "order", order)
    shares = {Path(p.path).name: sign * round(1000 * getattr(p, field)) for p in found.predictions}
    texts = page.locator(".shot small").all_inner_texts()
    shown = [shares[text.split(" · ")[-1].strip()] for text in texts]
    assert len(shown) == 36 and shown == sorted(shown) and shown[0] == min(shares.values())


def test_by_the_heat_on_the_object(page: Page, report: tuple[str, EvalReport]) -> None:
    page.goto(report[0])
    for order, sign in (("on", -1), ("off", 1)):
        choose(page, "order", order)
        shares = [
            int(re.findall(r"(\d+)\s% of the heat", text)[0])
            for text in page.locator(".shot small").all_inner_texts()
        ]
        assert len(shares) == 36 and shares == sorted(shares, key=lambda share: sign * share)


def test_a_pair_opens_and_leads_into_the_gallery(page: Page, report: tuple[str, EvalReport]) -> None:
    address, found = report
    pairs = found.most_confused(8)
    page.goto(address)
    pair = page.locator(".confused").nth(len(pairs) - 1)
    pair.locator("summary").focus()
    if len(pairs) > 1:
        expect(pair.locator(".cases")).to_be_hidden()
        page.keyboard.press("Enter")
    expect(pair.locator(".case").first).to_be_visible()
    pair.get_by_role("button", name="in the gallery").click()
    last = pairs[-1]
    expect(page.locator("select[name=true]")).to_have_value(str(last.label))
    expect(page.locator("select[name=said]")).to_have_value(str(last.predicted))
    expect(page.locator("#count")).to_contain_text(f"{last.pictures} of 72")


def test_every_tile_has_a_picture_and_a_text(page: Page, report: tuple[str, EvalReport]) -> None:
    page.goto(report[0])
    tiles = page.locator(".shot [role=img]")
    tiles.first.scroll_into_view_if_needed()
    sheet = str(tiles.first.get_attribute("data-sheet"))
    expect(tiles.first).to_have_css("background-image", re.compile(re.escape(sheet)))
    assert all(tiles.evaluate_all("all => all.map(one => one.ariaLabel)"))
    assert (Path(report[0].removeprefix("file://")).parent / sheet).is_file()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(
    browser: Browser, report: tuple[str, EvalReport], scheme: Literal["light", "dark"]
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # Names of classes and files may be one endless word.
    with_names = "document.querySelectorAll('summary, h4, p, figcaption')"
    page.evaluate(f"{with_names}.forEach(element => element.append('x'.repeat(150)))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_without_a_script_the_pictures_stand_class_by_class(
    browser: Browser, report: tuple[str, EvalReport]
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report[0])
    expect(page.locator("#browser")).to_be_hidden()
    sheets = page.locator("#sheets details")
    expect(sheets).to_have_count(3)
    sheets.first.locator("summary").click()
    expect(sheets.first.locator("img")).to_be_visible()
    alt = sheets.first.locator("img").get_attribute("alt")
    assert alt is not None and alt.startswith("24 test pictures of auk <b>")
    context.close()
