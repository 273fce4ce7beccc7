"""Classifiers from labels: each known fault of its kind as a test that fails where it is back."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")

from advisor.errors import AdvisorError
from cookbook.align.calls import BudgetSpent, Ledgered, StandIn
from cookbook.align.mutations import (
    RuleChange,
    WrongRuling,
    first_rules,
    parsed_change,
    propose,
    stand_in_aligner,
)
from cookbook.align.rulebook import Rulebook, as_examples, label_orders, load_rulebook, rendered
from cookbook.align.rulebook_search import SearchSettings, drawn_errors, evolve, on_rows, parts_of
from cookbook.align.rulings import (
    AnswerReader,
    ScoreReader,
    classify,
    continuations,
    parsed_label,
    scorecard,
    with_threshold,
)
from cookbook.patterns import Shot
from cookbook.server_model import CallLedger

Talk = Sequence[Mapping[str, str]]
SAID = {
    "cart": ("{} has not come", "when comes {}", "where is {}", "still waiting for {}"),
    "till": ("pay me for {}", "coins back for {}", "I return {}", "a refund on {}"),
    "mender": ("{} came broken", "a crack in {}", "{} fell apart", "torn and useless {}"),
}
GOODS = ("bread", "honey", "boots", "gloves", "lamps")
ROWS = [Shot(form.format(good), desk) for desk, forms in SAID.items()
        for good in GOODS for form in forms]  # fmt: skip
BOOK = (
    Rulebook("Which desk?", ("cart", "till"))
    .add("cart", "the cart is late")
    .add("till", "pay me back")
)
ERROR = WrongRuling("coins for the cart", "cart", "till")


def overlap(turns: Talk) -> str:
    """The label of the rule that shares most words with the text; the first of several."""
    words, label, best = set(turns[-1]["content"].split()), "", (-1, "")
    for line in turns[0]["content"].splitlines():
        if line.startswith("- ") and len(words & set(line.split())) > best[0]:
            best = (len(words & set(line.split())), label)
        label = line[:-1] if line.endswith(":") else label
    return best[1]


def reader() -> AnswerReader:
    return AnswerReader(StandIn("word overlap", overlap))


def start(rows: Sequence[Shot]) -> Rulebook:
    return first_rules(stand_in_aligner(), "Which desk?", rows, shown=1)[0]


def said(**change: object) -> RuleChange | str:
    return parsed_change(json.dumps(change), BOOK)


# ---- 7: a choice out of range is refused, and 0 is not the last rule


@pytest.mark.parametrize("rule", ["0", "r0", "-1", "r-1", "3", "r3", "r99", "", "last"])
@pytest.mark.parametrize("action", ["edit", "delete"])
def test_a_rule_that_is_not_there_is_refused(action: str, rule: str) -> None:
    assert isinstance(said(action=action, rule=rule, text="new"), str)


@pytest.mark.parametrize("rule", [0, -1, 99, None, ["r1"], True])
def test_a_rule_that_is_no_text_is_refused(rule: object) -> None:
    assert isinstance(said(action="delete", rule=rule), str)


@pytest.mark.parametrize(
    "answer",
    ["", "1", "Delete r1.", "[]", "null", "[" * 100_000, '{"action": "delete"}',
     '{"action": "rename", "rule": "r1"}', '{"action": "add", "label": "cart", "text": " "}',
     '{"action": "add", "label": "Cart?", "text": "x"}',
     '{"action": "add", "label": "cart", "text": "the cart is late"}'],
)  # fmt: skip
def test_an_answer_that_is_no_change_is_refused(answer: str) -> None:
    assert isinstance(parsed_change(answer, BOOK), str)


def test_a_change_that_can_be_made_is_accepted() -> None:
    assert said(action="delete", rule="r2") == RuleChange("delete", "r2")
    assert said(action="none") == RuleChange("none")
    assert RuleChange("delete", "r2").on(BOOK, "x").rules == BOOK.rules[:1]


def test_an_id_is_never_given_twice() -> None:
    book = BOOK.delete("r2").add("till", "coins")
    assert [rule.id for rule in book.rules] == ["r1", "r3"]


# ---- 10: the parent stays, so the validation score never falls


def wild(seed: int) -> StandIn:
    """An aligner that proposes anything: legal and illegal changes, good and ruinous ones."""
    rng = random.Random(seed)

    def answer(_: Talk) -> str:
        action = rng.choice(["add", "edit", "delete", "delete", "none", "nonsense"])
        text = rng.choice([row.input for row in ROWS])
        rule, label = f"r{rng.randrange(9)}", rng.choice([*SAID, "smith"])
        return json.dumps({"action": action, "rule": rule, "label": label, "text": text})

    return StandIn(f"wild {seed}", answer)


@pytest.mark.parametrize("score", ["accuracy", "macro_f1"])
def test_the_validation_score_never_falls_whatever_is_proposed(score: str) -> None:
    for seed in range(50):
        train, valid, _ = parts_of(ROWS, seed=seed)
        how = SearchSettings(rounds=4, score=score, patience=9, seed=seed)
        found = evolve(start(train), reader(), wild(seed), train, valid, how)
        best = [found.before, *(each.best for each in found.rounds)]
        assert best == sorted(best)
        card = on_rows(found.book, reader(), valid)
        true = card.accuracy if score == "accuracy" else card.macro_f1
        assert found.after == pytest.approx(true.value)


def test_a_search_finds_rules_that_hold_on_rows_that_chose_nothing() -> None:
    rows = [Shot(f"{word} {n}", label) for label, word in (("a", "red"), ("b", "blue"))
            for n in range(20)] + [Shot(f"green {n}", "b") for n in range(20)]  # fmt: skip
    train, valid, test = parts_of(rows, seed=0)
    first = Rulebook("?", ("a", "b")).add("a", "red").add("b", "blue")
    found = evolve(first, reader(), stand_in_aligner(), train, valid)
    assert on_rows(first, reader(), test).accuracy.value < 0.75
    assert on_rows(found.book, reader(), test).accuracy.value == 1.0
    assert found.stopped == "no wrong validation row left"


# ---- 11: as many changes as asked for


@pytest.mark.parametrize("count", [1, 2, 5])
def test_n_mutations_is_honoured(count: int) -> None:
    made: list[int] = []

    def fresh(_: Talk) -> str:
        made.append(len(made))
        return json.dumps({"action": "add", "label": "till", "text": f"rule {len(made)}"})

    train, valid, _ = parts_of(ROWS, seed=1)
    how = SearchSettings(rounds=1, errors=2, n_mutations=count)
    found = evolve(start(train), reader(), StandIn("fresh", fresh), train, valid, how)
    assert found.rounds[0].tried == 2 * count == len(made)


def test_the_same_change_twice_is_one_and_the_retry_is_bounded() -> None:
    heard: list[int] = []

    def again(turns: Talk) -> str:
        heard.append(len(turns))
        return '{"action": "delete", "rule": "r1"}'

    found = propose(StandIn("again", again), BOOK, ERROR, 3)
    assert len(found.changes) == 1
    assert found.refused == 4
    assert len(heard) == 1 + 2 * 2


# ---- 12: strict labels, rows apart, seeds, files, counted calls


@pytest.mark.parametrize(
    ("answer", "labels", "label"),
    [
        ("not sure", ("yes", "no"), None), ("not True", ("True", "False"), None),
        ("no", ("yes", "no"), "no"), (" 'No.' ", ("yes", "no"), "no"),
        ("yes, no", ("yes", "no"), None), ("", ("yes", "no"), None), (".", ("yes", "no"), None),
        ("known", ("yes", "no"), None), ("A.", ("A.", "A"), "A."), ("A", ("A.", "A"), "A"),
    ],
)  # fmt: skip
def test_an_answer_is_a_label_only_as_a_whole(
    answer: str, labels: tuple[str, ...], label: str | None
) -> None:
    assert parsed_label(answer, labels) == label


def test_unparsable_answers_are_counted_and_wrong() -> None:
    mute = AnswerReader(StandIn("mute", lambda _: "not sure, till or cart"))
    rows = [Shot("x", "cart"), Shot("y", "till")]
    card = scorecard(BOOK.labels, classify(BOOK, mute, ["x", "y"]), rows)
    assert card.unparsable == 2
    assert card.accuracy.value == 0
    assert with_threshold(BOOK, mute, rows).threshold == 1.0


def test_no_text_and_no_group_is_in_two_parts() -> None:
    doubled = [*ROWS, *(Shot(f" {row.input.upper()} ", row.output) for row in ROWS)]
    for seed in range(5):
        parts = [{row.input.strip().casefold() for row in part}
                 for part in parts_of(doubled, seed=seed)]  # fmt: skip
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(ROWS)
        assert {row.output for part in parts_of(doubled, seed=seed) for row in part} == set(SAID)
    goods = [next(good for good in GOODS if good in row.input) for row in ROWS]
    grouped = parts_of(ROWS, groups=goods, seed=3)
    found = [{good for good in GOODS for row in part if good in row.input} for part in grouped]
    assert sum(map(len, found)) == len(GOODS)


def test_validation_rows_that_are_training_rows_are_refused() -> None:
    with pytest.raises(AdvisorError, match="in both parts"):
        evolve(start(ROWS), reader(), stand_in_aligner(), ROWS[:40], ROWS[39:41])


def test_the_same_seed_gives_the_same_search_and_another_seed_another() -> None:
    def run(seed: int) -> Rulebook:
        train, valid, _ = parts_of(ROWS, seed=1)
        how = SearchSettings(rounds=5, seed=seed)
        return evolve(start(train), reader(), stand_in_aligner(), train, valid, how).book

    assert run(1) == run(1)
    assert len({run(seed) for seed in range(4)}) > 1


def test_a_book_comes_back_from_its_file(tmp_path: Path) -> None:
    book = BOOK.delete("r2").add("till", "“coins” back\n{braces}", "round 3, from 'x'")
    book.save(tmp_path / "book.json")
    assert load_rulebook(tmp_path / "book.json") == book
    with pytest.raises(AdvisorError):
        book.save(tmp_path / "book.json")
    data = json.loads((tmp_path / "book.json").read_text())
    for key, value in (("labels", ["cart"]), ("rules", 3), ("threshold", 2), ("schema", 9)):
        (tmp_path / "bad.json").write_text(json.dumps({**data, key: value}))
        with pytest.raises(AdvisorError):
            load_rulebook(tmp_path / "bad.json")


def test_calls_are_counted_and_a_spent_budget_keeps_the_best_book() -> None:
    train, valid, _ = parts_of(ROWS, seed=1)
    paid = Ledgered(stand_in_aligner(), CallLedger(), calls=13)
    found = evolve(start(train), reader(), paid, train, valid)
    assert found.stopped.startswith("budget")
    assert paid.spent()["calls"] <= 13
    assert found.after >= found.before
    with pytest.raises(BudgetSpent):
        first_rules(Ledgered(stand_in_aligner(), CallLedger(), calls=1), "?", train)


def test_a_search_that_was_stopped_goes_on_from_its_ledger(tmp_path: Path) -> None:
    train, valid, _ = parts_of(ROWS, seed=1)
    how = SearchSettings(rounds=5, seed=2)
    whole = evolve(start(train), reader(), stand_in_aligner(), train, valid, how)

    def resumed(calls: int | None) -> tuple[object, float]:
        paid = Ledgered(stand_in_aligner(), CallLedger(tmp_path / "calls.jsonl"), calls=calls)
        return evolve(start(train), reader(), paid, train, valid, how), paid.spent()["calls"]

    assert resumed(8)[1] == 8
    found, spent = resumed(None)
    assert found == whole
    assert resumed(None) == (found, spent)


# ---- labels in turn, rare labels too


def test_rare_labels_get_their_share_of_the_errors() -> None:
    rows = [Shot(f"a{n}", "common") for n in range(95)] + [Shot(f"b{n}", "rare") for n in range(5)]
    drawn = drawn_errors(rows, ["?"] * 100, 6, random.Random(0))
    assert [error.right for error in drawn].count("rare") == 3
    assert len(drawn_errors(rows, ["?"] * 100, 500, random.Random(0))) == 100
    assert drawn_errors([Shot("  ", "rare")], ["?"], 3, random.Random(0)) == []


def test_macro_f1_sees_a_neglected_label() -> None:
    rows = [Shot(f"a{n}", "cart") for n in range(9)] + [Shot("b", "till")]
    first = AnswerReader(StandIn("cart", lambda _: "cart"))
    card = on_rows(BOOK, first, rows)
    assert card.accuracy.value == 0.9
    assert card.macro_f1.value < 0.5
    assert card.labels["till"].recall is not None
    assert card.labels["till"].recall.value == 0
    assert card.labels["till"].precision is None


def test_a_preference_for_places_is_averaged_out() -> None:
    def first_label(turns: Talk) -> str:
        return turns[0]["content"].split("\n")[3].removesuffix(":")

    biased = AnswerReader(StandIn("first", first_label))
    assert classify(BOOK, biased, ["x"])[0].probability == 1.0
    assert classify(BOOK, biased, ["x"], orders=2)[0].probability == 0.5
    orders = label_orders(("a", "b", "c"), 3, seed=4)
    assert all({order[place] for order in orders} == {"a", "b", "c"} for place in range(3))
    assert orders == label_orders(("a", "b", "c"), 3, seed=4)


# ---- scoring on a real model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lab", "lab-instruct"])
def test_scores_with_a_shared_start_are_those_without(name: str) -> None:
    from cookbook.generation import encode_pair
    from cookbook.models import load

    lm = load(name, device="cpu", dtype="float32")
    scorer = ScoreReader(lm, ledger=CallLedger())
    write = as_examples if scorer.worded_as_examples else rendered
    texts = ["where is my tea", "pay back the very fine wool from Tarbel", "late"]
    contexts = [scorer._context(write(BOOK, text)) for text in texts]
    gap = "" if lm.has_chat else " "
    pairs = [(context, gap + label) for context in contexts for label in BOOK.labels]
    plain = lm.log_likelihoods(pairs, special=not lm.has_chat)
    coded = [encode_pair(lm.tokenizer, *pair, special=not lm.has_chat) for pair in pairs]
    for size in (1, 4, 64):
        fast = continuations(lm.model, lm.tokenizer.pad_token_id, coded, size)
        assert fast == pytest.approx([each.log_likelihood for each in plain], abs=1e-3)
    rows = scorer.read([write(BOOK, text) for text in texts], BOOK.labels)
    assert all(row is not None and sum(row) == pytest.approx(1) for row in rows)
    assert len(scorer.ledger.calls) == len(texts)
