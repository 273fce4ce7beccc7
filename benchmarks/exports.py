"""Every export, read by the trainer it is for; the answers go to benchmarks/results/exports.json.

python benchmarks/exports.py [--only NAME] [--dry-run]

Each trainer lives in an environment of its own below ADVISOR_TRAINERS (default: the user's cache
folder). Only the trainer and the few packages whose versions matter to its reader are installed
there, without their dependencies; torch and the rest come from the environment that runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from results import append

from advisor.case import Case, load_case
from advisor.export import TARGETS, export_plan, merged_files, not_said, write_files
from advisor.export_llamafactory import template_of
from advisor.files import write_text
from advisor.make_plan import LESSONS, estimate_of, make_plan, means_of, settings_of
from advisor.plan_file import Plan, PlanGate, PlanStage

ROOT = Path(__file__).resolve().parents[1]
CHECKS = Path(__file__).with_name("trainer_checks.py")
SNAPSHOTS = ROOT / "tests" / "data" / "trainers"
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "trl": (),
    "llamafactory": (
        "llamafactory==0.9.5", "transformers==5.6.0", "trl==0.24.0", "peft==0.18.1",
        "tokenizers==0.22.2", "huggingface-hub==1.33.0", "omegaconf==2.4.0",
        "antlr4-python3-runtime==4.9.3",
    ),
    "axolotl": ("axolotl==0.19.0", "pillow==13.0.0", "pydantic==2.12.5", "pydantic-core==2.41.5"),
    "unsloth": ("unsloth==2026.10.9",),
    "litgpt": (
        "litgpt==0.5.13", "jsonargparse==4.41.0", "lightning==2.6.6", "pytorch-lightning==2.6.6",
        "lightning-utilities==0.15.3", "torchmetrics==1.9.0", "typeshed-client==2.14.0",
        "docstring-parser==0.18.0",
    ),
}  # fmt: skip
CARDS = ("T4", "RTX-4090", "H100-80GB")


# ---- what is exported


def home() -> Path:
    """Where the environments live."""
    default = Path.home() / ".cache" / "llm-adaptation-advisor" / "trainers"
    return Path(os.environ.get("ADVISOR_TRAINERS", default))


def every_lesson(case: Case) -> Plan:
    """A plan with a stage for everything that a path may train, by every method it may take."""
    means, gate = means_of(case), PlanGate("accuracy", "accuracy is enough")
    stages = []
    for path, lessons in LESSONS.items():
        for lesson in lessons:
            for method in lesson.methods:
                values, reasons = settings_of(lesson, method, means)
                name = f"{path}, {lesson.objective}, {method}"
                estimate = estimate_of(values, means)
                stages.append(PlanStage(path, name, gate, training=values, reasons=reasons,
                                        estimate=estimate))  # fmt: skip
    return Plan(tuple(stages), model=str(case.get("model.id")), case="every lesson", tool="test")


def plans() -> dict[str, Plan]:
    """Plans by name: those of the examples, and every lesson on three cards and three models."""
    examples = sorted((ROOT / "examples").glob("*.yaml"))
    found = {path.stem: make_plan(load_case(path)) for path in examples}
    known = {"data.labelled": 2000, "data.preference_pairs": 1500, "data.unlabelled_tokens": 10**8}
    for card, model in zip(
        CARDS, ("Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct", "mistralai/Mistral-7B-v0.3"),
        strict=True,
    ):  # fmt: skip
        found[f"lessons-{card}"] = every_lesson(
            Case({"model.id": model, "model.weights": "open", "hardware.gpu": card, **known})
        )
    return found


def exported(target: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Write everything for a trainer, a folder for each plan; the files and what was lost."""
    paths: list[Path] = []
    lost: list[str] = []
    for name, plan in plans().items():
        if not any(stage.training for stage in plan.stages):
            continue
        exports = export_plan(plan, target)
        place = folder / name
        written = write_files(merged_files(exports), str(place))
        for rows in ("train.jsonl", "corpus.jsonl", "pairs.jsonl"):
            (place / rows).touch()
        paths += [Path(path) for path in written if path.endswith(".yaml")]
        lost += [f"{name}: {line}" for line in not_said(exports)]
    return paths, lost


# ---- who reads it


def environment(name: str) -> str:
    """The Python of a trainer's environment, made if it is not there or has other versions."""
    wanted = ENVIRONMENTS[name]
    if not wanted:
        return sys.executable
    folder = home() / name
    python, stamp = folder / "bin" / "python", folder / "versions.txt"
    text = "\n".join(wanted)
    if python.exists() and stamp.exists() and stamp.read_text() == text:
        return str(python)
    run = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
    subprocess.run(run, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", *wanted], check=True)
    stamp.write_text(text)
    return str(python)


def ask(name: str, *words: str) -> dict[str, Any]:
    """What the trainer's reader says; see trainer_checks.py."""
    done = subprocess.run(
        [environment(name), str(CHECKS), name, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def version_of(name: str) -> str:
    """The version of the trainer that is asked."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run(
        [environment(name), "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def snapshot(name: str, version: str) -> dict[str, Any]:
    """The keys that the trainer knows, for tests that have no such environment."""
    fields = ask(name, "--fields")
    today = date.today().isoformat()
    values = {"trainer": name, "version": version, "date": today, "fields": fields}
    SNAPSHOTS.mkdir(parents=True, exist_ok=True)
    write_text(SNAPSHOTS / f"{name}.json", json.dumps(values, indent=1) + "\n", force=True)
    return values


def template_differences(models: dict[str, str]) -> Iterator[str]:
    """Models whose template LLaMA-Factory names otherwise; hybrid Qwen3 is on purpose."""
    for model, theirs in sorted(models.items()):
        ours = template_of(model)
        if ours and ours != theirs and not re.search(r"/Qwen3-[0-9.]+B(-A[0-9.]+B)?$", model):
            yield f"{model}: ours {ours}, theirs {theirs}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(TARGETS))
    parser.add_argument("--dry-run", action="store_true", help="write no result")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in [given.only] if given.only else list(TARGETS):
        with tempfile.TemporaryDirectory() as folder:
            paths, lost = exported(name, Path(folder))
            answers = ask(name, *map(str, paths))
            said = {os.path.relpath(path, folder): word for path, word in answers.items()}
        version = version_of(name)
        refused = {path: word for path, word in said.items() if word != "accepted"}
        figures[name] = {"version": version, "files": len(said), "refused": refused,
                         "settings_not_said": len(lost)}  # fmt: skip
        if not given.dry_run:
            known = snapshot(name, version)["fields"]
            if name == "llamafactory":
                wrong = list(template_differences(known["models"]))
                figures[name]["templates"] = {"models": len(known["models"]), "different": wrong}
        print(name, json.dumps(figures[name], indent=1))
    if not given.dry_run and not given.only:
        append("exports", figures)


if __name__ == "__main__":
    main()
