"""The simulator against real tensors, published runs, and itself at full depth."""

from __future__ import annotations

import gc
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from advisor.errors import AdvisorError
from advisor.training_run import TrainingRun, resolved
from cookbook.cuda_paths import (
    AllValid,
    CudaAutocast,
    attention_backend,
    cuda_paths,
    kernel_bytes,
    triton_head,
)
from cookbook.meta_model import build, replace_tensors
from cookbook.simulate import extend, layer_plan, simulate, to_dict, trace
from cookbook.tracker import MemoryTracker
from cookbook.training_step import optimizer_temporaries, run_step

TINY = {
    "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip
MISTRAL_7B = {
    "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "sliding_window": None,
}  # fmt: skip
LLAMA_31_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8,
}  # fmt: skip
QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = ("all-linear",)
SMALL = {"seq_len": 24, "batch": 2}


def step(config: dict[str, Any], run: TrainingRun, real: bool) -> dict[str, int]:
    """Peaks of one step in plain bytes, on real CPU tensors or on fake ones."""
    run, _ = resolved(run)
    built = build(config, run, None)
    with ExitStack() as stack:
        stack.enter_context(cuda_paths("native"))
        if run.loss == "chunked":
            stack.enter_context(triton_head())
        if not real:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(CudaAutocast())

        def new(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype)

        for model in filter(None, (built.model, built.reference)):
            replace_tensors(model, lambda tensor: new(tuple(tensor.shape), tensor.dtype))
        tracker = MemoryTracker(
            "cpu", block_bytes=1, vocabulary=96, only=torch.Tensor if real else FakeTensor
        )
        run_step(built, run, tracker, new)
    found = {" ".join(key): peak.allocated_bytes for key, peak in tracker.peaks.items()}
    del built
    gc.collect()
    return found | tracker.marks


REAL = {
    "full": TrainingRun(method="full", precision="bf16", loss="full", **SMALL),
    "full, no checkpoints": TrainingRun(
        method="full", precision="fp32", loss="full", gradient_checkpointing=False, **SMALL
    ),
    "lora, dropout": TrainingRun(precision="bf16", loss="full", lora_dropout=0.1, **SMALL),
    "lora, all, no checkpoints": TrainingRun(
        precision="bf16", lora_targets=ALL, gradient_checkpointing=False, **SMALL
    ),
    "qlora": TrainingRun(method="qlora", precision="bf16", loss="full", **SMALL),
    "qlora, float32 stream": TrainingRun(
        method="qlora", precision="bf16", kbit_fp32=True, double_quant=True, **SMALL
    ),
    "chunked, trained embeddings": TrainingRun(
        precision="bf16", train_embeddings=True, padded=False, **SMALL
    ),
    "eager": TrainingRun(precision="bf16", attention="eager", loss="full", **SMALL),
    "autocast": TrainingRun(method="full", loss="full", **SMALL),
    "autocast, lora, chunked": TrainingRun(gradient_checkpointing=False, **SMALL),
    "dpo": TrainingRun(method="dpo", **SMALL),
    "dpo, lora": TrainingRun(method="dpo", lora_rank=4, precision="bf16", **SMALL),
}


@pytest.mark.parametrize("name", REAL)
def test_fake_tensors_count_what_real_ones_do(name: str) -> None:
    fake, real = step(TINY, REAL[name], False), step(TINY, REAL[name], True)
    assert fake == real
    assert real["after forward"] > real["static"] > 0


# ---------------------------------------------------------------- published and traced figures
PACKED = {"seq_len": 4096, "batch": 4, "precision": "bf16", "loss": "full", "padded": False}


@pytest.mark.parametrize(
    ("gigabytes", "off", "run"),
    [
        (72.4348, 2e-5, TrainingRun(method="full", optimizer="adamw", **PACKED)),
        (26.705, 0.006, TrainingRun(
            lora_targets=QKVO, lora_dropout=0.1, optimizer="adamw", **PACKED
        )),
        (16.374, 0.011, TrainingRun(
            method="qlora", lora_targets=QKVO, lora_dropout=0.1, optimizer="adamw",
            double_quant=True, adapter_dtype="fp32", **PACKED,
        )),
    ],
    ids=["full", "lora", "qlora"],
)  # fmt: skip
def test_published_peaks_of_mistral_7b(gigabytes: float, off: float, run: TrainingRun) -> None:
    """torch.cuda.max_memory_allocated, foundation-model-stack/fms-acceleration, A100."""
    found = simulate(MISTRAL_7B, run)
    assert found.allocated_peak_bytes / 1e9 == pytest.approx(gigabytes, rel=off)
    assert found.allocated_peak_bytes - found.traced_peak_bytes == 2 * 8_519_680


@pytest.mark.parametrize(
    ("gigabytes", "run"),
    [
        (72.418, {"method": "full"}),
        (26.553, {"lora_targets": QKVO, "lora_dropout": 0.1}),
        (16.195, {"method": "qlora", "lora_targets": QKVO, "lora_dropout": 0.1,
                  "double_quant": True, "adapter_dtype": "fp32"}),
    ],
    ids=["full", "lora", "qlora"],
)  # fmt: skip
def test_an_independent_trace_of_mistral_7b(gigabytes: float, run: dict[str, Any]) -> None:
    found = simulate(MISTRAL_7B, TrainingRun(**PACKED, **run, optimizer="adamw"))
    assert found.traced_peak_bytes / 1e9 == pytest.approx(gigabytes, abs=5e-4)


@pytest.mark.parametrize(
    ("per_token", "run"),
    [
        (200_841, {"method": "full"}),
        (172_297, {"lora_targets": ("q_proj", "v_proj"), "lora_dropout": 0.0}),
        (180_489, {"lora_targets": ("q_proj", "v_proj"), "lora_dropout": 0.1}),
        (147_657, {"lora_targets": ("q_proj", "v_proj"), "lora_dropout": 0.0,
                   "adapter_dtype": "bf16"}),
        (295_497, {"lora_targets": ALL, "lora_dropout": 0.0}),
        (334_409, {"lora_targets": ALL, "lora_dropout": 0.1}),
    ],
)  # fmt: skip
def test_bytes_one_layer_keeps_for_a_token(per_token: int, run: dict[str, Any]) -> None:
    """Llama-3.1-8B at 1,024 tokens; figures traced independently, and by hand from the code."""
    wanted = TrainingRun(
        **{"seq_len": 1024, "batch": 1, "precision": "bf16", "loss": "full", "lora_rank": 16,
           "gradient_checkpointing": False, "padded": False, "optimizer": "sgd", **run}
        if run.get("method") != "full"
        else {"seq_len": 1024, "batch": 1, "precision": "bf16", "loss": "full", "method": "full",
              "gradient_checkpointing": False, "padded": False, "optimizer": "sgd"}
    )  # fmt: skip
    two, three = (trace(LLAMA_31_8B, resolved(wanted)[0], depth) for depth in (2, 3))
    kept = [each.marks["after forward"] - each.marks["static"] for each in (two, three)]
    assert (kept[1] - kept[0]) / 1024 == pytest.approx(per_token, abs=1)


# ---------------------------------------------------------------------------- extension by layers
DEEP = {**TINY, "num_hidden_layers": 7}
GEMMA2 = {
    "model_type": "gemma2", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "sliding_window": 8,
}  # fmt: skip
MIXTRAL = {**TINY, "model_type": "mixtral", "num_hidden_layers": 5, "num_local_experts": 4}


@pytest.mark.parametrize(
    ("config", "run"),
    [
        (DEEP, TrainingRun(lora_targets=ALL, seq_len=64, batch=2)),
        (DEEP, TrainingRun(
            method="full", seq_len=64, batch=4, optimizer="adamw", precision="bf16"
        )),
        (DEEP, TrainingRun(method="dpo", seq_len=64, batch=2, gradient_checkpointing=False)),
        (DEEP, TrainingRun(method="qlora", seq_len=2048, batch=1, precision="bf16")),
        (GEMMA2, TrainingRun(method="full", seq_len=64, batch=2, padded=False)),
        (MIXTRAL, TrainingRun(method="full", seq_len=64, batch=2, precision="bf16")),
        (DEEP, TrainingRun(method="full", seq_len=64, batch=2, gpus=4, sharding="fsdp")),
    ],
    ids=["lora", "full", "dpo", "qlora", "gemma2", "mixtral", "fsdp"],
)  # fmt: skip
def test_few_layers_extend_to_all(config: dict[str, Any], run: TrainingRun) -> None:
    short, whole = simulate(config, run), simulate(config, run, whole=True)
    assert (len(short.layers_traced), len(whole.layers_traced)) == (2, 1)
    for name, moment in whole.phases.items():
        assert short.phases[name].allocated_bytes == moment.allocated_bytes, name
    assert to_dict(short)["terms"] == to_dict(whole)["terms"]
    assert short.peak_at == whole.peak_at
    assert sum(short.terms.values()) == short.allocated_peak_bytes


def test_the_plan_keeps_the_end_of_the_stack() -> None:
    assert layer_plan(["a"] * 32) == (2, 3)
    assert layer_plan(["a", "b"] * 4) == (4, 6)
    assert layer_plan(["dense"] + ["moe"] * 26) == (3, 4)
    assert layer_plan((["s"] * 5 + ["f"]) * 4 + ["s"] * 2) == (14, 20)
    assert layer_plan(["a", "b", "c"]) is None


# ---------------------------------------------------------------------------- the CUDA paths
def test_freed_bytes_leave_and_sizes_are_rounded_up() -> None:
    tracker = MemoryTracker("meta")
    with tracker:
        made = torch.empty(100, device="meta")
        assert tracker.current_bytes == 512
        del made
    assert tracker.current_bytes == 0


def test_autocast_has_what_only_cuda_runs_in_float32() -> None:
    half = torch.ones(4, 4, dtype=torch.bfloat16)
    with CudaAutocast(), torch.autocast("cpu", torch.bfloat16):
        assert half.sum().dtype == torch.softmax(half, 0).dtype == (half**2).dtype == torch.float32
    with CudaAutocast():
        assert half.sum().dtype == torch.bfloat16


def heads(number: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(1, number, 256, 64, dtype=dtype, device="meta")


def test_the_attention_kernel_cuda_would_take() -> None:
    mask = torch.empty(1, 1, 256, 256, dtype=torch.bool, device="meta")
    half, single = torch.bfloat16, torch.float32

    def chosen(kv: int, dtype: torch.dtype, given: Any, grouped: bool) -> str:
        key = heads(kv, dtype)
        return attention_backend(heads(8, dtype), key, key, given, grouped=grouped, prefer="flash")

    assert chosen(8, half, None, False) == "flash"
    assert chosen(2, half, None, True) == "flash"
    assert chosen(8, half, mask, False) == "efficient"
    assert chosen(8, single, None, False) == "efficient"
    assert chosen(2, single, None, True) == "math"


def test_bytes_inside_the_flash_kernel() -> None:
    query, key = heads(8), heads(2)
    func = torch.ops.aten._scaled_dot_product_flash_attention_backward.default
    rows = 8 * 256
    expected = 4 * rows + 4 * rows * 64 + 2 * 2 * rows * 64
    assert kernel_bytes(func, (query, query, key), {}) == expected
    assert kernel_bytes(torch.ops.aten.add.Tensor, (query, key), {}) == 0


def test_a_long_batch_counts_the_dequantised_weight() -> None:
    import bitsandbytes  # noqa: F401  defines the operation

    func = torch.ops.bitsandbytes.gemm_4bit.default
    packed, scales = torch.empty(512, 1), torch.empty(16)

    def seen(rows: int, **more: Any) -> int:
        given = (torch.empty(rows, 16, dtype=torch.bfloat16), packed, [64, 16], scales, 64, "nf4")
        return kernel_bytes(func, given, more)

    assert (seen(1536), seen(1537)) == (0, 64 * 16 * 2)
    assert seen(1537, absmax_8bit=scales) == 64 * 16 * 2 + 4 * 16


def test_bytes_inside_kernels_count_for_the_peak_only() -> None:
    run = TrainingRun(method="qlora", precision="bf16", seq_len=2048, batch=1)
    wide = {**TINY, "hidden_size": 4096, "intermediate_size": 8192}
    found = trace(wide, resolved(run)[0], 2).moments["forward", "layer 0"]
    assert found.terms["inside kernels"] == 4096 * 8192 * 2
    assert found.allocated_bytes > found.traced_bytes


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_optimizer_temporaries_on_real_tensors(optimizer: str) -> None:
    from transformers.optimization import Adafactor

    parameters = [torch.nn.Parameter(torch.ones(size)) for size in ((300, 200), (500,), (64, 64))]
    for each in parameters:
        each.grad = torch.ones_like(each)
    made: Any = {
        "adamw": lambda: torch.optim.AdamW(parameters, foreach=True),
        "adafactor": lambda: Adafactor(
            parameters, lr=1e-4, scale_parameter=False, relative_step=False
        ),
        "sgd": lambda: torch.optim.SGD(parameters, foreach=True),
    }[optimizer]()
    made.step()
    tracker = MemoryTracker("cpu")
    states = [value for each in parameters for value in made.state[each].values()]
    for tensor in [*parameters, *(each.grad for each in parameters), *states]:
        if isinstance(tensor, torch.Tensor):
            tracker.register(tensor, "known")
    before = tracker.current_bytes
    with tracker:
        tracker.enter_phase("optimizer")
        made.step()
    seen = tracker.peaks["optimizer", ""].allocated_bytes - before
    assert abs(optimizer_temporaries(optimizer, parameters) - seen) <= 4096  # scalars on the CPU


# ---------------------------------------------------------------------------- many GPUs
def test_each_rank_of_fsdp_holds_its_share() -> None:
    """Llama-3.1-8B in bf16: 6 bytes of weights and Adam states for each parameter, over 8 ranks."""
    run = TrainingRun(
        method="full", precision="bf16", seq_len=512, batch=1, gpus=8, sharding="fsdp",
        optimizer="adamw",
    )  # fmt: skip
    found = simulate(LLAMA_31_8B, run)
    assert found.static_bytes == pytest.approx(6 * 8_030_261_248 / 8, rel=1e-4)
    assert found.phases["optimizer"].traced_bytes == pytest.approx(10 * 8_030_261_248 / 8, rel=1e-4)


def test_ddp_and_zero_follow_their_arithmetic() -> None:
    base = {"method": "full", "seq_len": 32, "batch": 1, "gpus": 4}
    parameters = 2 * 96 * 64 + 64 + 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 160 + 2 * 64)
    peaks = {}
    for kind in ("ddp", "zero1", "zero2", "zero3"):
        found = simulate(TINY, TrainingRun(**base, sharding=kind))
        assert any("arithmetic" in each for each in found.assumptions)
        assert sum(found.terms.values()) == found.allocated_peak_bytes
        peaks[kind] = found
    assert peaks["ddp"].terms["gradient buckets"] == 4 * parameters
    assert peaks["zero1"].terms["optimizer states"] == 12 * parameters // 4
    states = [peaks[kind].phases["optimizer"].terms for kind in ("zero1", "zero2", "zero3")]
    assert states[1]["gradients"] * 4 == pytest.approx(states[0]["gradients"], abs=4)
    assert states[2]["weights"] * 4 == pytest.approx(states[0]["weights"], abs=4)


def test_losses_without_logits() -> None:
    """Liger's chunks: 128,256 tokens of vocabulary over 4,096 is 32 chunks of the tokens."""
    from cookbook.fused_loss import chunk_tokens

    assert chunk_tokens(8192, 4096, 128_256) == 256
    assert chunk_tokens(16_384, 4096, 32_000) == 2048  # the example in Liger's source
    assert chunk_tokens(3000, 4096, 128_256) == 128  # a power of two
    base = {"method": "full", "precision": "bf16", "seq_len": 512, "batch": 4, "padded": False}
    peak = {
        loss: simulate({**TINY, "vocab_size": 8192}, TrainingRun(loss=loss, **base))
        for loss in ("full", "chunked", "fused")
    }
    assert peak["full"].allocated_peak_bytes > 14 * 8192 * 2048
    assert peak["fused"].allocated_peak_bytes < peak["full"].allocated_peak_bytes / 3


def test_states_of_8_bit_optimizers() -> None:
    from cookbook.training_step import optimizer_states

    def size(optimizer: str, n: int, embedding: bool = False) -> int:
        states = optimizer_states(optimizer, torch.empty(n, device="meta"), embedding)
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in states)

    assert size("adamw-8bit", 4095) == 8 * 4095
    assert size("adamw-8bit", 2**20) == 2 * (2**20 + 4 * 2**12)
    assert size("adamw-8bit", 2**20, embedding=True) == 8 * 2**20
    assert size("paged-adamw-8bit", 2**20) == 2 * 4 * 2**12
    assert size("paged-adamw-8bit", 2**20, embedding=True) == 0


# ---------------------------------------------------------------------------- what it refuses
@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"model_type": "bert"}, 3),
        ({"model_type": "t5"}, 3),
        ({"model_type": "bart"}, 3),
        ({"model_type": "gemma3"}, 3),
        ({"model_type": "mamba"}, 3),
        ({"model_type": "qwen3_next"}, 3),
        ({"model_type": "no-such-model"}, 3),
        ({}, 3),
        ({**TINY, "hidden_size": "wide"}, 2),
    ],
    ids=str,
)
def test_refusals(config: dict[str, Any], code: int) -> None:
    with pytest.raises(AdvisorError) as caught:
        simulate(config, TrainingRun(**SMALL))
    assert caught.value.exit_code == code
    assert "\n" not in caught.value.message


def test_targets_peft_does_not_find() -> None:
    with pytest.raises(AdvisorError, match="PEFT refuses"):
        simulate(TINY, TrainingRun(lora_targets=("nowhere",), **SMALL))


def test_nothing_stays_patched() -> None:
    before = torch.nn.functional.dropout
    with cuda_paths("flash"), triton_head(), AllValid(), nullcontext():
        assert torch.nn.functional.dropout is not before
    assert torch.nn.functional.dropout is before


def test_extension_needs_the_same_parts() -> None:
    run = resolved(TrainingRun(**SMALL))[0]
    two, three = trace(DEEP, run, 2), trace(DEEP, run, 3)
    assert extend(two, three, 0).marks == three.marks
