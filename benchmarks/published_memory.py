"""Our estimate beside every published measurement of `advisor/data/measured.csv`."""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from results import append

from advisor.errors import AdvisorError
from advisor.training_run import TrainingRun

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "advisor" / "data" / "measured.csv"
WHOLE = ("seq_len", "batch", "lora_rank", "gpus")
YES_NO = (
    "gradient_checkpointing",
    "padded",
    "kbit_fp32",
    "double_quant",
    "train_embeddings",
)
TEXT = (
    "method",
    "adapter_dtype",
    "optimizer",
    "precision",
    "weights_dtype",
    "loss",
    "attention",
    "sharding",
)
METRICS = ("allocated", "reserved", "device")
GROUPS = {
    "headline": "Hugging Face stack, one GPU, allocated peak",
    "older-stack": "the same with transformers before 4.46, where that does not matter",
    "fsdp": "Hugging Face stack, FSDP on two GPUs, allocated peak of rank 0",
    "reserved": "reserved by the caching allocator",
    "device": "used memory as nvidia-smi sees it",
}


@dataclass(frozen=True)
class Row:
    """One published measurement; `bytes` is what was measured, `metric` says which peak."""

    id: str
    group: str
    model: str
    run: TrainingRun
    attn_implementation: str
    metric: str
    bytes: int
    gpu: str
    stack: str
    source: str
    as_of: str
    quality: str
    usable: str
    note: str

    @property
    def scored(self) -> bool:
        """Whether the estimate is judged by this row."""
        return self.usable == "yes"


def to_run(cells: dict[str, str]) -> TrainingRun:
    """The TrainingRun of one line; an empty cell leaves the default. Raises `ValueError`."""
    values: dict[str, Any] = {key: cells[key] for key in TEXT if cells[key]}
    values |= {key: int(cells[key]) for key in WHOLE if cells[key]}
    for key in YES_NO:
        if cells[key]:
            values[key] = {"yes": True, "no": False}[cells[key]]
    if cells["lora_targets"]:
        values["lora_targets"] = tuple(cells["lora_targets"].split())
    if cells["lora_dropout"]:
        values["lora_dropout"] = float(cells["lora_dropout"])
    return TrainingRun(**values)


def load_rows(path: Path = MEASURED) -> list[Row]:
    """Every line of the file."""
    plain = (
        "id",
        "group",
        "model",
        "attn_implementation",
        "metric",
        "gpu",
        "stack",
        "source",
        "as_of",
        "quality",
        "usable",
        "note",
    )
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                run=to_run(cells),
                bytes=int(cells["bytes"]),
                **{key: cells[key] for key in plain},
            )
            for cells in csv.DictReader(file)
        ]


def predicted(estimate: Any, metric: str) -> tuple[int, int, int]:
    """(low, typical, high) in bytes of the figure that the row measured."""
    if metric == "allocated":
        peak = int(estimate.allocated_peak_bytes)
        return peak, peak, peak
    interval = getattr(estimate, f"{metric}_peak_bytes")
    low, typical, high = (
        interval[key] if isinstance(interval, dict) else getattr(interval, key)
        for key in ("low", "typical", "high")
    )
    return int(low), int(typical), int(high)


def score(rows: Iterable[Row], simulate: bool) -> list[dict[str, Any]]:
    """One result a scored row; a row that our estimator refuses keeps its reason."""
    from advisor.memory import estimate
    from advisor.shapes import find_model

    results = []
    for row in rows:
        result: dict[str, Any] = {
            "id": row.id,
            "group": row.group,
            "method": row.run.method,
            "metric": row.metric,
            "measured": row.bytes,
        }
        try:
            model = find_model(row.model)
            answer = estimate(model, row.run)
            low, typical, high = predicted(answer, row.metric)
            result |= {
                "estimate": typical,
                "error_percent": percent(typical, row.bytes),
                "inside": low <= row.bytes <= high,
                "peak_at": answer.peak_at,
            }
            if simulate and row.metric == "allocated":
                result |= simulated(model, row)
        except AdvisorError as error:
            result["refused"] = str(error)
        results.append(result)
    return results


def simulated(model: Any, row: Row) -> dict[str, Any]:
    """The simulator's answer for the same row."""
    from cookbook.simulate import simulate

    answer = simulate(model.config, row.run)
    return {
        "simulated": int(answer.allocated_peak_bytes),
        "simulated_error_percent": percent(int(answer.allocated_peak_bytes), row.bytes),
    }


def percent(estimate: int, measured: int) -> float:
    """Signed error in per cent of the measurement."""
    return round(100 * (estimate / measured - 1), 3)


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst absolute error by group and by method; share inside the interval."""
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        parts[result["group"]].append(result)
        parts[f"{result['group']} {result['method']}"].append(result)
    summary = {}
    for name, members in sorted(parts.items()):
        answered = [m for m in members if "error_percent" in m]
        if not answered:
            summary[name] = {"rows": len(members), "answered": 0}
            continue
        errors = [abs(m["error_percent"]) for m in answered]
        figures: dict[str, Any] = {
            "rows": len(members),
            "answered": len(answered),
            "median_percent": round(median(errors), 3),
            "worst_percent": max(errors),
        }
        if any(m["metric"] != "allocated" for m in answered):
            figures["inside_share"] = round(sum(m["inside"] for m in answered) / len(answered), 3)
        if simulated_errors := [
            abs(m["simulated_error_percent"]) for m in answered if "simulated" in m
        ]:
            figures["simulated_median_percent"] = round(median(simulated_errors), 3)
            figures["simulated_worst_percent"] = max(simulated_errors)
        summary[name] = figures
    return summary


def table(results: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    """What the terminal shows."""
    lines = []
    for group, title in GROUPS.items():
        members = [r for r in results if r["group"] == group]
        if not members:
            continue
        lines += [f"{title}:", f"  {'row':<44}{'measured':>10}{'estimate':>10}{'error':>9}"]
        for r in members:
            start = f"  {r['id']:<44}{r['measured'] / 1e9:>10.3f}"
            if "refused" in r:
                lines.append(f"{start}  refused: {r['refused'][:60]}")
                continue
            end = f"{r['estimate'] / 1e9:>10.3f}{r['error_percent']:>8.2f}%"
            if r["metric"] != "allocated":
                end += "  inside" if r["inside"] else "  OUTSIDE"
            if "simulated" in r:
                end += f"  simulated {r['simulated_error_percent']:.2f}%"
            lines.append(f"{start}{end}  {r['peak_at']}")
        lines.append("")
    lines.append("Absolute error in per cent (GB are 10^9 bytes):")
    for name, figures in summary.items():
        lines.append(f"  {name:<26}" + ", ".join(f"{k} {v}" for k, v in figures.items()))
    return "\n".join(lines)


def main() -> None:
    """Score, print and append the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", action="store_true", help="trace each row as well (slow)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--no-append", action="store_true", help="do not write benchmarks/results/")
    options = parser.parse_args()
    rows = load_rows()
    results = score([row for row in rows if row.scored], options.simulate)
    summary = summarise(results)
    reasons: dict[str, int] = defaultdict(int)
    for row in rows:
        if not row.scored:
            reasons[row.usable] += 1
    figures = {"summary": summary, "rows": results, "not_scored": dict(sorted(reasons.items()))}
    print(json.dumps(figures, indent=1) if options.json else table(results, summary))
    if not options.json:
        print("Not scored: " + "; ".join(f"{n} rows ({why})" for why, n in reasons.items()))
    if not options.no_append:
        packages = ("torch", "transformers", "peft", "bitsandbytes") if options.simulate else ()
        append("published_memory", figures, packages)


if __name__ == "__main__":
    main()
