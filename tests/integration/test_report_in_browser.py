"""The report in a real browser: nothing in its console, nothing from the network, sounds that play.

Needs a Chromium (Debian's package `chromium`, or a path in DISTILL_RAY_CHROMIUM) and the extra `browser`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distill_ray.report.page import make_page

CHROMIUM = os.environ.get("DISTILL_RAY_CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="playwright is not installed (pip install -e .[browser])",
    ),
    # Playwright leaves the pipes to its driver to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
DECODE = """async () => {
  const context = new OfflineAudioContext(1, 1, 44100);
  const found = [];
  for (const audio of document.querySelectorAll("audio")) {
    const bytes = Uint8Array.from(atob(audio.src.split(",")[1]), (each) => each.charCodeAt(0));
    const sound = await context.decodeAudioData(bytes.buffer);
    const samples = sound.getChannelData(0);
    let power = 0;
    for (const sample of samples) power += sample * sample;
    found.push({ seconds: sound.duration, rms: Math.sqrt(power / samples.length) });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def records() -> ModuleType:
    """The records of the report's unit tests."""
    path = Path(__file__).parents[1] / "unit" / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("report_records", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report_records"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page_file(records: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(make_page(records.full_facts(records.HOSTILE)).html, "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


class Opened:
    """A page that is open, what its console said and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, *, width: int, scheme: str) -> None:
        self.said: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def wait(self, condition: str, seconds: float = 20.0) -> None:
        """Until the script `condition` is true; the page's policy forbids Playwright's own waiting."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def opened(request: pytest.FixtureRequest, browser: Any, page_file: Path) -> Iterator[Opened]:
    width, scheme = request.param
    opened = Opened(browser, page_file, width=width, scheme=scheme)
    yield opened
    opened.context.close()


def test_it_is_quiet_loads_nothing_and_fits(opened: Opened, page_file: Path) -> None:
    page = opened.page
    opened.wait("Array.from(document.querySelectorAll('audio')).every((a) => a.readyState > 0)")
    assert opened.said == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.querySelectorAll('script').length") == 2  # no name became one
    # Text stands out from what is behind it, on every chart too.
    background = page.evaluate("getComputedStyle(document.querySelector('figure')).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert contrast(background, ink) > 4.5
    heights = page.evaluate(
        "Array.from(document.querySelectorAll('svg text'), (each) => each.getBoundingClientRect().height)"
    )
    smallest = min(heights)
    assert smallest > 8  # also on a phone


def test_sounds_are_sounds(opened: Opened) -> None:
    found = opened.page.evaluate(DECODE)
    assert len(found) == 5
    for sound in found:
        assert sound["seconds"] == pytest.approx(0.5, abs=0.1)
        assert sound["rms"] == pytest.approx(0.35, rel=0.3)
    assert opened.said == []


def test_one_plays_at_a_time_and_shows_where_it_is(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file, width=1280, scheme="light")
    page = opened.page
    page.evaluate("document.querySelectorAll('audio')[0].loop = true")
    page.evaluate("document.querySelectorAll('audio')[0].play()")
    opened.wait("document.querySelectorAll('audio')[0].currentTime > 0.05")
    line = page.locator(".playhead").first
    box, picture = line.bounding_box(), page.locator(".picture").first.bounding_box()
    assert "on" in line.get_attribute("class")
    assert picture["x"] < box["x"] < picture["x"] + picture["width"]
    page.evaluate("document.querySelectorAll('audio')[1].play()")
    opened.wait("document.querySelectorAll('audio')[0].paused")
    page.locator(".picture").nth(2).click()
    opened.wait("document.querySelectorAll('audio')[1].paused")
    opened.wait("document.querySelectorAll('audio')[2].currentTime > 0.2")  # from the middle
    assert opened.said == []
    opened.context.close()


def test_the_keyboard_reaches_links_players_and_tables(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file, width=1280, scheme="dark")
    page = opened.page
    reached = []
    for _ in range(200):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.tagName + ' ' + (document.activeElement.getAttribute('href') ?? "
            "document.activeElement.getAttribute('role') ?? '')"
        )
        if name.startswith("BODY"):
            break
        reached.append(name)
    assert reached[0] == "A #main"
    assert "A #curves" in reached
    assert {"AUDIO ", "SUMMARY ", "DIV region"} <= set(reached)
    page.locator("audio").first.focus()
    page.keyboard.press("Space")
    opened.wait("document.querySelectorAll('audio')[0].currentTime > 0")
    opened.context.close()


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours as `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
