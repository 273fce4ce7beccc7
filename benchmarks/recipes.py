"""The recipes in full mode on the lab: three seeds, 500 items and more; figures with intervals.

    python benchmarks/recipes.py                        run all of them, one after the other (hours)
    python benchmarks/recipes.py lora qlora             these only
    python benchmarks/recipes.py --read FOLDER lora     a finished run folder, running nothing
    python benchmarks/recipes.py lora --record          and append what came out to the results

A run that was stopped goes on where it was; a finished one with the same notebook and code is read.

Exit codes: 0 all done; 1 a recipe failed; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from results import append

from advisor.errors import EXIT_NO, EXIT_USAGE, AdvisorError
from cookbook.figures import Figure, amount, interval
from cookbook.kernel import CellStep
from cookbook.recipes import recipe_files, recipe_of
from cookbook.record import Run, read_run
from cookbook.runner import run_recipe

ROOT = Path(__file__).resolve().parents[1]
NOT_HERE = ("lab-pretraining",)  # `make lab` is its full mode
OF_THE_RUN = ("parameters", "started", "seconds", "peak_rss_bytes", "hardware",
              "notebook_sha256", "code_sha256", "model_sha256", "versions")  # fmt: skip


TABLES = ("table", "arms", "rates", "curve")  # notes that figures alone can't say: differences


def show_step(step: CellStep) -> None:
    """Progress on stderr, a line a cell."""
    if step.state != "start":
        print(f"  [{step.number}/{step.total}] {step.seconds:.0f} s", file=sys.stderr)


def finished(name: str, folder: Path | None) -> Run:
    """The run of a recipe in full mode: read from `folder`, or run now.

    Raises:
        AdvisorError: a folder without a finished full run of it, or a recipe that failed.
    """
    if folder is None:
        folder = ROOT / "build" / "full" / name
        print(f"== {name}", file=sys.stderr)
        done = run_recipe(name, {"mode": "full"}, folder, show_step, existing="resume")
        if done.status != "done":
            raise AdvisorError(f"{name}: {done.status}: {done.failure}")
    run = read_run(folder)
    manifest = run.manifest or {}
    if (run.recipe, manifest.get("mode"), manifest.get("status")) != (name, "full", "done"):
        raise AdvisorError(f"{folder.name}: no finished run of {name} in full mode.")
    return run


def line(found: Figure) -> str:
    """A figure on one line of the table."""
    value = amount(found.value, found.unit)
    between = interval(found) if found.n > 1 else ""
    return f"  {found.group:10} {found.name:44} {value:>14}  {between:24} n = {found.n}"


def row(run: Run) -> dict[str, Any]:
    """What is kept of a run: its figures, and the part of its manifest that says what was run."""
    manifest = run.manifest or {}
    return {
        "recipe": run.recipe,
        "run": {key: manifest.get(key) for key in OF_THE_RUN},
        "figures": {name: asdict(figure) for name, figure in run.figures.items()},
        "notes": {name: run.notes[name] for name in TABLES if name in run.notes},
    }


def main() -> int:
    """Run or read the recipes, print their figures, and keep them if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="RECIPE")
    parser.add_argument("--read", type=Path, metavar="FOLDER", help="a run folder of one recipe")
    parser.add_argument("--record", action="store_true", help="append to results/recipes.json")
    options = parser.parse_args()
    every = [recipe_of(path) for path in recipe_files(ROOT / "nbs" / "recipes")]
    names = options.names or [name for name in every if name not in NOT_HERE]
    if options.read and len(names) != 1:
        parser.error("--read takes one recipe")
    if unknown := [name for name in names if name not in every]:
        known = f"no recipe {', '.join(unknown)}; there are {', '.join(every)}"
        print(f"error: {known}.", file=sys.stderr)
        return EXIT_USAGE
    failed = 0
    for name in names:
        try:
            run = finished(name, options.read)
        except AdvisorError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        seconds = (run.manifest or {}).get("seconds", 0)
        print(f"{name}: {seconds:.0f} s", *(line(each) for each in run.figures.values()), sep="\n")
        if options.record:
            append("recipes", row(run))
    return EXIT_NO if failed else 0


if __name__ == "__main__":
    sys.exit(main())
