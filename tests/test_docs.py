"""The site, opened as a reader without a network would: file://, phone and desktop, both themes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGES = ["index", "explanations/rooms", "advisor/05_case"]
WITH_DIAGRAM = "explanations/rooms"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = pytest.mark.browser


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from scratch with warnings as errors."""
    tools = {"chromium": CHROMIUM, "npm": shutil.which("npm")}
    missing = [name for name, path in tools.items() if path is None]
    if missing and os.environ.get("REQUIRE_BROWSER") != "1":
        pytest.skip(f"not installed: {', '.join(missing)} (REQUIRE_BROWSER=1 makes this a failure)")
    assert not missing, f"not installed: {missing}, and REQUIRE_BROWSER=1"
    target = tmp_path_factory.mktemp("docs") / "site"
    done = run("-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-b", "html", "nbs", target)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Browser]:
    assert site.is_dir()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def pages(site: Path) -> list[Path]:
    """Every page; the theme keeps a template among its static files."""
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def test_no_page_names_this_checkout(site: Path) -> None:
    found = [page.name for page in pages(site) if str(ROOT) in page.read_text(encoding="utf-8")]
    assert found == []


class Reader:
    """A page that remembers everything that went wrong on it."""

    def __init__(self, browser: Browser, size: tuple[int, int], scheme: str) -> None:
        self.troubles: list[str] = []
        width, height = size
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.page.on("console", lambda m: self.note(m.type == "error", f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self.note(True, f"script: {error}"))
        self.page.on("requestfailed", lambda r: self.note(True, f"not found: {r.url}"))
        self.page.on("request", lambda r: self.note(not is_local(r.url), f"remote: {r.url}"))

    def note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.troubles.append(text)


def is_local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))


# A container of the theme cuts off what is too wide, so the width of the page tells nothing.
TOO_WIDE = """() => {
  const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const inside = (e) => {
    for (let p = e.parentElement; p && !p.matches("article, body"); p = p.parentElement)
      if (scrolls(p)) return true;
    return false;
  };
  const wide = (e) => e.getBoundingClientRect().right > window.innerWidth + 1;
  return [...document.querySelectorAll("article *, header *")]
    .filter((e) => e.checkVisibility() && wide(e) && !inside(e))
    .map((e) => `${e.tagName} ${e.textContent.trim().slice(0, 40)}`);
}"""


def too_wide(page: Page) -> list[str]:
    """What stands out of the screen on the right and does not scroll by itself."""
    found: list[str] = page.evaluate(TOO_WIDE)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_page_opens_offline_without_trouble(
    browser: Browser, site: Path, name: str, size: str, scheme: str
) -> None:
    reader = Reader(browser, SIZES[size], scheme)
    reader.page.goto((site / f"{name}.html").as_uri())
    if name == WITH_DIAGRAM:
        reader.page.wait_for_selector("pre.mermaid svg", timeout=20_000)
    reader.page.wait_for_load_state("networkidle")
    assert reader.troubles == []
    assert reader.page.evaluate("document.documentElement.dataset.theme") == scheme
    assert too_wide(reader.page) == []
    reader.page.close()


def test_nothing_is_wider_than_a_phone_on_any_page(browser: Browser, site: Path) -> None:
    reader = Reader(browser, SIZES["phone"], "light")
    wide = {}
    for path in pages(site):
        reader.page.goto(path.as_uri())
        if found := too_wide(reader.page):
            wide[path.relative_to(site).as_posix()] = found[:3]
    assert wide == {}
    assert reader.troubles == []
    reader.page.close()


def test_every_diagram_is_drawn_and_drawn_again_in_the_other_theme(
    browser: Browser, site: Path
) -> None:
    reader = Reader(browser, SIZES["desktop"], "light")
    drawn = 0
    for path in pages(site):
        if 'class="mermaid"' not in path.read_text(encoding="utf-8"):
            continue
        reader.page.goto(path.as_uri())
        undrawn = "[...document.querySelectorAll('pre.mermaid')].every(d => d.querySelector('svg'))"
        reader.page.wait_for_function(undrawn, timeout=20_000)
        drawn += 1
    assert drawn
    light = reader.page.evaluate("document.querySelector('pre.mermaid svg').id")
    reader.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    again = f"(s => s && s.id !== '{light}')(document.querySelector('pre.mermaid svg'))"
    reader.page.wait_for_function(again, timeout=20_000)
    assert reader.troubles == []
    reader.page.close()


@pytest.mark.parametrize("words", ["measurement", "evidence"])
def test_search_finds_pages_offline(browser: Browser, site: Path, words: str) -> None:
    reader = Reader(browser, SIZES["desktop"], "light")
    reader.page.goto((site / "search.html").as_uri() + f"?q={words}")
    reader.page.wait_for_selector("#search-results li a", timeout=20_000)
    reader.page.locator("#search-results li a").first.click()
    reader.page.wait_for_load_state("networkidle")
    assert words in reader.page.inner_text("main").lower()
    assert reader.troubles == []
    reader.page.close()


def test_only_pages_with_a_diagram_load_the_library(site: Path) -> None:
    for path in pages(site):
        text = path.read_text(encoding="utf-8")
        assert ("mermaid.min.js" in text) == ('class="mermaid"' in text), path


def test_site_loads_nothing_from_the_network(site: Path) -> None:
    done = run("nbs/_ext/offline.py", site)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.html", '<script src="https://example.org/x.js"></script>'),
        ("p.html", '<link rel="stylesheet" href="//example.org/x.css">'),
        ("p.html", '<img src="http://example.org/x.png">'),
        ("p.html", "<p style=\"background: url('https://example.org/x.png')\">"),
        ("s.css", "@import 'https://example.org/x.css';"),
        ("s.css", "body { background: url(//example.org/x.png) }"),
    ],
)
def test_remote_load_is_found(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "p.html").write_text('<a href="https://example.org">fine</a>')
    (tmp_path / name).write_text(text)
    done = run("nbs/_ext/offline.py", tmp_path)
    assert done.returncode == 1
    assert f"{name}: " in done.stdout


def test_page_shows_definitions_in_place_and_links_their_names(site: Path) -> None:
    page = (site / "cookbook" / "88_notebooks.html").read_text(encoding="utf-8")
    assert 'id="cookbook.notebooks.read_project"' in page
    assert 'href="#cookbook.notebooks.plan"' in page
    assert "default_exp cookbook.notebooks" not in page
    assert page.index('id="cookbook.notebooks.Cell"') < page.index('id="cookbook.notebooks.plan"')
