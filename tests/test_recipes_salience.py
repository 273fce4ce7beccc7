"""What the recipe on prompt debugging must show, on the lab in smoke mode."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from test_recipes import change, run, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_planted_cause_is_found() -> None:
    assert value("salience", "traced_by_any") >= 0.9
    for name in ("ablation", "shapley"):
        assert value("salience", f"traced_{name}") >= 0.7
    assert value("salience", "traced_grad-norm") < value("salience", "traced_ablation")
    agreed = run("salience").notes["methods_that_agreed"]
    assert sum(agreed.values()) == run("salience").figures["traced_ablation"].n


def test_orders_by_ablation_and_shapley_are_better_than_random_ones() -> None:
    for name in ("ablation", "shapley"):
        assert value("salience", f"deletion_gain_{name}") > 0


def test_the_spoiled_section_has_the_largest_share_of_wrong_answers() -> None:
    assert run("salience").notes["left_out"] == "example 3"
    figures = run("salience").figures
    wrong, right = (figures[f"share_example_3_{side}"] for side in ("wrong", "right"))
    assert wrong.low > right.high


def test_leaving_it_out_pays() -> None:
    gain = change("salience", "right_before", "right_after")
    assert gain.n == 200
    assert gain.verdict == "better"
    assert gain.low > 0.01


def test_one_edit_turns_one_answer() -> None:
    one = run("salience").notes["one"]
    before, after = one["worth"]
    assert before > 0 > after
    assert (one["blamed"], one["said_after"]) == ("example 3", one["right"])
