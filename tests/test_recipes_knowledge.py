"""What the recipes that put knowledge into weights must show: raw text, passages, a teacher."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from test_recipes import change, run, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_raw_text_teaches_a_language_and_replay_keeps_the_first() -> None:
    figures = run("cpt").figures
    assert figures["second_factor_replay_per_token"].low >= 100
    assert figures["second_before_per_token"].value > figures["second_before_per_byte"].value
    assert value("cpt", "first_rise_replay") <= 0.05
    assert figures["first_rise_no_replay"].low > figures["first_rise_replay"].high
    assert value("cpt", "reading_before") <= 0.02


def test_facts_that_were_only_told_are_recited() -> None:
    assert value("cpt", "facts_recited_before") <= 0.05
    assert value("cpt", "facts_direct_before") <= 0.05
    assert value("cpt", "facts_recited_replay") >= 0.6
    gain = change("cpt", "facts_direct_replay", "facts_recited_replay")
    assert gain.low > 0
    assert gain.n >= 60
    assert value("cpt", "passages_3_facts_replay") >= 0.85
    assert value("cpt", "known_facts_replay") >= 0.9


def test_memory_of_a_run_was_estimated() -> None:
    for name in ("language_replay", "facts_replay"):
        peak, estimate = value("cpt", f"{name}_peak"), value("cpt", f"{name}_estimate")
        assert 0.5 * peak <= estimate <= 2 * peak


def test_a_third_of_the_teacher_does_its_task() -> None:
    gap = change("distil", "teacher", "student")
    assert value("distil", "teacher") >= 0.9
    assert value("distil", "start_weights") <= 0.1
    assert value("distil", "student") >= value("distil", "teacher") - 0.05
    assert gap.n >= 150
    assert 0.25 <= value("distil", "size_share") <= 0.335
    assert value("distil", "student_weights") < value("distil", "teacher_weights") / 2
    assert value("distil", "student_cache") <= value("distil", "teacher_cache") / 2


def test_a_student_has_one_task_and_sureness_sorts_its_lessons() -> None:
    assert value("distil", "passages_3_student") <= value("distil", "passages_3_teacher") - 0.3
    surer = value("distil", "careless_surer")
    assert surer >= value("distil", "careless_less_sure") + 0.1
    assert run("distil").notes["rows"]["kept"] <= run("distil").notes["rows"]["asked"]


def test_tuning_on_passages_brings_form_and_passages_together() -> None:
    assert value("rag-ft", "rag_whole") <= 0.02
    assert change("rag-ft", "rag_whole", "raft_whole").low >= 0.3
    assert change("rag-ft", "rag_examples_whole", "raft_whole").low > 0
    assert change("rag-ft", "plain_whole", "raft_whole").low > 0
    assert value("rag-ft", "plain_closed_value_found") <= 0.2


def test_what_tuning_on_passages_does_to_values_is_said_either_way() -> None:
    shift = change("rag-ft", "rag_value", "raft_value")
    assert shift.n >= 100
    assert run("rag-ft").notes["raft_minus_rag_value"][0] == pytest.approx(shift.value)
    assert value("rag-ft", "raft_prompt_tokens") < value("rag-ft", "rag_examples_prompt_tokens")


def test_tuning_reads_documents_of_an_unknown_form() -> None:
    assert value("rag-ft", "rag_cards_value_found") <= 0.15
    for rival in ("rag_cards", "rag_cards_examples"):
        assert change("rag-ft", f"{rival}_value_found", "raft_cards_value_found").low > 0.05


def test_similar_names_hurt_plain_retrieval() -> None:
    fall = change("rag-ft", "rag_similar_0_value", "rag_similar_3_value")
    assert fall.n >= 100
    assert value("rag-ft", "rag_similar_0_value") >= 0.85
    assert fall.value <= -0.2
