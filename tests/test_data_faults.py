"""The finders on rows made here: properties, agreement with other libraries, planted faults."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook.data import KINDS
from cookbook.data.agreement import ceiling, cohen_kappa, krippendorff_alpha
from cookbook.data.canonical import canonical, canonical_json, canonical_spaces, canonical_sql
from cookbook.data.examples import DataCheck, Example
from cookbook.data.faults import usual_checks

FLOATS = st.floats(allow_nan=False, allow_infinity=False)  # JSON has neither
LEAVES = st.none() | st.booleans() | st.integers() | FLOATS | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
MARKS = st.text(alphabet=" \t\n\r\u00a0`ab.-*{}[]\"'1", max_size=200)


# --- one way to write the same thing -------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(VALUES, st.sampled_from([None, 1, 3]), st.booleans())
def test_json_means_the_same_and_is_written_one_way(value: Any, indent: Any, plain: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=plain)
    found = canonical_json(text)
    exact = {"parse_float": Decimal, "parse_int": Decimal}
    assert json.loads(found.text, **exact) == json.loads(text, **exact)
    assert canonical_json(found.text).text == found.text
    again = canonical_json(json.dumps(value, separators=(",", ":")))
    assert again.text == found.text


@settings(max_examples=200, deadline=None)
@given(MARKS)
def test_white_space_keeps_every_word(text: str) -> None:
    found = canonical_spaces(text)
    assert found.text.split() == text.split()
    assert canonical_spaces(found.text).text == found.text


@settings(max_examples=200, deadline=None)
@given(MARKS | st.text())
def test_any_text_comes_back(text: str) -> None:
    found = canonical(text)
    assert found.before == text
    assert bool(found.diff) == (text.splitlines() != found.text.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "select a.b , count( * ) from Towns a join c on a.i=c.i where x like '%  y' group by 1",
        "with t as (select 1 as n) select * from t order by n desc limit 3;",
        "insert into t (a,b) values (1,'two  spaces'),(3,NULL)",
        "SELECT CASE WHEN a>1 THEN 'x' ELSE 'y' END FROM t -- note",
    ],
)
def test_sql_has_the_same_tree_and_is_written_one_way(text: str) -> None:
    sqlglot = pytest.importorskip("sqlglot")
    found = canonical_sql(text)
    assert sqlglot.parse_one(found.text) == sqlglot.parse_one(text)
    assert canonical_sql(found.text).text == found.text
    assert "'two  spaces'" in found.text or "two" not in text


# --- agreement -----------------------------------------------------------------------------------
@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_kappa_is_that_of_scikit_learn(weights: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    chance = random.Random(4)
    one = [chance.randrange(5) for _ in range(300)]
    two = [label if chance.random() < 0.6 else chance.randrange(5) for label in one]
    theirs = metrics.cohen_kappa_score(one, two, weights=None if weights == "none" else weights)
    assert cohen_kappa(one, two, weights=weights) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_that_of_the_package_of_its_name(level: str) -> None:
    theirs = pytest.importorskip("krippendorff")
    chance = random.Random(5)
    units = []
    for _ in range(60):
        label = chance.randrange(1, 6)
        row = [label if chance.random() < 0.7 else chance.randrange(1, 6) for _ in range(4)]
        units.append([each if chance.random() < 0.8 else None for each in row])
    table = [
        [math.nan if x is None else float(x) for x in rater] for rater in zip(*units, strict=True)
    ]
    expected = theirs.alpha(reliability_data=table, level_of_measurement=level)
    assert krippendorff_alpha(units, level) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=4), min_size=1, max_size=30))
def test_ceiling_is_between_agreement_and_one(units: list[list[int]]) -> None:
    found = ceiling(units)
    assert found.agreement <= found.perfect + 1e-9 or found.perfect == 1 / found.labels
    assert found.perfect <= 1


# --- planted faults ------------------------------------------------------------------------------
THINGS = ("garden", "harbour", "library", "market", "museum", "orchard", "station", "theatre")
DOINGS = ("opens early", "closes at noon", "needs a new roof", "lies by the river", "is often full")
WHENS = ("in spring", "on market days", "after the first frost", "when the ferry comes in")


def rows(count: int, seed: int = 0) -> list[Example]:
    chance = random.Random(seed)
    found = []
    for line in range(1, count + 1):
        thing, other = chance.sample(THINGS, 2)
        first = f"{chance.choice(('Every', 'Our', 'That', 'One', 'Each'))} {thing}"
        text = (
            f"{first} {chance.choice(DOINGS)} {chance.choice(WHENS)}, and so the {other} of {line}"
        )
        text += f" {chance.choice(DOINGS)} {chance.choice(WHENS)} {chance.choice(('too', 'now'))}."
        found.append(Example(line, f"What about number {line}?", text, {}))
    return found


def lines_of(checks: Sequence[DataCheck], examples: Sequence[Example], kind: str) -> set[int]:
    for check in checks:
        for start in range(0, len(examples), 64):
            check.see(examples[start : start + 64])
    found = [finding for check in checks for finding in check.findings()]
    assert {finding.kind for finding in found} <= set(KINDS)
    assert all(finding.why and finding.remedy for finding in found)
    return {line for finding in found if finding.kind == kind for line in finding.lines}


def spoiled(example: Example, kind: str, chance: random.Random) -> Example:
    asked, answer = example.asked, example.answer
    if kind == "empty":
        answer = chance.choice(("", " ", "N/A", "TODO", "..."))
    elif kind == "truncated":
        answer = answer[: chance.randrange(40, len(answer) - 12)].rstrip() + "q"
    elif kind == "mojibake":
        answer = answer.replace(",", " \u2013 caf\u00e9,").encode().decode("cp1252", "replace")
    elif kind == "length-outlier":
        answer = answer * 30
    elif kind == "inconsistent-format":
        answer = json.dumps({"answer": answer})
    elif kind == "refusal-imbalance":
        answer = "I'm sorry, but I can't help with that."
    elif kind == "label-conflict":
        asked = "What about number 1?"
    return Example(example.line, asked, answer, {})


@pytest.mark.parametrize(
    "kind",
    ["empty", "truncated", "mojibake", "length-outlier", "inconsistent-format",
     "refusal-imbalance", "label-conflict"],
)  # fmt: skip
def test_planted_faults_are_found_and_clean_rows_left_alone(kind: str) -> None:
    clean = rows(400)
    assert lines_of(usual_checks(refusals=0.01), clean, kind) == set()
    chance = random.Random(1)
    some = 15 if kind == "truncated" else 30  # above 5 % a missing full stop passes for a habit
    aim = set(chance.sample(range(2, 400), some))
    faulty = [spoiled(each, kind, chance) if each.line in aim else each for each in clean]
    found = lines_of(usual_checks(refusals=0.01), faulty, kind) - {1}
    assert len(found & aim) >= 0.9 * len(aim)
    assert len(found - aim) <= 2


def test_a_template_is_found_once_it_is_too_often() -> None:
    some = [Example(e.line, e.asked, f"In Ghent, {e.line} of {e.line} people sit in the shade.", {})
            if e.line % 8 == 0 else e for e in rows(400)]  # fmt: skip
    assert lines_of(usual_checks(), some, "template-dominance") >= set(range(8, 401, 8))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_cut_answers_are_found_where_they_are_many(share: float) -> None:
    """With the ends of whole sentences in the file, a missing full stop is no habit any more."""
    chance = random.Random(3)
    aim, faulty = set(), []
    for each in rows(1000):
        text = each.answer
        if chance.random() < share:
            aim.add(each.line)
            text = text[: chance.randrange(40, len(text) - 12)].rstrip(" ,")
        faulty.append(Example(each.line, each.asked, text, {}))
    found = lines_of(usual_checks(), faulty, "truncated")
    assert len(found & aim) >= 0.8 * len(aim)
    assert len(found - aim) <= 2


def test_answers_without_any_end_mark_are_a_habit() -> None:
    bare = [Example(e.line, e.asked, e.answer.rstrip("."), {}) for e in rows(400)]
    assert lines_of(usual_checks(), bare, "truncated") == set()


@pytest.mark.parametrize("form", ["JSON", "table"])
def test_the_frame_of_an_answer_is_no_template(form: str) -> None:
    def framed(text: str) -> str:
        if form == "JSON":
            return json.dumps({"text": text, "words": len(text.split())})
        return f"| Name | Text |\n| --- | --- |\n| it | {text} |"

    plain = lines_of(usual_checks(), rows(400), "template-dominance")
    framed_rows = [Example(e.line, e.asked, framed(e.answer), {}) for e in rows(400)]
    assert lines_of(usual_checks(), framed_rows, "template-dominance") == plain != set(range(400))
    same = [Example(e.line, e.asked, framed(f"Let me tell you this: {e.answer}"), {})
            for e in rows(400)]  # fmt: skip
    assert len(lines_of(usual_checks(), same, "template-dominance")) == 400


def test_a_sentence_from_another_passage_is_named() -> None:
    told = [Example(e.line, f"Passage: {e.answer} It is so every year.\nWhat is said?",
                    e.answer, {}) for e in rows(200)]  # fmt: skip
    assert lines_of(usual_checks(), told, "unsupported-answer") == set()
    strange = " Copper wires carry current between distant power plants."
    faulty = [Example(e.line, e.asked, e.answer + strange * (e.line % 20 == 0), {}) for e in told]
    assert lines_of(usual_checks(), faulty, "unsupported-answer") == set(range(20, 201, 20))


def test_wrong_labels_are_found_and_right_ones_left() -> None:
    chance = random.Random(8)
    topics = {"weather": "rain snow wind storm cloud frost", "food": "bread soup cheese salt apple",
              "music": "violin choir song drum organ flute"}  # fmt: skip
    labelled, aim = [], set()
    for line in range(1, 601):
        label = chance.choice(list(topics))
        text = " ".join(chance.choices(topics[label].split(), k=8)) + f" number {line}"
        if line % 30 == 0:
            aim.add(line)
            label = chance.choice([each for each in topics if each != label])
        labelled.append(Example(line, text, label, {}))
    found = lines_of(usual_checks(), labelled, "likely-label-error")
    assert found == aim


def test_batches_of_any_size_tell_the_same() -> None:
    examples = [spoiled(e, "truncated", random.Random(e.line)) if e.line % 9 == 0 else e
                for e in rows(300)]  # fmt: skip
    told = []
    for size in (1, 7, 300):
        checks = usual_checks()
        for check in checks:
            for start in range(0, 300, size):
                check.see(examples[start : start + size])
        told.append([finding for check in checks for finding in check.findings()])
    assert told[0] == told[1] == told[2]


def test_nothing_at_all_is_no_error() -> None:
    assert [finding for check in usual_checks() for finding in check.findings()] == []
