"""Serving memory: properties of the cache, every catalogued model, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import EXIT_UNKNOWN, AdvisorError
from advisor.gpus import gpus, process_bytes
from advisor.serving import (
    Range,
    Serving,
    adapter_parameters,
    kv_bytes_per_token,
    kv_cache_bytes,
    largest_concurrency,
    serving_memory,
    weight_bytes,
)
from advisor.shapes import Model, catalogue, find_model, known_architecture, parameter_count

LLAMA = find_model("meta-llama/Llama-3.1-8B")
MODELS = {model.id: model for model in catalogue().values()}


def is_known(model: Model) -> bool:
    try:
        known_architecture(model.config, model.id)
    except AdvisorError:
        return False
    return True


KNOWN = {name: model for name, model in MODELS.items() if is_known(model)}
each_model = pytest.mark.parametrize("model", KNOWN.values(), ids=list(KNOWN))
lengths = st.integers(1, 200_000)


# Bytes of cache for a token in 16 bits, from the published shapes: layers x 2 x kv heads x
# head dim x 2. Llama-2-7B and Llama-3-8B are given as 512 and 128 KiB in many places.
@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("meta-llama/Llama-2-7b-hf", 512),
        ("meta-llama/Llama-2-13b-hf", 800),
        ("meta-llama/Llama-2-70b-hf", 320),
        ("meta-llama/Meta-Llama-3-8B", 128),
        ("meta-llama/Llama-3.1-70B", 320),
        ("mistralai/Mistral-7B-v0.3", 128),
        ("Qwen/Qwen2.5-7B", 56),
        ("tiiuae/falcon-7b-instruct", 8),
        ("openai-community/gpt2", 36),
    ],
)
def test_published_cache_of_a_token(name: str, kib: float) -> None:
    assert kv_bytes_per_token(find_model(name).shape) == kib * 1024


@each_model
def test_every_catalogued_model_can_be_estimated(model: Model) -> None:
    found = serving_memory(model, Serving())
    assert 0 < found.total.low <= found.total.typical <= found.total.high
    assert sum(found.terms.values()) == pytest.approx(found.total.typical)
    assert found.terms["weights"] == 2 * parameter_count(model.shape)
    assert all(value >= 0 for value in found.terms.values())


@each_model
def test_fewer_bits_are_fewer_bytes(model: Model) -> None:
    sizes = [weight_bytes(model.shape, bits) for bits in (16, 8, 4)]
    assert sizes[0].low == sizes[0].high == 2 * parameter_count(model.shape)
    assert sizes[0].low > sizes[1].high > sizes[1].low > sizes[2].high > sizes[2].low


@each_model
@settings(max_examples=20)
@given(tokens=lengths, more=st.integers(1, 10_000))
def test_the_cache_never_shrinks(model: Model, tokens: int, more: int) -> None:
    shape = model.shape
    before, after = kv_cache_bytes(shape, tokens), kv_cache_bytes(shape, tokens + more)
    assert 0 <= after - before <= more * kv_bytes_per_token(shape)
    assert before <= tokens * kv_bytes_per_token(shape)
    assert kv_cache_bytes(shape, tokens, kv_bits=8) == before / 2


@given(tokens=lengths, window=st.integers(1, 100_000))
def test_a_window_caps_its_layers_and_no_others(tokens: int, window: int) -> None:
    half = replace(LLAMA.shape, window=window, windowed_layers=16)
    full = kv_cache_bytes(LLAMA.shape, tokens)
    capped = kv_cache_bytes(LLAMA.shape, min(tokens, window))
    assert kv_cache_bytes(half, tokens) == (full + capped) / 2


servings = st.builds(
    Serving,
    prompt_tokens=st.integers(1, 100_000),
    answer_tokens=st.integers(1, 10_000),
    requests=st.integers(1, 1000),
    bits=st.sampled_from([16, 8, 4]),
    kv_bits=st.sampled_from([16, 8]),
    adapters=st.integers(0, 20),
)


@given(serving=servings, field=st.sampled_from(["prompt_tokens", "answer_tokens", "requests"]))
def test_more_of_anything_needs_more(serving: Serving, field: str) -> None:
    larger = replace(serving, **{field: getattr(serving, field) + 1})
    one, two = serving_memory(LLAMA, serving).total, serving_memory(LLAMA, larger).total
    assert one.typical < two.typical
    assert one.low <= two.low
    assert one.high < two.high


@given(serving=servings, data=st.data())
def test_a_shared_prompt_never_costs_more(serving: Serving, data: st.DataObject) -> None:
    shared = data.draw(st.integers(0, serving.prompt_tokens))
    saved = serving_memory(LLAMA, replace(serving, shared_tokens=shared)).total
    assert saved.high <= serving_memory(LLAMA, serving).total.high * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(serving=servings, gpu=st.sampled_from(list(gpus().values())))
def test_the_largest_number_fits_and_one_more_does_not(serving: Serving, gpu: Any) -> None:
    few, usual, many = largest_concurrency(LLAMA, serving, gpu)
    assert 0 <= few <= usual <= many
    memory = process_bytes(gpu)[1]
    if usual:
        fits = serving_memory(LLAMA, replace(serving, requests=usual)).total
        assert fits.typical <= memory
    over = serving_memory(LLAMA, replace(serving, requests=usual + 1)).total
    assert over.typical > memory


# PEFT's print_trainable_parameters for rank 16 on all linear layers.
@pytest.mark.parametrize(
    ("name", "count"),
    [("meta-llama/Llama-3.1-8B", 41_943_040), ("meta-llama/Llama-2-7b-hf", 39_976_960)],
)
def test_adapters_are_counted_as_peft_does(name: str, count: int) -> None:
    shape = find_model(name).shape
    assert adapter_parameters(shape, 16) == count
    assert adapter_parameters(shape, 32) == 2 * count


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_tokens": 0},
        {"prompt_tokens": 10**12},
        {"answer_tokens": -1},
        {"requests": 0},
        {"requests": True},
        {"requests": 1.5},
        {"bits": 3},
        {"kv_bits": 4},
        {"adapters": -1},
        {"adapter_rank": 0},
        {"prompt_tokens": 5, "shared_tokens": 6},
    ],
)
def test_meaningless_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AdvisorError) as caught:
        Serving(**wrong)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


def test_an_unknown_architecture_is_not_guessed() -> None:
    unknown = [model for name, model in MODELS.items() if name not in KNOWN]
    assert unknown, "the catalogue holds models that the formulas don't know"
    for model in unknown:
        with pytest.raises(AdvisorError) as caught:
            serving_memory(model, Serving())
        assert caught.value.exit_code == EXIT_UNKNOWN


def test_a_range_is_in_order() -> None:
    with pytest.raises(ValueError, match="not in order"):
        Range(1, 0, 2)
    assert Range(1, 2, 3).to_dict() == {"low": 1, "typical": 2, "high": 3}


def test_json_names_every_part() -> None:
    found = serving_memory(LLAMA, Serving(requests=3)).to_dict()
    assert found["schema"] == 1
    assert found["serving"]["requests"] == 3
    assert set(found["total"]) == {"low", "typical", "high"}
    assert found["assumptions"]
