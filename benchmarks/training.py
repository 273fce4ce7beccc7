"""Tokens per second and peak memory of `cookbook.train` beside a plain TRL script, in one run.

The plain script is what TRL's documentation shows: `SFTTrainer` with `SFTConfig` and `LoraConfig`;
nothing is set but the batch, the length and one epoch, which are the same for both. Seconds are of
everything a user waits for: loading, training, saving.

    python benchmarks/training.py            the lab model on the CPU
    python benchmarks/training.py --shape Qwen/Qwen2.5-0.5B --device cuda --packing
                                             a real shape with random weights, on a GPU
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

METHODS = ("lora", "lora-alike", "full")  # alike: TRL gets our adapters, on all linear layers
BATCH, LENGTH = 16, 256


def rows_of(count: int) -> list[dict[str, str]]:
    """Prompt and completion, all of one epoch."""
    from cookbook.lab import adaptation

    return adaptation.rows(adaptation.record_answer, count, seed=1)


def token_count(name: str, rows: list[dict[str, str]]) -> int:
    """Tokens of the rows, padding not counted."""
    from cookbook.masks import encode_row
    from cookbook.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(name).tokenizer
    return sum(len(encode_row(tokenizer, row).ids) for row in rows)


def random_weights(shape: str, folder: Path) -> Path:
    """A model of a known shape with random weights, and the lab's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from advisor.files import data_path
    from cookbook.model_files import lab_folder
    from cookbook.tokenizer_files import load_tokenizer

    catalogue = Path(data_path("models.jsonl")).read_text(encoding="utf-8").splitlines()
    known = {row["id"]: row for row in map(json.loads, catalogue) if "id" in row}
    if shape not in known:
        sys.exit(f"{shape} is not in the catalogue (advisor/data/models.jsonl)")
    (folder / "config.json").write_text(json.dumps(known[shape]["config"]))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype="bfloat16")
    model.save_pretrained(folder)
    load_tokenizer(str(lab_folder("lab"))).tokenizer.save_pretrained(folder)
    return folder


def plain(job: dict[str, Any], rows: list[dict[str, str]], folder: str) -> dict[str, Any]:
    """TRL with TRL's defaults."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        output_dir=folder, per_device_train_batch_size=BATCH, max_length=LENGTH,
        num_train_epochs=1, report_to="none", use_cpu=job["device"] == "cpu",
        packing=job["packing"],
    )  # fmt: skip
    alike = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
    adapters = {"lora": LoraConfig(), "lora-alike": alike, "full": None}[job["method"]]
    began = time.perf_counter()
    trainer = SFTTrainer(
        model=job["folder"], args=settings, train_dataset=Dataset.from_list(rows),
        peft_config=adapters,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    return {"seconds": time.perf_counter() - began}


def ours(job: dict[str, Any], rows: list[dict[str, str]], folder: str) -> dict[str, Any]:
    """`cookbook.train` with its defaults."""
    from cookbook.train import train
    from cookbook.train_settings import TrainSettings

    said: list[str] = []
    settings = TrainSettings(
        method=job["method"].removesuffix("-alike"), batch_size=BATCH, max_length=LENGTH, epochs=1,
        packing=job["packing"] or None,
    )  # fmt: skip
    began = time.perf_counter()
    train(job["folder"], rows, settings, folder, report=said.append, force=True)
    return {"seconds": time.perf_counter() - began}


def work(job: dict[str, Any]) -> None:
    """One contender, in a process of its own; prints what it took."""
    rows = rows_of(job["rows"])
    with tempfile.TemporaryDirectory() as folder:
        found = {"plain": plain, "ours": ours}[job["who"]](job, rows, folder)
    found["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if job["device"] == "cuda":
        import torch

        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found))


def child(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    quiet = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        sys.exit(f"{job['who']} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured(job: dict[str, Any], tokens: int, repeats: int) -> dict[str, Any]:
    """Both contenders `repeats` times, taking turns; medians, and the ratio of each turn."""
    turns = []
    for turn in range(repeats):
        order = ("plain", "ours") if turn % 2 == 0 else ("ours", "plain")
        turns.append({who: child({**job, "who": who}) for who in order})
        print(f"  {turn + 1}/{repeats}", file=sys.stderr)
    rates = {who: [tokens / turn[who]["seconds"] for turn in turns] for who in ("plain", "ours")}
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    figures: dict[str, Any] = {"ours_over_plain": [ratios[0], median(ratios), ratios[-1]]}
    for who, each in rates.items():
        figures[who] = {"tokens_per_second": median(each)}
        for key in ("peak_rss_bytes", "peak_gpu_bytes"):
            if key in turns[0][who]:
                figures[who][key] = median(turn[who][key] for turn in turns)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--shape", help="a model of the catalogue, with random weights")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--method", action="append", choices=METHODS, help="[all]")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--record", action="store_true", help="append to results/training.json")
    given = parser.parse_args()
    if given.job:
        work(json.loads(given.job))
        return
    from results import append

    from cookbook.model_files import lab_folder

    with tempfile.TemporaryDirectory() as place:
        folder = random_weights(given.shape, Path(place)) if given.shape else lab_folder("lab")
        count = given.steps * BATCH
        job = {
            "folder": str(folder), "device": given.device, "steps": given.steps, "rows": count,
            "packing": given.packing,
        }  # fmt: skip
        tokens = token_count(str(folder), rows_of(count))
        figures: dict[str, Any] = {
            "model": given.shape or "lab", "device": given.device, "steps": given.steps,
            "batch": BATCH, "tokens": tokens, "packing": given.packing,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }  # fmt: skip
        for method in given.method or METHODS:
            print(method, file=sys.stderr)
            figures[method] = measured({**job, "method": method}, tokens, given.repeats)
    print(json.dumps(figures, indent=1))
    if given.record:
        append("training", figures, ("torch", "transformers", "trl", "peft"))


if __name__ == "__main__":
    main()
