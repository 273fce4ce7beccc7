"""Measured steps: equal to the simulator on the CPU, and a row for every way to fail."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")
pytest.importorskip("bitsandbytes")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_bundle  # noqa: E402
import gpu_memory  # noqa: E402
import torch  # noqa: E402

from advisor.errors import EXIT_UNKNOWN, EXIT_USAGE, AdvisorError  # noqa: E402
from advisor.shapes import Model, find_model  # noqa: E402
from advisor.training_run import TrainingRun, resolved, to_dict  # noqa: E402
from cookbook import measure as module  # noqa: E402
from cookbook.measure import Worker, append_row, measure, measurement_dict, read_rows  # noqa: E402
from cookbook.measured_step import measured  # noqa: E402
from cookbook.meters import is_out_of_memory  # noqa: E402

TOY = Model("toy", "made up", {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
})  # fmt: skip
SHORT: dict[str, Any] = {"seq_len": 128, "batch": 2, "precision": "bf16"}
DRY: dict[str, Any] = {**SHORT, "lora_dropout": 0.0}
ALL = ("all-linear",)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def take(run: TrainingRun, worker: Worker, **options: Any) -> module.Measurement:
    values: dict[str, Any] = {"steps": 1, "device": "cpu", "timeout_s": 60.0, **options}
    return measure(TOY, run, worker=worker, **values)


# -------------------------------------------------------------------------- against the simulator
RUNS = {
    "full": TrainingRun(method="full", loss="full", **SHORT),
    "full, float32, no checkpoints": TrainingRun(
        method="full", loss="full", gradient_checkpointing=False, **{**SHORT, "precision": "fp32"}
    ),
    "full, autocast, foreach": TrainingRun(
        method="full", optimizer="adamw", **{**SHORT, "precision": "amp-bf16"}
    ),
    "full, 8 bit": TrainingRun(method="full", optimizer="adamw-8bit", **SHORT),
    "full, adafactor": TrainingRun(method="full", optimizer="adafactor", **SHORT),
    "full, sgd": TrainingRun(method="full", optimizer="sgd", padded=False, **SHORT),
    "lora": TrainingRun(loss="full", **DRY),
    "lora, all, no checkpoints": TrainingRun(
        lora_targets=ALL, gradient_checkpointing=False, padded=False, **DRY
    ),
    "lora, eager, autocast": TrainingRun(attention="eager", **{**DRY, "precision": "amp-bf16"}),
    "lora, embeddings": TrainingRun(train_embeddings=True, **DRY),
    "qlora": TrainingRun(method="qlora", loss="full", **DRY),
    "qlora, float32 stream, nested": TrainingRun(
        method="qlora", kbit_fp32=True, double_quant=True, **DRY
    ),
    "dpo": TrainingRun(method="dpo", **SHORT),
    "dpo, lora": TrainingRun(method="dpo", lora_rank=8, **SHORT),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_measured_step_takes_what_the_simulator_says(name: str, worker: Worker) -> None:
    # The trace of the CPU's own kernels. What is left is what one does and the other does not:
    # the norms of clipping, and blocks of 512 bytes for scalars.
    found = take(RUNS[name], worker)
    assert found.status == "ok"
    assert found.allocated_peak_bytes == pytest.approx(
        gpu_memory.on_cpu(TOY, RUNS[name]), rel=0.005
    )
    assert found.allocated_peak_bytes == max(found.peaks.values()) == found.peaks[found.peak_at]
    assert found.tokens_per_second


@pytest.mark.parametrize("name", ["full", "lora", "qlora"])
def test_kernels_of_the_gpu_differ_little_where_the_loss_is_whole(
    name: str, worker: Worker
) -> None:
    # With the chunked loss the CPU folds its tiles in PyTorch and a GPU in Triton: not comparable.
    from cookbook.simulate import simulate

    run = RUNS[name]
    traced = simulate(TOY.config, run, whole=True).traced_peak_bytes
    assert take(run, worker).allocated_peak_bytes == pytest.approx(traced, rel=0.05)


def test_the_peak_is_where_the_bytes_are(worker: Worker) -> None:
    wide = Model("wide", "made up", {**TOY.config, "vocab_size": 16384})
    found = measure(
        wide, RUNS["lora"], steps=1, device="cpu", worker=worker, memory_limit_bytes=None
    )
    assert found.peak_at == "loss"
    deep = {**to_dict(RUNS["full"]), "batch": 1, "seq_len": 8, "optimizer": "adamw", "padded": None}
    assert take(TrainingRun(**deep), worker).peak_at in ("optimizer", "embedding")
    assert "reference" in take(RUNS["dpo"], worker).peaks


def test_padding_reaches_the_kernels() -> None:
    # A mask without zeros is dropped by Transformers: padded and packed would then be the same.
    packed, padded = (
        TrainingRun(loss="full", padded=each, gradient_checkpointing=False, **DRY)
        for each in (False, True)
    )
    sizes = [in_process(run)["allocated_peak_bytes"] for run in (packed, padded)]
    assert sizes[1] - sizes[0] > 2 * 128 * 128  # the mask of two sequences, a byte for each pair


def in_process(run: TrainingRun, **values: Any) -> dict[str, Any]:
    job = {"config": TOY.config, "run": to_dict(resolved(run)[0]), "device": "cpu", "steps": 1}
    return measured({**job, **values}, lambda _: None)


def test_reuse_of_a_child_changes_nothing(worker: Worker) -> None:
    for name in ("full, 8 bit", "qlora", "dpo"):
        used = take(RUNS[name], worker)
        fresh = in_process(RUNS[name])
        again = take(RUNS[name], worker)
        assert used.allocated_peak_bytes == again.allocated_peak_bytes
        assert used.allocated_peak_bytes == pytest.approx(fresh["allocated_peak_bytes"], rel=0.002)
        assert again.details["allocated_before_bytes"] == 0


def test_the_answer_has_the_form_of_an_estimate(worker: Worker) -> None:
    answer = measurement_dict(take(RUNS["lora"], worker))
    assert json.loads(json.dumps(answer)) == answer
    assert answer["answered_by"] == "measurement"
    assert answer["schema"] == 1
    assert answer["reserved_peak_bytes"] is None  # no allocator on a CPU
    assert not answer["oom"]
    assert not answer["killed"]
    assert answer["versions"]["torch"] == torch.__version__
    assert answer["error_percent"]["allocated"] == pytest.approx(
        100 * (answer["estimate"]["allocated_peak_bytes"] / answer["allocated_peak_bytes"] - 1),
        abs=0.001,
    )
    for key in ("model", "run", "terms", "assumptions", "peak_at", "uncertainty_percent"):
        assert key in answer


# --------------------------------------------------------------------------------- ways to fail
@pytest.mark.parametrize(("limit", "stage"), [(10_000, "load"), (8_000_000, "warm-up")])
def test_running_out_of_memory_is_a_row(limit: int, stage: str, worker: Worker) -> None:
    found = take(RUNS["full"], worker, memory_limit_bytes=limit)
    assert (found.status, found.stage) == ("oom", stage)
    assert found.allocated_peak_bytes is None
    assert max(found.details["peaks_at_failure"].values()) > limit
    answer = measurement_dict(found)
    assert answer["oom"] is True
    assert answer["error_percent"] == {}
    assert take(RUNS["lora"], worker).status == "ok"  # and the child goes on


def test_a_limit_that_is_enough_changes_nothing(worker: Worker) -> None:
    free = take(RUNS["full"], worker).allocated_peak_bytes
    assert free is not None
    most = max(free, take(RUNS["full"], worker).first_step_peak_bytes or 0)
    assert take(RUNS["full"], worker, memory_limit_bytes=most).allocated_peak_bytes == free
    assert take(RUNS["full"], worker, memory_limit_bytes=free - 1024).status == "oom"


def test_a_machine_that_is_really_out_of_memory_is_a_row() -> None:
    huge = Model("huge", "made up", {**TOY.config, "vocab_size": 64_000_000})
    limited = f"ulimit -v 16000000; exec {sys.executable} -m cookbook.measured_step"
    with Worker(("sh", "-c", limited)) as child:
        found = measure(huge, RUNS["full"], steps=1, device="cpu", worker=child, timeout_s=60)
    assert found.status == "oom"
    assert found.stage == "load"
    assert "memory" in found.reason


def test_words_of_other_libraries() -> None:
    for words in (
        "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    ):  # fmt: skip
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def stub(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "status", "stage", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed", "start", "killed by signal 9"),
        ("print('{\"stage\": \"load\"}', flush=True); import time; time.sleep(60)", "killed",
         "load", "no answer within 2 seconds"),
        ("raise ValueError('odd')", "killed", "start", "ended with code 1: ValueError: odd"),
        ("import sys; sys.exit('CUDA error: out of memory')", "oom", "start",
         "ended with code 1: CUDA error: out of memory"),
    ],
)  # fmt: skip
def test_a_child_that_dies_or_hangs_is_a_row(
    code: str, status: str, stage: str, reason: str
) -> None:
    with Worker(stub(code)) as child:
        found = measure(TOY, RUNS["lora"], device="cpu", worker=child, timeout_s=2)
        assert (found.status, found.stage, found.reason) == (status, stage, reason)
        assert child.process is None  # gone, and the next job starts another
    answer = measurement_dict(found)
    assert answer["killed"] is (status == "killed")
    assert answer["allocated_peak_bytes"] is None


def refusal(model: Model, run: TrainingRun, **options: Any) -> AdvisorError:
    with pytest.raises(AdvisorError) as caught:
        measure(model, run, **options)
    assert caught.value.hint
    return caught.value


def test_what_cannot_be_measured_is_refused(worker: Worker) -> None:
    big = find_model("meta-llama/Llama-3.1-8B")
    gpt2 = find_model("openai-community/gpt2")
    assert refusal(TOY, TrainingRun(gpus=2)).exit_code == EXIT_USAGE
    assert refusal(gpt2, TrainingRun(seq_len=4096), worker=worker).exit_code == EXIT_USAGE
    paged = TrainingRun(optimizer="paged-adamw-8bit", **SHORT)
    assert refusal(TOY, paged, device="cpu", worker=worker).exit_code == EXIT_UNKNOWN
    liger = TrainingRun(loss="fused", **SHORT)
    assert refusal(TOY, liger, device="cpu", worker=worker).exit_code == EXIT_UNKNOWN
    if torch.cuda.is_available():
        pytest.skip("the rest is about machines without a GPU")
    for device in ("auto", "cuda"):
        error = refusal(big, TrainingRun(), device=device, worker=worker)
        assert error.exit_code == EXIT_UNKNOWN
        assert "NVIDIA" in error.message
        assert "simulate" in error.hint
    assert take(RUNS["lora"], worker, device="auto").device == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_three_figures_are_in_order(worker: Worker) -> None:
    from cookbook.simulate import simulate

    wide = Model("wide", "made up", {**TOY.config, "vocab_size": 65536})
    run = TrainingRun(loss="full", **{**DRY, "seq_len": 512})
    found = measure(wide, run, steps=2, device="cuda", worker=worker, timeout_s=300)
    assert found.status == "ok"
    assert found.allocated_peak_bytes is not None
    assert found.reserved_peak_bytes is not None
    assert found.reserved_peak_bytes >= found.allocated_peak_bytes
    assert (found.device_peak_bytes or 10**15) > found.reserved_peak_bytes
    traced = simulate(wide.config, run, whole=True).allocated_peak_bytes
    assert found.allocated_peak_bytes == pytest.approx(traced, rel=0.1)
    half = found.allocated_peak_bytes // 2
    small = measure(
        wide, run, steps=1, device="cuda", worker=worker, memory_limit_bytes=half, timeout_s=300
    )
    assert small.status == "oom"


# ---------------------------------------------------------------------------------------- rows
def test_rows_of_many_writers_stay_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.jsonl")
    row = {"text": "x" * 5000}
    writers = [
        threading.Thread(target=lambda n=n: [append_row(path, {**row, "n": n}) for _ in range(10)])
        for n in range(8)
    ]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    rows = read_rows(path)
    assert sorted(each["n"] for each in rows) == sorted(list(range(8)) * 10)


def test_a_torn_line_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": 2', encoding="utf-8")
    append_row(str(path), {"n": 3})
    assert [row["n"] for row in read_rows(str(path))] == [1, 3]
    assert read_rows(str(tmp_path / "none")) == []


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(str(path), {"n": 1})
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(module.os, "write", lambda fd, data: write(fd, data[:4]))
    with pytest.raises(AdvisorError, match="disk is full"):
        append_row(str(path), {"n": 2})
    assert path.read_bytes() == before
    with pytest.raises(AdvisorError):
        append_row(str(tmp_path), {"n": 3})


# --------------------------------------------------------------------------------- the benchmark
def test_the_plan_covers_what_it_must_and_does_so_early() -> None:
    rows = gpu_memory.all_rows()
    assert len(rows) >= 60
    assert len({gpu_memory.MODELS[row.size] for row in rows}) >= 6
    assert len({gpu_memory.key(row, False) for row in rows}) == len(rows)
    every = {each for row in rows for each in gpu_memory.dimensions(row)}
    early = {each for row in rows[:20] for each in gpu_memory.dimensions(row)}
    assert every == early
    assert {("method", m) for m in ("full", "lora", "qlora", "dpo")} <= every
    for name in ("length", "checkpointing", "padded"):
        assert {(name, True), (name, False)} <= every
    assert {("attention", "flash"), ("attention", "eager")} <= every
    assert {("loss", "full"), ("loss", "chunked")} <= every


def test_the_benchmark_resumes_and_sums_up(
    tmp_path: Path, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    words = ["--device", "cpu", "--tiny", "--append", str(path), "--steps", "1", "--rows"]
    for rows in ("2", "4", "4"):
        gpu_memory.run_all(gpu_memory.parsed([*words, rows]), worker)
    assert len(capsys.readouterr().out.splitlines()) == 4
    found = read_rows(str(path))
    assert len(found) == len({row["key"] for row in found}) == 4
    ok = [row for row in found if row["status"] == "ok"]
    assert ok
    assert all(abs(row["error_percent"]["allocated"]) < 1 for row in ok)
    assert gpu_memory.summary(found)["rows"] == 4


def row(status: str, said: int, high: int, capacity: int) -> dict[str, Any]:
    estimate = {"allocated_peak_bytes": said, "reserved_peak_bytes": {"typical": high}}
    return {"status": status, "verdict": gpu_memory.verdict(estimate, capacity)}


def test_decisions_are_right_wrong_or_open() -> None:
    assert gpu_memory.decision(row("ok", 10, 11, 12)) == "right"
    assert gpu_memory.decision(row("oom", 10, 11, 12)) == "wrong"
    assert gpu_memory.decision(row("oom", 13, 14, 12)) == "right"
    assert gpu_memory.decision(row("ok", 13, 14, 12)) == "wrong"
    assert gpu_memory.decision(row("oom", 10, 14, 12)) == "open"
    assert gpu_memory.decision({**row("ok", 1, 1, 1), "status": "killed"}) is None


def test_the_bundle_takes_one_binary_of_bitsandbytes() -> None:
    kept = [
        name
        for name in (
            "bitsandbytes/libbitsandbytes_cuda130.so", "bitsandbytes/libbitsandbytes_cuda128.so",
            "bitsandbytes/libbitsandbytes_rocm72.so", "bitsandbytes/libbitsandbytes_cpu.so",
            "trl/trainer/utils.py",
        )
        if not gpu_bundle.unneeded(name, "130")
    ]  # fmt: skip
    assert kept == [
        "bitsandbytes/libbitsandbytes_cuda130.so", "bitsandbytes/libbitsandbytes_cpu.so",
        "trl/trainer/utils.py",
    ]  # fmt: skip
