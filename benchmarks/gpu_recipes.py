"""Run the recipes on the GPU at hand, in smoke mode, and set their figures beside the CPU's.

    python benchmarks/gpu_recipes.py                             one row per recipe, appended
    python benchmarks/gpu_recipes.py --model FOLDER --only rag   other weights, one recipe
    python benchmarks/gpu_recipes.py --device cpu                the same script without a GPU
    python benchmarks/gpu_recipes.py --summary                   what the rows say, running nothing

A recipe that is done in the file already, with the same code, weights and card, is not run again.
The shortest come first, and none is begun that the time left would not do for. The CPU's figures
are read from build/recipes, where `make recipes` puts them.

Exit codes: 0 all done; 1 a recipe failed; 2 bad input; 3 no GPU, or recipes left for lack of time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advisor.errors import EXIT_NO, EXIT_UNKNOWN, EXIT_USAGE, EXIT_YES, AdvisorError
from advisor.machine import gpu_report
from cookbook.figures import Figure
from cookbook.manifest import code_sha256, file_sha256
from cookbook.measure import append_row, read_rows
from cookbook.models import pick_dtype
from cookbook.recipes import find_recipe, minutes, read_recipe, recipe_files, recipe_of
from cookbook.record import Run, read_run
from cookbook.runner import RunResult, parameters_of, run_recipe

MIB = 2**20
ROOT = Path(__file__).resolve().parents[1]
GPU_ROWS = ROOT / "benchmarks" / "results" / "gpu_recipes.jsonl"
CPU_ROWS = ROOT / "build" / "gpu_recipes_cpu.jsonl"
UNKNOWN_SECONDS = 90.0  # a recipe's smoke mode may take no longer on two cores
TIMED = ("seconds", "bytes")  # units that say more of the machine than of the model


@dataclass(frozen=True)
class Job:
    """One recipe to run: its parameters, what makes its row the same row, how long it may take."""

    name: str
    notebook: Path
    values: dict[str, Any]
    key: str
    seconds: float


# --------------------------------------------------------------------------------- what is to do
def card() -> dict[str, Any] | None:
    """The first NVIDIA card and its driver; None without one."""
    found = gpu_report().gpus
    return asdict(found[0]) if found else None


def values_for(notebook: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Those of our values that the notebook declares."""
    ours = {"mode": "smoke", "model": options.model, "device": options.device}
    declared = {parameter.name for parameter in parameters_of(notebook)}
    return {name: value for name, value in ours.items() if name in declared}


def key(name: str, notebook: Path, options: argparse.Namespace) -> str:
    """What makes a row the same row: recipe, device, card, model, notebook, and all our code."""
    from cookbook.model_files import weights_sha256

    model = weights_sha256(options.model) if Path(options.model).is_dir() else options.model
    found = card() if options.device == "cuda" else None
    device = [options.device, found["name"] if found else None]
    return json.dumps([name, *device, model, file_sha256(notebook), code_sha256()])


def reference(name: str, folder: Path) -> Run | None:
    """The CPU's run of a recipe; None where there is none that ended."""
    with suppress(AdvisorError):
        run = read_run(folder / name)
        if run.manifest is None or run.manifest.get("status") == "done":
            return run
    return None


def expected_seconds(
    name: str, notebook: Path, rows: list[dict[str, Any]], expected: Run | None, device: str
) -> float:
    """How long it took the last time on this device, else on the CPU, else what it says itself."""
    mine = [
        row["seconds"] for row in rows
        if (row["recipe"], row.get("device"), row["status"]) == (name, device, "done")
    ]  # fmt: skip
    if mine:
        return float(mine[-1])
    seconds = (expected.manifest or {}).get("seconds") if expected else None
    said = minutes(read_recipe(notebook).hardware.get("smoke", ""))
    return float(seconds or (60 * said if said else UNKNOWN_SECONDS))


def jobs(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[Job]:
    """The recipes to run, the shortest first: an early stop has then covered the most.

    Raises:
        AdvisorError: no recipe of that name, or a notebook whose parameters are not clear.
    """
    folder = Path(options.recipes)
    chosen = [find_recipe(name, folder) for name in options.only or ()] or recipe_files(folder)
    found = []
    for notebook in dict.fromkeys(chosen):
        name = recipe_of(notebook)
        expected = reference(name, Path(options.reference))
        seconds = expected_seconds(name, notebook, rows, expected, options.device)
        values = values_for(notebook, options)
        found.append(Job(name, notebook, values, key(name, notebook, options), seconds))
    return sorted(found, key=lambda job: job.seconds)


# ------------------------------------------------------------------------------ what came of it
def compare(found: Mapping[str, Figure], expected: Mapping[str, Figure]) -> dict[str, Any]:
    """Which figures lie in the interval of the CPU's, and by how much the others miss it.

    Times and bytes are not compared. A single reading has no interval: its difference is given.
    """
    inside, outside, single = [], {}, {}
    shared = [name for name in found if name in expected and found[name].unit not in TIMED]
    for name in shared:
        value, other = found[name].value, expected[name]
        slack = 1e-9 * max(1.0, abs(value))
        if other.n == 1:
            single[name] = value - other.value
        elif other.low - slack <= value <= other.high + slack:
            inside.append(name)
        else:
            by = value - (other.high if value > other.high else other.low)
            outside[name] = {"value": value, "low": other.low, "high": other.high, "by": by}
    only = sorted(set(found) ^ set(expected))
    return {"inside": inside, "outside": outside, "single": single, "in one alone": only}


def stale(manifest: Mapping[str, Any], expected: Run) -> list[str]:
    """In what the CPU's run was another one, so that its figures bind only loosely."""
    other = expected.manifest
    if other is None:
        return ["no manifest"]
    names = ["mode", "seed", "model_sha256", "notebook_sha256", "code_sha256"]
    found = [name for name in names if manifest.get(name) != other.get(name)]
    return [*found, *(["device"] if other.get("peak_gpu_bytes") else [])]


def judged(result: RunResult, device: str) -> tuple[str, dict[str, Any] | None]:
    """The status of a row, and the error: of the failing cell, or that no GPU was used."""
    failure = result.failure
    if failure is not None:
        fields = ("cell", "title", "error", "message", "line", "source")
        return result.status, {name: getattr(failure, name) for name in fields}
    if result.status == "done" and not result.figures:
        return "failed", {"message": "it recorded no figure"}
    if result.status == "done" and device == "cuda" and not result.manifest["peak_gpu_bytes"]:
        return "failed", {"message": "it took no memory on the GPU: it ran on the CPU"}
    return result.status, None


def row_of(job: Job, result: RunResult, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the results file."""
    manifest = result.manifest
    status, error = judged(result, options.device)
    expected = reference(job.name, Path(options.reference))
    found = card() if options.device == "cuda" else None
    capability = tuple(map(int, ((found or {}).get("compute_capability") or "8.0").split(".")))
    compared = None
    if expected is not None and status == "done":
        compared = compare(result.figures, expected.figures)
        compared["stale"] = stale(manifest, expected)
    return {
        "key": job.key, "recipe": job.name, "status": status, "error": error,
        "device": options.device, "dtype": pick_dtype("auto", options.device, capability),
        "card": found, "parameters": manifest["parameters"],
        "model_sha256": manifest["model_sha256"], "code_sha256": manifest["code_sha256"],
        "started": manifest["started"], "seconds": manifest["seconds"],
        "peak_rss_bytes": manifest["peak_rss_bytes"], "peak_gpu_bytes": manifest["peak_gpu_bytes"],
        "figures": {name: figure.to_dict() for name, figure in result.figures.items()},
        "against_cpu": compared, "hardware": manifest["hardware"], "versions": manifest["versions"],
    }  # fmt: skip


def line(row: Mapping[str, Any]) -> str:
    """A row on one line, and one for each figure that is not where the CPU's is."""
    head = f"{row['recipe']:<18} {row['status']:<8}"
    if row["status"] != "done":
        error = row["error"] or {}
        where = f"cell {error['cell']} ({error['title']}): " if error.get("cell") else ""
        name = f"{error['error']}: " if error.get("error") else ""
        return f"{head} {where}{name}{error.get('message', '')}"
    peaks = [
        f"{word} {row[name] / MIB:,.0f} MiB"
        for word, name in (("peak", "peak_rss_bytes"), ("GPU", "peak_gpu_bytes")) if row[name]
    ]  # fmt: skip
    text = f"{head} {row['seconds']:6.1f} s  {', '.join(peaks)}; {len(row['figures'])} figures"
    compared = row["against_cpu"]
    if compared is None:
        return f"{text}, no run of the CPU to compare with (make recipes)"
    known = len(compared["inside"]) + len(compared["outside"])
    text += f", {len(compared['inside'])} of {known} in the CPU's intervals"
    if compared["stale"]:
        text += f" (its run differs in {', '.join(compared['stale'])})"
    for name, miss in compared["outside"].items():
        ends = f"[{miss['low']:.4g}, {miss['high']:.4g}]"
        text += f"\n{'':<18} {name}: {miss['value']:.4g} misses {ends} by {miss['by']:+.2g}"
    for name, gap in compared["single"].items():
        text += f"\n{'':<18} {name}: {gap:+.2g} to a single reading"
    return text


# --------------------------------------------------------------------------------- how it is done
@contextmanager
def at_most(seconds: float, late: threading.Event) -> Iterator[None]:
    """Interrupt what runs inside after that many seconds, and set `late` then."""

    def ring() -> None:
        late.set()
        os.kill(os.getpid(), signal.SIGINT)  # the runner hears it and stops the kernel

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def run_job(job: Job, options: argparse.Namespace, left: float) -> dict[str, Any]:
    """Run one recipe; its row, with the status `late` where the time ran out.

    Raises:
        KeyboardInterrupt: somebody stopped it.
    """
    folder, late = Path(options.runs) / options.device / job.name, threading.Event()
    try:
        with at_most(left, late):
            result = run_recipe(str(job.notebook), job.values, folder, existing="restart")
            if result.status == "interrupted":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if not late.is_set():
            raise
        said = {"message": f"stopped after {left:.0f} s: the time was up"}
        return {"recipe": job.name, "status": "late", "error": said}
    except AdvisorError as error:
        said = {"message": " ".join(filter(None, (error.message, error.hint)))}
        return {"key": job.key, "recipe": job.name, "status": "refused", "error": said,
                "device": options.device}  # fmt: skip
    return row_of(job, result, options)


def run_all(options: argparse.Namespace) -> int:
    """Run what is not done in the file yet, until the time is up; returns the exit code."""
    began = time.monotonic()
    rows = read_rows(options.append)
    planned = jobs(options, rows)
    done = {row["key"] for row in rows if row["status"] == "done" and not options.again}
    left_out, failed = [], []
    for job in planned:
        if job.key in done:
            print(f"{job.name:<18} done before")
            continue
        left = 60 * options.minutes - (time.monotonic() - began)
        if left < job.seconds:
            left_out.append(job.name)
            continue
        row = run_job(job, options, left)
        if row["status"] == "late":
            left_out.append(job.name)
        else:
            append_row(options.append, row)
        if row["status"] in ("failed", "refused"):
            failed.append(job.name)
        print(line(row), flush=True)
    if left_out:
        print(f"left for lack of time: {', '.join(left_out)}; run it again to go on with them")
    return EXIT_NO if failed else EXIT_UNKNOWN if left_out else EXIT_YES


# --------------------------------------------------------------------------------- in short
def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The last row of each recipe, model and device."""
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        model = row.get("parameters", {}).get("model", "lab")
        name = row["recipe"] if model == "lab" else f"{row['recipe']}, {model}"
        last[f"{name}, {row['device']}"] = row
    found: dict[str, Any] = {}
    for name, row in last.items():
        found[name] = {"status": row["status"]}
        if row["status"] != "done":
            found[name]["error"] = (row["error"] or {}).get("message")
            continue
        against = row["against_cpu"] or {}
        names = ("dtype", "started", "seconds", "peak_rss_bytes", "peak_gpu_bytes")
        found[name] |= {each: row[each] for each in names}
        found[name]["card"] = (row["card"] or {}).get("name")
        found[name]["driver"] = (row["card"] or {}).get("driver")
        found[name]["torch"] = row["versions"].get("torch")
        found[name]["in the CPU's intervals"] = len(against.get("inside", ()))
        found[name]["outside, by"] = {k: v["by"] for k, v in against.get("outside", {}).items()}
    return found


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", default="lab", help="lab, lab-instruct, a folder or a hub id")
    parser.add_argument("--only", metavar="NAME", action="append", help="this recipe (repeatable)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of them together")
    parser.add_argument("--append", metavar="FILE", help="rows, one JSON object a line")
    parser.add_argument("--again", action="store_true", help="also what is done in the file")
    parser.add_argument("--recipes", default=str(ROOT / "nbs" / "recipes"), help="folder")
    parser.add_argument("--reference", default=str(ROOT / "build" / "recipes"), help="CPU's runs")
    parser.add_argument("--runs", default=str(ROOT / "build" / "gpu_recipes"), help="run folders")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    parser.add_argument("--record", action="store_true", help="keep the summary in results/")
    options = parser.parse_args(words)
    if Path(options.model).is_dir():
        options.model = str(Path(options.model).resolve())
    if options.append is None:
        options.append = str(GPU_ROWS if options.device == "cuda" else CPU_ROWS)
    Path(options.append).parent.mkdir(parents=True, exist_ok=True)
    return options


def main(words: list[str] | None = None) -> int:
    options = parsed(words)
    code = EXIT_YES
    if not options.summary:
        if options.device == "cuda" and card() is None:
            print("no NVIDIA GPU here; --device cpu proves the script without", file=sys.stderr)
            return EXIT_UNKNOWN
        try:
            code = run_all(options)
        except AdvisorError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USAGE
    found = summary(read_rows(options.append))
    print(json.dumps(found, indent=1))
    if options.record:
        from results import append

        append("gpu_recipes" if options.device == "cuda" else "gpu_recipes_cpu", found)
    return code


if __name__ == "__main__":
    sys.exit(main())
