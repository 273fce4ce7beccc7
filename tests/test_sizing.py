"""memory, fit and cost on the command line: answers, exit codes, and what bad input says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import validate

from advisor.cli import main
from advisor.errors import AdvisorError
from advisor.fit import allocated_budget, cheapest_change, largest_batch, verdict
from advisor.gpus import find_gpu
from advisor.memory import PeakCurve, estimate
from advisor.shapes import architectures, catalogue, find_model
from advisor.training_run import CHOICES, TrainingRun

SMALL = "Qwen/Qwen3-0.6B"
SPREAD = {"type": "object", "required": ["low", "typical", "high"],
          "properties": {k: {"type": "integer"} for k in ("low", "typical", "high")}}  # fmt: skip
CONTRACT = {
    "type": "object",
    "required": [
        "schema", "model", "run", "allocated_peak_bytes", "reserved_peak_bytes",
        "device_peak_bytes", "peak_at", "terms", "assumptions", "uncertainty_percent",
        "answered_by",
    ],
    "properties": {
        "schema": {"const": 1},
        "allocated_peak_bytes": {"type": "integer", "minimum": 1},
        "reserved_peak_bytes": SPREAD,
        "device_peak_bytes": SPREAD,
        "peak_at": {
            "enum": ["forward", "loss", "reference", "layer", "embedding", "optimizer"]
        },
        "terms": {"type": "object", "additionalProperties": {"type": "integer"}},
        "assumptions": {"type": "array", "items": {"type": "string"}},
        "uncertainty_percent": {"type": "number", "minimum": 1},
        "answered_by": {"const": "formula"},
    },
}  # fmt: skip


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(words), standalone_mode=True)
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("method", CHOICES["method"])
def test_memory_keeps_the_contract(method: str) -> None:
    values = json.loads(call("memory", "--model", SMALL, "--method", method, "--json"))
    validate(values, CONTRACT)
    total, parts = values["allocated_peak_bytes"], values["terms"].values()
    assert abs(sum(parts) - total) <= len(parts)
    spread = values["reserved_peak_bytes"]
    assert total <= spread["low"] <= spread["typical"] <= spread["high"]
    assert values["defaults"], "what was filled in is said"


BAD = [
    (("--seq-len", "-1"), 2, "--seq-len: -1 is out of range"),
    (("--batch", "0"), 2, "--batch: 0 is out of range"),
    (("--seq-len", "1000000000"), 2, "--seq-len: 1000000000 is out of range"),
    (("--batch", "100000", "--seq-len", "1000000"), 2, "tokens in one step"),
    (("--lora-rank", "0"), 2, "--lora-rank: 0 is out of range"),
    (("--lora-targets", "q_prj"), 2, "Did you mean 'q_proj'?"),
    (("--method", "full", "--lora-rank", "8"), 2, "--lora-rank has no meaning with --method full"),
    (("--optimizer", "adam"), 2, "adam"),
    (("--gpu", "RTX-4099"), 2, "RTX-4099"),
    (("--gpus", "4", "--sharding", "none"), 2, "says two things"),
    (("--lora-dropout", "1.5"), 2, "--lora-dropout: 1.5 is out of range"),
]


@pytest.mark.parametrize(("flags", "code", "said"), BAD)
def test_bad_flags_say_what_is_wrong(flags: tuple[str, ...], code: int, said: str) -> None:
    output = call("memory", "--model", SMALL, *flags, code=code)
    assert said in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) <= 6


def write(folder: Path, values: object) -> str:
    path = folder / "config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return str(path)


GOOD = dict(find_model("meta-llama/Llama-3.1-8B").config)
CONFIGS = {
    "truncated": (json.dumps(GOOD)[:80], 2, "not JSON"),
    "empty": ("", 2, "not JSON"),
    "a list": ("[1]", 2, "not a JSON object"),
    "no model_type": ({k: v for k, v in GOOD.items() if k != "model_type"}, 2, "model_type"),
    "heads that do not divide": ({**GOOD, "num_attention_heads": 31}, 2, "num_attention_heads"),
    "key heads that do not divide": ({**GOOD, "num_key_value_heads": 5}, 2, "num_key_value_heads"),
    "negative layers": ({**GOOD, "num_hidden_layers": -4}, 2, "num_hidden_layers"),
    "words for numbers": ({**GOOD, "hidden_size": "4096"}, 2, "hidden_size"),
    "true for a number": ({**GOOD, "vocab_size": True}, 2, "vocab_size"),
    "absurd": ({**GOOD, "vocab_size": 10**12}, 2, "vocab_size"),
    "an encoder": ({"model_type": "bert", "hidden_size": 768}, 3, "decoder-only"),
    "an encoder and decoder": ({**GOOD, "is_encoder_decoder": True}, 3, "decoder-only"),
    "multimodal": ({"model_type": "gemma3", "text_config": GOOD, "vision_config": {}}, 3, "multim"),
    "unknown": ({**GOOD, "model_type": "mamba"}, 3, "not known to the formula"),
    "not a number": (json.dumps(GOOD).replace("4096", "NaN"), 2, "hidden_size"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    values, code, said = CONFIGS[name]
    output = call("memory", "--model", write(tmp_path, values), code=code)
    assert said in output
    assert "Traceback" not in output


def test_a_config_is_as_good_as_its_catalogued_id(tmp_path: Path) -> None:
    from_file = json.loads(call("memory", "--model", write(tmp_path, GOOD), "--json"))
    from_folder = json.loads(call("memory", "--model", str(tmp_path), "--json"))
    by_id = json.loads(call("memory", "--model", "meta-llama/Llama-3.1-8B", "--json"))
    peaks = {v["allocated_peak_bytes"] for v in (from_file, from_folder, by_id)}
    assert len(peaks) == 1


def test_an_unreachable_hub_is_exit_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in call("memory", "--model", "nobody/nothing", code=3)


def test_what_does_not_fit_is_exit_1_with_the_cheapest_change() -> None:
    words = ("memory", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "RTX-4090", "--json")
    values = json.loads(call(*words, "--method", "lora", code=1))
    assert values["verdict"]["word"] == "no"
    assert values["cheapest_change"][0]["flags"] == "--weights-dtype bf16"
    values = json.loads(call(*words, "--method", "qlora", "--batch", "1"))
    assert values["verdict"]["word"] in ("fits", "likely")
    assert values["cheapest_change"] == []


def test_fit_names_the_nearest_miss() -> None:
    words = ("fit", "--model", "meta-llama/Llama-3.1-70B", "--gpu", "RTX-4060")
    assert "Nothing fits. Nearest: " in call(*words, code=1)
    assert json.loads(call(*words, "--json", code=1))["nearest"]["needed_bytes"] > 8e9


def test_fit_for_a_case(tmp_path: Path) -> None:
    case = tmp_path / "case.yaml"
    case.write_text("schema: 1\nmodel: {id: Qwen/Qwen2.5-7B}\nhardware: {gpu: L4, count: 1}\n")
    assert "cheapest first" in call("fit", "--answers", str(case))
    rows = json.loads(call("fit", "--answers", str(case), "--json"))["cards"]
    assert all(row["cards"] for row in rows if row["method"] == "qlora")
    case.write_text("schema: 1\nhardware: {gpu: L4}\n")
    assert "names none" in call("fit", "--answers", str(case), code=2)


def test_cost_needs_an_amount() -> None:
    words = ("cost", "--model", SMALL, "--gpu", "L4")
    assert "--tokens or --examples" in call(*words, code=2)
    values = json.loads(call(*words, "--examples", "1000", "--json"))
    hours = values["training"]["hours"]
    assert 0 < hours["low"] < hours["typical"] < hours["high"]


def test_cost_compares_the_three_ways() -> None:
    words = ["cost", "--model", "Qwen/Qwen2.5-7B", "--gpu", "A100-80GB", "--examples", "2000"]
    values = json.loads(call(*words, "--knowledge-tokens", "30000", "--json"))["serving"]
    typical = {way: cost["usd_per_1000"]["typical"] for way, cost in values["costs"].items()}
    assert typical["tuned"] < typical["rag"] < typical["long-context"]
    assert set(values["pays_from_requests"]) == {"rag", "long-context"}


runs = st.builds(
    dict,
    method=st.sampled_from(("full", "lora", "qlora", "cpt", "dpo")),
    precision=st.sampled_from(CHOICES["precision"]),
    loss=st.sampled_from(CHOICES["loss"]),
    attention=st.sampled_from(CHOICES["attention"]),
    optimizer=st.sampled_from(CHOICES["optimizer"]),
    gradient_checkpointing=st.booleans(),
)
models = st.sampled_from(
    ["Qwen/Qwen2.5-0.5B", "google/gemma-2-2b-it", "microsoft/phi-2", "openai-community/gpt2",
     "EleutherAI/pythia-410m", "tiiuae/falcon-7b-instruct", "mistralai/Mixtral-8x7B-v0.1"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(models, runs, st.integers(1, 16), st.sampled_from((256, 1000, 4096)))
def test_more_text_never_takes_less(
    name: str, values: dict[str, Any], batch: int, length: int
) -> None:
    curve = PeakCurve(find_model(name), TrainingRun(**values))
    assert curve(batch, length) <= curve(batch + 1, length)
    assert curve(batch, length) <= curve(batch, 2 * length)


@settings(max_examples=40, deadline=None)
@given(models, runs)
def test_checkpointing_never_takes_more(name: str, values: dict[str, Any]) -> None:
    on, off = (
        PeakCurve(find_model(name), TrainingRun(**{**values, "gradient_checkpointing": flag}))
        for flag in (True, False)
    )
    assert on(2, 2048) <= 1.02 * off(2, 2048)


def test_the_largest_batch_is_the_largest() -> None:
    card, model = find_gpu("RTX-3090"), find_model("Qwen/Qwen2.5-1.5B-Instruct")
    curve, budget = PeakCurve(model, TrainingRun()), allocated_budget(find_gpu("RTX-3090"), "full")
    most = largest_batch(curve, 2048, budget)
    assert curve(most, 2048) <= budget < curve(most + 1, 2048)
    assert card.id == "RTX-3090"


def test_the_cheapest_change_makes_it_fit() -> None:
    model, card = find_model("Qwen/Qwen2.5-7B"), find_gpu("RTX-3090")
    run = TrainingRun(method="full")
    assert not verdict(estimate(model, run), card).yes
    changes = cheapest_change(model, run, card)
    assert changes
    words = " ".join(change.flags for change in changes).split()
    output = call("memory", "--model", model.id, "--method", "full", "--gpu", card.id, *words)
    assert "fits" in output


def test_every_catalogued_model_is_answered_or_refused_by_name() -> None:
    kinds = architectures()
    known = {name for name, model in catalogue().items() if model.config["model_type"] in kinds}
    for name in known:
        assert estimate(catalogue()[name], TrainingRun(method="lora")).allocated_peak_bytes > 0
    for name in set(catalogue()) - known:
        with pytest.raises(AdvisorError, match="not known to the formula") as error:
            estimate(catalogue()[name], TrainingRun(method="lora"))
        assert error.value.exit_code == 3
    assert len(known) >= 0.9 * len(catalogue())


def test_memory_loads_nothing_heavy() -> None:
    code = (
        "import sys; from advisor.cli import main\n"
        "try: main(['memory', '--model', 'Qwen/Qwen3-0.6B', '--gpu', 'L4'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'rich', 'transformers', 'cookbook') "
        "if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")
