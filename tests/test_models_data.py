"""Every row of advisor/data/models.jsonl, and the parameter counts against transformers itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "advisor" / "data" / "models.jsonl"
LINES = FILE.read_text(encoding="utf-8").splitlines()
ROWS: list[dict[str, Any]] = [json.loads(line) for line in LINES]
KEYS = {"id", "aliases", "family", "source", "as_of", "parameters", "config"}
MAY_HAVE = {"published_parameters", "note"}
MODELS, FAMILIES = 100, 30

# Keys that published files carry under a name of their day, which transformers reads and renames.
OLD_NAMES = {
    "torch_dtype", "rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_pct",
    "rotary_emb_base", "n_ctx", "partial_rotary_factor", "sliding_window_pattern",
}  # fmt: skip
# Published keys that are no field of the class: read by the model's own code only, or by name where
# present (head_dim). They are kept because they are published, and none may be a slip of the pen.
NO_FIELD = {
    "attention_bias", "head_dim", "hidden_act", "hidden_activation", "lm_head_bias",
    "max_window_layers", "mlp_bias", "mlp_type", "moe_layer_freq", "norm_type", "scoring_func",
}  # fmt: skip

each_row = pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])


def config_of(row: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers")
    # A copy, because transformers rewrites nested values (rope_scaling) in place.
    return transformers.AutoConfig.for_model(**json.loads(json.dumps(row["config"])))


def test_the_catalogue_is_wide_enough() -> None:
    assert len(ROWS) >= MODELS
    assert len({row["family"] for row in ROWS}) >= FAMILIES


def test_a_line_is_one_model_in_order() -> None:
    assert FILE.read_text(encoding="utf-8") == "".join(line + "\n" for line in LINES)
    order = [(row["family"].lower(), row["parameters"], row["id"]) for row in ROWS]
    assert order == sorted(order)


def test_a_name_means_one_row() -> None:
    names = Counter(name for row in ROWS for name in (row["id"], *row["aliases"]))
    assert [name for name, times in names.items() if times > 1] == []


def test_no_key_is_given_twice() -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    for line in LINES:
        json.loads(line, object_pairs_hook=once)


@each_row
def test_row(row: dict[str, Any]) -> None:
    assert row.keys() >= KEYS
    assert row.keys() <= KEYS | MAY_HAVE
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", row["id"])
    assert all(re.fullmatch(r"([\w.-]+/)?[\w.-]+", alias) for alias in row["aliases"])
    assert re.fullmatch(r"[A-Za-z][\w. -]*", row["family"])
    assert re.fullmatch(r"https?://[^\s/]+\.[^\s]+", row["source"])
    assert date(2023, 1, 1) <= date.fromisoformat(row["as_of"]) <= date(2026, 12, 31)
    assert type(row["parameters"]) is int
    assert row.get("published_parameters", row["parameters"]) == row["parameters"]
    assert len(row["config"]["architectures"]) == 1


@each_row
def test_the_keys_are_ones_transformers_knows(row: dict[str, Any]) -> None:
    config = config_of(row)
    default = type(config)()
    known = {*default.to_dict(), *default.attribute_map, "architectures"}
    assert set(row["config"]) - known <= OLD_NAMES | NO_FIELD


@each_row
def test_parameters_are_those_of_the_real_model(row: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    # On "meta" a tensor has a shape and no memory, so a 235B model is built in a moment.
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config_of(row))
    assert type(model).__name__ == row["config"]["architectures"][0]
    assert sum(parameter.numel() for parameter in model.parameters()) == row["parameters"]
