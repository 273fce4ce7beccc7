"""Other estimators on the rows of `advisor/data/measured.csv`, ours beside them, all in one run.

Each peer answers from an environment of its own under build/peers/, through a small script in
benchmarks/peers/ that reads the rows as JSON and writes its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from published_memory import METRICS, Row, load_rows, percent, predicted
from results import append

from advisor.errors import AdvisorError
from advisor.training_run import resolved, to_dict

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(__file__).resolve().parent / "peers"
BUILD = ROOT / "build" / "peers"
GIB = 1024**3
# What the drivers reported in the measured runs.
GPU_MEMORY = {
    "NVIDIA A100-SXM4-80GB": 80 * GIB,
    "NVIDIA GeForce RTX 4080": int(15.992 * GIB),
    "Tesla T4": 14_912 * 1024**2,
}


@dataclass(frozen=True)
class Peer:
    """A script, what its environment needs, and the figure it claims to predict."""

    script: str
    packages: tuple[str, ...]
    claims: str
    argument: str = ""
    environment: str = ""
    own: str = ""  # what the sources of its own measurements have in common


PEERS = {
    "canifinetune": Peer(
        "canifinetune.py",
        ("canifinetune==0.4.1",),
        "allocated: sum of its components; reserved: its total less the safety margin",
        own="can-i-finetune-this",
    ),
    "fitcheck-llm": Peer(
        "fitcheck.py",
        ("fitcheck-llm==0.3.1",),
        "allocated: its tensors tier; device: its process total",
        own="fitcheck-llm",
    ),
    "accelerate estimate-memory": Peer(
        "accelerate.py",
        ("torch>=2.9,<2.14", "accelerate==1.15.0", "transformers>=5,<6"),
        "allocated: training with Adam, batch of one",
        environment="accelerate",
    ),
    "DeepSpeed ZeRO estimators": Peer(
        "deepspeed.py",
        ("torch>=2.9,<2.14", "deepspeed==0.19.8"),
        "allocated: model states only, no activations",
        environment="deepspeed",
    ),
    "LLaMA-Factory table": Peer("tables.py", (), "memory of the card", argument="llama-factory"),
    "axolotl table": Peer("tables.py", (), "memory of the card", argument="axolotl"),
}


def python_of(name: str, peer: Peer) -> str:
    """The interpreter of the peer's environment, made when absent."""
    if not peer.packages:
        return sys.executable
    folder = BUILD / (peer.environment or name)
    done = folder / "installed.txt"
    wanted = "\n".join(peer.packages) + "\n"
    python = folder / "bin" / "python"
    if not (done.exists() and done.read_text(encoding="utf-8") == wanted):
        print(f"Making {folder} with {', '.join(peer.packages)} ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        extra = os.environ.get("BENCH_PIP", "").split()
        subprocess.run(
            [*pip, *peer.packages, *extra], check=True, env=os.environ | {"DS_BUILD_OPS": "0"}
        )
        done.write_text(wanted, encoding="utf-8")
    return str(python)


def questions(rows: list[Row]) -> list[dict[str, Any]]:
    """What is handed to the peers: everything known of a row but the answer."""
    from advisor.shapes import find_model, layer_parameters, parameter_count

    asked = []
    for row in rows:
        model = find_model(row.model)
        folder = BUILD / "configs" / row.model.replace("/", "--")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(model.config), encoding="utf-8")
        run, _ = resolved(row.run)
        asked.append(
            {
                "id": row.id,
                "model": row.model,
                "config": model.config,
                "config_dir": str(folder),
                "parameters": parameter_count(model.shape),
                "largest_layer_parameters": layer_parameters(model.shape),
                "run": to_dict(run),
                "attn_implementation": row.attn_implementation,
                "gpu": row.gpu,
                "gpu_memory_bytes": GPU_MEMORY[row.gpu],
            }
        )
    return asked


def run(python: str, peer: Peer, asked: Any) -> dict[str, Any]:
    """What the peer's script answers. Raises `CalledProcessError` when it fails."""
    command = [python, "-P", str(SCRIPTS / peer.script), peer.argument]
    done = subprocess.run(
        [part for part in command if part],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def ask(name: str, peer: Peer, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """The peer's answers to the rows."""
    return run(python_of(name, peer), peer, {"rows": asked})


def ours(rows: list[Row]) -> dict[str, Any]:
    """Our own answers in the same form."""
    from advisor.memory import estimate
    from advisor.shapes import find_model

    answers: dict[str, Any] = {}
    for row in rows:
        try:
            answer = estimate(find_model(row.model), row.run)
        except AdvisorError as error:
            answers[row.id] = {"refused": str(error)}
            continue
        answers[row.id] = {metric: predicted(answer, metric)[1] for metric in METRICS}
    return {"versions": {}, "answers": answers}


def score(rows: list[Row], answers: dict[str, Any], metric: str) -> dict[str, Any]:
    """Rows answered and absolute errors for one metric."""
    errors = []
    asked = [row for row in rows if row.metric == metric]
    for row in asked:
        figure = answers[row.id].get(metric)
        if figure is not None:
            errors.append(abs(percent(figure, row.bytes)))
    figures: dict[str, Any] = {"rows": len(asked), "answered": len(errors)}
    if errors:
        figures["median_percent"] = round(median(errors), 2)
        figures["worst_percent"] = round(max(errors), 2)
    return figures


def away(rows: list[Row], name: str) -> list[Row]:
    """The rows that the peer did not measure (and may have been fitted to) itself."""
    own = PEERS[name].own if name in PEERS else ""
    return [row for row in rows if not own or own not in row.source]


def common(rows: list[Row], every: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The peer's and our error on just the allocated rows that the peer answered."""
    theirs, mine = every[name]["answers"], every["advisor memory"]["answers"]
    shared = [
        row
        for row in rows
        if row.metric == "allocated"
        and "allocated" in theirs[row.id]
        and "allocated" in mine[row.id]
    ]
    if not shared:
        return {"rows": 0}
    return {
        "rows": len(shared),
        "theirs_median_percent": round(
            median(abs(percent(theirs[r.id]["allocated"], r.bytes)) for r in shared), 2
        ),
        "ours_median_percent": round(
            median(abs(percent(mine[r.id]["allocated"], r.bytes)) for r in shared), 2
        ),
    }


def table(figures: dict[str, Any]) -> str:
    """What the terminal shows."""
    head = f"{'estimator':<28}{'metric':<11}{'answered':>11}{'median':>10}{'worst':>10}"
    lines = [f"{head}  not its own rows: median, worst"]
    for name, peer in figures["estimators"].items():
        for metric in METRICS:
            s, others = peer[metric], peer["rows_of_others"][metric]
            if not s["answered"]:
                continue
            line = f"{name:<28}{metric:<11}{s['answered']:>4} of {s['rows']:>3}"
            line += f"{s['median_percent']:>10.2f}%{s['worst_percent']:>9.2f}%"
            if others["answered"]:
                line += f"{others['median_percent']:>12.2f}%{others['worst_percent']:>9.2f}%"
                line += f" ({others['answered']} rows)"
            lines.append(line)
    lines.append("")
    lines += [f"{name}: {peer['claims']}" for name, peer in figures["estimators"].items()]
    return "\n".join(lines)


def main() -> None:
    """Ask everybody, print the table, append the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--no-append", action="store_true", help="do not write benchmarks/results/")
    options = parser.parse_args()
    rows = [row for row in load_rows() if row.scored]
    asked = questions(rows)
    every = {"advisor memory": ours(rows)}
    every |= {name: ask(name, peer, asked) for name, peer in PEERS.items()}
    estimators = {
        name: {
            "claims": PEERS[name].claims if name in PEERS else "allocated, reserved and device",
            "versions": said["versions"],
            **{metric: score(rows, said["answers"], metric) for metric in METRICS},
            "rows_of_others": {
                metric: score(away(rows, name), said["answers"], metric) for metric in METRICS
            },
            "beside_ours": common(rows, every, name),
            "answers": {row.id: said["answers"][row.id].get(row.metric) for row in rows},
            "refusals": sorted({a["refused"] for a in said["answers"].values() if "refused" in a}),
        }
        for name, said in every.items()
    }
    figures = {
        "estimators": estimators,
        "measured": {row.id: {"metric": row.metric, "bytes": row.bytes} for row in rows},
    }
    print(json.dumps(figures, indent=1) if options.json else table(figures))
    if not options.no_append:
        append("peers", figures)


if __name__ == "__main__":
    main()
