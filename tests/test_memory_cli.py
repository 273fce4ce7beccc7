"""cookbook simulate and measure on the command line: the contract, exit codes, what is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from jsonschema import validate
from test_sizing import CONTRACT

from advisor.cli import main as advisor
from cookbook.cli import main as cookbook

TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "tie_word_embeddings": False, "max_position_embeddings": 512,
}  # fmt: skip


def call(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cookbook, list(words), standalone_mode=True)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    return str(path)


def test_simulate_answers_in_the_form_of_memory() -> None:
    words = ("--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--batch", "2", "--json")
    traced = json.loads(call("simulate", *words).stdout)
    answered = {**CONTRACT["properties"], "answered_by": {"const": "simulation"}}
    validate(traced, {**CONTRACT, "properties": answered})
    formula = json.loads(CliRunner().invoke(advisor, ["memory", *words]).stdout)
    assert set(traced) == set(formula)
    assert set(traced["run"]) == set(formula["run"])
    peaks = [found["allocated_peak_bytes"] for found in (traced, formula)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.03)


def test_simulate_knows_what_the_formula_does_not() -> None:
    name = "EleutherAI/gpt-j-6b"
    refused = CliRunner().invoke(advisor, ["memory", "--model", name])
    assert refused.exit_code == 3
    assert "cookbook simulate" in refused.output
    found = json.loads(call("simulate", "--model", name, "--batch", "1", "--json").stdout)
    assert found["allocated_peak_bytes"] > 4 * 6e9  # float32 weights


def test_simulate_with_a_card_says_whether_it_fits(tiny: str) -> None:
    assert "RTX-4060 (" in call("simulate", "--model", tiny, "--gpu", "RTX-4060").stdout
    call("simulate", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "RTX-4060", code=1)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--seq-len", "0"), 2, "--seq-len: 0 is out of range"),
        (("--lora-targets", "qproj"), 2, "qproj"),
        (("--gpu", "RTX-4099"), 2, "RTX-4099"),
    ],
)
def test_bad_flags_are_one_clear_line(
    tiny: str, flags: tuple[str, ...], code: int, said: str
) -> None:
    result = call("simulate", "--model", tiny, *flags, code=code)
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_measure_on_the_cpu_adds_a_row(tiny: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    words = ("--model", tiny, "--method", "lora", "--batch", "1", "--seq-len", "64")
    call("measure", *words, "--device", "cpu", "--append", str(rows))
    call("measure", *words, "--device", "cpu", "--append", str(rows))
    found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in found] == ["ok", "ok"]
    assert found[0]["answered_by"] == "measurement"
    assert found[0]["allocated_peak_bytes"] > 0


def test_a_large_model_without_a_gpu_is_not_measured() -> None:
    result = call("measure", "--model", "meta-llama/Llama-3.1-8B", code=3)
    assert "Traceback" not in result.output


def test_help_of_the_cookbook_loads_no_torch() -> None:
    code = (
        "import sys; from cookbook.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = [m for m in ('torch', 'transformers', 'numpy') if m in sys.modules]\n"
        "print(heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")
