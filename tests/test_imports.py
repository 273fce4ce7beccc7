"""What a command loads: advice needs no torch, `--help` needs next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "numpy", "transformers", "nbdev", "fastcore", "IPython", "cookbook"]
SCREEN = ["rich", "questionary", "prompt_toolkit"]


def loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('|'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split("|")}


def run(*words: str) -> str:
    return f"from advisor.cli import main\ntry:\n    main({list(words)!r})\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "code", ["import advisor.cli", run("--help"), run("ask", "--help"), run("--version")]
)
def test_help_loads_next_to_nothing(code: str) -> None:
    light = ["yaml", "json", "tomllib", "csv", "advisor.case"]
    assert not loaded(code) & {*HEAVY, *SCREEN, *light}


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "--answers", "examples/support-bot.yaml", "--json"],
        ["ask", "--answers", "examples/support-bot.yaml", "--format", "markdown"],
        ["explain", "rag", "--json"],
        ["evidence", "--json"],
        ["schema"],
        ["doctor", "--json"],
        ["ask", "--answers", "missing.yaml", "--json"],
    ],
    ids=" ".join,
)
def test_results_for_programs_load_no_screen_library(words: list[str]) -> None:
    assert not loaded(run(*words)) & {*HEAVY, *SCREEN}


@pytest.mark.parametrize(
    "words", [["ask", "--set", "task=code"], ["explain"], ["evidence"], ["doctor"]], ids=" ".join
)
def test_nothing_loads_what_only_recipes_need(words: list[str]) -> None:
    assert not loaded(run(*words)) & {*HEAVY, "questionary", "prompt_toolkit"}


def test_every_module_imports_alone() -> None:
    for module in sorted((ROOT / "advisor").glob("[a-z]*.py")):
        assert not loaded(f"import advisor.{module.stem}") & {*HEAVY, *SCREEN}, module.stem
