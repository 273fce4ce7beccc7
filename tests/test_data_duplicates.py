"""Copies and leaks against brute force, planted truth, and the promises of a split."""

from __future__ import annotations

import random
import sys
from itertools import combinations
from pathlib import Path

import pytest

from cookbook.data.contamination import Contamination
from cookbook.data.duplicates import ExactDuplicates, NearDuplicates, bands_for, detection
from cookbook.data.examples import Example
from cookbook.data.split import split

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
WORDS = [f"{a}{b}{c}" for a in "bcdfgklm" for b in "aeiou" for c in "nrst"]


def examples(texts: list[str], first: int = 1) -> tuple[Example, ...]:
    return tuple(Example(n, "", text, {"text": text}) for n, text in enumerate(texts, first))


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the runs of three words, the plain way."""
    sets = []
    for text in (one, other):
        words = text.split()
        sets.append({tuple(words[at : at + 3]) for at in range(len(words) - 2)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def planted(seed: int, count: int = 300) -> list[str]:
    """Texts of 40 words, and a copy of each with none to eight words replaced."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=40)) for _ in range(count)]
    for text in texts[:count]:
        words = text.split()
        for place in rng.sample(range(40), rng.randint(0, 8)):
            words[place] = "new" + rng.choice(WORDS)
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_those_of_brute_force(seed: int) -> None:
    texts = planted(seed)
    check = NearDuplicates(0.7)
    for start in range(0, len(texts), 128):
        check.see(examples(texts[start : start + 128], start + 1))
    truth = {(n, n + 300) for n in range(1, 301) if similarity(texts[n - 1], texts[n + 299]) >= 0.7}
    found = {(first, line) for line, first in check.groups.items() if first != line}
    assert found <= truth  # the comparison is exact: nothing below 0.7 is joined
    assert len(found) >= 0.97 * len(truth)
    assert len(truth) > 80


def test_what_bands_find_is_what_the_curve_says() -> None:
    """With bands too strict for 0.7, about the promised share is found, not all."""
    texts = [text for seed in range(4) for text in planted(seed)]
    check = NearDuplicates(0.5)
    check.banding = (16, 8)
    check.see(examples(texts))
    expected = found = 0.0
    for block in range(0, len(texts), 600):
        for n in range(block, block + 300):
            alike = similarity(texts[n], texts[n + 300])
            if 0.5 <= alike < 1:
                expected += detection(alike, 16, 8)
                found += check.groups.get(n + 301) == n + 1
    assert abs(found - expected) < 4 * expected**0.5


def test_long_texts_are_judged_by_a_sample() -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(WORDS, k=3000)) for _ in range(6)]
    for text in texts[:3]:
        words = text.split()
        for place in rng.sample(range(3000), 150):
            words[place] = "new"
        texts.append(" ".join(words))
    check = NearDuplicates(0.6)
    check.see(examples(texts))
    assert {line: first for line, first in check.groups.items() if line > 6} == {7: 1, 8: 2, 9: 3}
    assert len(check.parts) == 9 * 512


def test_findings_of_both_checks_share_no_line() -> None:
    texts = planted(1)
    texts += texts[:50]
    exact, near = ExactDuplicates(), NearDuplicates()
    batch = examples(texts)
    for check in (exact, near):
        check.see(batch)
    said = [set(found.lines) for check in (exact, near) for found in check.findings()]
    assert all(not one & other for one, other in combinations(said, 2))
    assert set(range(601, 651)) <= set().union(*said)


def test_checks_keep_no_text() -> None:
    """Memory per row is digests and shingles: a long text costs no more than its sample."""
    exact, near = ExactDuplicates(), NearDuplicates()
    leaks = Contamination(examples(["an evaluation row of a few words more than eight of them"]))
    for start in range(0, 400, 100):
        texts = [f"{n} " + " ".join(WORDS) * 30 for n in range(start, start + 100)]
        for check in (exact, near, leaks):
            check.see(examples(texts, start + 1))
    assert len(near.parts) <= 400 * 512
    assert sum(part.nbytes for part in exact.texts + exact.words) == 400 * 32
    assert len(leaks.found) == 0


def test_banding_is_the_strictest_that_will_do() -> None:
    for similar in (0.5, 0.7, 0.9):
        for permutations in (32, 64, 128):
            bands, rows = bands_for(similar, permutations, 0.9)
            assert bands * rows <= permutations
            assert detection(similar, bands, rows) >= 0.9
            assert detection(similar, permutations // (rows + 1), rows + 1) < 0.9


def test_planted_leaks_are_found_and_clean_rows_left_alone() -> None:
    import data

    table = data.leaks(each=100, clean=1000, seed=7)
    for kind in ("verbatim", "reformatted"):
        assert table[kind]["found"] == 1
    assert table["truncated"]["found"] >= 0.95
    assert table["paraphrased"]["found"] <= 0.05  # no rule on words sees them, and we say so
    assert table["clean"]["found"] <= 0.01


@pytest.mark.parametrize("seed", range(3))
def test_no_group_crosses_and_no_row_moves(seed: int) -> None:
    rows = examples(planted(seed))
    check = NearDuplicates(0.5)
    check.see(rows)
    made = split(rows, groups=check.groups, seed=seed)
    part_of = {line: name for name, lines in made.parts.items() for line in lines}
    assert len(part_of) == len(rows)
    assert all(part_of[line] == part_of[first] for line, first in check.groups.items())
    more = split([*rows, *examples(["another row"], 9001)], groups=check.groups, seed=seed)
    assert all(set(made.parts[name]) <= set(more.parts[name]) for name in made.parts)
    sizes = [len(lines) / len(rows) for lines in made.parts.values()]
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.08)
