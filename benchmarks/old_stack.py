"""The published rows that today's stack can't explain, traced under the versions of those runs.

Three questions: why the QLoRA rows that TRL prepared differ, where 12 and 14 bytes a logit come
from, and what the row without checkpointing really ran. Each has the setting that was first
assumed beside the one found in the sources.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import peers
from peers import Peer
from published_memory import load_rows, percent
from results import append

from advisor.shapes import find_model

MISTRAL: dict[str, Any] = {
    "seq_len": 4096,
    "quantised": True,
    "prepared": "none",
    "dropout": 0.1,
    "autocast": True,
    "checkpointing": True,
    "attention": "flash",
    "held": False,
    "blocks": False,
    "optimizer_8bit": False,
}
QWEN = MISTRAL | {
    "seq_len": 1024,
    "prepared": "kbit",
    "dropout": 0.0,
    "autocast": False,
    "checkpointing": False,
    "attention": "math",
    "held": True,
    "optimizer_8bit": True,
}
LORA = {"quantised": False, "autocast": False}
# version of transformers, measured row, what is said of it, settings
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("4.48.1", "ibm-tf448-mistral-7b-lora-g1-b{}", "as run", MISTRAL | LORA),
    ("4.48.1", "ibm-tf448-mistral-7b-qlora-g1-b{}", "as run", MISTRAL),
    (
        "4.48.1",
        "ibm-tf448-mistral-7b-qlora-base-g1-b{}",
        "prepared by TRL, autocast",
        MISTRAL | {"prepared": "trl"},
    ),
    (
        "4.48.1",
        "ibm-tf448-mistral-7b-qlora-base-g1-b{}",
        "everything in fp32, autocast",
        MISTRAL | {"prepared": "kbit"},
    ),
    (
        "4.48.1",
        "ibm-tf448-mistral-7b-qlora-base-g1-b{}",
        "prepared by TRL, no autocast",
        MISTRAL | {"prepared": "trl", "autocast": False},
    ),
    ("4.45.2", "ibm-tf445-mistral-7b-lora-g1-b{}", "as run", MISTRAL | LORA),
    ("4.45.2", "ibm-tf445-mistral-7b-qlora-g1-b{}", "as run", MISTRAL),
    (
        "4.45.2",
        "ibm-tf445-mistral-7b-qlora-base-g1-b{}",
        "prepared by TRL, autocast",
        MISTRAL | {"prepared": "trl"},
    ),
    (
        "5.8.1",
        "cif-1.5b-qlora-s1024-b1-nockpt",
        "dropout 0.05, flash attention",
        QWEN | {"dropout": 0.05, "attention": "flash"},
    ),
    ("5.8.1", "cif-1.5b-qlora-s1024-b1-nockpt", "dropout 0, math attention", QWEN),
    (
        "5.8.1",
        "cif-1.5b-qlora-s1024-b1-nockpt",
        "the same, with the allocator's blocks",
        QWEN | {"blocks": True},
    ),
]


def cases(version: str) -> list[dict[str, Any]]:
    """The cases of one version, with the model's config and the measured figure."""
    rows = {row.id: row for row in load_rows()}
    found = []
    for wanted, pattern, said, settings in CASES:
        names = [pattern.format(b) for b in (4, 8)] if "{}" in pattern else [pattern]
        for name in names if wanted == version else ():
            model = find_model(rows[name].model)
            config = {k: v for k, v in model.config.items() if not isinstance(v, (dict, list))}
            found.append(
                settings
                | {
                    "id": f"{name}: {said}",
                    "config": config,
                    "layers": config["num_hidden_layers"],
                    "batch": rows[name].run.batch,
                    "measured": rows[name].bytes,
                }
            )
    return found


def trace(version: str) -> list[dict[str, Any]]:
    """Peaks beside measurements under that version of transformers."""
    asked = cases(version)
    peer = Peer(
        "old_stack.py",
        ("torch>=2.9,<2.14", f"transformers=={version}", "numpy<2"),
        "allocated",
        environment=f"transformers-{version}",
    )
    answers = peers.run(peers.python_of("", peer), peer, asked)["answers"]
    results = []
    for case in asked:
        phases = answers[case["id"]]
        phase = max(phases, key=lambda name: phases[name])
        results.append(
            {
                "case": case["id"],
                "transformers": version,
                "measured": case["measured"],
                "traced": phases[phase],
                "error_percent": percent(phases[phase], case["measured"]),
                "phase": phase,
            }
        )
    return results


def main() -> None:
    """Trace, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--no-append", action="store_true", help="do not write benchmarks/results/")
    options = parser.parse_args()
    results = [result for version in ("4.45.2", "4.48.1", "5.8.1") for result in trace(version)]
    if options.json:
        print(json.dumps(results, indent=1))
    for r in results if not options.json else ():
        print(
            f"{r['transformers']:<8}{r['case']:<76}{r['measured'] / 1e9:>8.3f}"
            f"{r['traced'] / 1e9:>8.3f}{r['error_percent']:>8.2f}%  {r['phase']}"
        )
    if not options.no_append:
        append("old_stack", {"rows": results})


if __name__ == "__main__":
    main()
