"""What looking at data must bring on the lab model, in the run of test_recipes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from test_recipes import change, run, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_check_finds_what_was_planted() -> None:
    found = run("data").notes["findings"]
    assert found["truncated"]["cut"] >= 30  # of 32
    assert found["exact-duplicate"]["count"] >= 28
    assert found["truncated"].get("none", 0) == 0


def test_curated_rows_beat_twice_as_many_raw_ones() -> None:
    flow = run("data").notes["curated"]
    assert flow["with the rule"] < flow["checked"] < flow["raw"]
    assert change("data", "raw", "curated").low > 0.1
    assert value("data", "curated") > value("data", "base")


def test_cleaning_takes_out_and_the_rule_takes_more() -> None:
    flow = run("data").notes["curated"]
    assert flow["raw"] - flow["clean"] >= 28  # the copies
    assert flow["checked"] < flow["clean"]


def test_mining_pays_where_random_growth_goes_on_as_it_began() -> None:
    notes = run("data").notes
    rare = ("price", "thanks", "refund", "damage")
    shares = {}
    for way in ("random", "mined"):
        kinds = notes[f"grown_{way}_growth_0"]["kinds"]
        shares[way] = sum(kinds.get(kind, 0) for kind in rare) / sum(kinds.values())
    assert shares["random"] + 0.2 < shares["mined"]
    assert change("data", "before_growth", "mined_growth").low > 0
    assert change("data", "random_growth", "mined_growth").low > 0
    assert change("data", "fresh_growth", "mined_growth").low > 0  # newer rows are not all of it


def test_a_writer_that_heeds_nothing_hides_the_skew() -> None:
    notes = run("data").notes
    for way in ("random", "mined"):
        kinds = notes[f"grown_{way}_growth_free_0"]["kinds"]
        assert len(kinds) == 6
        assert max(kinds.values()) < sum(kinds.values()) / 2
    followed = change("data", "random_growth", "mined_growth").value
    assert change("data", "random_growth_free", "mined_growth_free").value < followed


def test_without_the_gate_wrong_labels_would_train() -> None:
    for way in ("random", "mined"):
        told = run("data").notes[f"grown_{way}_growth_free_0"]
        assert told["own_label_right"] < told["accepted"] / 2
        assert run("data").notes["added_growth_free"] <= told["accepted"]
