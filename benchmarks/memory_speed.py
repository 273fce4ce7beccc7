"""How fast the three answers are: cold commands, a sweep through the Python API, in one run.

`accelerate estimate-memory` needs the hub for an answer, so it is timed with --help: what it takes
before it can begin. Run: python benchmarks/memory_speed.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results import append

BIN = Path(sys.executable).parent
LARGE = "meta-llama/Llama-3.1-70B"
COMMANDS = {
    "advisor memory": ["advisor", "memory", "--model", "meta-llama/Llama-3.1-8B", "--json"],
    "advisor fit": ["advisor", "fit", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "RTX-4090"],
    "accelerate estimate-memory --help": ["accelerate", "estimate-memory", "--help"],
    "cookbook simulate, 8B": ["cookbook", "simulate", "--model", "meta-llama/Llama-3.1-8B"],
    "cookbook simulate, 70B": ["cookbook", "simulate", "--model", LARGE, "--method", "qlora"],
}
SWEEP = {
    "models": ["meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B", "mistralai/Mistral-7B-v0.1",
               "google/gemma-2-9b-it", "microsoft/phi-4"],
    "methods": ["full", "lora", "qlora", "cpt"],
    "batches": list(range(1, 21)),
    "lengths": list(range(256, 256 * 26, 256)),
}  # fmt: skip
CODE = """
import time
began = time.perf_counter()
from advisor.memory import PeakCurve
from advisor.shapes import find_model
from advisor.training_run import TrainingRun
sweep, count = {sweep}, 0
for model in sweep["models"]:
    for method in sweep["methods"]:
        peak = PeakCurve(find_model(model), TrainingRun(method=method))
        for batch in sweep["batches"]:
            for length in sweep["lengths"]:
                peak(batch, length)
                count += 1
print(count, time.perf_counter() - began)
"""


def seconds(command: list[str]) -> float:
    """Wall time of one cold command."""
    began = time.perf_counter()
    done = subprocess.run([str(BIN / command[0]), *command[1:]], capture_output=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr.decode()}")
    return time.perf_counter() - began


def cold(runs: int) -> dict[str, dict[str, float]]:
    """Median and extremes of each command, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(runs):
        for name, command in COMMANDS.items():
            if turn < 3 or "simulate" not in name:
                times[name].append(seconds(command))
    return {
        name: {"median_s": statistics.median(t), "low_s": min(t), "high_s": max(t), "runs": len(t)}
        for name, t in times.items()
    }


def sweep(runs: int) -> dict[str, float]:
    """Seconds for the whole sweep in a fresh process, imports and models included."""
    found = []
    for _ in range(runs):
        code = CODE.format(sweep=SWEEP)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=True)  # fmt: skip
        count, took = done.stdout.split()
        found.append(float(took))
    return {"configurations": int(count), "median_s": statistics.median(found),
            "low_s": min(found), "high_s": max(found), "runs": runs}  # fmt: skip


def main() -> None:
    """Measure, print, and append to results/memory_speed.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--no-append", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {"cold": cold(options.runs), "sweep": sweep(min(5, options.runs))}
    ours = figures["cold"]["advisor memory"]["median_s"]
    other = figures["cold"]["accelerate estimate-memory --help"]["median_s"]
    figures["ratio_to_accelerate"] = other / ours
    for name, row in [*figures["cold"].items(), ("sweep of 10,000", figures["sweep"])]:
        print(f"{name:<36} {row['median_s']:7.3f} s  ({row['low_s']:.3f} to {row['high_s']:.3f})")
    print(f"accelerate takes {figures['ratio_to_accelerate']:.1f} times as long to print its help")
    if not options.no_append:
        append("memory_speed", figures, ("torch", "transformers", "peft", "accelerate"))


if __name__ == "__main__":
    main()
