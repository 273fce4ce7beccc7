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


def test_growing_where_it_is_wrong_pays() -> None:
    assert change("data", "before_growth", "mined_growth").low > 0
    assert change("data", "random_growth", "mined_growth").value > 0


def test_without_the_gate_wrong_labels_would_train() -> None:
    told = run("data").notes["grown_failures_0"]
    assert told["own_label_right"] < told["accepted"] / 2
    assert run("data").notes["added"] <= told["accepted"]
