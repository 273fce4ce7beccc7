"""What a rulebook must bring on the lab model, in the run of test_recipes, and where not."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from test_recipes import change, run, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_search_brings_much_over_its_first_rules() -> None:
    assert change("rulebook", "rulebook_first", "rulebook").low > 0.1
    assert value("rulebook", "rulebook") >= 0.85
    assert value("rulebook", "rules") <= 12


def test_against_no_examples_and_a_draw_of_examples() -> None:
    assert change("rulebook", "zero_shot", "rulebook").low > 0.2
    assert change("rulebook", "few_shot", "rulebook").value >= -0.02


def test_the_alternatives_are_not_straw_men() -> None:
    assert value("rulebook", "nearest") >= 0.7
    assert value("rulebook", "encoder") >= 0.6


def test_no_help_is_reported_where_there_is_none() -> None:
    found = run("rulebook").notes
    assert found["goods_verdict"] != "better"
    before, after = found["goods_validation"]
    assert after >= before


def test_the_aligner_is_named_for_what_it_is() -> None:
    found = run("rulebook").notes
    assert found["aligner"] == "stand-in:word-overlap aligner"
    assert 0 < value("rulebook", "aligner_calls") <= 300


def test_the_book_is_kept_and_can_be_read() -> None:
    from test_recipes import ROOT

    from cookbook.align.rulebook import load_rulebook

    run("rulebook")
    book = load_rulebook(ROOT / "build" / "recipes" / "rulebook" / "rulebook.json")
    assert len(book.rules) == value("rulebook", "rules")
    assert all(rule.provenance.startswith("stand-in:") for rule in book.rules)


def test_who_answers_more_is_right_less_often_or_as_often() -> None:
    curve = run("rulebook").notes["curve"]["after the search"]
    assert curve[0] >= curve[-1] - 0.05
    assert value("rulebook", "right_when_answered") >= value("rulebook", "rulebook") - 0.02
