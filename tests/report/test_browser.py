"""The pages of a real study in a real browser: no error, sortable, dark, linked, narrow, readable, and harmless."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

import understudy as us
from understudy.analyses.contract import Analysis, Finding
from understudy.analyses.output import write_page
from understudy.report.plots import Bars, Curve, Curves

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
CLASSES = (
    "<script>hacked()</script>".replace("/", "⁄"),
    "<img src=x onerror=hacked()>",
    "قطة \u202e olleh",
    "🐈 & 'co'",
)
ARM = '"><svg onload=hacked()> كلب 🐕'
TITLE = "Is <i>this</i> read as text?"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of this system."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has none
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def study(browser, tmp_path_factory):
    """A study of two methods and two seeds on four classes with hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 8)):
        for c, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                pixels[4 * c : 4 * c + 2] = 255
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    config = {
        "data": {
            "name": "imagefolder",
            "train": str(folder / "train"),
            "test": str(folder / "test"),
            "image_size": 16,
        },
        "teacher": {"model": "cnn_small"},
        "student": {"model": "cnn_tiny"},
        "train": {"epochs": 3, "batch_size": 16, "threads": 1, "device": "cpu"},
        "study": {
            "methods": ["kd", {"name": ARM, "losses": [{"name": "ce"}, {"name": "dkd"}]}],
            "seeds": [0, 1],
        },
        "output": str(folder / "study"),
    }
    return us.study(config, quiet=True, title=TITLE).path


@pytest.fixture(params=["study", "run"])
def address(request, study):
    if request.param == "study":
        return (study / "report.html").as_uri()
    return (study / "kd" / "seed-0" / "report.html").as_uri()


@pytest.fixture
def visit(browser):
    """Opens a page; what went wrong on it is in ``page.problems``, what it asked the network for in ``page.asked``."""
    contexts = []

    def opened(address, width=1280, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        context.set_default_timeout(120_000)  # ms, of a busy machine
        page = context.new_page()
        page.problems, page.asked = [], []
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


def unfolded(page):
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    return page


def column(page, table, number):
    cells = f"main table.sortable >> nth={table} >> tbody tr > :nth-child({number})"
    return [text.strip() for text in page.locator(cells).all_inner_texts()]


def test_a_page_opens_without_an_error_and_asks_for_nothing(visit, address):
    page = visit(address)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.problems == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []


def test_hostile_names_are_shown_and_do_nothing(visit, address, study):
    page = visit(address)
    for handler in ("onload", "onerror", "onmouseover"):
        assert page.locator(f"[{handler}]").count() == 0
    text = unfolded(page).inner_text("main")
    expected = (*CLASSES, ARM, TITLE) if address.startswith((study / "report.html").as_uri()) else CLASSES
    for name in expected:
        assert name.split()[0] in text
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.problems == []


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(visit, study):
    page = visit((study / "report.html").as_uri())
    before = column(page, 0, 2)
    assert len(before) == 4
    button = page.locator("main table.sortable >> nth=0 >> thead th:nth-child(2) button")
    button.click()
    means = [float(text.split()[0]) for text in column(page, 0, 2)]
    assert means == sorted(means)
    button.focus()
    page.keyboard.press("Enter")
    means = [float(text.split()[0]) for text in column(page, 0, 2)]
    assert means == sorted(means, reverse=True)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_the_theme_follows_the_system_and_the_button(visit, address):
    def ground(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = visit(address), visit(address, scheme="dark")
    first = ground(light)
    assert first != ground(dark)
    light.click("#theme")
    assert ground(light) == ground(dark)
    assert light.inner_text("#theme") == "Light theme"
    deadline = time.monotonic() + 60
    while True:  # what is stored reaches the disk's process a little later
        light.wait_for_timeout(200)
        light.reload()
        if ground(light) == ground(dark):
            break
        assert time.monotonic() < deadline, "the choice is remembered"
    light.click("#theme")
    assert ground(light) == first


def test_every_link_leads_somewhere(visit, address):
    page = unfolded(visit(address))
    for link in page.locator("a[href^='#']").all():
        target = link.get_attribute("href")[1:]
        link.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == f"#{target}"
        playwright.expect(page.locator(f"#{target}")).to_be_in_viewport(timeout=60_000)
    others = {link.evaluate("a => a.href") for link in page.locator("a:not([href^='#'])").all()}
    for other in others:
        there = visit(other)
        assert there.locator("h1").count() == 1
        assert there.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(visit, address, scheme):
    page = unfolded(visit(address, width=375, scheme=scheme))
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_long_name_leaves_its_percentage_on_one_line(visit, study):
    page = visit((study / "kd" / "seed-0" / "report.html").as_uri())
    page.evaluate(
        "document.querySelectorAll('.mistakes bdi').forEach((name) => { name.textContent = 'x'.repeat(60); })"
    )
    counts = page.locator(".mistakes .percent").evaluate_all(
        "(found) => found.map((share) => share.offsetHeight / parseFloat(getComputedStyle(share).lineHeight))"
    )
    assert len(counts) > 6
    assert max(counts) < 1.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_structure_pass_axe(visit, address, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-core: pip install axe-playwright-python"
    )
    page = unfolded(visit(address, scheme=scheme, bypass_csp=True))  # or axe itself may not run
    found = axe.Axe().run(page).response
    wrong = [
        f"{rule['id']}: {node['html'][:120]} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"][:3]
    ]
    assert wrong == []
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}


def test_the_pointer_and_the_arrow_keys_say_the_values_of_an_epoch(visit, address):
    page = visit(address)
    figure = page.locator("figure[data-chart] >> nth=0")
    svg, box = figure.locator("> svg"), figure.locator(".values")
    svg.scroll_into_view_if_needed()
    assert box.is_hidden()
    svg.hover()
    assert box.inner_text().startswith("epoch 2")
    page.mouse.move(0, 0)
    assert box.is_hidden()
    svg.focus()
    page.keyboard.press("Home")
    assert box.inner_text().startswith("epoch 1")
    page.keyboard.press("ArrowRight")
    assert box.inner_text().startswith("epoch 2")
    page.keyboard.press("Escape")
    assert box.is_hidden()


def test_the_pointer_says_the_values_of_an_analysis_too(visit, tmp_path):
    names = (*CLASSES, *(f"class {c}" for c in range(96)))
    values = [float(c) for c in range(100)]
    bars = Bars("acc", "Accuracy by class, %", "%", names, (("student", values), (ARM, values[::-1])))
    line = Curves("c", "A line", "share", "y", (Curve("one", [0.25, 0.5], [1.0, 2.0]),))
    about = Analysis(lambda pair: Finding({}), "what it is", "nowhere", "none")
    page = visit(
        write_page(tmp_path, TITLE, {"a": about}, {"a": Finding({}, plots=(bars, line))}, {}).as_uri()
    )
    for nth, first, last in ((0, CLASSES[0], "class 95"), (1, "share 0.25", "share 0.5")):
        figure = page.locator(f"figure[data-chart] >> nth={nth}")
        figure.locator("> svg").focus()
        page.keyboard.press("Home")
        assert figure.locator(".values b").inner_text() == first
        page.keyboard.press("End")
        assert figure.locator(".values b").inner_text() == last
    assert page.evaluate("typeof hacked") == "undefined"


def test_paper_gets_light_colours_open_details_and_no_buttons(visit, address):
    page = visit(address, scheme="dark")
    page.click("#theme")
    page.emulate_media(media="print")
    assert page.locator("#theme").is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
