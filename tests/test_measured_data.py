"""Every published measurement can be read, has a source, and means something."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import published_memory as published  # noqa: E402

from advisor.shapes import find_model, parameter_count  # noqa: E402
from advisor.training_run import resolved  # noqa: E402

ROWS = published.load_rows()
SCORED = [row for row in ROWS if row.scored]
GROUPS = {*published.GROUPS, "explained", "not-stock", "other-stack"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row_is_whole(row: published.Row) -> None:
    assert row.group in GROUPS
    assert row.metric in published.METRICS
    assert row.usable == "yes" or re.fullmatch(r"no: .{5,}", row.usable)
    assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", row.as_of)
    assert row.source.startswith("https://") or re.fullmatch(
        r"[\w.-]+/[\w.-]+:[\w./-]+@[0-9a-f]{7,40}", row.source
    ), row.source
    assert row.quality in ("A", "B")
    assert row.gpu
    assert row.stack
    assert row.model.count("/") == 1
    assert 10**8 < row.bytes < 96 * 10**9
    resolved(row.run)


@pytest.mark.parametrize("row", SCORED, ids=lambda row: row.id)
def test_scored_row_is_plausible(row: published.Row) -> None:
    """The model is known, the cells that decide are filled, and the weights fit in the figure."""
    weights = parameter_count(find_model(row.model).shape)
    per_weight = 0.5 if row.run.quantised else 2
    assert row.bytes > per_weight * weights / row.run.gpus
    assert row.run.weights_dtype
    assert row.run.padded is not None
    assert row.group in published.GROUPS
    if row.run.adapters:
        assert row.run.lora_rank
        assert row.run.lora_targets
        assert row.run.adapter_dtype
        assert row.run.lora_dropout is not None
    if row.run.quantised:
        assert row.run.kbit_fp32 is not None
        assert row.run.double_quant is not None
    if row.group == "headline":
        assert row.metric == "allocated"
        assert row.run.gpus == 1


def test_rows_are_told_apart() -> None:
    assert [name for name, n in Counter(row.id for row in ROWS).items() if n > 1] == []
    keys = Counter((row.model, row.run, row.metric, row.bytes, row.source) for row in SCORED)
    assert [key for key, n in keys.items() if n > 1] == []


def test_reserved_and_device_are_above_allocated() -> None:
    """The allocator holds at least what is in use, and the driver sees all that it holds."""
    allocated = {
        (row.model, row.run, row.stack): row for row in SCORED if row.metric == "allocated"
    }
    others = [row for row in SCORED if row.metric != "allocated"]
    assert others
    for row in others:
        assert row.bytes >= allocated[row.model, row.run, row.stack].bytes, row.id


def test_file_holds_what_the_benchmark_needs() -> None:
    assert {row.metric for row in SCORED} == set(published.METRICS)
    assert {row.run.method for row in SCORED} >= {"full", "lora", "qlora"}
    assert any(not row.run.gradient_checkpointing for row in SCORED)
    assert len([row for row in SCORED if row.group == "headline"]) >= 20


def test_summary_counts_refusals_and_intervals() -> None:
    results = [
        {"group": "g", "method": "full", "metric": "device", "error_percent": -4.0, "inside": True},
        {"group": "g", "method": "full", "metric": "device", "error_percent": 2.0, "inside": False},
        {"group": "g", "method": "full", "metric": "device", "refused": "why"},
    ]
    assert published.summarise(results)["g"] == {
        "rows": 3,
        "answered": 2,
        "median_percent": 3.0,
        "worst_percent": 4.0,
        "inside_share": 0.5,
    }


def test_the_formula_holds_on_published_runs() -> None:
    """One GPU, the Hugging Face stack, allocated peak: what the documentation promises."""
    headline = [row for row in SCORED if row.group == "headline"]
    errors = sorted(abs(found["error_percent"]) for found in published.score(headline, False))
    assert len(errors) >= 85
    assert errors[len(errors) // 2] <= 0.5
    assert errors[-1] <= 2.0
