"""Turn a notebook into a page: hidden cells go, exported cells become API entries in place.

A notebook is source code first. As a page, `#| hide` and `#| default_exp` cells are left out, each
exported definition gets its signature and docstring (autodoc) with the source folded below, and
`name` in prose links to the definition of that name. Diagrams in results are drawn.
"""

import ast
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.mdit_to_docutils.base import make_document
from myst_parser.mocking import MockRSTParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from cookbook.notebooks import Cell, directives, is_directive, is_exported, module_of, read_cells

INLINE_CODE = re.compile(r"(?<![`\[\w])`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
# A heading in a result is no section of the page.
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
# CHANGELOG.md and its like lie outside the site's source; pages of reference/ show them.
ROOT_LINK = re.compile(r"\]\((?:\.\./)+([A-Z]+)\.md\)")
TOCTREE = "```{{toctree}}\n:hidden:\n{pages}\n```"

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Api(SphinxDirective):
    """reStructuredText inside a notebook.

    MyST's `eval-rst` does the same, but pads the text with an empty line for each line above it,
    and counts ten thousand lines to a notebook cell: a page took ten seconds.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        document = make_document()
        document["source"] = self.state.document["source"]
        document.settings = self.state.document.settings
        document.reporter = self.state.document.reporter
        MockRSTParser().parse("\n".join(self.content), document)
        return document.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("api", Api)
    app.connect("builder-inited", index_symbols)
    app.connect("source-read", transform_page)
    return {"parallel_read_safe": True}


# ---- which names there are

def is_command(node: Definition) -> bool:
    """A click command is no function any more; the command-line reference shows it."""
    texts = (ast.unparse(decorator) for decorator in node.decorator_list)
    return any(re.search(r"\b(command|group)\b", text) for text in texts)


def definitions(source: str) -> list[Definition]:
    """Public functions and classes defined at the top of a cell."""
    found = (n for n in ast.parse(source).body if isinstance(n, Definition))
    return [node for node in found if not node.name.startswith("_") and not is_command(node)]


def symbols_of(cells: list[Cell], module: str) -> dict[str, str]:
    """Short name to full name, for everything the page of these cells documents."""
    nodes = (node for cell in cells if is_exported(cell) for node in definitions(cell.source))
    return {node.name: f"{module}.{node.name}" for node in nodes}


def index_symbols(app: Sphinx) -> None:
    """Collect the documented names of all packages; a name that two modules share links nowhere."""
    source = Path(app.srcdir)
    modules: dict[str, str] = {}
    names: dict[str, set[str]] = {}
    for path in sorted(source.glob("*/*.ipynb")):
        cells = read_cells(path, source)
        exports = path.parent.name in ("advisor", "cookbook")
        module = module_of(cells, path.parent.name) if exports else None
        if module:
            modules[path.relative_to(source).with_suffix("").as_posix()] = module
            for name, full in symbols_of(cells, module).items():
                names.setdefault(name, set()).add(full)
    app.env.adaptation_modules = modules
    app.env.adaptation_names = {n: full.pop() for n, full in names.items() if len(full) == 1}


# ---- from source to page

def transform_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Rewrite one page before it is parsed (Sphinx event `source-read`)."""
    up = "../" * docname.count("/")
    content[0] = ROOT_LINK.sub(lambda m: f"]({up}reference/{m[1].lower()}.md)", content[0])
    names: dict[str, str] = app.env.adaptation_names
    if not Path(app.env.doc2path(docname)).name.endswith(".ipynb"):
        content[0] = link_names(content[0], names)
        return
    notebook = json.loads(content[0])
    if docname.startswith("recipes/"):
        notebook = last_run(Path(app.env.doc2path(docname)), notebook)
    module = app.env.adaptation_modules.get(docname)
    if module:  # a page's own names come first
        own = read_cells(Path(app.env.doc2path(docname)), Path(app.srcdir))
        names = names | symbols_of(own, module)
    cells: list[dict[str, Any]] = []
    for raw in notebook["cells"]:
        for cell in page_cells(raw, module, names):
            for part in with_diagrams(cell):
                cells += with_pictures(part)
    if docname == app.config.root_doc:
        cells.append(markdown(TOCTREE.format(pages="\n".join(sections(app)))))
    # nbformat wants an id on each cell, and one cell may have become two.
    notebook["cells"] = [cell | {"id": f"page-{n}"} for n, cell in enumerate(cells)]
    content[0] = json.dumps(notebook)


def last_run(source: Path, notebook: dict[str, Any]) -> dict[str, Any]:
    """The executed copy of a recipe (`make recipes`), if it is of this very notebook."""
    name = source.stem.lstrip("0123456789_").replace("_", "-")
    run = source.parents[2] / "build" / "recipes" / name
    said = "This page shows the recipe without results; `make recipes` runs it and keeps them."
    if (run / "manifest.json").exists():
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        same = manifest["notebook_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        if same and manifest["status"] == "done":
            notebook = json.loads((run / "executed.ipynb").read_text(encoding="utf-8"))
            notebook["cells"] = [results(cell) for cell in notebook["cells"] if not injected(cell)]
            said = run_line(manifest)
    first, *rest = notebook["cells"]
    return notebook | {"cells": [first, markdown(f":::{{note}}\n{said}\n:::"), *rest]}


def injected(cell: dict[str, Any]) -> bool:
    """Whether papermill wrote the cell: values that the note already tells, and a folder."""
    return "injected-parameters" in cell["metadata"].get("tags", [])


def results(cell: dict[str, Any]) -> dict[str, Any]:
    """The cell without what libraries wrote to stderr."""
    kept = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return cell | {"outputs": kept} if cell["cell_type"] == "code" else cell


def run_line(manifest: dict[str, Any]) -> str:
    """When, how long and with what the shown results were made."""
    versions = manifest["versions"]
    used = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    return (
        f"Run on {manifest['started'][:10]} in {manifest['mode']} mode with model "
        f"`{manifest['model']}`, seed {manifest['seed']}, in {manifest['seconds']:.0f} seconds "
        f"({', '.join(used)}). Run it: `cookbook run {manifest['recipe']}`"
    )


def sections(app: Sphinx) -> list[str]:
    """The section pages, in the order of the bar on top."""
    wanted = ("advisor", "cookbook", "recipes", "explanations", "reference")
    return [f"{name}/index" for name in wanted if f"{name}/index" in app.project.docnames]


def markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def page_cells(
    raw: dict[str, Any], module: str | None, names: dict[str, str]
) -> list[dict[str, Any]]:
    """The cells of the page that stand for one cell of the notebook."""
    source = "".join(raw["source"])
    if raw["cell_type"] == "markdown":
        return [raw | {"source": link_names(source, names)}]
    if raw["cell_type"] != "code":
        return [raw]
    marks = directives(source)
    if {"hide", "default_exp"} & marks.keys() or not source.strip():
        return []
    code = "\n".join(line for line in source.splitlines() if not is_directive(line)).strip("\n")
    if marks.get("echo") == "false":
        return [with_tag(raw, "remove-input") | {"source": code}]
    if module and {"export", "exporti"} & marks.keys():
        return exported_cells(raw | {"source": code}, module)
    return [raw | {"source": code}]


def with_diagrams(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A result that holds a diagram moves into the page, where diagrams are drawn."""
    outputs = cell.get("outputs", [])
    texts = ["".join(o.get("data", {}).get("text/markdown", "")) for o in outputs]
    if not any("```mermaid" in text for text in texts):
        return [cell]
    kept = [o for o, text in zip(outputs, texts, strict=True) if not text]
    moved = [markdown(HEADING.sub(r"**\1**", text)) for text in texts if text]
    return [cell | {"outputs": kept}, *moved]


def with_pictures(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A drawing moves into the page: as an image it would lose its title, font and colours."""
    outputs = cell.get("outputs", [])
    drawings = ["".join(o.get("data", {}).get("image/svg+xml", "")) for o in outputs]
    if not any(drawings):
        return [cell]
    kept = [o for o, drawing in zip(outputs, drawings, strict=True) if not drawing]
    moved = [markdown(f"```{{raw}} html\n{drawing}\n```") for drawing in drawings if drawing]
    return [cell | {"outputs": kept}, *moved]


def exported_cells(cell: dict[str, Any], module: str) -> list[dict[str, Any]]:
    """API entries for the definitions of the cell, then its source, folded."""
    body = ast.parse(cell["source"]).body
    if all(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
        return [with_tag(cell, "hide-input")]
    entries = [api_entry(node, module) for node in definitions(cell["source"])]
    if not entries and not any(isinstance(node, Definition) for node in body):
        return [cell]  # a table of constants is its own documentation
    folded = with_tag(cell, "hide-input")
    if not entries:
        return [folded]
    return [markdown("```{api}\n" + "\n".join(entries) + "\n```"), folded]


def api_entry(node: Definition, module: str) -> str:
    kind = "autoclass" if isinstance(node, ast.ClassDef) else "autofunction"
    members = "   :members:\n" if kind == "autoclass" else ""
    return f".. {kind}:: {module}.{node.name}\n{members}"


def with_tag(cell: dict[str, Any], tag: str) -> dict[str, Any]:
    tags = [*cell["metadata"].get("tags", []), tag]
    return cell | {"metadata": cell["metadata"] | {"tags": tags}}


def link_names(text: str, names: dict[str, str]) -> str:
    """`name` outside fences and headings becomes a reference, if one module defines that name."""
    def link(match: re.Match[str]) -> str:
        full = names.get(match[1])
        return f"{{py:obj}}`{match[1]} <{full}>`" if full else match[0]

    def link_lines(part: str) -> str:
        lines = part.split("\n")
        return "\n".join(s if s.startswith("#") else INLINE_CODE.sub(link, s) for s in lines)

    parts: list[str] = []
    end = 0
    for fence in FENCE.finditer(text):
        parts += [link_lines(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, link_lines(text[end:])])
