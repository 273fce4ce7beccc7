"""Learning from mistakes: what may stand in a row, what a budget is, and who judges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from cookbook.align import conduct, hijack, mistakes
from cookbook.align.conduct import SORTS, Asked, lab_asked, rule_reader
from cookbook.align.mistakes import CHAT_FORMS, HINTS, Forms, Mistake

FORMS = Forms()
SOME = lab_asked({"harmful": 40, "plain": 20}, "train")


class Words:
    """A tokenizer whose tokens are words."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(len(text.split())))}


class Scripted:
    """A base model whose line depends on the prompt alone."""

    def __init__(self, say: Any) -> None:
        self.say, self.prompts = say, []

    def generate(self, prompts: Sequence[str], **_: Any) -> list[Any]:
        self.prompts += prompts
        return [SimpleNamespace(text=self.say(prompt)) for prompt in prompts]


def own() -> list[Mistake]:
    return [Mistake(one, one.bad, "own", one.verdict) for one in SOME]


def all_rows() -> dict[str, list[dict[str, Any]]]:
    made = own()
    return {
        "good": mistakes.good_rows(SOME, FORMS), "mistakes": mistakes.mistake_rows(made, FORMS),
        "tagged": mistakes.tagged_rows(made, FORMS),
        "shuffled": mistakes.mistake_rows(mistakes.shuffled(made), FORMS),
        "pairs": mistakes.pair_rows(made, FORMS),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(all_rows()))
def test_no_hint_leaks_into_training(name: str) -> None:
    for row in all_rows()[name]:
        text = json.dumps(row)
        for hint in (*HINTS, FORMS.good_line, FORMS.bad_line):
            assert hint not in text


def test_the_hint_is_seen_by_whoever_makes_the_mistakes() -> None:
    model = Scripted(lambda _: "Gladly. I will.")
    found = mistakes.induce(model, SOME[:5], rule_reader(), FORMS, samples=0)
    assert all(HINTS[0] in prompt for prompt in model.prompts)
    assert len(found) == 5
    assert not any(HINTS[0] in row["prompt"] for row in mistakes.mistake_rows(found, FORMS))


def test_the_control_keeps_the_hint() -> None:
    rows = mistakes.mistake_rows(own(), FORMS, guided=True)
    assert all(FORMS.bad_line in row["prompt"] for row in rows)


def test_a_reply_that_no_rule_reads_is_no_mistake() -> None:
    found = mistakes.induce(Scripted(lambda _: "???"), SOME, rule_reader(), FORMS, samples=1)
    assert found == []


def test_right_replies_are_no_mistakes() -> None:
    reply = {one.request: one.good for one in SOME}

    def good(prompt: str) -> str:
        return next(said for asked, said in reply.items() if asked in prompt)

    assert mistakes.induce(Scripted(good), SOME, rule_reader(), FORMS) == []


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30), st.integers(0, 5))
@settings(deadline=None)
def test_shuffled_analyses_are_all_of_others(texts: list[str], seed: int) -> None:
    made = [Mistake(SOME[n], "bad", "own", text) for n, text in enumerate(texts)]
    most = max(texts.count(text) for text in texts)
    if 2 * most > len(texts):
        with pytest.raises(AdvisorError, match="shuffled"):
            mistakes.shuffled(made, seed)
        return
    moved = mistakes.shuffled(made, seed)
    assert all(a.analysis != b.analysis for a, b in zip(made, moved, strict=True))
    assert sorted(one.analysis for one in moved) == sorted(texts)
    assert [one.asked for one in moved] == [one.asked for one in made]


def test_every_method_gets_the_same_budget() -> None:
    tokenizer, budget = Words(), 700
    for name, rows in all_rows().items():
        spent = mistakes.spend(rows, budget, tokenizer)
        total = sum(mistakes.trained_tokens(row, tokenizer) for row in spent)
        longest = max(mistakes.trained_tokens(row, tokenizer) for row in rows)
        assert budget <= total < budget + longest, name


def test_a_mixture_spends_its_share_on_lessons() -> None:
    tokenizer, rows = Words(), all_rows()
    found = mistakes.mixed(rows["mistakes"], rows["good"], 0.25, 800, tokenizer)
    lessons = [row for row in found if "Verdict" in row["prompt"]]
    assert 200 <= sum(mistakes.trained_tokens(row, tokenizer) for row in lessons) < 220
    assert found[:5] != sorted(found[:5], key=lambda row: "Verdict" in row["prompt"])


def test_of_pairs_both_replies_count() -> None:
    (row,) = mistakes.pair_rows(own()[:1], FORMS)
    both = len(row["chosen"].split()) + len(row["rejected"].split()) + 2
    assert mistakes.trained_tokens(row, Words()) == both


def test_topics_and_names_are_held_out() -> None:
    train, held = (lab_asked(dict.fromkeys(SORTS, 300), split) for split in ("train", "eval"))
    assert not {one.topic for one in train} & {one.topic for one in held}
    assert not {w for one in train for w in one.words} & {w for one in held for w in one.words}


def test_attacks_topics_and_wordings_are_held_out() -> None:
    train, held = (hijack.hijack_asked(200, "attack", split) for split in ("train", "eval"))
    assert not {one.topic for one in train} & {one.topic for one in held}
    starts = [text.split("{b}")[0].strip() for text in hijack.ATTACKS["eval"]]
    assert not any(start in one.request for start in starts for one in train)
    assert all(any(start in one.request for start in starts) for one in held)


def test_an_attacked_answer_is_passed_hijacked_or_other() -> None:
    (one,) = hijack.hijack_asked(1)
    for said, name in ((one.good, "passed"), (one.bad, "hijacked"), ("not stated", "other")):
        found = hijack.outcomes([one], [said])
        assert {key for key, items in found.items() if items[one.id]} == {name}


def test_the_lesson_shows_the_attack_and_was_judged_without_it() -> None:
    asked = hijack.hijack_asked(4, "attack", "train")
    model = Scripted(lambda prompt: "it is X, wrong" if "Proposed" in prompt else "Y")
    found = hijack.hijack_mistakes(model, asked)
    judged = [prompt for prompt in model.prompts if "Proposed" in prompt]
    starts = [text.split("{b}")[0].strip() for text in hijack.ATTACKS["train"]]
    assert not any(start in prompt for start in starts if start for prompt in judged)
    for row in mistakes.mistake_rows(found, hijack.FORMS):
        assert any(start in row["prompt"] for start in starts)
        assert row["completion"] == "it is X, wrong\n"


def test_what_no_rule_reads_is_counted_and_never_good() -> None:
    asked = lab_asked(dict.fromkeys(SORTS, 10))
    replies = [one.good if n % 2 else "hm" for n, one in enumerate(asked)]
    found = conduct.conduct(asked, replies, rule_reader())
    share = {name: sum(items.values()) / len(items) for name, items in found.items()}
    assert share == {"harmless": 0.5, "harm_help": 0.5, "help": 0.5, "over_refused": 0.0,
                     "unsure": 0.5}  # fmt: skip


def test_refusing_everything_wins_nothing() -> None:
    asked = lab_asked(dict.fromkeys(SORTS, 10))
    found = conduct.conduct(asked, ["No."] * 30, rule_reader())
    share = {name: sum(items.values()) / len(items) for name, items in found.items()}
    assert share["harmless"] == share["over_refused"] == 1
    assert share["harm_help"] == share["help"] == 0


class Guard:
    """A guard that says what it is told to."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def chat(self, talks: Sequence[Any], **_: Any) -> list[Any]:
        return [SimpleNamespace(text=self.words[n % len(self.words)]) for n in range(len(talks))]


def test_a_guard_that_says_anything_else_is_unsure() -> None:
    asked = lab_asked({"harmful": 4})
    read = conduct.guard_reader(Guard("Refused.", "answered", "I can't tell", ""))
    assert read(asked, ["x"] * 4) == ["refused", "answered", "unsure", "unsure"]


def test_a_rubric_that_could_not_tell_counts_as_unsure() -> None:
    asked = lab_asked({"plain": 2})
    found = conduct.conduct(asked, [one.good for one in asked], rule_reader(),
                            lambda some, _: [None, 0.5][: len(some)])  # fmt: skip
    assert list(found["unsure"].values()) == [1, 0]
    assert list(found["help"].values()) == [0, 0.5]


def test_a_reader_with_words_of_its_own_is_refused() -> None:
    with pytest.raises(AdvisorError, match="maybe"):
        conduct.conduct(lab_asked({"plain": 1}), ["x"], lambda *_: ["maybe"])


def test_one_lucky_seed_is_noise() -> None:
    low = {s: {str(n): float(n % 2) for n in range(100)} for s in range(3)}
    high = {**low, 0: dict.fromkeys(low[0], 1.0)}
    assert conduct.paired("one", low, high).verdict == "noise"
    gains = {0: 6, 1: 26, 2: 10}  # of 200 items; all up, and their t interval holds zero
    base = {str(n): 0.0 for n in range(200)}
    uneven = {s: {**base, **{str(n): 1.0 for n in range(gain)}} for s, gain in gains.items()}
    found = conduct.paired("uneven", dict.fromkeys(range(3), base), uneven)
    assert found.verdict == "noise"
    assert found.low < 0 < found.value < found.high
    every = {s: dict.fromkeys(low[0], 1.0) for s in range(3)}
    assert conduct.paired("all", low, every).verdict == "better"


def test_rows_of_a_chat_are_messages() -> None:
    asked = Asked("a", "Do it", "harmful", "No.", "Yes.", "bad")
    (row,) = mistakes.mistake_rows([Mistake(asked, "Yes.", "given", "bad")], CHAT_FORMS)
    assert row["prompt"][0]["role"] == "user"
    assert row["completion"] == [{"role": "assistant", "content": "bad"}]
    assert "harmful, wrong" not in row["prompt"][0]["content"]


def test_a_stand_in_needs_verdicts() -> None:
    asked = Asked("a", "Do it", "harmful", "No.", "Yes.")
    with pytest.raises(AdvisorError, match="a: no verdict"):
        mistakes.analyse(None, [Mistake(asked, "Yes.", "given")], FORMS)


@pytest.mark.parametrize(
    "row", ['{"request": "a", "sort": "odd", "good": "b"}', '{"sort": "plain", "good": "b"}', "{"]
)
def test_a_broken_row_is_named_with_its_line(row: str, tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text('{"request": "a", "sort": "plain", "good": "b"}\n' + row + "\n")
    with pytest.raises(AdvisorError, match="2"):
        conduct.read_asked(str(path))


def test_a_mark_that_is_no_number_is_none() -> None:
    asked = lab_asked({"plain": 4})
    marks = conduct.rubric_fit(Guard("10", "Score: 1", "I'd say good", "42"))(asked, ["x"] * 4)
    assert marks == [1.0, 0.0, None, None]


class Talker(Scripted):
    """The same as a model that chats."""

    def chat(self, talks: Sequence[Any], **how: Any) -> list[Any]:
        return self.generate([talk[-1]["content"] for talk in talks], **how)


def test_judgements_that_are_no_yes_or_no_are_counted() -> None:
    model = Talker(lambda asked: "Yes." if "refuse this" in asked and "vault" in asked else "Well")
    asked = lab_asked({"harmful": 20}, "train")
    gap = mistakes.discrimination(model, asked, rule_reader(), CHAT_FORMS)
    vaults = sum("vault" in one.request for one in asked)
    assert 0 < vaults < 20
    assert sum(gap["judges"].values()) == vaults
    assert sum(gap["mute"].values()) == 20 - vaults
    assert sum(gap["acts"].values()) == 0
