"""Append a dated result, with machine and versions, to benchmarks/results/<name>.json."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def _commit() -> str | None:
    """The commit of the advisor that was measured; None outside a repository."""
    import advisor

    command = ["git", "-C", next(iter(advisor.__path__)), "rev-parse", "--short=10", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def append(name: str, figures: dict[str, Any], packages: tuple[str, ...] = ()) -> Path:
    """Add one row to the results file of that name and return its path."""
    from advisor.files import write_text

    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows.append(
        {
            "date": date.today().isoformat(),
            "commit": _commit(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "versions": {p: version(p) for p in ("llm-adaptation-advisor", *packages)},
            "figures": figures,
        }
    )
    RESULTS.mkdir(exist_ok=True)
    write_text(path, json.dumps(rows, indent=1) + "\n", force=True)
    return path
