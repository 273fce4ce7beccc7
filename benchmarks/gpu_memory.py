"""Measure training steps on the GPU at hand and set the estimates beside them.

    python benchmarks/gpu_memory.py                     under nine minutes, rows appended one by one
    python benchmarks/gpu_memory.py --summary           what the rows say, measuring nothing
    python benchmarks/gpu_memory.py --device cpu --tiny the same script on toy models, no GPU

A row that is in the file already is not measured again, so a run that was stopped goes on where
it was. Rows come in an order in which an early stop has covered every dimension.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advisor.errors import AdvisorError
from advisor.machine import gpu_report
from advisor.memory import estimate, resolve
from advisor.shapes import Model, find_model
from advisor.training_run import TrainingRun, resolved, to_dict
from cookbook.measure import Worker, append_row, measure, measurement_dict, read_rows

GIB = 2**30
ROOT = Path(__file__).resolve().parents[1]
GPU_ROWS = ROOT / "benchmarks" / "results" / "gpu_memory.jsonl"
CPU_ROWS = ROOT / "build" / "gpu_memory_cpu.jsonl"
MODELS = {
    "0.5B": "Qwen/Qwen2.5-0.5B",
    "1B": "meta-llama/Llama-3.2-1B",
    "2B": "google/gemma-2-2b-it",
    "3B": "Qwen/Qwen2.5-3B",
    "3.8B": "microsoft/Phi-3-mini-4k-instruct",
    "7B": "mistralai/Mistral-7B-v0.1",
    "8B": "meta-llama/Llama-3.1-8B",
    "13B": "meta-llama/Llama-2-13b-hf",
}


@dataclass(frozen=True)
class Row:
    """One configuration: a model, a run, and the bytes the allocator may hold if not all."""

    size: str
    run: TrainingRun
    limit_gib: float | None = None
    repeat: bool = False

    def label(self) -> str:
        run, limit = self.run, self.limit_gib
        words = [
            f"{self.size:>5} {run.method}",
            "lora" if run.method == "dpo" and run.lora_rank else "",
            f"{run.batch}x{run.seq_len}", run.precision, run.loss, run.attention, run.optimizer,
            "" if run.gradient_checkpointing else "no-ckpt",
            "" if resolved(run)[0].padded is False else "padded",
            "embeddings" if run.train_embeddings else "", "kbit-fp32" if run.kbit_fp32 else "",
            f"limit {limit:g} GiB" if limit else "", "again" if self.repeat else "",
        ]  # fmt: skip
        return " ".join(word for word in words if word)


def key(row: Row, tiny: bool) -> str:
    """What makes a row the same row in a results file."""
    values = [MODELS[row.size], to_dict(row.run), row.limit_gib, row.repeat, tiny]
    return json.dumps(values, sort_keys=True)


# ------------------------------------------------------------------------------ what is measured
PACKED = {"padded": False}
FULL_BF16 = {"method": "full", "precision": "bf16"}
BIG = ("7B", "8B", "13B")


def small_rows(size: str) -> Iterator[Row]:
    """What a model of up to 4B parameters is measured with."""
    for values in (
        {**FULL_BF16, "seq_len": 1024, "batch": 8, **PACKED},
        {"method": "full", "seq_len": 512, "batch": 4, "loss": "full"},
        {"seq_len": 2048, "batch": 4},
        {"seq_len": 1024, "batch": 4, "loss": "full", "gradient_checkpointing": False, **PACKED},
        {"seq_len": 1024, "batch": 4, "attention": "eager", "precision": "bf16"},
        {"method": "qlora", "seq_len": 2048, "batch": 2, "loss": "full"},
        {"method": "dpo", "lora_rank": 16, "seq_len": 1024, "batch": 2},
    ):
        yield Row(size, TrainingRun(**values))  # type: ignore[arg-type]


def big_rows(size: str) -> Iterator[Row]:
    """What a model from 7B parameters is measured with."""
    for values in (
        {"precision": "bf16", "seq_len": 2048, "batch": 4, **PACKED},
        {"precision": "bf16", "seq_len": 1024, "batch": 4, "loss": "full"},
        {"method": "qlora", "weights_dtype": "bf16", "seq_len": 2048, "batch": 4},
        {
            "method": "qlora", "seq_len": 1024, "batch": 4, "loss": "full",
            "lora_targets": ("all-linear",),
        },
        {
            "precision": "bf16", "seq_len": 1024, "batch": 2, "gradient_checkpointing": False,
            **PACKED,
        },
        {"method": "dpo", "lora_rank": 16, "precision": "bf16", "seq_len": 1024, "batch": 2},
    ):  # fmt: skip
        yield Row(size, TrainingRun(**values))  # type: ignore[arg-type]


def single_rows() -> Iterator[Row]:
    """Dimensions that one or two models stand for."""
    for size, values in (
        ("0.5B", {"method": "dpo", "seq_len": 512, "batch": 2}),
        ("1B", {"method": "dpo", "precision": "bf16", "seq_len": 1024, "batch": 2}),
        ("1B", {**FULL_BF16, "seq_len": 1024, "batch": 4, "optimizer": "adamw", **PACKED}),
        ("1B", {**FULL_BF16, "seq_len": 1024, "batch": 4, "optimizer": "adamw-8bit"}),
        ("1B", {**FULL_BF16, "seq_len": 1024, "batch": 4, "optimizer": "adafactor"}),
        ("3B", {**FULL_BF16, "seq_len": 1024, "batch": 4, "optimizer": "sgd"}),
        ("0.5B", {"seq_len": 1024, "batch": 4, "optimizer": "paged-adamw-8bit"}),
        ("1B", {"method": "full", "precision": "fp32", "seq_len": 512, "batch": 4}),
        ("1B", {"seq_len": 1024, "batch": 4, "attention": "efficient", **PACKED}),
        ("1B", {"seq_len": 1024, "batch": 4, "loss": "fused", **PACKED}),
        ("1B", {"seq_len": 1024, "batch": 4, "train_embeddings": True}),
        ("8B", {"method": "qlora", "kbit_fp32": True, "double_quant": True, "seq_len": 1024,
                "batch": 2}),
        ("3B", {**FULL_BF16, "seq_len": 1024, "batch": 4, "gradient_checkpointing": False}),
        ("1B", {"method": "cpt", "precision": "bf16", "seq_len": 4096, "batch": 2}),
        ("7B", {**FULL_BF16, "seq_len": 1024, "batch": 4, "optimizer": "sgd", **PACKED}),
        ("7B", {**FULL_BF16, "seq_len": 1024, "batch": 2, "optimizer": "adamw-8bit", **PACKED}),
    ):  # fmt: skip
        yield Row(size, TrainingRun(**values))  # type: ignore[arg-type]


def limited_rows() -> Iterator[Row]:
    """Steps that just fit, or just don't, on cards of other sizes, and on one of 80 GB."""
    lora = {"precision": "bf16", "seq_len": 1024}
    for size, limit, values in (
        ("8B", 24, {**lora, "batch": 8}),
        ("8B", 16, {**lora, "batch": 2}),
        ("8B", 24, {**lora, "batch": 4, "loss": "full"}),
        ("7B", 8, {"method": "qlora", "seq_len": 1024, "batch": 4, "weights_dtype": "bf16"}),
        ("8B", 12, {"method": "qlora", "seq_len": 2048, "batch": 4, "loss": "full"}),
        ("13B", 24, {**lora, "batch": 1}),
        ("13B", 12, {"method": "qlora", "seq_len": 1024, "batch": 2, "weights_dtype": "bf16"}),
        ("3B", 24, {**FULL_BF16, "seq_len": 1024, "batch": 2}),
        ("0.5B", 8, {"method": "full", "seq_len": 1024, "batch": 4, "loss": "full"}),
        ("13B", None, {**FULL_BF16, "seq_len": 1024, "batch": 1}),
    ):  # fmt: skip
        yield Row(size, TrainingRun(**values), limit)  # type: ignore[arg-type]


def all_rows() -> list[Row]:
    """Every configuration, spread out, and the first one once more to see what reuse changes."""
    rows = [row for size in MODELS if size not in BIG for row in small_rows(size)]
    rows += [row for size in BIG for row in big_rows(size)]
    rows += [*single_rows(), *limited_rows()]
    rows = spread(rows)
    return [*rows[:12], replace(rows[0], repeat=True), *rows[12:]]


def dimensions(row: Row) -> list[tuple[str, Any]]:
    """What a row stands for."""
    run = row.run
    return [
        ("size", row.size), ("method", run.method), ("length", run.seq_len > 1024),
        ("checkpointing", run.gradient_checkpointing), ("padded", resolved(run)[0].padded),
        ("attention", run.attention), ("loss", run.loss), ("precision", run.precision),
        ("optimizer", run.optimizer), ("limit", row.limit_gib is not None),
        ("reference", run.method == "dpo" and run.lora_rank is None),
    ]  # fmt: skip


def spread(rows: list[Row]) -> list[Row]:
    """The rows in an order in which what was seen least comes next; of two, the smaller model."""
    seen: Counter[tuple[str, Any]] = Counter()
    left, ordered = list(rows), []
    sizes = list(MODELS)
    while left:
        row = max(
            left,
            key=lambda each: (
                sum(1 / (1 + seen[d]) ** 2 for d in dimensions(each)), -sizes.index(each.size),
            ),
        )  # fmt: skip
        left.remove(row)
        ordered.append(row)
        seen.update(dimensions(row))
    return ordered


# --------------------------------------------------------------------------------- how it is done
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 32,
        "num_attention_heads": 4, "vocab_size": 2048}  # fmt: skip


def tiny(row: Row) -> tuple[Model, Row]:
    """The row with a toy of the same architecture and a sixteenth of the tokens."""
    model = find_model(MODELS[row.size])
    grouped = model.config.get("num_key_value_heads", 0) != model.config["num_attention_heads"]
    config = {**model.config, **TINY, "num_key_value_heads": 2 if grouped else 4}
    config.pop("layer_types", None)
    config["pad_token_id"] = 0
    run = replace(row.run, seq_len=row.run.seq_len // 16, batch=min(row.run.batch, 4))
    if run.adapters:
        run = replace(run, lora_dropout=0.0)  # a CPU keeps noise of 4 bytes, a GPU a mask of 1
    return Model(f"{model.id} (toy)", model.source, config), replace(row, run=run)


def limit_bytes(row: Row, model: Model, is_tiny: bool, original: Row) -> int | None:
    """The limit of a row; a toy's is as far from its estimate as that of the real model."""
    if original.limit_gib is None:
        return None
    if not is_tiny:
        return int(original.limit_gib * GIB)
    real = estimate(find_model(MODELS[row.size]), original.run).allocated_peak_bytes
    share = original.limit_gib * GIB / real
    return int(share * on_cpu(model, row.run))


def on_cpu(model: Model, run: TrainingRun) -> int:
    """What the simulator says of the CPU's own kernels: no flash, no Triton, no cuBLAS."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    from cookbook.cuda_paths import cuda_paths
    from cookbook.meta_model import build, replace_tensors
    from cookbook.tracker import MemoryTracker
    from cookbook.training_step import run_step

    run = resolve(model, run)[0]
    built = build(model.config, replace(run, loss="full") if run.loss == "fused" else run, None)

    def new(shape: Any, dtype: Any) -> Any:
        return torch.empty(tuple(shape), dtype=dtype)

    with cuda_paths("native"), FakeTensorMode(allow_non_fake_inputs=True):
        for each in filter(None, (built.model, built.reference)):
            replace_tensors(each, lambda tensor: new(tensor.shape, tensor.dtype))
        tracker = MemoryTracker("cpu", vocabulary=built.vocabulary, only=FakeTensor)
        run_step(built, run, tracker, new)
    return max(peak.allocated_bytes for peak in tracker.peaks.values())


def verdict(said: dict[str, Any], capacity: int) -> str:
    """What the estimate says of that many bytes for the allocator: fits, too-large or tight."""
    if said["allocated_peak_bytes"] > capacity:
        return "too-large"
    return "fits" if said["reserved_peak_bytes"]["typical"] <= capacity else "tight"


def measure_row(original: Row, options: argparse.Namespace, worker: Worker, left: float) -> Any:
    """One row of the results file."""
    model, row = find_model(MODELS[original.size]), original
    if options.tiny:
        model, row = tiny(original)
    limit = limit_bytes(row, model, options.tiny, original)

    def once() -> Any:
        imports = 0 if worker.process else 90  # seconds a new child may need for its libraries
        return measure(
            model, row.run, steps=options.steps, device=options.device, worker=worker,
            timeout_s=min(options.row_seconds + imports, left), memory_limit_bytes=limit,
        )  # fmt: skip

    try:
        found = once()
        if found.details.get("allocated_before_bytes", 0) > 2**20:  # something was left over
            worker.close()
            found = once()
    except AdvisorError as error:
        return {"status": "refused", "model": model.id, "reason": error.message}
    values = measurement_dict(found)
    said = values["estimate"] or {}
    if said:
        keep = ("allocated_peak_bytes", "reserved_peak_bytes", "device_peak_bytes", "peak_at",
                "terms", "uncertainty_percent")  # fmt: skip
        values["estimate"] = {name: said[name] for name in keep}
        if found.device == "cpu":
            said["allocated_peak_bytes"] = on_cpu(model, row.run)
            values["estimate"]["allocated_peak_bytes"] = said["allocated_peak_bytes"]
            peak = found.allocated_peak_bytes
            share = said["allocated_peak_bytes"] / peak - 1 if peak else 0.0
            values["error_percent"] = {"allocated": round(100 * share, 3)} if peak else {}
        capacity = limit or usable_bytes(found)
        values["capacity_bytes"] = capacity
        values["verdict"] = verdict(said, capacity) if capacity else None
    return values


def usable_bytes(found: Any) -> int | None:
    """What the allocator could have: the card without what it does not hold itself."""
    total = found.card.get("memory_bytes")
    return total - (found.details.get("outside_bytes") or 0) if total else None


def run_all(options: argparse.Namespace, worker: Worker) -> None:
    """Measure what is not in the file yet, until the time is up."""
    began = time.monotonic()
    done = {row.get("key") for row in read_rows(options.append)}
    rows = all_rows()[: options.rows]
    for row in rows:  # a bad row shows now, not when the card is waiting
        estimate(find_model(MODELS[row.size]), row.run)
    slowest = 10.0
    for number, row in enumerate(rows, 1):
        left = options.budget - (time.monotonic() - began)
        if key(row, options.tiny) in done:
            continue
        if left < slowest:
            print(f"out of time: {len(rows) - number + 1} rows were not measured")
            break
        start = time.monotonic()
        values = measure_row(row, options, worker, left)
        values |= {"key": key(row, options.tiny), "label": row.label(), "size": row.size,
                   "limit_gib": row.limit_gib, "repeat": row.repeat}  # fmt: skip
        append_row(options.append, values)
        if number > 1:  # the first one waits for imports
            slowest = max(slowest, min(time.monotonic() - start, 30.0))
        print(f"{number:>3}/{len(rows)} {time.monotonic() - began:5.0f} s  {line(values)}")


def line(row: dict[str, Any]) -> str:
    """A row on one line."""
    head = f"{row['label']:<72}"
    said = row.get("estimate")
    if row["status"] != "ok":
        words = f"{row['status']}: {row.get('stage', '')} {row['reason'][:60]}"
        return f"{head} {words} (said {row.get('verdict')})"
    text = f"{head} allocated {row['allocated_peak_bytes'] / GIB:7.3f}"
    if said:
        text += f", said {said['allocated_peak_bytes'] / GIB:7.3f} GiB"
        text += f" ({row['error_percent']['allocated']:+.1f} %)"
    if row["reserved_peak_bytes"]:
        text += f", reserved {row['reserved_peak_bytes']['typical'] / GIB:.2f}"
    return text + f", {row['peak_at']}, {row['seconds']:.1f} s"


# ------------------------------------------------------------------------------- what came of it
def inside(row: dict[str, Any], name: str) -> bool | None:
    """Whether a measured figure lies in the estimated range; None without one."""
    found, said = row.get(name), (row.get("estimate") or {}).get(name)
    if not found or not said:
        return None
    return bool(said["low"] <= found["typical"] <= said["high"])


def decision(row: dict[str, Any]) -> str | None:
    """Was the verdict right, wrong, or open (tight)? None for a row that decides nothing."""
    if row["status"] not in ("ok", "oom") or row.get("verdict") is None:
        return None
    if row["verdict"] == "tight":
        return "open"
    return "right" if (row["verdict"] == "fits") == (row["status"] == "ok") else "wrong"


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, errors in percent, shares of figures inside their ranges, decisions."""
    ok = [row for row in rows if row["status"] == "ok" and row.get("error_percent")]
    errors = {row["label"]: row["error_percent"]["allocated"] for row in ok if not row["repeat"]}
    sizes = sorted(abs(each) for each in errors.values())
    median = round(statistics.median(sizes), 3) if sizes else None
    worst = sorted(errors, key=lambda label: -abs(errors[label]))[:8]
    peaks = {row["label"]: row["allocated_peak_bytes"] for row in ok}
    again = [
        100 * (size / peaks[label.removesuffix(" again")] - 1)
        for label, size in peaks.items()
        if label.endswith(" again") and label.removesuffix(" again") in peaks
    ]
    found: dict[str, Any] = {
        "rows": len(rows),
        "status": dict(Counter(row["status"] for row in rows)),
        "architectures": len({row["size"] for row in ok}),
        "allocated error, median of absolute %": median,
        "allocated error, worst %": errors[worst[0]] if worst else None,
        "within 1 %": sum(each <= 1 for each in sizes),
        "within 3 %": sum(each <= 3 for each in sizes),
        "worst": {label: errors[label] for label in worst},
        "same step again, difference in %": [round(each, 4) for each in again],
        "decisions": dict(Counter(d for row in rows if (d := decision(row)))),
        "wrong": [row["label"] for row in rows if decision(row) == "wrong"],
    }
    for name in ("reserved_peak_bytes", "device_peak_bytes"):
        known = [each for row in ok if (each := inside(row, name)) is not None]
        found[f"{name} inside its range"] = f"{sum(known)} of {len(known)}" if known else None
    kernels = Counter(name for row in ok for name in row["details"].get("attention_kernels", ()))
    found["attention kernels"] = dict(kernels)
    found["cards"] = sorted({row["card"]["name"] for row in rows if row.get("card")})
    return found


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toys of the same architectures")
    parser.add_argument("--append", metavar="FILE", help="rows, one JSON object a line")
    parser.add_argument("--budget", type=float, default=500.0, help="seconds in all")
    parser.add_argument("--row-seconds", type=float, default=60.0, help="seconds for one row")
    parser.add_argument("--steps", type=int, default=2, help="steps that count, after the first")
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    parser.add_argument("--record", action="store_true", help="keep the summary in results/")
    options = parser.parse_args(words)
    if options.append is None:
        path = GPU_ROWS if options.device == "cuda" else CPU_ROWS
        path.parent.mkdir(exist_ok=True)
        options.append = str(path)
    return options


def main() -> None:
    options = parsed()
    if not options.summary:
        if options.device == "cuda" and not gpu_report().gpus:
            raise SystemExit("no NVIDIA GPU here; --device cpu --tiny proves the script without")
        with Worker() as worker:
            run_all(options, worker)
    found = summary(read_rows(options.append))
    print(json.dumps(found, indent=1))
    if options.record:
        from results import append

        append("gpu_memory" if options.device == "cuda" else "gpu_memory_cpu", found)


if __name__ == "__main__":
    main()
