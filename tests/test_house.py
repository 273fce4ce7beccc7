"""The rules of the house, checked: budgets of notebooks and functions, a complete map."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cookbook.build import check
from cookbook.notebooks import directives, is_exported, read_cells

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)
)
SOURCES = [n for n in NOTEBOOKS if n.startswith(("nbs/advisor/", "nbs/cookbook/"))]
MODULES = sorted(
    p.relative_to(ROOT).as_posix()
    for folder in ("advisor", "cookbook")
    for p in (ROOT / folder).rglob("*.py")
    if p.name != "_modidx.py"
)
MAX_CELLS, MAX_BYTES, MAX_CODE_LINES, MAX_FUNCTION_LINES = 80, 90_000, 30, 40
NOT_OURS = re.compile(
    r"(^|/)(\.git|\.venv|\.venv\.lock|build|dist|[^/]*\.egg-info|__pycache__|\.mypy_cache"
    r"|\.pytest_cache|\.ruff_cache|\.hypothesis|\.ipynb_checkpoints|_proc|\.last_checked)(/|$)"
)


def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return data


def code_lines(source: str) -> int:
    """Lines with code: without empty lines, comments, directives and docstrings."""
    return lines_of(source, ast.parse(source), 1, len(source.splitlines()))


def lines_of(source: str, tree: ast.AST, first: int, last: int) -> int:
    """The same for the lines from `first` to `last`, which `tree` covers."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (n for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n))
    docs = {
        line
        for node in nodes
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = enumerate((line.strip() for line in source.splitlines()), 1)
    code = (number for number, line in lines if line and not line.startswith("#"))
    return sum(first <= number <= last and number not in docs for number in code)


def test_there_are_notebooks_and_modules() -> None:
    assert len(SOURCES) >= 10
    assert len(MODULES) >= len(SOURCES)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_keeps_its_budget(name: str) -> None:
    cells = read_cells(ROOT / name, ROOT)
    code = [c for c in cells if c.kind == "code" and "default_exp" not in directives(c.source)]
    prose = [c for c in cells if c.kind == "markdown"]
    assert len(cells) <= MAX_CELLS
    assert (ROOT / name).stat().st_size <= MAX_BYTES
    long = {c.where(): n for c in code if (n := code_lines(c.source)) > MAX_CODE_LINES}
    assert long == {}
    shown = [c for c in code if "hide" not in directives(c.source)]
    assert len(prose) >= len(shown) / 3, "aim at a cell of prose for every two of code"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_begins_with_its_title_and_summary(name: str) -> None:
    title = next(c for c in read_cells(ROOT / name, ROOT) if c.kind == "markdown").source
    assert re.match(r"# .+\n\n> .+", title), "a title, an empty line, a line that starts with >"


@pytest.mark.parametrize("name", SOURCES)
def test_notebook_makes_exactly_one_module(name: str) -> None:
    marks = [directives(c.source).get("default_exp") for c in read_cells(ROOT / name, ROOT)]
    (module,) = [mark for mark in marks if mark]
    package = name.split("/")[1]
    stem = re.sub(r"^\d+_", "", Path(name).stem)
    if package == "cookbook" and (room := re.match(r"(lab|data|align)_", stem)):
        package, stem = f"{package}.{room[1]}", stem.removeprefix(room[0])
    assert module == f"{package}.{'__init__' if stem == 'init' else stem}"


def is_import(node: ast.stmt) -> bool:
    """An import, or the block of imports that only the type checker reads."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return all(is_import(inner) for inner in node.body)
    return isinstance(node, ast.Import | ast.ImportFrom)


@pytest.mark.parametrize("name", SOURCES)
def test_exported_cell_holds_imports_or_code(name: str) -> None:
    """A reader looks for imports in one place; only constants may stand with them."""
    for cell in filter(is_exported, read_cells(ROOT / name, ROOT)):
        body = ast.parse(cell.source).body
        plain = (ast.Assign, ast.AnnAssign, ast.Expr)
        if any(is_import(node) for node in body):
            rest = [node for node in body if not is_import(node)]
            assert all(isinstance(node, plain) for node in rest), cell.where()


def test_no_cell_is_switched_off() -> None:
    off = [
        cell.where()
        for name in NOTEBOOKS
        for cell in read_cells(ROOT / name, ROOT)
        if "eval" in directives(cell.source) and "__main__" not in cell.source
    ]
    assert off == []
    last = read_cells(ROOT / "nbs/cookbook/90_build.ipynb", ROOT)[-1]
    assert directives(last.source).get("eval") == "false"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_small_text_or_svg(name: str) -> None:
    # The pages of rules and of evidence are tables of a whole data file, and nothing else.
    limit = 64_000 if "explanations" in name else 20_000
    for number, cell in enumerate(load(name)["cells"], 1):
        for output in cell.get("outputs", []):
            kinds = {kind for kind in output.get("data", {}) if kind.startswith("image/")}
            assert kinds <= {"image/svg+xml"}, f"cell {number}: {kinds}"
            assert len(json.dumps(output)) <= limit, f"cell {number}"


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_small(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    sizes = {n.name: lines_of(text, n, n.lineno, n.end_lineno or n.lineno) for n in functions}
    assert {name: n for name, n in sizes.items() if n > MAX_FUNCTION_LINES} == {}


def test_packages_and_notebooks_are_in_step() -> None:
    assert check(ROOT) == []


# ---- ARCHITECTURE.md: a line a file

ENTRY = re.compile(r"^( *)(\S+)(?:  +(\S.*))?$")


@cache
def mapped() -> dict[str, str]:
    """Path or pattern to description, from the tree in ARCHITECTURE.md; folders end with /."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = text.split("```text\n")[1].split("```")[0]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in tree.splitlines():
        match = ENTRY.match(line)
        assert match, f"not an entry: {line!r}"
        folders = folders[: len(match[1]) // 2]
        path = "".join(folders) + match[2]
        assert match[3], f"{path}: no description"
        found[path] = match[3]
        if match[2].endswith("/"):
            folders.append(match[2])
    return found


def existing() -> list[str]:
    names = (p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*") if p.is_file())
    return sorted(name for name in names if not NOT_OURS.search(name))


def is_named(path: str) -> bool:
    """Named by itself; modules as a group, because each notebook line names its module."""
    folder, _, name = path.rpartition("/")
    packages = ("advisor", "cookbook", "cookbook/lab", "cookbook/data", "cookbook/align")
    generated = folder in packages and name.endswith(".py")
    group = f"{folder}/*.py" if generated else f"{folder}/*"
    return path in mapped() or group in mapped()


def test_map_names_every_file() -> None:
    assert [path for path in existing() if not is_named(path)] == []


def test_map_names_nothing_that_is_gone() -> None:
    names = [path for path in mapped() if "*" not in path]
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_licence_is_the_one_the_metadata_names() -> None:
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
