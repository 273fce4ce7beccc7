"""Runs side by side: verdicts, corrections, warnings, exit codes, pages and charts."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.console import Program
from advisor.errors import AdvisorError
from advisor.pictures import LETTER
from cookbook.charts import band_svg, intervals_svg, slope_svg
from cookbook.compare import before_after, cautions, compare_runs
from cookbook.compare_cli import compare_command, page
from cookbook.figures import Figure, mean
from cookbook.record import Record, Run
from cookbook.retention import RetentionSuite, Task, run_suite

NS = "{http://www.w3.org/2000/svg}"
NASTY = '<script>alert("x")</script>&\x07é'


@click.group(cls=Program)
def program() -> None:
    """A program around the command, so that errors become exit codes."""


program.add_command(compare_command)


def call(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(program, ["compare", *words])
    return result.exit_code, result.stdout, result.stderr


def record(place: Path | str, right: dict[str, tuple[int, str]], n: int = 100) -> Record:
    found = Record(place, "lora")
    for name, (k, group) in right.items():
        found.measure(name, {f"{name}{i}": float(i < k) for i in range(n)}, group=group)
    return found


def run(name: str, right: dict[str, tuple[int, str]], n: int = 100) -> Run:
    return record("", right, n).run(name)


BEFORE = {"format": (5, "target"), "sums": (95, "retention"), "refuses": (60, "safety")}
BETTER = {"format": (90, "target"), "sums": (94, "retention"), "refuses": (61, "safety")}
FORGOT = {"format": (90, "target"), "sums": (70, "retention"), "refuses": (61, "safety")}
NO_USE = {"format": (6, "target"), "sums": (95, "retention"), "refuses": (60, "safety")}


def folders(tmp_path: Path, *contents: dict[str, tuple[int, str]]) -> list[str]:
    names = [f"run{n}" for n in range(len(contents))]
    for name, right in zip(names, contents, strict=True):
        record(tmp_path / name, right).save()
    return [str(tmp_path / name) for name in names]


# ---- verdicts


def test_gained_and_forgotten() -> None:
    found = before_after(run("a", BEFORE), run("b", FORGOT)).outcomes("b")
    names = {kind: [d.name for d in differences] for kind, differences in found.items()}
    assert names["gained"] == ["format"]
    assert names["forgotten"] == ["sums"]
    assert names["unchanged"] == ["refuses"]


def test_loss_needs_less_proof_than_gain() -> None:
    """Five disagreements in one direction: p is 0.06, but the interval excludes 0."""
    kept = {"old": (40, "retention"), "new": (0, "target")}
    lost = {"old": (35, "retention"), "new": (5, "target")}
    found = before_after(run("a", kept, 40), run("b", lost, 40)).outcomes("b")
    assert [d.name for d in found["forgotten"]] == ["old"]
    assert [d.name for d in found["unchanged"]] == ["new"]


def test_gain_has_to_survive_the_number_of_tests() -> None:
    alone = ({"new": (0, "target")}, {"new": (7, "target")})  # p = 0.016
    noise = {f"skill{n}": (50, "target") for n in range(20)}
    one = before_after(run("a", alone[0]), run("b", alone[1]))
    many = before_after(run("a", alone[0] | noise), run("b", alone[1] | noise))
    assert [d.name for d in one.outcomes("b")["gained"]] == ["new"]
    assert many.outcomes("b")["gained"] == []
    assert (one.tested, many.tested) == (1, 21)


def test_figure_without_items_is_compared_by_its_interval() -> None:
    def slow(value: float) -> Run:
        figure = Figure("p95", value, value - 0.1, value + 0.1, 50, "seconds", "lower", "cost")
        return Run("x", "rag", {"p95": figure})

    row = compare_runs([slow(1.0), slow(1.05), slow(2.0)]).rows[0]
    assert [d.verdict for d in row.differences.values()] == ["noise", "worse"]
    assert {d.test for d in row.differences.values()} == {"intervals"}


def test_single_readings_are_untested() -> None:
    reading = Figure("peak", 5.0, 5.0, 5.0, 1, "bytes", "lower", "cost")
    a, b = Run("a", "x", {"peak": reading}), Run("b", "x", {"peak": replace(reading, value=9.0)})
    found = before_after(a, replace(b, figures={"peak": replace(reading, value=9, low=9, high=9)}))
    assert found.rows[0].differences["b"].verdict == "untested"
    assert found.tested == 0


def test_suite_gives_the_retention_rows() -> None:
    suite = RetentionSuite("s", (Task("sums", {"a": 1, "b": 2}, lambda m, xs, _: [m] * len(xs)),))
    sides = []
    for model in (1.0, 0.0):
        kept = Record("", "lora")
        run_suite(suite, model, record=kept)
        sides.append(kept.run(f"model {model}"))
    assert before_after(*sides).rows[0].group == "retention"


# ---- what makes runs hard to compare

PLAIN: dict[str, Any] = {
    "recipe": "lora", "mode": "full", "model": "lab", "model_sha256": "a" * 64, "seed": 0,
    "data": {"test": "1"}, "hardware": {"cpu": "x"}, "status": "done",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": "smoke"}, "different modes: a full, b smoke."),
        ({"model": "lab-instruct"}, "different models: a lab, b lab-instruct."),
        ({"model_sha256": "b" * 64}, "different weights"),
        ({"seed": 1}, "different seeds: a 0, b 1."),
        ({"recipe": "rag"}, "different recipes: a lora, b rag."),
        ({"data": {"test": "2"}}, "different data: test."),
        ({"data": {"test": "1", "more": "3"}}, "different data: more."),
        ({"hardware": {"cpu": "y"}}, "different hardware"),
        ({"status": "interrupted"}, "status is interrupted"),
    ],
)
def test_difference_in_the_manifest_is_said(change: dict[str, Any], said: str) -> None:
    a, b = (replace(run(name, BEFORE), manifest=PLAIN) for name in "ab")
    assert cautions([a, b]) == []
    (warning,) = cautions([a, replace(b, manifest=PLAIN | change)])
    assert said in warning


def test_missing_manifest_and_other_items_are_said() -> None:
    a = replace(run("a", BEFORE), manifest=PLAIN)
    assert cautions([a, run("b", BEFORE)]) == ["b: no manifest, so its settings are not known."]
    fewer = replace(run("b", BEFORE, n=98), manifest=PLAIN)
    assert "format: different items (98 shared, 100 in a, 98 in b)." in cautions([a, fewer])


def test_other_unit_is_not_subtracted() -> None:
    a = Run("a", "x", {"t": mean("t", [1.0, 2.0], unit="s"), "u": mean("u", [1.0])})
    b = Run("b", "x", {"t": mean("t", [1.0, 2.0], unit="ms"), "u": mean("u", [1.0])})
    found = before_after(a, b)
    assert "t" not in [row.name for row in found.rows if row.differences]
    assert found.warnings == ("t: another unit, direction or group in b.",)


# ---- the command


def test_three_runs_as_text(tmp_path: Path) -> None:
    code, text, said = call(*folders(tmp_path, BEFORE, BETTER, FORGOT))
    assert (code, said) == (0, "")
    assert re.search(r"run1 +90\.0 % \[82\.6, 94\.5\] +n=100 +\+85\.0 points .* better", text)
    assert "run2 against run0\n  gained     format +85.0 points\n  forgotten  sums -25.0" in text
    assert "Differences tested: 6" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("after", "code", "said"),
    [
        (BETTER, 0, ""),
        (FORGOT, 1, "gate: run1: sums dropped (retention).\n"),
        (NO_USE, 1, "gate: run1: format did not improve (noise).\n"),
        (BETTER | {"refuses": (20, "safety")}, 1, "gate: run1: refuses dropped (safety).\n"),
    ],
)
def test_gate(tmp_path: Path, after: dict[str, tuple[int, str]], code: int, said: str) -> None:
    places = folders(tmp_path, BEFORE, after)
    found = call(*places, "--gate")
    assert (found[0], found[2]) == (code, said)
    assert call(*places)[0] == 0


def test_gate_without_a_target_cannot_judge(tmp_path: Path) -> None:
    sums = {"sums": (90, "retention")}
    code, text, said = call(*folders(tmp_path, sums, sums), "--gate")
    assert code == 3
    assert "no figure of the group target" in said
    assert text  # the table is printed all the same


def test_json_says_the_same(tmp_path: Path) -> None:
    code, text, _ = call(*folders(tmp_path, BEFORE, FORGOT), "--json")
    values = json.loads(text)
    assert (code, values["schema"], values["tested"]) == (0, 1, 3)
    assert values["outcomes"]["run1"]["forgotten"] == ["sums"]
    row = next(row for row in values["figures"] if row["name"] == "sums")
    assert row["runs"]["run0"]["n"] == 100
    assert row["differences"]["run1"]["value"] == pytest.approx(-0.25)
    assert row["differences"]["run1"]["test"] == "mcnemar"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: (place / "metrics.json").unlink(), "no metrics.json"),
        (lambda place: (place / "metrics.json").write_text("{"), "metrics.json:1: not JSON"),
        (lambda place: (place / "items.jsonl").write_text("x\n"), "items.jsonl:1"),
        (lambda place: (place / "manifest.json").write_text("[]"), "manifest.json"),
    ],
)
def test_bad_run_is_named(tmp_path: Path, damage: Any, said: str) -> None:
    places = folders(tmp_path, BEFORE, BETTER)
    damage(tmp_path / "run1")
    code, text, error = call(*places)
    assert (code, text) == (2, "")
    assert "run1" in error
    assert said in error


def test_one_run_or_none_is_bad_usage(tmp_path: Path) -> None:
    (place,) = folders(tmp_path, BEFORE)
    assert call(place)[0] == 2
    assert call()[0] == 2
    assert call(place, "nowhere")[0] == 2


def test_files_are_written_once(tmp_path: Path) -> None:
    places = folders(tmp_path, BEFORE, FORGOT)
    outputs = [str(tmp_path / "r.html"), str(tmp_path / "r.svg")]
    words = [*places, "--html", outputs[0], "--svg", outputs[1]]
    assert call(*words)[0] == 0
    code, _, error = call(*words)
    assert code == 2
    assert "exists already" in error
    assert call(*words, "--force")[0] == 0
    ElementTree.parse(outputs[1])


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, cookbook.compare_cli as c\n"
        "try:\n    c.compare_command.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('|'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split("|"))
    assert not loaded & {"numpy", "scipy", "torch", "jsonschema", "cookbook.figures"}


# ---- pages and charts


def nasty_runs() -> list[Run]:
    figures = {NASTY: (5, "target"), "]]>": (50, "retention")}
    return [run(f"{NASTY} {n}", figures) for n in range(2)]


def test_page_escapes_names() -> None:
    text = page(compare_runs(nasty_runs()))
    assert "<script" not in text
    assert text.count("<svg") == 2
    assert "forgotten: nothing" in text


names = st.text(max_size=20)
shares = st.integers(0, 30).map(lambda k: mean("x", [1] * k + [0] * (30 - k)))


@given(st.dictionaries(names, st.dictionaries(names, shares, min_size=1), min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_intervals_are_valid_and_say_everything(rows: dict[str, dict[str, Figure]]) -> None:
    node = ElementTree.fromstring(str(intervals_svg(rows)))
    dots = list(node.iter(f"{NS}circle"))
    assert len(dots) == sum(len(runs) for runs in rows.values())
    values = [text for text in node.iter(f"{NS}text") if text.get("x") == "400"]
    left = min(float(t.get("x", 0)) - len(t.text or "") * 11 * LETTER for t in values)
    assert all(118 <= float(dot.get("cx", 0)) <= left - 4 for dot in dots)
    assert all(dot.find(f"{NS}title") is not None for dot in dots)
    described = node.find(f"{NS}desc")
    assert described is not None
    assert (described.text or "").count("n=30") == len(dots)


@given(st.dictionaries(names, st.tuples(shares, shares), min_size=1, max_size=6))
@settings(deadline=None, max_examples=40)
def test_slopes_are_valid_and_labels_do_not_meet(rows: dict[str, tuple[Figure, Figure]]) -> None:
    sides = [{name: pair[side] for name, pair in rows.items()} for side in (0, 1)]
    node = ElementTree.fromstring(str(slope_svg(*sides, dict.fromkeys(rows, "worse"))))
    found = [t for t in node.iter(f"{NS}text") if t.get("font-size") == "10.5"]
    assert len(found) == 2 * len(rows)
    height = float(node.get("viewBox", "").split()[3])
    for anchor in ("end", "start"):
        at = sorted(float(t.get("y", 0)) for t in found if t.get("text-anchor") == anchor)
        assert all(b - a >= 12.9 for a, b in pairwise(at))
        assert at[-1] < height


@given(st.dictionaries(names, st.dictionaries(st.integers(0, 999), shares, min_size=1, max_size=6),
                       min_size=1, max_size=3))  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_bands_are_valid_and_hold_their_line(lines: dict[str, dict[int, Figure]]) -> None:
    picture = band_svg({name: list(points.items()) for name, points in lines.items()}, "examples")
    node = ElementTree.fromstring(str(picture))
    assert len(list(node.iter(f"{NS}polygon"))) == len(lines)
    for dot in node.iter(f"{NS}circle"):
        assert 22 <= float(dot.get("cy", 0)) <= 22 + 190


def test_chart_of_two_units_is_refused() -> None:
    figure = mean("x", [1.0, 0.0])
    rows = {"a": {"r": figure, "s": replace(figure, unit="seconds")}}
    with pytest.raises(ValueError, match="one unit"):
        intervals_svg(rows)


def test_chart_of_nothing_that_can_be_drawn_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        kept = Record(tmp_path / name, "x")
        kept.measure("gain", {"1": -1.0, "2": -3.0}, unit="count")
        kept.save()
    code, _, said = call(str(tmp_path / "a"), str(tmp_path / "b"), "--svg", str(tmp_path / "s"))
    assert code == 2
    assert "below zero" in said


def test_comparing_needs_something_in_common() -> None:
    with pytest.raises(AdvisorError, match="no figure"):
        before_after(run("a", {"x": (1, "target")}), run("b", {"y": (1, "target")}))
