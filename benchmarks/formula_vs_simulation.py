"""The memory formula against the simulator: full-size models, every method, chosen with a seed.

Both extend few layers to all. Rows are kept in build/, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from results import append

from advisor.errors import AdvisorError
from advisor.memory import estimate
from advisor.shapes import Model, find_model, parameter_count
from advisor.states import optimizer_bytes, step_temporary
from advisor.step import play
from advisor.tape import basis_values
from advisor.training_run import TrainingRun, resolved, to_dict

ROWS = Path(__file__).resolve().parent.parent / "build" / "formula_vs_simulation.jsonl"
MODELS = (
    "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1",
    "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-7B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B",
    "google/gemma-2b", "google/gemma-2-2b-it", "google/gemma-3-1b-it", "microsoft/phi-2",
    "microsoft/Phi-3-mini-128k-instruct", "tiiuae/falcon-7b-instruct", "tiiuae/falcon-40b",
    "openai-community/gpt2", "EleutherAI/pythia-1b", "stabilityai/stablelm-2-zephyr-1_6b",
    "allenai/OLMo-1B-hf", "allenai/OLMo-2-0425-1B", "ibm-granite/granite-3.3-2b-instruct",
    "bigcode/starcoder2-7b", "HuggingFaceTB/SmolLM3-3B", "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen3-30B-A3B", "Qwen/Qwen1.5-MoE-A2.7B-Chat",
)  # fmt: skip
METHODS = ("full", "lora", "qlora", "cpt", "dpo")
OPTIMIZERS = ("adamw-fused", "adamw-fused", "adamw", "adamw-8bit", "adafactor", "sgd")


def chosen_run(pick: random.Random, model: Model) -> TrainingRun:
    """A run drawn at random; flags that do not go together are left out."""
    method = pick.choice(METHODS)
    adapters = method in ("lora", "qlora") or (method == "dpo" and pick.random() < 0.5)
    settings: dict[str, Any] = {
        "method": method,
        "seq_len": pick.choice((256, 512, 1024, 2048, 4096)),
        "batch": pick.choice((1, 2, 4, 8)),
        "gradient_checkpointing": pick.random() < 0.6,
        "precision": pick.choice(("bf16", "amp-bf16", "amp-bf16", "fp32")),
        "optimizer": pick.choice(OPTIMIZERS),
        "attention": pick.choice(("flash", "flash", "flash", "efficient", "eager")),
        "loss": "chunked" if method == "dpo" else pick.choice(("chunked", "full", "fused")),
        "padded": pick.choice((True, False)),
    }
    if adapters:
        settings["lora_rank"] = pick.choice((8, 16, 64))
        wide = pick.choice((("all-linear",), None))
        settings["lora_targets"] = ("q_proj", "v_proj") if model.shape.experts else wide
    if method == "qlora":
        settings["double_quant"] = pick.choice((True, False))
    return TrainingRun(**settings)


def like_for_like(model: Model, run: TrainingRun) -> tuple[float, str]:
    """The formula's peak and its place, as a trace would see it: nothing in place or hidden."""
    played, bases = play(model.shape, run, inplace=False), basis_values(run.sequences, run.seq_len)
    fixed = optimizer_bytes(run.optimizer, played.leaves)[0]
    if run.method == "dpo" and not run.adapters:
        fixed += parameter_count(model.shape) * (2 if run.weights_dtype == "bf16" else 4)
    extra = {"after": step_temporary(run.optimizer, played.leaves)}
    return max((m.bytes(bases) + fixed + extra.get(m.place, 0.0), m.place) for m in played.moments)


def complete(model: Model, run: TrainingRun) -> TrainingRun:
    """The run with nothing open, the adapter targets included."""
    run, _ = resolved(run)
    if run.adapters and run.lora_targets is None:
        return replace(run, lora_targets=model.shape.lora_targets or ("all-linear",))
    return run


def simulated(model: Model, run: TrainingRun) -> dict[str, Any]:
    """What the simulator says of one configuration, or that it refuses."""
    from cookbook.simulate import simulate

    began = time.perf_counter()
    try:
        found = simulate(model.config, run)
    except AdvisorError as error:
        return {"refused": str(error)}
    return {
        "simulated": found.traced_peak_bytes, "simulated_whole": found.allocated_peak_bytes,
        "simulated_place": found.peak_at, "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip


def compared(model: Model, run: TrainingRun, row: dict[str, Any]) -> dict[str, Any]:
    """The row with the formula's answers beside the simulator's."""
    peak, place = like_for_like(model, run)
    printed = estimate(model, run).allocated_peak_bytes
    return {
        **row, "model": model.id, "family": model.shape.model_type, "run": to_dict(run),
        "place": place, "error_percent": 100 * (peak / row["simulated"] - 1),
        "printed_error_percent": 100 * (printed / row["simulated_whole"] - 1),
    }  # fmt: skip


def wanted(count: int, seed: int) -> Iterator[tuple[str, Model, TrainingRun]]:
    """Configurations in a fixed order, models in turn."""
    pick = random.Random(seed)
    for number in range(count):
        model = find_model(MODELS[number % len(MODELS)])
        run = chosen_run(pick, model)
        if model.id == "tiiuae/falcon-7b-instruct" and run.autocast:
            # the simulator lets autocast into SDPA's own arithmetic, CUDA does not
            run = replace(run, precision="bf16")
        yield f"{seed}-{number}", model, run


def run_all(count: int, seed: int, limit_s: float) -> list[dict[str, Any]]:
    """Rows of all configurations that there was time for; those of earlier runs are kept."""
    ROWS.parent.mkdir(exist_ok=True)
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    done = {row["key"]: row for row in map(json.loads, lines)}
    began, rows = time.monotonic(), []
    for key, model, open_run in wanted(count, seed):
        run = complete(model, open_run)
        if key not in done:
            if time.monotonic() - began > limit_s:
                continue
            done[key] = {"key": key, **simulated(model, run)}
            with ROWS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
        row = done[key]
        rows.append(row if "refused" in row else compared(model, run, row))
    return rows


def summary(rows: list[dict[str, Any]], field: str) -> dict[str, Any]:
    """How far the formula is off: shares, worst, by family, by place."""
    errors = [abs(row[field]) for row in rows]
    groups: dict[str, dict[str, list[float]]] = {"family": defaultdict(list), "place": {}}
    groups["place"] = defaultdict(list)
    for row in rows:
        for name, members in groups.items():
            members[row[name]].append(abs(row[field]))
    return {
        "within_1_percent": sum(e <= 1 for e in errors) / len(errors),
        "within_0.1_percent": sum(e <= 0.1 for e in errors) / len(errors),
        "median_percent": round(median(errors), 4),
        "worst_percent": round(max(errors), 3),
        **{
            f"by_{name}": {
                key: {"runs": len(es), "median": round(median(es), 4), "worst": round(max(es), 3)}
                for key, es in sorted(members.items())
            }
            for name, members in groups.items()
        },
    }


def main() -> None:
    """Compare, print, and append the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=325)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--limit-seconds", type=float, default=3600)
    parser.add_argument("--no-append", action="store_true")
    options = parser.parse_args()
    rows = run_all(options.count, options.seed, options.limit_seconds)
    answered = [row for row in rows if "refused" not in row]
    refused = Counter(row["refused"] for row in rows if "refused" in row)
    worst = sorted(answered, key=lambda row: -abs(row["error_percent"]))[:10]
    figures = {
        "configurations": len(answered),
        "refused_by_the_simulator": dict(refused),
        "like_for_like": summary(answered, "error_percent"),
        "as_printed": summary(answered, "printed_error_percent"),
        "simulated_places": dict(Counter(row["simulated_place"] for row in answered)),
        "worst_ten": [
            {k: row[k] for k in ("model", "run", "error_percent", "place", "simulated_place")}
            for row in worst
        ],
        "seed": options.seed,
        "seconds_per_simulation": round(median(row["seconds"] for row in answered), 2),
    }
    json.dump(figures, sys.stdout, indent=1)
    if not options.no_append:
        append("formula_vs_simulation", figures, ("torch", "transformers", "peft", "trl"))


if __name__ == "__main__":
    main()
