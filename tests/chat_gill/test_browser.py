"""People use the page: in a real browser, on a desktop and on a phone. `GILL_SCREENSHOTS` keeps what they see."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need: pip install playwright")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="THE CHAT PAGE IS NOT TESTED: no Chromium here; install it with: apt-get install chromium"
)
# Colours below the contrast of 4.5 that people need to read, by text and background as they are drawn.
_CONTRAST = """selector => [...document.querySelectorAll(selector)].filter(element =>
  element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) &&
  element.getBoundingClientRect().width > 2 &&
  [...element.childNodes].some(node => node.nodeType == 3 && node.textContent.trim())
).map(element => {
  const parse = text => { const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a ?? 1]; };
  let behind = element, back = [0, 0, 0, 0];
  while (behind && back[3] < 1) {
    back = parse(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  }
  const light = colour => colour.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const [one, two] = [light(parse(getComputedStyle(element).color)), light(back)].sort((a, b) => b - a);
  return [(one + 0.05) / (two + 0.05), element.textContent.trim()];
})"""

# The element that the keyboard is at, and what a screen reader calls it.
_NAME_OF_FOCUS = """() => {
  const element = document.activeElement;
  const labels = [...(element.labels ?? [])].map(label => label.innerText);
  const named = [element.getAttribute("aria-label"), ...labels, element.innerText, element.title, element.placeholder];
  return [element.tagName, (named.find(text => text && text.trim()) ?? "").trim()];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """A light page on a desktop, a dark one on a phone."""
    desktop = request.param == "desktop"
    size = {"width": 1280, "height": 900} if desktop else {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, has_touch=not desktop, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(120_000)  # of a browser that shares its cores with other tests
    page.goto(f"{address}?__theme={'light' if desktop else 'dark'}")
    page.get_by_text("Ready.").wait_for()
    yield page
    if os.environ.get("GILL_SCREENSHOTS"):
        name = re.sub(r"\W+", "-", request.node.name)
        page.screenshot(path=str(Path(os.environ["GILL_SCREENSHOTS"], f"{name}.png")), full_page=True)
    context.close()


def say(page: Any, text: str) -> None:
    box = page.locator("#gill-message textarea")
    sync_api.expect(box).to_be_enabled()
    box.fill(text)
    box.press("Enter")


def set_steps(page: Any, steps: str) -> None:
    page.locator("#gill-settings button").first.click()
    page.get_by_label("Always generate").check()
    page.get_by_label("Drawing steps").fill(steps)


def test_a_message_is_answered_and_a_click_shows_where_the_image_comes_from(page: Any) -> None:
    say(page, "Show me a red house on the left at night.")
    figure = page.locator("figure.gill-figure")
    figure.wait_for()
    assert page.get_by_text("a red house on the left at night", exact=True).count() >= 1
    assert re.search(r"chosen over (generating|retrieving) with \d+ %", figure.inner_text())
    summary = figure.locator("summary")
    summary.focus()
    page.keyboard.press("Enter")  # by the keyboard alone
    figure.get_by_text("Other candidates").wait_for()
    assert "not about this image" in figure.inner_text()
    for words in ("retrieved", "generated"):
        assert figure.get_by_text(words, exact=True).count() == 1
    assert figure.locator("img").first.get_attribute("alt").endswith("image: a red house on the left at night")
    page.locator("#gill-settings button").first.click()
    page.get_by_label("Drawing steps").wait_for()
    assert [text for contrast, text in page.evaluate(_CONTRAST, "body *") if contrast < 4.5] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"


@pytest.mark.slow
def test_a_story_goes_on_from_the_image_and_can_be_downloaded(page: Any) -> None:
    say(page, "A red house on the left at night.")
    page.locator("figure.gill-figure").first.wait_for()
    say(page, "Then it turns blue.")
    page.get_by_text("a blue house on the left at night", exact=True).first.wait_for()
    page.locator("figure.gill-figure").nth(1).wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.count('<figure class="gill-figure') == 2


@pytest.mark.slow
def test_an_image_is_added_and_asked_about(page: Any, pipe: Any, tmp_path: Path) -> None:
    pipe("a red house on the left at night . picture :", decision="retrieve").images[0].save(tmp_path / "house.png")
    page.locator("#gill-message input[type=file]").set_input_files(str(tmp_path / "house.png"))
    page.locator("#gill-message img").wait_for()
    say(page, "Then it turns blue.")
    page.get_by_text("a blue house on the left at night", exact=True).first.wait_for()


@pytest.mark.slow
def test_a_drawing_is_stopped_and_the_next_message_is_answered(
    page: Any, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler_class = type(pipe.image_generator.scheduler)
    step = scheduler_class.step

    def slow_step(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.1)  # a hundred steps of so small a model may end before the page shows one
        return step(*args, **kwargs)

    monkeypatch.setattr(scheduler_class, "step", slow_step)
    set_steps(page, "100")
    assert [page.get_by_label(name).input_value() for name in ("Guidance", "Seed")] == ["0", "0"]
    say(page, "Draw a red house.")
    page.get_by_text(re.compile(r"Drawing, step \d+ of 100")).wait_for()
    page.locator("#gill-message .stop-button, #gill-message button[aria-label*=top]").first.click()
    page.get_by_text("Stopped.").wait_for()
    assert page.locator(".gill-placeholder").count() == 0
    page.get_by_label("Drawing steps").fill("2")
    page.get_by_label("Seed").fill("7")
    say(page, "Draw a blue boat.")
    page.locator("figure.gill-generated").wait_for()
    page.locator("figure.gill-figure summary").click()
    assert re.search(r"Seed\s+7", page.locator("figure.gill-figure").inner_text())
    assert "as set in the settings" in page.locator("figure.gill-figure").inner_text()


@pytest.mark.slow
def test_a_message_is_edited_and_an_answer_is_made_anew(page: Any) -> None:
    set_steps(page, "2")
    say(page, "Draw a red house on the left.")
    page.get_by_text("a red house on the left", exact=True).first.wait_for()
    page.locator("figure.gill-figure").wait_for()
    page.get_by_role("button", name="Edit").click()
    page.locator("textarea.edit-textarea").fill("Draw a blue house on the left.")
    page.get_by_role("button", name="Submit").first.click()
    page.get_by_text("a blue house on the left", exact=True).first.wait_for()
    sync_api.expect(page.locator("figure.gill-figure")).to_have_count(1)
    sync_api.expect(page.get_by_role("button", name="Retry")).to_be_enabled()
    drawn = page.locator("figure.gill-figure img").first.get_attribute("src")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_function(
        """drawn => {
          const image = document.querySelector("figure.gill-figure img");
          return image && image.src != drawn;
        }""",
        arg=drawn,
    )
    sync_api.expect(page.locator("figure.gill-figure")).to_have_count(1)


@pytest.mark.slow
def test_the_words_of_an_answer_are_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    say(page, "Show me a red house on the left at night.")
    page.locator("figure.gill-figure").wait_for()
    page.get_by_role("button", name="Copy message").last.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "house" in copied


@pytest.mark.slow
def test_everything_is_reached_and_named_without_a_mouse(page: Any) -> None:
    reached: list[list[str]] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_NAME_OF_FOCUS))
        if reached[-1] == ["TEXTAREA", "Your message"]:
            break
    assert reached[-1] == ["TEXTAREA", "Your message"]
    page.keyboard.type("Show me a cat")
    page.keyboard.press("Enter")
    page.locator("figure.gill-figure").wait_for()
    for _ in range(60):
        page.keyboard.press("Shift+Tab")
        reached.append(page.evaluate(_NAME_OF_FOCUS))
        if reached[-1][0] == "SUMMARY":
            break
    page.keyboard.press("Enter")
    page.get_by_text("Similarity to the text").first.wait_for()
    assert [tag for tag, name in reached if tag != "BODY" and not name] == []


def test_unknown_words_are_named_kindly(page: Any) -> None:
    say(page, "Bonjour!")
    page.get_by_text("I do not know the word “bonjour”").wait_for()
    assert page.locator("figure.gill-figure").count() == 0


@pytest.mark.slow
def test_an_example_works_and_the_dialogue_is_cleared(page: Any) -> None:
    page.get_by_text("Draw a blue boat at sea!").click()
    page.locator("figure.gill-figure").wait_for()
    page.get_by_role("button", name="Clear").first.click()
    sync_api.expect(page.locator("figure.gill-figure")).to_have_count(0)
