"""Running a plan: stages in order, gates that stop, and what keeps a stage from ending."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cookbook import recipes
from cookbook.cli import main

RECIPES = Path(__file__).parent / "data" / "recipes"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a copy of the tests' own recipes."""
    own = tmp_path / "recipes"
    shutil.copytree(RECIPES, own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "recipe_folder", lambda: own)
    monkeypatch.setattr("cookbook.runner.recipe_folder", lambda: own)
    notebook = own / "10_coin.ipynb"
    text = notebook.read_text(encoding="utf-8")
    saved = "record.save()"
    assert text.count(saved) == 1
    note = 'record.note(\\"before_after\\", [\\"heads\\", \\"heads\\"])\\n'
    notebook.write_text(text.replace(saved, note + saved), encoding="utf-8")
    return tmp_path


def call(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words), prog_name="cookbook")
    assert result.exit_code == code, result.output
    return result


Write = Callable[..., str]


@pytest.fixture
def plan(here: Path) -> Write:
    """Writes plan.yaml with stages of (recipe, threshold, parameters)."""

    def write(*stages: tuple[str | None, float | None, dict[str, Any]]) -> str:
        rows = []
        for recipe, threshold, parameters in stages:
            gate: dict[str, Any] = {"measure": "heads", "stop_when": "heads is enough"}
            if threshold is not None:
                gate["threshold"] = threshold
            row = {"path": "prompt", "gate": gate, "parameters": parameters}
            rows.append(row | ({"recipe": recipe} if recipe else {}))
        (here / "plan.yaml").write_text(json.dumps({"schema": 1, "stages": rows}))
        return "plan.yaml"

    return write


def test_stops_at_the_first_gate_that_is_passed(plan: Write, here: Path) -> None:
    path = plan(("coin", 0.99, {}), ("coin", 0.1, {"seed": 1}), ("coin", 0.1, {}))
    found = json.loads(call("run", path, "--output", "out", "--json").stdout)
    assert [stage["outcome"] for stage in found["stages"]] == ["missed", "met"]
    assert (found["outcome"], found["left"]) == ("met", 1)
    assert json.loads((here / "out" / "plan_run.json").read_text()) == found
    assert (here / "out" / "2-coin" / "executed.ipynb").is_file()
    assert not (here / "out" / "3-coin").exists()


def test_every_runs_all_stages(plan: Write) -> None:
    path = plan(("coin", 0.1, {}), ("coin", 0.99, {}))
    found = json.loads(call("run", path, "--output", "out", "--every", "--json").stdout)
    assert [stage["outcome"] for stage in found["stages"]] == ["met", "missed"]


def test_a_target_that_nothing_reaches_is_an_honest_no(plan: Write) -> None:
    result = call("run", plan(("coin", 0.99, {})), "--output", "out", code=1)
    assert "the target is missed" in result.stderr
    assert "missed; heads" in result.stdout


def test_without_a_threshold_nobody_can_say(plan: Write) -> None:
    result = call("run", plan(("coin", None, {}), ("coin", 0.1, {})), "--output", "out", code=3)
    assert "unmeasured" in result.stdout
    assert "threshold" in result.stderr


def test_a_path_without_a_recipe_stops_there(plan: Write) -> None:
    result = call("run", plan((None, 0.5, {}), ("coin", 0.1, {})), "--output", "out", code=3)
    assert "no recipe" in result.stdout
    assert "advisor explain prompt" in result.stderr


def test_a_failing_recipe_shows_its_cell(plan: Write, here: Path) -> None:
    path = plan(("coin", 0.99, {}), ("broken", 0.1, {}), ("coin", 0.1, {}))
    result = call("run", path, "--output", "out", code=3)
    assert "failed" in result.stderr
    kept = json.loads((here / "out" / "plan_run.json").read_text())
    assert [stage["outcome"] for stage in kept["stages"]] == ["missed", "failed"]


def test_resumed_stages_that_are_done_are_not_repeated(plan: Write, here: Path) -> None:
    path = plan(("coin", 0.99, {}), ("coin", 0.1, {"seed": 1}))
    call("run", path, "--output", "out")
    times = {p: p.stat().st_mtime_ns for p in here.glob("out/*/executed.ipynb")}
    again = call("run", path, "--output", "out", code=2)
    assert "--resume" in again.stderr
    call("run", path, "--output", "out", "--resume")
    assert {p: p.stat().st_mtime_ns for p in here.glob("out/*/executed.ipynb")} == times


def test_given_values_go_to_every_stage_that_has_them(plan: Write, here: Path) -> None:
    path = plan(("coin", 0.99, {"seed": 1}), ("coin", 0.1, {}))
    call("run", path, "--output", "out", "--seed", "5")
    manifests = [json.loads(p.read_text()) for p in sorted(here.glob("out/*/manifest.json"))]
    assert [manifest["seed"] for manifest in manifests] == [5, 5]


@pytest.mark.parametrize(
    ("parameters", "words", "message"),
    [
        ({"colour": "red"}, [], "colour"),
        ({"seed": "many"}, [], "seed"),
        ({}, ["--set", "colour=red"], "no recipe of this plan"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    plan: Write, here: Path, parameters: dict[str, Any], words: list[str], message: str
) -> None:
    path = plan(("coin", 0.99, {}), ("coin", 0.1, parameters))
    result = call("run", path, "--output", "out", *words, code=2)
    assert message in result.stderr
    assert not (here / "out").exists()


def test_every_is_for_plans() -> None:
    assert "--every is for plans" in call("run", "coin", "--every", code=2).stderr


def test_a_broken_plan_names_file_and_line(here: Path) -> None:
    (here / "plan.yaml").write_text("schema: 1\nstages:\n  - path: prompt\n    gates: {}\n")
    result = call("run", "plan.yaml", code=2)
    assert "plan.yaml:4" in result.stderr
    assert "Did you mean" in result.stderr
