"""Mermaid diagrams that draw offline.

The library is a file of the site, not a CDN's, and only pages with a diagram load it. It is fetched
once per version from the npm registry into build/vendor, and its checksum is compared.
"""

import base64
import hashlib
import html
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

VERSION = "12.3.0"
SHA512 = "4113TdXeLAsMruJ79OpFL5O8+LTFXhQqZ260rF3tgUmiNAtRm4Uume04I+65PRN6yZ69J4f8rVYWW8zRk65UYw=="
CACHE = Path(__file__).resolve().parents[2] / "build" / "vendor" / f"mermaid-{VERSION}"
FILES = {"mermaid.min.js": "package/dist/mermaid.min.js", "mermaid.LICENSE": "package/LICENSE"}


class Mermaid(Directive):
    """A ```` ```mermaid ```` fence."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        text = html.escape("\n".join(self.content))
        figure = nodes.raw("", f'<pre class="mermaid">{text}</pre>', format="html")
        figure["classes"].append("mermaid")
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mermaid", Mermaid)
    app.connect("builder-inited", vendor)
    app.connect("html-page-context", load_where_needed)
    return {"parallel_read_safe": True}


def vendor(app: Sphinx) -> None:
    """Put the library among the site's static files."""
    if not all((CACHE / name).is_file() for name in FILES):
        fetch(CACHE)
    app.config.html_static_path.append(str(CACHE))


def fetch(target: Path) -> None:
    """Download, verify and unpack; `target` appears whole or not at all."""
    npm = shutil.which("npm")
    if npm is None:
        raise ExtensionError(
            f"npm is not installed; it fetches mermaid {VERSION}, which draws the diagrams."
            f" Install Node.js, or put {', '.join(FILES)} into {target} yourself."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        command = [npm, "pack", "--silent", f"mermaid@{VERSION}", "--pack-destination", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExtensionError(f"npm could not fetch mermaid {VERSION}: {done.stderr.strip()}")
        unpack(next(folder.glob("*.tgz")), folder / "new")
        if not target.exists():
            (folder / "new").replace(target)


def unpack(archive: Path, folder: Path) -> None:
    """Take the files we ship out of the archive, if it is the one we know."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != SHA512:
        raise ExtensionError(f"mermaid {VERSION}: checksum is {digest}, expected {SHA512}.")
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for name, member in FILES.items():
            stream = tar.extractfile(member)
            if stream is None:
                raise ExtensionError(f"mermaid {VERSION}: the package has no file {member}.")
            (folder / name).write_bytes(stream.read())


def load_where_needed(
    app: Sphinx, _page: str, _template: str, _context: dict[str, object], doctree: nodes.document
) -> None:
    """Load five megabytes only on pages with a diagram."""
    if doctree and any("mermaid" in raw["classes"] for raw in doctree.findall(nodes.raw)):
        app.add_js_file("mermaid.min.js", loading_method="defer")
        app.add_js_file("mermaid-init.js", loading_method="defer")
