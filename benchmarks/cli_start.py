"""Cold start of `advisor` beside two other command lines, all in one run, taking turns."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from statistics import median

from results import append

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "build" / "bench-venv"
OTHERS = ["accelerate", "torch>=2.9,<2.14", "llm"]
ADVISOR = str(Path(sys.executable).with_name("advisor"))
OURS = {
    "advisor --help": [ADVISOR, "--help"],
    "advisor ask --json": [ADVISOR, "ask", "--answers", "examples/support-bot.yaml", "--json"],
    "python -c pass": [sys.executable, "-c", "pass"],
}
THEIRS = {
    "accelerate estimate-memory --help": [
        str(BENCH / "bin" / "accelerate"),
        "estimate-memory",
        "--help",
    ],
    "llm --help": [str(BENCH / "bin" / "llm"), "--help"],
}


# As a user has it: bytecode is cached by the warm-up.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def make_environment() -> None:
    """An environment of their own for the others, so that nobody loads foreign packages."""
    if all(Path(command[0]).exists() for command in THEIRS.values()):
        return
    print(
        f"Making {BENCH} with {', '.join(OTHERS)} (a few minutes, 1 to 8 GB) ...", file=sys.stderr
    )
    venv.create(BENCH, with_pip=True, clear=True)
    pip = [
        str(BENCH / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, *OTHERS, *os.environ.get("BENCH_PIP", "").split()], check=True)


def seconds(command: list[str]) -> float:
    """Wall time of one run. Raises `CalledProcessError` if it fails."""
    quiet = subprocess.DEVNULL
    start = time.perf_counter()
    subprocess.run(command, stdout=quiet, stderr=quiet, cwd=ROOT, check=True, env=ENVIRONMENT)
    return time.perf_counter() - start


def measure(commands: dict[str, list[str]], runs: int) -> dict[str, list[float]]:
    """`runs` times per command after a warm-up; in turns, so that a busy moment hits all alike."""
    for command in commands.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return times


def versions_of_others() -> dict[str, str]:
    """The versions in the comparison environment."""
    names = ("accelerate", "torch", "llm")
    code = f"from importlib.metadata import version; print(*map(version, {names}))"
    done = subprocess.run(
        [str(BENCH / "bin" / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    return dict(zip(names, done.stdout.split(), strict=True))


def table(times: dict[str, list[float]]) -> str:
    """Median, extremes and the ratio to `advisor --help`, in seconds."""
    base = median(times["advisor --help"])
    rows = [f"{'command':<36}{'median':>9}{'min':>9}{'max':>9}{'ratio':>8}"]
    for name, found in times.items():
        low, mid, high = min(found), median(found), max(found)
        rows.append(f"{name:<36}{mid:>8.3f}s{low:>8.3f}s{high:>8.3f}s{mid / base:>7.1f}x")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=15, help="runs of each command after the warm-up"
    )
    parser.add_argument("--no-compare", action="store_true", help="measure only ours")
    parser.add_argument(
        "--save", action="store_true", help="append to benchmarks/results/cli_start.json"
    )
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be 1 or more")
    if not options.no_compare:
        make_environment()
    times = measure(OURS if options.no_compare else OURS | THEIRS, options.runs)
    print(table(times))
    if options.save:
        figures = {
            "unit": "s",
            "runs": options.runs,
            "cpu_cores": os.cpu_count(),
            "others": {} if options.no_compare else versions_of_others(),
            "commands": {
                name: {
                    "median": round(median(t), 4),
                    "min": round(min(t), 4),
                    "max": round(max(t), 4),
                }
                for name, t in times.items()
            },
        }
        print(f"saved to {append('cli_start', figures, ('click', 'PyYAML'))}", file=sys.stderr)


if __name__ == "__main__":
    main()
