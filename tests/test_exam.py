"""The exam on published cases: marks are right, the advice passes, no rule serves one case."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import exam  # noqa: E402

from advisor.evidence import load_evidence  # noqa: E402
from advisor.flowchart import flowchart  # noqa: E402

PUBLISHED = exam.load(exam.CASES)
GROUPS = {row.id: row.group for row in load_evidence().values()}


def test_every_path_stands_for_a_class() -> None:
    assert set(exam.CLASSES) == {path.id for path in flowchart().paths}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["id"])
def test_a_published_scenario_becomes_a_case(row: dict) -> None:
    case = exam.case_of(row)
    assert case.get("task") is not None
    assert case.get("model.weights") in ("open", "closed")
    assert case.get("data.labelled") == row["scenario"]["labelled_examples"]


def test_a_mark_counts_hits_and_regret() -> None:
    row = {
        "accept": ["FT"],
        "higher_is_better": True,
        "tried": {"prompt": 62, "tuned": 87, "both": "not told"},
        "tried_class": {"prompt": "PROMPT", "tuned": "FT", "both": "FT+RAG"},
    }
    assert exam.mark(row, {"PEFT", "FT"}) == (True, 0)
    assert exam.mark(row, {"PROMPT"}) == (False, 25)
    assert exam.mark(row, {"RAG"}) == (False, None)
    assert exam.mark(row, {"FT+RAG"}) == (False, None)


def test_a_group_weighs_one_however_many_cases_it_gave() -> None:
    table = exam.run(PUBLISHED)
    weights: dict[str, float] = {}
    for result in table["advisor"]:
        weights[result.group] = weights.get(result.group, 0) + result.weight
    assert all(abs(weight - 1) < 1e-9 for weight in weights.values())


def test_the_advice_passes_and_beats_every_rule_of_thumb() -> None:
    scores = {name: exam.score(results) for name, results in exam.run(PUBLISHED).items()}
    assert scores["advisor"] >= 0.85
    assert scores["advisor, leave one group out"] >= 0.85
    assert max(scores[name] for name in exam.BASELINES) < 0.5


def test_no_rule_rests_on_one_scored_group_alone() -> None:
    scored = {row["group"] for row in PUBLISHED}
    for rule in flowchart().rules:
        groups = {GROUPS[name] for name in rule.evidence}
        assert len(groups) > 1 or not groups <= scored, (rule.id, groups)


def test_leaving_a_group_out_switches_off_what_rests_on_it() -> None:
    chart = flowchart()
    rest = chart.without_group("qi", GROUPS)
    assert {r.id for r in chart.rules} - {r.id for r in rest.rules} == {"tuning-erodes-safety"}


def test_the_command_prints_the_table_and_every_miss() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "exam.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "always fine-tune" in done.stdout
    misses = [r for r in exam.run(PUBLISHED)["advisor"] if not r.hit]
    assert all(miss.id in done.stdout for miss in misses)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', "\x00"])
def test_a_broken_collection_is_one_line_and_exit_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cases.json"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "exam.py", "--cases", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "data").glob("*-cases*.json")))
def test_collections_do_not_share_a_paper(path: Path) -> None:
    mine = {row["url"] for row in json.loads(path.read_text())["cases"]}
    for other in (ROOT / "tests" / "data").glob("*-cases*.json"):
        if other != path:
            assert not mine & {row["url"] for row in json.loads(other.read_text())["cases"]}, other
