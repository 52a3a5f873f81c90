"""The built report, opened in a real browser: it draws without errors and asks nothing of any network."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1500,1000",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SCREENSHOTS = os.environ.get("FIRSTSHOT_SCREENSHOTS")  # a folder to keep the pictures in, for looking at them
HARMLESS = "cdn.tailwindcss.com should not be used in production"  # said by a script inside Snakemake's report


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


PLAYABLE = "return [...document.querySelectorAll('audio')].every((player) => player.duration > 0.9)"


def sorted_by_clicks(browser, column: int) -> bool:
    """Whether a click on a heading of the first table sorts by it, and another reverses."""
    head = browser.find_elements("css selector", "table.sortable th")[column]
    values = (
        "return [...document.querySelector('table.sortable').tBodies[0].rows]"
        f".map((row) => row.cells[{column}].dataset.value)"
    )
    orders = []
    for _ in range(2):
        head.click()
        orders.append([float(value) for value in browser.execute_script(values) if value])
    return len(orders[0]) > 2 and orders == [sorted(orders[0]), sorted(orders[0], reverse=True)]


class Page:
    """One opened file and what the browser logged while it was open."""

    def __init__(self, browser, path: Path) -> None:
        browser.get_log("performance"), browser.get_log("browser")
        self.browser = browser
        browser.get(path.resolve().as_uri())
        self.until(lambda: browser.execute_script("return document.readyState") == "complete")

    def until(self, condition, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.1)

    def screenshot(self, name: str) -> bytes:
        picture = self.browser.get_screenshot_as_png()
        if SCREENSHOTS:
            (Path(SCREENSHOTS) / f"{name}.png").write_bytes(picture)
        return picture

    def has(self, text: str) -> bool:
        return text in self.browser.execute_script("return document.body.innerText")

    def click(self, text: str) -> None:
        found = f"//*[normalize-space(text())='{text}']"
        self.until(lambda: self.browser.find_elements("xpath", found))
        self.browser.find_elements("xpath", found)[-1].click()

    def errors(self) -> list[str]:
        return [
            entry["message"]
            for entry in self.browser.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING") and HARMLESS not in entry["message"]
        ]

    def requests(self) -> list[str]:
        """Addresses the page asked for, beyond itself and what lies inside it."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "file:", "blob:", "chrome:", "chrome-untrusted:"))]


def test_the_report_opens_offline_and_shows_its_pages(browser, built_report):
    page = Page(browser, built_report)
    page.until(lambda: page.has("Where to look"))
    page.until(lambda: browser.find_elements("css selector", "svg, canvas"))
    page.screenshot("report")
    assert not page.has("System Message")  # of the text's markup
    # The graph of rules is a canvas; its drawing, in pixels that are not blank.
    painted = """const canvas = document.querySelector("canvas");
        if (!canvas || !canvas.width) return 0;
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.filter((value, i) => i % 4 == 3 && value > 0).length"""
    page.until(lambda: browser.execute_script(painted) > 1000)
    assert page.errors() == []
    assert page.requests() == []


@pytest.mark.parametrize(("category", "heading"), [("Front page", "Results at a glance"), ("Machine types", "hammer")])
def test_a_page_inside_the_report_works(category, heading, browser, built_report):
    page = Page(browser, built_report)
    page.click(category)
    page.until(lambda: browser.find_elements("css selector", "a[iconname=eye]"))
    browser.find_elements("css selector", "a[iconname=eye]")[0].click()
    page.until(lambda: browser.find_elements("css selector", "iframe"))
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    try:
        page.until(lambda: page.has(heading))
        page.until(lambda: browser.execute_script("return document.readyState") == "complete")
        widths = "return Math.min(...[...document.images].map((image) => image.naturalWidth))"
        page.until(lambda: browser.execute_script(widths) > 100)
        page.until(lambda: browser.execute_script(PLAYABLE))
        assert sorted_by_clicks(browser, column=1 if heading == "hammer" else 2)
        before = browser.execute_script("return window.scrollY")
        browser.find_elements("css selector", "nav a")[-1].click()
        page.until(lambda: browser.execute_script("return window.scrollY") > before + 300)
        page.screenshot(f"report-{category.split()[0].lower()}")
    finally:
        browser.switch_to.default_content()
    assert page.errors() == []
    assert page.requests() == []


def test_the_report_stays_small(built_report):
    assert built_report.stat().st_size < 25e6


@pytest.mark.parametrize("name", ["index.html", "hammer/index.html", "spindle/index.html"])
def test_a_page_draws_all_its_pictures_and_players(name, browser, tiny_run):
    page = Page(browser, tiny_run.results / "report" / name)
    page.until(lambda: browser.execute_script("return [...document.images].every((image) => image.complete)"))
    widths = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert widths
    assert min(widths) > 100
    page.until(lambda: browser.execute_script(PLAYABLE))
    height = browser.execute_script("return document.body.scrollHeight")
    browser.set_window_size(1300, height + 200)
    page.screenshot(name.replace("/index.html", "").replace("index.html", "front"))
    browser.set_window_size(1500, 1000)
    assert browser.execute_script("return document.body.scrollWidth <= window.innerWidth")
    assert page.has("say nothing about DCASE")
    assert page.errors() == []
    assert page.requests() == []


def test_a_click_on_a_heading_sorts_and_another_reverses(browser, tiny_run):
    Page(browser, tiny_run.results / "report" / "index.html")
    assert sorted_by_clicks(browser, column=2)
