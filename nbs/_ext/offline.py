"""Check that a site loads nothing from the network: `python offline.py FOLDER`, exit 1 with a list.

Links that a reader clicks may lead anywhere; scripts, styles, fonts, images and frames may not.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
CSS_URL = re.compile(r"""(?:@import\s+|url\()\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
HARMLESS_RELS = {"canonical", "license", "author", "next", "prev", "search", "index", "help"}


class Loads(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" or (tag == "link" and values.get("rel", "") in HARMLESS_RELS):
            return
        for name in ("src", "href", "data", "poster", "srcset", "action", "xlink:href"):
            if REMOTE.match(values.get(name, "")):
                self.found.append(f"<{tag} {name}={values[name]}>")
        self.found += [f"<{tag} style: {url}>" for url in CSS_URL.findall(values.get("style", ""))]


def remote_loads(folder: Path) -> list[str]:
    """A line for each remote load in the pages and style sheets below `folder`."""
    lines = []
    for page in sorted(folder.rglob("*.html")):
        parser = Loads()
        text = page.read_text(encoding="utf-8")
        parser.feed(text)
        lines += [f"{page.relative_to(folder)}: {load}" for load in parser.found]
    for sheet in sorted(folder.rglob("*.css")):
        urls = CSS_URL.findall(sheet.read_text(encoding="utf-8"))
        lines += [f"{sheet.relative_to(folder)}: {url}" for url in urls]
    return lines


def main(folder: Path) -> int:
    pages = len(list(folder.rglob("*.html")))
    if not pages:
        print(f"{folder}: no pages; run `make docs`", file=sys.stderr)
        return 2
    found = remote_loads(folder)
    print("\n".join(found) if found else f"{pages} pages load nothing from the network")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
