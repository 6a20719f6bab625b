"""The page in a real browser: wide, middle and narrow, light and dark, without scripts. NOT RUN where there is no browser.

VP_SCREENSHOTS names a folder that keeps a picture of each, for people to look at.
"""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sessions import Session

pytestmark = pytest.mark.browser

WIDTHS = (1400, 800, 390)
TALLEST = 9000  # px, of the page at the first width, everything folded
LARGEST = 3_000_000  # bytes
CONTRAST = 4.5

PLANTED = """
from pathlib import Path
from tests.support import planted
from vp.report.writeup import render

def pytest_html_results_summary(prefix):
    prefix.append(render(planted.content(), Path("..")))
"""

OVERFLOW = "return document.documentElement.scrollWidth - window.innerWidth"

# The lines of text of the page that lie on each other by more than 3 px in both directions; figures of matplotlib are their own.
OVERLAPS = """
const lines = [], walk = document.createTreeWalker(document.querySelector('.vp'), NodeFilter.SHOW_TEXT);
for (let node; (node = walk.nextNode());) {
  const own = node.parentElement;
  if (!node.data.trim() || own.closest('figure > svg, title, style') || !own.checkVisibility()) continue;
  const range = document.createRange(); range.selectNodeContents(node);
  for (const box of range.getClientRects()) if (box.width > 1 && box.height > 1) lines.push([box, node.data.trim().slice(0, 40)]);
}
lines.sort((a, b) => a[0].top - b[0].top);
const found = [];
for (let i = 0; i < lines.length; i++)
  for (let j = i + 1; j < lines.length && lines[j][0].top < lines[i][0].bottom - 3; j++) {
    const [a, b] = [lines[i][0], lines[j][0]];
    if (Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3 && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 3)
      found.push([lines[i][1], lines[j][1]]);
  }
return found.slice(0, 10);
"""

# Elements whose text is cut off: it is wider or taller than they show, and cannot be scrolled to.
CUT = """
return [...document.querySelectorAll('.vp *')].filter(e => e.checkVisibility() && !e.closest('svg')
  && ['hidden', 'clip'].includes(getComputedStyle(e).overflowX)
  && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1)).map(e => e.outerHTML.slice(0, 80)).slice(0, 10);
"""

# Text, and signs put in front of it, with less contrast to what lies behind than it should have.
PALE = """
const channels = colour => colour.match(/[\\d.]+/g).map(Number);
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0.5) return c.slice(0, 3); } return [255, 255, 255]; };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const found = [];
for (const e of document.querySelectorAll('.vp *')) {
  if (!e.checkVisibility() || e.closest('svg')) continue;
  const said = [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  const sign = getComputedStyle(e, '::before').content;
  if (said && ratio(channels(getComputedStyle(e).color).slice(0, 3), behind(e)) < arguments[0])
    found.push(e.outerHTML.slice(0, 80));
  if (sign != 'none' && ratio(channels(getComputedStyle(e, '::before').color).slice(0, 3), behind(e)) < arguments[0])
    found.push('sign of ' + e.outerHTML.slice(0, 80));
}
return found.slice(0, 10);
"""

# Internal links that lead nowhere; and, of some 90 spread over the page, those that bring what they name not into view. Chromium
# follows 200 links in 10 s, and drops further ones.
LOST = """
const done = arguments[0], found = [];
const names = [...new Set([...document.querySelectorAll(".vp a[href^='#']")].map(a => a.getAttribute('href')))];
const target = name => document.getElementById(decodeURIComponent(name.slice(1)));
for (const name of names) if (!target(name)) found.push(name + ' is not there');
const apart = Math.ceil(names.length / 90);
(async () => {
  for (const name of names.filter((name, i) => i % apart == 0 && target(name))) {
    location.hash = name; await new Promise(requestAnimationFrame);
    const to = target(name), box = to.getBoundingClientRect();
    if (!to.checkVisibility() || box.bottom < -2 || box.top > innerHeight + 2) found.push(name + ' is not seen');
  }
  done(found.slice(0, 10));
})();
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest-html's page of a session, with the writeup of the planted run."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "conftest.py").write_text(PLANTED)
    (folder / "test_it.py").write_text("def test_it(): pass\n")
    done = Session(folder, "-p", "no:hypothesispytest", "--html=report.html", "--self-contained-html").done()
    assert (folder / "report.html").is_file(), done.said
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window. NOT RUN without one."""
    cure = '`pip install -e ".[browser]"`, and chromium with its driver (Debian: `apt-get install chromium chromium-driver`)'
    try:
        from selenium import webdriver
    except ImportError:
        pytest.skip(f"NOT RUN: a test in a browser needs selenium: {cure}")
    if not (driver := shutil.which("chromedriver")):
        pytest.skip(f"NOT RUN: a test in a browser needs chromedriver: {cure}")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as found:
        yield found


def open_at(browser: Any, page: Path, width: int, theme: str = "light", scripts: bool = True) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    browser.get("about:blank")
    browser.get(page.as_uri())
    until = time.monotonic() + 60  # without scripts the driver does not wait until a page is whole
    while browser.execute_script("return document.readyState") != "complete":
        assert time.monotonic() < until, "the page is not whole after a minute"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_can_be_read_at_every_width(width: int, theme: str, page: Path, browser: Any) -> None:
    """No scrolling to the side, no text on other text or cut off, contrast of at least 4.5; a picture is kept."""
    open_at(browser, page, width, theme)
    height = browser.execute_script("return document.documentElement.scrollHeight")
    if folder := os.environ.get("VP_SCREENSHOTS"):
        area = {"x": 0, "y": 0, "width": width, "height": min(height, 16000), "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": area})
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{width}-{theme}.png").write_bytes(base64.b64decode(shot["data"]))
    assert browser.execute_script(OVERFLOW) <= 0
    assert browser.execute_script(OVERLAPS) == []
    assert browser.execute_script(CUT) == []
    assert browser.execute_script(PALE, CONTRAST) == []
    if width == WIDTHS[0]:
        assert height <= TALLEST


@pytest.mark.slow
def test_every_internal_link_lands(page: Path, browser: Any) -> None:
    """Each link within the page names what is there, and brings it into view, folded or not."""
    open_at(browser, page, WIDTHS[0])
    browser.set_script_timeout(120)
    assert browser.execute_async_script(LOST) == []


@pytest.mark.slow
def test_the_page_is_whole_without_scripts_or_a_network(page: Path, browser: Any) -> None:
    """Nothing is loaded from elsewhere, no script is needed for what stands before pytest's own table, and the file is small."""
    assert page.stat().st_size < LARGEST
    open_at(browser, page, WIDTHS[0])
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith(("data:", "file:"))] == []
    shown = browser.execute_script("return document.querySelector('.vp').innerText")
    open_at(browser, page, WIDTHS[0], scripts=False)
    assert browser.execute_script("return document.querySelector('.vp').innerText") == shown
    browser.find_element("css selector", ".claim > summary").click()
    assert browser.execute_script("return document.querySelector('.claim').open")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoilt", "check"),
    [
        ("document.querySelector('.lead').style.width = '3000px'", OVERFLOW),
        ("document.querySelector('.lead').style.marginBottom = '-40px'", OVERLAPS),
        ("document.querySelector('.lead').style.cssText = 'height: 10px; overflow: hidden'", CUT),
        ("document.querySelector('.lead').style.color = '#bbb'", PALE),
        ("document.querySelector('#opening').removeAttribute('id')", LOST),
    ],
)
def test_a_spoilt_page_is_rejected(spoilt: str, check: str, page: Path, browser: Any) -> None:
    """Each of the checks above finds the mistake that it is there for."""
    open_at(browser, page, WIDTHS[0])
    browser.execute_script(spoilt)
    browser.set_script_timeout(120)
    run = browser.execute_async_script if check is LOST else browser.execute_script
    found = run(check, CONTRAST) if check is PALE else run(check)
    assert found > 0 if check is OVERFLOW else found
