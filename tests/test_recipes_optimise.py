"""What the recipe on searching for a prompt must show on the lab model."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("gepa")

from test_recipes import change, run, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_search_finds_what_the_start_does_not_say() -> None:
    assert value("optimise", "start") <= 0.1
    assert value("optimise", "searched") >= 0.5
    assert change("optimise", "start", "searched").verdict == "better"


def test_the_search_is_not_shown_to_be_worse_than_luck_at_equal_cost() -> None:
    assert change("optimise", "random_search", "searched").verdict != "worse"
    assert change("optimise", "different_labels", "searched").verdict != "worse"


def test_the_stand_in_is_named_and_its_mistakes_are_shown() -> None:
    notes = run("optimise").notes
    assert notes["reflector"] == "stand-in:rewrite"
    search = notes["search_0"]
    assert search["metric calls"] <= 500
    assert search["unusable tries"] >= 1
    assert search["rounds"]["rejected"] >= 1
    assert search["best"] > search["start"]


def test_the_front_keeps_more_than_it_needs_or_less_than_all() -> None:
    front = run("optimise").notes["front"]
    assert 1 <= len(front["kept"]) <= front["candidates"]
