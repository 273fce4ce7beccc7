"""Time and money: every row of the measured speeds and token prices, and properties."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from advisor.cost import (
    BreakEven,
    TokenPrice,
    Workload,
    api_cost,
    break_even,
    compare,
    find_token_price,
    serving_cost,
    token_prices,
    training_cost,
)
from advisor.errors import EXIT_NO, EXIT_UNKNOWN, AdvisorError
from advisor.gpus import Gpu, find_gpu, gpus, prices
from advisor.ranges import Range, exactly
from advisor.serving import Serving
from advisor.shapes import find_model
from advisor.speed import (
    Measured,
    attention_flops,
    mean_context,
    measured,
    multiplied_parameters,
    pass_size,
    peak_flops,
    read_flops,
    request_seconds,
    row_run,
    row_serving,
    row_utilisation,
    serving_shares,
    training_flops_per_token,
    utilisation,
)
from advisor.training_run import TrainingRun

DATA = Path(__file__).parents[1] / "advisor" / "data"
LLAMA = find_model("meta-llama/Llama-3.1-8B")
A100 = find_gpu("A100-80GB")
URL = r"https://[^\s/]+\.[^\s]+"
METHODS = ("full", "lora", "qlora")

each_row = pytest.mark.parametrize("row", measured(), ids=[row.id for row in measured()])
each_price = pytest.mark.parametrize("row", token_prices().values(), ids=list(token_prices()))
each_gpu = pytest.mark.parametrize("gpu", gpus().values(), ids=list(gpus()))
TRAINED = [row for row in measured() if row.kind == "train"]


@pytest.mark.parametrize("name", ["utilisation.csv", "token_prices.csv"])
def test_file_is_a_clean_table(name: str) -> None:
    text = (DATA / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "\r" not in text
    rows = list(csv.reader(text.splitlines()))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert all(field == field.strip() for row in rows for field in row)
    keys = [row[0] for row in rows]
    assert len(keys) == len(set(keys))


@each_row
def test_measured_row(row: Measured) -> None:
    assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)+", row.id)
    assert row.kind in ("train", "prefill", "decode", "serve")
    assert row.use in ("range", "check")
    assert row.method in (METHODS if row.kind == "train" else ("",))
    assert row.gpu_id in gpus()
    assert find_model(row.model).shape.layers > 0
    assert 1 <= row.gpus <= 8
    assert 1 <= row.batch <= 2000
    assert 1 <= row.prompt_tokens <= 100_000
    assert 0 <= row.answer_tokens <= 100_000
    assert (row.answer_tokens == 0) == (row.kind == "train")
    assert 1 <= row.tokens_per_s <= 100_000
    assert re.fullmatch(URL, row.source)
    assert date(2023, 1, 1) < date.fromisoformat(row.as_of) <= date(2026, 11, 21)


@each_row
def test_no_row_claims_more_than_the_card_can(row: Measured) -> None:
    if row.kind == "train":
        assert 0.01 < row_utilisation(row) < 0.9
    elif row.kind == "prefill":
        work = read_flops(find_model(row.model).shape, row_serving(row)) / row.prompt_tokens
        assert 0.01 < work * row.tokens_per_s / peak_flops(gpus()[row.gpu_id]) < 0.9
    else:
        shape, gpu = find_model(row.model).shape, gpus()[row.gpu_id]
        fastest = row.answer_tokens / request_seconds(shape, gpu, row_serving(row), row.batch, 1, 1)
        assert row.tokens_per_s < fastest


def test_the_kept_rows_fall_where_the_notebook_says() -> None:
    inside, much = [], []
    for row in TRAINED:
        if row.use == "check":
            shape = find_model(row.model).shape
            size = pass_size(row.tokens_per_pass, shape)
            share, real = utilisation(row.method, size, row.gpus), row_utilisation(row)
            inside.append(share.low <= real <= share.high)
            if size == 2:
                much.append(abs(share.typical / real - 1))
    assert len(inside) >= 25
    assert sum(inside) / len(inside) >= 0.9
    assert sorted(much)[len(much) // 2] < 0.2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 64])
def test_utilisation_rises_with_the_work_of_a_pass(method: str, count: int) -> None:
    shares = [utilisation(method, size, count) for size in (0, 1, 2)]
    assert all(0 < share.low < share.typical < share.high < 1 for share in shares)
    assert shares[0].typical < shares[1].typical < shares[2].typical


def test_shares_of_serving_are_shares() -> None:
    for share in serving_shares():
        assert 0 < share.low <= share.typical <= share.high < 1


@given(length=st.integers(1, 3000), window=st.integers(1, 4000))
def test_mean_context_is_the_sum_over_positions(length: int, window: int) -> None:
    # Position i looks at min(i, window) tokens; the formula ignores the half token of its own.
    exact = sum(min(i, window) for i in range(1, length + 1)) / length
    assert mean_context(length, window) == pytest.approx(exact, abs=0.51)


@pytest.mark.parametrize("model", ["meta-llama/Llama-2-7b-hf", "openai-community/gpt2"])
def test_training_is_six_operations_per_weight_and_attention(model: str) -> None:
    shape = find_model(model).shape
    run = TrainingRun(method="full", gradient_checkpointing=False, seq_len=512)
    expected = 6 * multiplied_parameters(shape) + 3 * attention_flops(shape, 512)
    assert training_flops_per_token(shape, run) == expected


runs = st.builds(
    TrainingRun,
    method=st.sampled_from(["full", "lora", "qlora", "cpt", "dpo"]),
    seq_len=st.integers(1, 32_768),
    batch=st.integers(1, 64),
    gradient_checkpointing=st.booleans(),
)


@given(run=runs)
def test_work_is_between_four_and_ten_passes(run: TrainingRun) -> None:
    shape = LLAMA.shape
    forward = 2 * multiplied_parameters(shape) + attention_flops(shape, run.seq_len)
    assert 1.9 * forward < training_flops_per_token(shape, run) < 5.01 * forward
    plain = replace(run, gradient_checkpointing=False)
    again = replace(run, gradient_checkpointing=True)
    assert training_flops_per_token(shape, plain) < training_flops_per_token(shape, again)


@settings(deadline=None)
@given(run=runs, tokens=st.floats(1, 1e12), more=st.floats(1.01, 100))
def test_cost_rises_with_tokens(run: TrainingRun, tokens: float, more: float) -> None:
    one = training_cost(LLAMA, run, A100, tokens=tokens)
    two = training_cost(LLAMA, run, A100, tokens=tokens * more)
    thrice = training_cost(LLAMA, run, A100, tokens=tokens, epochs=3)
    assert one.usd is not None
    assert two.usd is not None
    assert 0 < one.usd.low < one.usd.typical < one.usd.high
    for end in ("low", "typical", "high"):
        assert getattr(one.usd, end) < getattr(two.usd, end)
        assert getattr(thrice.hours, end) == pytest.approx(3 * getattr(one.hours, end))


@settings(deadline=None)
@given(run=runs, faster=st.floats(1.01, 10))
def test_time_falls_with_speed(run: TrainingRun, faster: float) -> None:
    assert A100.bf16_tflops is not None
    quick = replace(A100, bf16_tflops=A100.bf16_tflops * faster)
    slow, fast = (training_cost(LLAMA, run, gpu, tokens=1e6).hours for gpu in (A100, quick))
    assert fast.typical == pytest.approx(slow.typical / faster)


@settings(deadline=None)
@given(run=runs, count=st.integers(2, 64))
def test_more_cards_are_faster_and_not_cheaper(run: TrainingRun, count: int) -> None:
    one = training_cost(LLAMA, run, A100, tokens=1e9, count=1)
    many = training_cost(LLAMA, run, A100, tokens=1e9, count=count)
    assert one.usd is not None
    assert many.usd is not None
    assert many.hours.typical < one.hours.typical
    assert many.usd.typical >= one.usd.typical * (1 - 1e-9)


@each_gpu
def test_every_card_gives_hours_and_those_with_prices_dollars(gpu: Gpu) -> None:
    found = training_cost(LLAMA, TrainingRun(), gpu, examples=1000)
    assert 0 < found.hours.low < found.hours.typical < found.hours.high
    assert (found.usd is None) == (prices(gpu) is None)
    assert found.assumptions
    json.dumps(found.to_dict())


# IBM, one A100: 3,353.8 trained tokens a second with LoRA, batch 8 of 4,096 tokens, packed.
def test_a_published_run_is_inside_the_range() -> None:
    row = next(row for row in measured() if row.id == "ibm-lora-1gpu-b8-none")
    run = replace(row_run(row), padded=False, precision="bf16")
    found = training_cost(find_model(row.model), run, gpus()[row.gpu_id], tokens=1e8)
    hours = 1e8 / row.tokens_per_s / 3600
    assert found.hours.low < hours < found.hours.high
    assert found.hours.typical == pytest.approx(hours, rel=0.15)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"tokens": 1, "examples": 1},
        {"tokens": 0},
        {"tokens": -5},
        {"tokens": float("nan")},
        {"tokens": float("inf")},
        {"examples": 0},
        {"examples": 10, "tokens_per_example": 0},
        {"tokens": 1, "epochs": 0},
        {"tokens": 1, "count": 0},
        {"tokens": 1, "count": 1.5},
    ],
)
def test_amounts_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AdvisorError) as caught:
        training_cost(LLAMA, TrainingRun(), A100, **wrong)
    assert caught.value.exit_code == 2


def test_float32_is_not_guessed() -> None:
    with pytest.raises(AdvisorError) as caught:
        training_cost(LLAMA, TrainingRun(precision="fp32"), A100, tokens=1)
    assert caught.value.exit_code == EXIT_UNKNOWN


def test_examples_are_cut_at_the_length_of_the_run() -> None:
    run = TrainingRun(seq_len=512, padded=False)
    cut = training_cost(LLAMA, run, A100, examples=10, tokens_per_example=9999)
    assert cut.tokens == exactly(5120)
    pair = training_cost(LLAMA, replace(run, method="dpo"), A100, examples=10)
    assert pair.tokens == exactly(10_240)


servings = st.builds(
    Serving,
    prompt_tokens=st.integers(1, 50_000),
    answer_tokens=st.integers(1, 2000),
    bits=st.sampled_from([16, 8, 4]),
)


@settings(deadline=None, max_examples=50)
@given(serving=servings, more=st.integers(1, 10_000))
def test_longer_prompts_and_answers_cost_more(serving: Serving, more: int) -> None:
    base = serving_cost(LLAMA, A100, serving).seconds
    longer = replace(serving, prompt_tokens=serving.prompt_tokens + more)
    wordier = replace(serving, answer_tokens=serving.answer_tokens + more)
    for other in (longer, wordier):
        found = serving_cost(LLAMA, A100, other).seconds
        assert found.low > base.low
        assert found.typical > base.typical
        assert found.high > base.high


@settings(deadline=None, max_examples=50)
@given(serving=servings, data=st.data())
def test_a_cached_prefix_never_costs_more(serving: Serving, data: st.DataObject) -> None:
    shared = data.draw(st.integers(1, serving.prompt_tokens))
    cached = replace(serving, shared_tokens=shared)
    assert read_flops(LLAMA.shape, cached) < read_flops(LLAMA.shape, serving)
    assert serving_cost(LLAMA, A100, cached).seconds.typical <= (
        serving_cost(LLAMA, A100, serving).seconds.typical * (1 + 1e-9)
    )


@given(prompt=st.integers(2, 50_000), data=st.data())
def test_reading_the_rest_is_reading_all_less_the_prefix(prompt: int, data: st.DataObject) -> None:
    shape, shared = LLAMA.shape, data.draw(st.integers(1, prompt - 1))
    head = 2.0 * shape.vocab_size * shape.hidden_size
    whole, prefix = (read_flops(shape, Serving(prompt_tokens=n)) for n in (prompt, shared))
    rest = read_flops(shape, Serving(prompt_tokens=prompt, shared_tokens=shared))
    assert rest == pytest.approx(whole - prefix + head)


def test_the_peak_is_the_rate_of_the_datasheet() -> None:
    assert peak_flops(A100) == 312e12
    assert peak_flops(find_gpu("T4")) == 65e12


@given(requests=st.integers(1, 500), more=st.integers(1, 500))
def test_together_is_cheaper_for_each(requests: int, more: int) -> None:
    one = request_seconds(LLAMA.shape, A100, Serving(), requests, 0.5, 0.8)
    other = request_seconds(LLAMA.shape, A100, Serving(), requests + more, 0.5, 0.8)
    assert other <= one * (1 + 1e-12)


def test_an_idle_card_is_paid_too() -> None:
    whole = serving_cost(LLAMA, A100, Serving(), exactly(1.0)).usd_per_1000
    half = serving_cost(LLAMA, A100, Serving(), exactly(0.5)).usd_per_1000
    assert whole is not None
    assert half is not None
    assert half.typical == pytest.approx(2 * whole.typical)


def test_what_does_not_fit_is_an_honest_no() -> None:
    with pytest.raises(AdvisorError, match="does not fit") as caught:
        serving_cost(LLAMA, find_gpu("RTX 3070"), Serving())
    assert caught.value.exit_code == EXIT_NO


@each_price
def test_token_price_row(row: TokenPrice) -> None:
    assert re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", row.model)
    assert row.provider
    assert 0 < row.input_usd <= row.output_usd < 200
    assert row.cached_usd is None or 0 < row.cached_usd <= row.input_usd
    assert re.fullmatch(URL, row.source)
    assert date(2026, 1, 1) < date.fromisoformat(row.as_of) <= date(2026, 11, 21)
    found = api_cost(row, Workload().serving("long-context", cached=True))
    assert found.low <= found.typical <= found.high
    plain = api_cost(row, Workload().serving("long-context"))
    assert plain.low == plain.high == pytest.approx(found.high)


def test_a_misspelled_model_is_guessed_at() -> None:
    with pytest.raises(AdvisorError, match="Did you mean 'openai/gpt-5-mini'"):
        find_token_price("openai/gpt5-mini")


dollars = st.floats(0.001, 1e6)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    return Range(*sorted(draw(st.tuples(dollars, dollars, dollars))))


@given(upfront=ranges(), tuned=ranges(), other=ranges())
def test_break_even_is_where_the_two_lines_cross(
    upfront: Range, tuned: Range, other: Range
) -> None:
    found = break_even(upfront, tuned, other)
    if found.typical is None:
        assert other.typical <= tuned.typical
    else:
        trained = upfront.typical + found.typical / 1000 * tuned.typical
        assert trained == pytest.approx(found.typical / 1000 * other.typical, rel=1e-6)
        assert found.low is not None
        assert found.low <= found.typical * (1 + 1e-9)
    if found.high is not None:
        assert found.typical is not None
        assert found.high >= found.typical * (1 - 1e-9)


@given(upfront=ranges(), tuned=ranges(), other=ranges(), factor=st.floats(1.01, 10))
def test_dearer_training_pays_later(
    upfront: Range, tuned: Range, other: Range, factor: float
) -> None:
    early, late = (break_even(u, tuned, other) for u in (upfront, upfront.times(factor)))
    assume(early.typical is not None)
    assert late.typical == pytest.approx(factor * (early.typical or 0))


@given(upfront=ranges(), cost=ranges())
def test_no_gain_is_never(upfront: Range, cost: Range) -> None:
    assert break_even(upfront, cost, cost) == BreakEven(None, None, None)
    assert set(break_even(upfront, cost, cost).to_dict().values()) == {"never"}


def test_a_comparison_is_consistent_and_plain_data() -> None:
    upfront = Range(1000, 2000, 3000)
    found = compare(LLAMA, A100, Workload(), upfront, cached=True)
    assert set(found.costs) == {"long-context", "rag", "tuned"}
    tuned, rag = found.costs["tuned"].usd_per_1000, found.costs["rag"].usd_per_1000
    assert tuned is not None
    assert rag is not None
    assert found.pays_from["rag"] == break_even(upfront, tuned, rag)
    json.dumps(found.to_dict())
    too_long = compare(LLAMA, A100, Workload(knowledge_tokens=2_000_000), upfront)
    assert set(too_long.refused) == {"long-context"}
    assert set(too_long.pays_from) == {"rag"}
