"""What the recipes on a classifier, a judge and long texts must show, on the lab in smoke mode."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from test_recipes import change, run, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_an_encoder_beats_prompting_at_300_labels() -> None:
    gain = change("encoder", "prompting_nearest", "encoder_300")
    assert gain.verdict == "better"
    assert gain.low > 0.2
    assert gain.n >= 100
    assert change("encoder", "prompting_fixed", "encoder_300").low > 0.2
    assert value("encoder", "encoder_macro_f1") >= 0.75


def test_an_encoder_needs_labels() -> None:
    assert change("encoder", "encoder_45", "encoder_300").low > 0.2
    assert run("encoder").notes["wins_from"] > 45


def test_an_encoder_is_faster_and_costs_a_training() -> None:
    figures = run("encoder").figures
    assert figures["seconds_encoder"].value < figures["seconds_prompting"].value
    assert figures["seconds_training"].value > figures["seconds_prompting"].value


def test_an_encoder_loaded_again_says_the_same() -> None:
    assert value("encoder", "same_when_loaded") == 1


def test_a_threshold_does_not_stop_foreign_text() -> None:
    assert value("encoder", "foreign_answered_statements") >= 0.1


def test_no_message_judged_on_was_learned() -> None:
    looked_up = run("encoder").notes["looked_up"]
    assert looked_up["among_the_labelled"] > 0
    left = looked_up["drawn"] - looked_up["among_the_labelled"]
    assert run("encoder").figures["encoder_300"].n <= left


def test_a_judge_learns_to_grade() -> None:
    gain = change("judge", "agreement_before", "agreement_after")
    assert gain.verdict == "better"
    assert gain.low > 0.1
    assert value("judge", "kappa_before") <= 0.5
    assert value("judge", "kappa_after") >= 0.7
    assert value("judge", "unparsable_after") <= 0.05


def test_a_judge_ranks_a_bad_model_below_a_good_one() -> None:
    by_rule = change("judge", "base_by_rule", "worse_by_rule")
    by_judge = change("judge", "base_by_judge", "worse_by_judge")
    assert by_rule.verdict == by_judge.verdict == "worse"


@pytest.mark.parametrize("name", ["judge", "long-context"])
def test_memory_was_said_before(name: str) -> None:
    said, seen = (value(name, f"memory_{key}") for key in ("estimate", "peak"))
    assert 0.5 <= said / seen <= 2


def test_longer_than_trained_is_read_badly_and_tuning_repairs_it() -> None:
    assert value("long-context", "plain_192") >= 0.85
    assert value("long-context", "plain_768") <= 0.6
    gain = change("long-context", "plain_768", "tuned_768")
    assert gain.verdict == "better"
    assert gain.low > 0.1
    assert value("long-context", "tuned_768") > value("long-context", "control_768")


def test_linear_scaling_without_tuning_loses_short_texts() -> None:
    assert change("long-context", "plain_192", "linear_192").high < -0.2
    assert value("long-context", "yarn_768") > value("long-context", "linear_768")


def test_short_texts_are_still_read() -> None:
    assert value("long-context", "tuned_192") >= 0.75
    assert value("long-context", "perplexity_tuned") > value("long-context", "perplexity_plain")
