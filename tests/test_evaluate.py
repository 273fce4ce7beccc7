"""Scores against references and published numbers; intervals that hold; bad input and faults."""

import json
import math
import random
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from advisor.errors import AdvisorError
from cookbook import evaluate
from cookbook.figures import (
    LARGE,
    Difference,
    Figure,
    _bootstrap,
    _permutation,
    difference,
    holm,
    mcnemar,
    mean,
    over_seeds,
    proportion,
    quantile,
    unpaired,
)
from cookbook.record import Record, read_run
from cookbook.scores import (
    accuracy,
    byte_perplexity,
    exact_match,
    field_f1,
    macro_f1,
    ratio_items,
    recall_at,
    reciprocal_rank,
    schema_match,
    token_f1,
    token_perplexity,
)
from cookbook.text_scores import abstains, citation_precision, citation_recall, refuses

finite = st.floats(-1e6, 1e6)
labels = st.sampled_from(["a", "b", "c"])

# ---- figures


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None, max_examples=60)
def test_proportion_is_scipys_wilson(counts: tuple[int, int]) -> None:
    k, n = counts
    found = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert proportion(k, n) == pytest.approx((found.low, found.high), abs=1e-12)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=300))
@settings(deadline=None)
def test_share_has_an_interval_that_is_not_empty(items: list[float]) -> None:
    found = mean("right", items)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert found.n == len(items)


@given(st.lists(finite, min_size=2, max_size=40), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_mean_is_finite_and_repeats_itself(items: list[float], seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mean("x", items, unit="s", seed=seed)
    assert found == mean("x", items, unit="s", seed=seed)
    assert found.value == pytest.approx(np.mean(items), rel=1e-6, abs=1e-3)


def test_bootstrap_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        low, high = _bootstrap(list(draw.beta(2, 1, size=60)), seed=0)
        held += low <= 2 / 3 <= high
    assert 180 <= held <= 199  # 95 % of 200, four standard errors either way


def test_normal_curve_takes_over_without_a_step() -> None:
    items = list(np.random.default_rng(1).beta(0.5, 3, size=LARGE))
    resampled, normal = _bootstrap(items[:-1], 0), _bootstrap(items, 0)
    assert resampled == pytest.approx(normal, abs=0.002)


@pytest.mark.parametrize("n", [5, 12, 13, 200, LARGE])
def test_permutation_is_scipys(n: int) -> None:
    changes = np.random.default_rng(n).normal(1.2 / math.sqrt(n), 1, n)
    found = stats.permutation_test(
        (changes,), np.mean, permutation_type="samples", vectorized=True, n_resamples=4999, rng=1,
        batch=500,
    ).pvalue  # fmt: skip
    assert _permutation(list(changes), 0) == pytest.approx(found, abs=1e-9 if n <= 12 else 0.03)


def test_mcnemar_of_published_pairs() -> None:
    assert mcnemar(1, 7) == pytest.approx(0.070, abs=5e-4)  # Fagerland et al. 2013
    assert mcnemar(7, 1) == mcnemar(1, 7)


def test_paired_interval_is_bonett_and_prices() -> None:
    # 1 and 7 of 21 pairs changed: (8 - 2) / 23, with variance (10 / 23 - (6 / 23)²) / 23, by hand.
    before = {str(n): float(n == 0) for n in range(21)}
    after = {str(n): float(1 <= n <= 7) for n in range(21)}
    found = difference("x", before, after)
    assert (found.low, found.high) == pytest.approx((0.0134, 0.5084), abs=1e-4)
    assert found.verdict == "noise"  # p is 0.070: both have to agree
    nothing = difference("x", before, before)
    assert nothing.low < 0 < nothing.high


def test_paired_interval_holds_the_truth() -> None:
    draw = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        before = draw.random(60) < 0.7
        after = np.where(draw.random(60) < 0.2, draw.random(60) < 0.9, before)
        sides = [{str(n): float(x) for n, x in enumerate(side)} for side in (before, after)]
        found = difference("x", *sides)
        held += found.low <= 0.2 * (0.9 - 0.7) <= found.high
    assert 365 <= held <= 396


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
@settings(deadline=None, max_examples=40)
def test_difference_the_other_way_round_is_the_opposite(pairs: list[tuple[float, float]]) -> None:
    before = {str(n): a for n, (a, _) in enumerate(pairs)}
    after = {str(n): b for n, (_, b) in enumerate(pairs)}
    one = difference("x", before, after, unit="s")
    other = difference("x", after, before, unit="s")
    assert one.value == -other.value
    assert {one.verdict, other.verdict} in ({"better", "worse"}, {"noise"}, {"untested"})
    assert math.isfinite(one.low)
    assert one.low <= one.high


def test_noise_is_called_noise_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(3)
    found = []
    for _ in range(200):
        sides = [{str(n): x for n, x in enumerate(draw.random(40))} for _ in range(2)]
        found.append(difference("x", *sides).verdict)
    assert 180 <= found.count("noise") <= 199


def test_unpaired_is_newcombes_interval_for_two_shares() -> None:
    # Newcombe 1998, method 10: 56/70 against 48/80, printed as 0.0524 to 0.3339.
    old, new = mean("x", [1] * 48 + [0] * 32), mean("x", [1] * 56 + [0] * 14)
    found = unpaired(old, new)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.verdict == "better"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None)
def test_holm_is_monotone_and_never_below_the_raw_value(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ordered = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert all(a <= b for a, b in pairwise(ordered))


@given(st.lists(finite, min_size=1, max_size=60), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=40)
def test_quantile_lies_in_its_interval(items: list[float], q: float) -> None:
    found = quantile("x", items, q)
    assert found.low <= found.value <= found.high
    assert sum(x <= found.value for x in items) >= q * len(items) - 1e-9


def test_seeds_are_the_unit() -> None:
    runs = [mean("x", [value] * 100, unit="s") for value in (1.0, 2.0, 3.0, 4.0)]
    found = over_seeds(runs)
    interval = stats.t.interval(0.95, 3, loc=2.5, scale=stats.sem([1, 2, 3, 4]))
    assert (found.low, found.high) == pytest.approx(interval)
    with pytest.warns(UserWarning, match="at least 3"):
        over_seeds(runs[:2])


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_mean_of_what_is_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(AdvisorError, match="tokens"):
        mean("tokens", values)


# ---- answers, labels, perplexity, rankings

# Computed by torchmetrics.functional.text.squad, version 1.9.0.
SQUAD = [
    ["an in", ["in", "cat, theatre dog's"], 1.0, 1.0],
    ["a", ["an"], 1.0, 1.0],
    ["The dog's", ["in", "dog's"], 1.0, 1.0],
    ["—", ["— new-york cat, an", "—"], 1.0, 1.0],
    ["The new-york theatre cat, in", ["dog. theatre dog's —", "a a cat,"], 0.0, 0.4],
    ["theatre dog. an", ["new-york é The in", "dog."], 0.0, 0.666667],
    ["Cat é — 1976 —", ["a", "1976 — — Cat cat,"], 0.0, 0.8],
    ["a — theatre cat, in", ["dog's cat, Cat"], 0.0, 0.285714],
    ["The dog. in", ["in in The in"], 0.0, 0.4],
    ["Cat é in cat,", ["in", "—"], 0.0, 0.4],
    ["an dog's York!", ["Cat Cat theatre dog's theatre"], 0.0, 0.285714],
    ["in é", ["York!", "an"], 0.0, 0.0],
    ["new-york theatre dog. theatre", ["in in é York! —", "— York! an"], 0.0, 0.0],
]


@pytest.mark.parametrize(("said", "accepted", "exact", "f1"), SQUAD)
def test_answers_score_as_in_squad(said: str, accepted: list[str], exact: float, f1: float) -> None:
    assert exact_match([said], [accepted]) == [exact]
    assert token_f1([said], [accepted]) == pytest.approx([f1], abs=1e-6)


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=40))
@settings(deadline=None, max_examples=80)
def test_labels_score_as_in_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    said, true = [p for p, _ in pairs], [e for _, e in pairs]
    assert np.mean(accuracy(said, true)) == pytest.approx(metrics.accuracy_score(true, said))
    expected = metrics.f1_score(true, said, average="macro", zero_division=0)
    assert np.mean(macro_f1(said, true)) == pytest.approx(expected, abs=1e-9)
    every = metrics.f1_score(true, said, labels=["a", "b", "c"], average="macro", zero_division=0)
    assert np.mean(macro_f1(said, true, ["a", "b", "c"])) == pytest.approx(every, abs=1e-9)


def test_interval_of_macro_f1_is_that_of_resampled_items() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(4)
    true = draw.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])
    said = np.where(draw.random(300) < 0.7, true, draw.choice(["a", "b", "c"], 300))
    found = mean("macro-F1", macro_f1(list(said), list(true)))
    again = [
        metrics.f1_score(true[picked], said[picked], average="macro", zero_division=0)
        for picked in draw.integers(0, 300, (600, 300))
    ]
    low, high = np.percentile(again, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


@given(st.lists(st.tuples(finite, st.floats(0.1, 100)), min_size=1, max_size=20))
@settings(deadline=None)
def test_ratio_items_average_to_the_ratio(pairs: list[tuple[float, float]]) -> None:
    up, down = [a for a, _ in pairs], [b for _, b in pairs]
    found = ratio_items(up, down)
    slack = 1e-9 * max(1.0, *(abs(x) for x in found))
    assert math.fsum(found) / len(found) == pytest.approx(sum(up) / sum(down), abs=slack)


def test_ratio_items_pull_as_worked_out_by_hand() -> None:
    # The ratio is 4 / 6, the mean divisor 2: 2/3 + (1 - 2/3 × 2) / 2, and so on.
    assert ratio_items([1, 0, 3], [2, 1, 3]) == pytest.approx([1 / 2, 1 / 3, 7 / 6])


def test_perplexity_is_the_models_own_loss() -> None:
    """Against the cross-entropy that PyTorch computes over the same tokens."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    logits, targets = torch.randn(24, 11, dtype=torch.float64), torch.randint(0, 11, (24,))
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    cuts = [(0, 5), (5, 6), (6, 24)]
    scores = [
        SimpleNamespace(log_likelihood=-float(losses[a:b].sum()), tokens=b - a, bytes_=3 * (b - a))
        for a, b in cuts
    ]
    loss = float(losses.mean())
    assert np.mean(token_perplexity(scores)) == pytest.approx(math.exp(loss))
    assert np.mean(byte_perplexity(scores)) == pytest.approx(math.exp(loss / 3))


def test_rankings_score_as_in_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = random.Random(6)
    names = [f"p{n}" for n in range(8)]
    ranked = [draw.sample(names, 8) for _ in range(50)]
    right = [draw.choice(names) for _ in range(50)]
    scores = [[-ranking.index(name) for name in names] for ranking in ranked]
    truth = [[float(name == wanted) for name in names] for wanted in right]
    wanted = [[name] for name in right]
    expected = metrics.label_ranking_average_precision_score(truth, scores)
    assert np.mean(reciprocal_rank(ranked, wanted)) == pytest.approx(expected)
    numbers = [names.index(name) for name in right]
    for k in (1, 3, 5):
        expected = metrics.top_k_accuracy_score(numbers, scores, k=k, labels=range(8))
        assert np.mean(recall_at(k, ranked, wanted)) == pytest.approx(expected)


def test_reciprocal_rank_of_a_published_example() -> None:
    ranked = [["catten", "cati", "cats"], ["torii", "tori", "toruses"], ["viruses", "viri"]]
    found = reciprocal_rank(ranked, [["cats"], ["tori"], ["viruses"]])
    assert np.mean(found) == pytest.approx(11 / 18)  # 0.61


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(json_values, json_values)
@settings(deadline=None)
def test_field_f1_is_a_similarity(one: object, other: object) -> None:
    (same,) = field_f1([json.dumps(one)], [one])
    (there,), (back,) = field_f1([json.dumps(one)], [other]), field_f1([json.dumps(other)], [one])
    assert same == 1.0
    assert there == back
    assert 0 <= there <= 1


@given(st.text())
@settings(deadline=None)
def test_any_text_can_be_scored(text: str) -> None:
    assert schema_match([text], {"type": "object"})[0] in (0.0, 1.0)
    assert 0 <= citation_precision([text], [{"1": text}])[0] <= 1
    assert 0 <= citation_recall([text], [{"1": text}])[0] <= 1
    assert refuses(text) in (True, False)
    assert abstains(text) in (True, False)


# ---- the record


def stored(folder: Path) -> Path:
    record = Record(folder, "rag")
    record.measure("right", {"q1": 1, "q2": 0, "é\u2028": 1})
    record.add(Figure("p95", 1.5, 1.2, 2.0, 40, "seconds", "lower", "cost"))
    record.note("passages", 3)
    saved = record.save()
    assert saved is not None
    return saved


def test_run_comes_back_as_it_was(tmp_path: Path) -> None:
    run = read_run(stored(tmp_path / "a"))
    assert (run.name, run.recipe, run.notes) == ("a", "rag", {"passages": 3})
    assert run.figures["p95"].unit == "seconds"
    assert run.items == {"right": {"q1": 1.0, "q2": 0.0, "é\u2028": 1.0}}
    assert run.manifest is None


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("metrics.json", '"low"', '"lowest"', "figures.right"),
        ("metrics.json", '"target"', '"goal"', "figures.right.group"),
        ("metrics.json", '"n": 3', '"n": 0', "figures.right.n"),
        ("metrics.json", '"recipe"', '"recipes"', "'recipe' is a required"),
        ("metrics.json", "0.6", "Infinity, 0.6", "Infinity"),
        ("metrics.json", "{", "", "not JSON"),
        ("items.jsonl", '"q1"', '"q2"', "twice"),
        ("items.jsonl", "0.0", '"no"', "items.jsonl:2"),
        ("items.jsonl", "0.0", "1e999", "items.jsonl:2"),
        ("items.jsonl", "0.0", "1.0", "not the items"),
        ("items.jsonl", "\n", "\n\n", "items.jsonl:2"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    path = stored(tmp_path / "a") / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(AdvisorError) as caught:
        read_run(path.parent)
    assert file in caught.value.message
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_other_recipes_run_is_not_overwritten(tmp_path: Path) -> None:
    before = (stored(tmp_path / "a") / "metrics.json").read_text()
    with pytest.raises(AdvisorError, match="'rag'"):
        Record(tmp_path / "a", "prompt")
    early = Record(tmp_path / "b", "prompt")
    stored(tmp_path / "b")
    with pytest.raises(AdvisorError, match="'rag'"):
        early.save()
    assert (tmp_path / "a" / "metrics.json").read_text() == before


def test_run_that_is_still_going_says_so(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"recipe": "rag", "status": "running"}')
    with pytest.raises(AdvisorError, match=r"no metrics\.json") as caught:
        read_run(tmp_path)
    assert "running" in caught.value.hint


KILLED = """
import os, sys
from pathlib import Path
import advisor.files, cookbook.record
from cookbook.record import Record
calls = []
def stop(*args, **kwargs):
    calls.append(args)
    if len(calls) == int(sys.argv[2]):
        os._exit(9)
    return real(*args, **kwargs)
real = os.replace
os.replace = stop
record = Record(sys.argv[1], "rag")
record.measure("right", {"q1": 0, "q2": 0, "q3": 1})
record.save()
"""


@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_saving_leaves_the_old_run_or_says_what_is_wrong(
    tmp_path: Path, at: int
) -> None:
    folder = stored(tmp_path / "a")
    words = [sys.executable, "-c", KILLED, str(folder), str(at)]
    assert subprocess.run(words, check=False).returncode == 9
    if at == 1:  # before anything took its name
        assert read_run(folder).figures["right"].value == pytest.approx(2 / 3)
    else:  # new items, old metrics
        with pytest.raises(AdvisorError, match="stopped while it was saved"):
            read_run(folder)
    stored(folder)
    assert len(read_run(folder).items["right"]) == 3


# ---- the door


def test_door_names_what_it_hands_on() -> None:
    for name in ("exact_match", "token_f1", "mean", "Record", "before_after", "run_suite"):
        assert name in evaluate.__all__
    assert all(hasattr(evaluate, name) for name in evaluate.__all__)
    assert evaluate.Difference is Difference


def test_importing_the_scales_loads_nothing_heavy() -> None:
    code = "import sys, cookbook.evaluate, cookbook.compare_cli; print('|'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "scipy", "torch", "sklearn", "sacrebleu", "rouge_score", "jsonschema"}
    assert not heavy & set(done.stdout.strip().split("|"))
