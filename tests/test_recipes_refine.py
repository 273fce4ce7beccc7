"""What feedback must bring to a prompt on the lab model, in the run of test_recipes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from test_recipes import change, run, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_critique_becomes_a_principle_that_helps() -> None:
    assert run("refine").notes["first_step"]["state"] == "accepted"
    assert change("refine", "before", "after").low > 0.4
    assert value("refine", "before") < 0.2


def test_the_direct_way_is_no_worse() -> None:
    assert change("refine", "after", "direct").low > -0.15


def test_a_hand_edit_outlives_the_next_principle() -> None:
    assert run("refine").notes["turns"]["edit_kept"] is True


def test_a_remark_changes_nothing_and_the_rest_is_judged() -> None:
    told = run("refine").notes["more_feedback"]
    assert told[-1]["state"] == "unchanged"
    assert {each["state"] for each in told} <= {"accepted", "refused", "not-enough-items",
                                                "unchanged"}  # fmt: skip


def test_the_gate_lets_nothing_fall_on_its_own_items() -> None:
    assert change("refine", "gate_before", "gate_after").value >= 0


def test_the_stand_in_is_named() -> None:
    assert run("refine").notes["aligner"].startswith("stand-in:")
