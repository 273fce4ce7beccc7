"""Every recipe notebook keeps the house rules that a reader and the runner rely on."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from cookbook.parameters import parameter_cell, read_parameters
from cookbook.recipes import MODES, cells_of, load_notebook, minutes, read_recipe, recorded_name

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "nbs" / "recipes").glob("[!._]*.ipynb"))
MODEL = ROOT / "tests" / "data" / "recipes" / "10_coin.ipynb"
COMMON = {
    "mode": ("str", "smoke"), "model": ("str", None), "seed": ("int", 0), "output": ("str", ""),
    "device": ("str", "auto"),
}  # fmt: skip
ABSOLUTE = re.compile(
    r"(?<![\w.:/<])(/(home|root|tmp|work|Users|mnt|content|opt|usr|var|media|srv)/|[A-Z]:\\\w)"
)
PIP = re.compile(r"^\s*[!%]?.*\b(pip|uv|conda|mamba)3? +install\b|[\"']pip[\"']", re.MULTILINE)


def parameter_problems(path: Path) -> list[str]:
    """What is wrong with the parameters cell."""
    try:
        cell = parameter_cell(cells_of(load_notebook(path)), path.name)
        parameters = {p.name: p for p in read_parameters(cell, path.name)}
    except AdvisorError as error:
        return [error.message]
    found = [f"{name}: no comment" for name, p in parameters.items() if not p.help]
    for name, (kind, default) in COMMON.items():
        if name not in parameters:
            found.append(f"{name}: missing among the parameters")
            continue
        mine = parameters[name]
        if mine.type != kind or (default is not None and mine.default != default):
            found.append(f"{name}: {mine.type} = {mine.default!r}, not {kind} = {default!r}")
    return found


def prose_problems(path: Path) -> list[str]:
    """What a reader would miss."""
    recipe, first = read_recipe(path), cells_of(load_notebook(path))[0]
    found = []
    if first.kind != "markdown" or not re.match(r"# .+\n\n> .+", first.source):
        found.append("first cell: a title, an empty line, a line that starts with >")
    said = {"When not to use this": recipe.not_when, "Next": recipe.next}
    found += [f"{title}: missing" for title, text in said.items() if not text]
    for mode in MODES:
        if minutes(recipe.hardware.get(mode, "")) is None:
            found.append(f"Hardware and time: no line `- {mode}: DURATION on HARDWARE`")
    return found


def code_problems(path: Path) -> list[str]:
    """What makes a notebook work on one machine only, or shows a run of long ago."""
    notebook = load_notebook(path)
    found = []
    for cell, data in zip(cells_of(notebook), notebook["cells"], strict=True):
        if data.get("outputs") or data.get("execution_count") is not None:
            found.append(f"cell {cell.number}: outputs are stored")
        if ABSOLUTE.search(cell.source):
            found.append(f"cell {cell.number}: an absolute path")
        if cell.kind == "code" and PIP.search(cell.source):
            found.append(f"cell {cell.number}: installs something")
        if cell.source.endswith("record.save()"):
            found.append(f"cell {cell.number}: shows the run's folder; record.save(); does not")
    recorded, name = recorded_name(cells_of(notebook)), read_recipe(path).name
    if recorded != name:
        found.append(f"it records under {recorded!r}, not {name!r}")
    return found


def import_problems(path: Path) -> list[str]:
    """Names that a recipe takes from our packages and that are not there (any more)."""
    found = []
    for cell in cells_of(load_notebook(path)):
        if cell.kind != "code" or PIP.search(cell.source):
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and re.match(
                r"(advisor|cookbook)\b", str(node.module)
            ):
                found += missing_names(str(node.module), [name.name for name in node.names])
    return found


def missing_names(module: str, names: list[str]) -> list[str]:
    room = importlib.import_module(module)
    rooms = {info.name for info in pkgutil.iter_modules(getattr(room, "__path__", []))}
    return [
        f"{module} has no {name}" for name in names if not hasattr(room, name) and name not in rooms
    ]


def problems(path: Path) -> list[str]:
    return [
        *parameter_problems(path),
        *prose_problems(path),
        *code_problems(path),
        *import_problems(path),
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_keeps_the_rules(path: Path) -> None:
    assert problems(path) == []


def test_names_are_unique() -> None:
    names = [read_recipe(path).name for path in RECIPES]
    assert len(set(names)) == len(names)


# ---- each rule can fail


def test_the_model_recipe_is_without_fault() -> None:
    assert problems(MODEL) == []


def source(number: int, old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        text = "".join(data["cells"][number]["source"])
        assert old in text
        data["cells"][number]["source"] = text.replace(old, new)

    return change


def outputs(data: dict[str, Any]) -> None:
    data["cells"][4]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]


def untagged(data: dict[str, Any]) -> None:
    data["cells"][2]["metadata"]["tags"] = []


def twice(data: dict[str, Any]) -> None:
    data["cells"][4]["metadata"]["tags"] = ["parameters"]


FAULTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "seed: no comment": source(2, "  # of the flips", ""),
    "device: missing": source(2, 'device: str = "auto"  # not used here\n', ""),
    "mode: str = 'full'": source(2, '= "smoke"', '= "full"'),
    "not a parameter with a type": source(2, "seed: int = 0", "seed = 0"),
    "no code cell is tagged": untagged,
    "2 cells are tagged": twice,
    "first cell": source(0, "\n> ", "\n"),
    "When not to use this: missing": source(1, "When not to use this", "When"),
    "Next: missing": source(7, "## Next", "## Later"),
    "no line `- full:": source(1, "- full: 2 seconds", "- full: long"),
    "no line `- smoke:": source(1, "- smoke: 1 second on", "smoke, on"),
    "outputs are stored": outputs,
    "an absolute path": source(4, "import random", "open('/home/me/x')"),
    "installs something": source(4, "import random", "%pip install x"),
    "cookbook.record has no Nothing": source(
        4, "import random", "from cookbook.record import Nothing"
    ),
    "it records under": source(4, '"coin"', '"other"'),
}


@pytest.mark.parametrize("said", FAULTS)
def test_a_fault_is_found(said: str, tmp_path: Path) -> None:
    data = copy.deepcopy(load_notebook(MODEL))
    FAULTS[said](data)
    path = tmp_path / "10_coin.ipynb"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert any(said in problem for problem in problems(path)), problems(path)
