"""What the recipe on DPO must show, on the lab in smoke mode and on pairs of a user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from test_recipes import change, run, value

from cookbook.align.conduct import lab_asked
from cookbook.lab.manners import say
from cookbook.runner import RunResult, run_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NAME = "dpo"


def test_the_base_prefers_the_help_whatever_was_asked() -> None:
    assert 0.4 <= value(NAME, "base_prefers") <= 0.6
    assert value(NAME, "base_equal") <= 0.6
    assert run(NAME).notes["longer_chosen_held"] == 0.5


def test_both_arms_answer_better_than_the_base() -> None:
    for arm in ("sft", "dpo"):
        assert change(NAME, "base_equal", f"{arm}_equal").low > 0


def test_dpo_adds_to_its_start() -> None:
    assert change(NAME, "start_gap", "dpo_gap").low > 0
    assert value(NAME, "dpo_equal") >= value(NAME, "start_equal")


def test_sft_is_hard_to_beat_where_the_answer_can_be_written() -> None:
    assert value(NAME, "sft_equal") >= 0.75
    assert value(NAME, "sft_prefers") >= value(NAME, "dpo_prefers")


def test_reward_accuracy_flatters() -> None:
    assert run(NAME).notes["reward_accuracy"] > value(NAME, "dpo_prefers") + 0.2


def test_no_claim_beyond_its_interval() -> None:
    table = run(NAME).notes["arms"]
    assert set(table) == {"prefers", "prefers_per_token", "equal", "neither"}
    for lines in table.values():
        assert set(lines) == {"base", "start", "sft", "dpo"}
        for against in lines.values():
            for _, low, high, verdict in against.values():
                assert verdict == "noise" or low > 0 or high < 0


def test_what_was_not_trained_survives() -> None:
    for skill in ("passages_3", "known", "labels_8"):
        assert value(NAME, f"{skill}_dpo") >= value(NAME, f"{skill}_base") - 0.2


def test_costs_safety_and_the_headline_are_kept() -> None:
    done = run(NAME)
    assert done.notes["before_after"] == ["base_prefers", "dpo_prefers"]
    assert {"safety_sft", "safety_dpo"} <= set(done.notes)
    for name in ("seconds_sft", "seconds_dpo", "memory_peak"):
        assert done.figures[name].group == "cost"


# ---- pairs of one's own


def pairs(count: int) -> list[dict[str, str]]:
    asked = lab_asked({"harmful": count // 2, "plain": count // 2}, "train", seed=5)
    return [{"prompt": f"Request: {one.request}\nReply:", "chosen": f" {one.good}",
             "rejected": f" {say('comply' if one.sort == 'harmful' else 'refuse', *one.words)}"}
            for one in asked]  # fmt: skip


def run_on(rows: list[dict[str, str]], folder: Path) -> RunResult:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run_recipe(NAME, {"data": str(file), "steps": 2}, folder / "out")


def test_own_pairs_are_parted_trained_and_judged(tmp_path: Path) -> None:
    rows = pairs(40)
    done = run_on([*rows, rows[0]], tmp_path)
    assert done.failure is None, f"{done.failure.message}\n{done.failure.source}"
    # 41 rows, 40 prompts: 8 prompts are kept for judging, and the one that stands twice stays whole
    assert done.figures["dpo_prefers"].n in (8, 9)
    assert {"base_prefers", "start_prefers", "sft_prefers", "seconds_dpo"} <= set(done.figures)
    assert done.notes["safety_dpo"]["answers"] >= 24


def test_a_broken_row_is_named_and_nothing_is_trained(tmp_path: Path) -> None:
    rows = pairs(40)
    del rows[16]["rejected"]
    done = run_on(rows, tmp_path)
    assert done.status == "failed"
    assert done.failure is not None
    assert done.failure.known
    assert "pairs.jsonl:17" in done.failure.message
    assert "rejected" in done.failure.message
    assert not (tmp_path / "out" / "cache").exists()
    assert not done.figures
