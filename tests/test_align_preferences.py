"""Rewards and preference training: chance and length found, references exact, bad rows refused."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import EXIT_NO, AdvisorError
from cookbook.align.preference_settings import (
    PreferenceSettings,
    preference_rows,
    small_preferences,
    steps_of,
    unpaired_rows,
)
from cookbook.align.reward_checks import (
    BOTH,
    HACKED,
    USED_UP,
    chance_p_value,
    reward_change,
    reward_report,
    scored_pairs,
)
from cookbook.row_files import DataRow

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from cookbook.align.preferences import align, safety_sft  # noqa: E402
from cookbook.align.rewards import (  # noqa: E402
    exact_reward,
    load_reward,
    rule_reward,
    small_reward,
    train_reward,
)
from cookbook.models import load  # noqa: E402
from cookbook.toy_model import make_toy  # noqa: E402

WORDS = ("tea", "bread", "honey", "river")
PAIRS = [
    {"prompt": f"What does the shop {n} sell? Answer:", "chosen": f" {WORDS[n % 4]}\n",
     "rejected": f" {WORDS[(n + 1) % 4]} and more\n"}
    for n in range(16)
]  # fmt: skip
PROMPTS = [
    {"prompt": row["prompt"], "intent": ("adversarial", "benign")[n % 2]}
    for n, row in enumerate(PAIRS)
]
QUICK = small_preferences("dpo", max_steps=4, batch_size=4, save_every=2, max_new_tokens=6)
ONLINE = small_preferences("grpo", max_steps=3, batch_size=4, generations=4, max_new_tokens=6)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_toy(tmp_path_factory.mktemp("toy")))


def silent(line: str) -> None:
    del line


# ------------------------------------------------------------------------------ the checks
def test_a_random_reward_is_called_chance() -> None:
    drawn = random.Random(3)
    rows = PAIRS * 6

    def coin(prompts: Any, answers: Any) -> list[float]:
        del prompts
        return [drawn.random() for _ in answers]

    assert reward_report(scored_pairs(coin, rows)).is_chance
    perfect = reward_report(scored_pairs(lambda _, said: [-float(len(s)) for s in said], rows))
    assert not perfect.is_chance
    assert perfect.accuracy.value == 1


def test_the_chance_test_calls_one_coin_in_twenty_a_reward() -> None:
    drawn = random.Random(0)
    coins = [sum(drawn.random() < 0.5 for _ in range(60)) for _ in range(2000)]
    found = sum(chance_p_value(right, 60) < 0.05 for right in coins) / 2000
    assert 0.02 <= found <= 0.06  # exact tests of whole numbers keep a little below


def test_a_constant_reward_is_no_reward() -> None:
    report = reward_report(scored_pairs(lambda _, said: [1.0] * len(said), PAIRS))
    assert report.accuracy.value == 0
    assert report.is_chance
    assert report.length_correlation is None


def planted(longer_wins: float, count: int = 200) -> list[dict[str, str]]:
    drawn, rows = random.Random(1), []
    for _ in range(count):
        long, short = "x" * drawn.randint(40, 60), "x" * drawn.randint(5, 30)
        better, worse = (long, short) if drawn.random() < longer_wins else (short, long)
        rows.append({"prompt": "?", "chosen": better, "rejected": worse})
    return rows


def test_a_planted_length_bias_is_found_though_the_accuracy_is_good() -> None:
    rows = planted(0.75)
    report = reward_report(scored_pairs(lambda _, said: [float(len(s)) for s in said], rows))
    assert not report.is_chance
    assert report.likes_length
    assert report.length_correlation is not None
    assert report.length_correlation > 0.95
    assert "LENGTH IS REWARDED" in report.text()


def test_no_length_bias_is_claimed_where_there_is_none() -> None:
    rows = planted(0.5)
    better, drawn = {row["chosen"] for row in rows}, random.Random(2)

    def fair(prompts: Any, answers: Any) -> list[float]:
        del prompts
        return [float(said in better) + drawn.gauss(0, 0.6) for said in answers]

    report = reward_report(scored_pairs(fair, rows))
    assert not report.likes_length
    assert abs(report.length_correlation or 0) < 0.2


def test_hacking_is_told_from_progress() -> None:
    names = [str(n) for n in range(60)]
    low = {n: 0.01 * int(n) for n in names}
    high = {n: 1 + 0.011 * int(n) for n in names}
    none, half, full = ({n: float(int(n) % k == 0) for n in names} for k in (61, 2, 1))
    assert reward_change([low, high], [full, half]).verdict == HACKED
    assert reward_change([low, high], [half, half]).verdict == USED_UP
    assert reward_change([low, high], [none, full]).verdict == BOTH


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(AdvisorError, match="finite"):
        scored_pairs(lambda _, said: [math.nan] * len(said), PAIRS)


# ------------------------------------------------------------------------------ the rows
@pytest.mark.parametrize(
    ("method", "row", "said"),
    [
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "the same"),
        ("dpo", {"prompt": "a", "chosen": "b"}, "rejected"),
        ("dpo", {"prompt": "a", "chosen": " ", "rejected": "b"}, "chosen"),
        ("kto", {"prompt": "a", "completion": "b", "label": "yes"}, "label"),
        ("rloo", {"prompt": "a"}, "no intent"),
    ],
)
def test_bad_rows_are_named_by_number(method: str, row: dict[str, Any], said: str) -> None:
    good = {
        "dpo": PAIRS[0], "kto": {"prompt": "a", "completion": "c", "label": False},
        "rloo": PROMPTS[0],
    }[method]  # fmt: skip
    settings = PreferenceSettings(method=method)
    with pytest.raises(AdvisorError, match=rf"row 2: .*{said}"):
        preference_rows([good, row], settings)


def test_a_balance_that_does_not_hold_is_an_honest_no() -> None:
    rows = [dict(row, intent="adversarial") for row in PROMPTS[:9]] + PROMPTS[1:2]
    with pytest.raises(AdvisorError, match="balance does not hold") as caught:
        preference_rows(rows, PreferenceSettings(method="grpo"))
    assert caught.value.exit_code == EXIT_NO
    any_mix = PreferenceSettings(method="grpo", adversarial=None)
    assert len(preference_rows(rows, any_mix)) == 10


def test_pairs_are_taken_apart_for_kto_and_one_sort_is_refused() -> None:
    rows = preference_rows(PAIRS, PreferenceSettings(method="kto"))
    assert rows == unpaired_rows(PAIRS)
    with pytest.raises(AdvisorError, match="Every label is the same"):
        preference_rows([row for row in rows if row["label"]], PreferenceSettings(method="kto"))


@pytest.mark.parametrize(
    "values",
    [{"method": "ppo"}, {"beta": -1.0}, {"method": "grpo", "batch_size": 6}, {"generations": 1},
     {"losses": ("sigmoid",)}, {"adversarial": 1.0}, {"learning_rate": math.nan}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(AdvisorError):
        PreferenceSettings(**values)


def test_an_online_step_reads_fewer_prompts() -> None:
    assert steps_of(PreferenceSettings(), 80) == 10
    assert steps_of(PreferenceSettings(method="grpo"), 80) == 80


def test_rewards_and_methods_must_go_together(toy: str, tmp_path: Path) -> None:
    with pytest.raises(AdvisorError, match="needs a reward"):
        align(toy, PROMPTS, ONLINE, tmp_path)
    with pytest.raises(AdvisorError, match="follows no reward"):
        align(toy, PAIRS, QUICK, tmp_path, rewards=[exact_reward()])


def test_a_rule_sees_its_own_row() -> None:
    rule = rule_reward(lambda prompt, said, row: float(said == prompt + row["more"]), "own")
    assert rule(["a", "b"], ["a1", "b1"], more=["1", "2"], completion_ids=[[1], [2]]) == [1, 0]
    assert rule.__name__ == "own"
    with pytest.raises(AdvisorError, match="no reference"):
        exact_reward()(["a"], ["b"])


# ------------------------------------------------------------------------------ the runs
def test_the_reference_is_the_model_with_its_adapter_off(toy: str, tmp_path: Path) -> None:
    """DPO's margins at the first step, and its reference log-probabilities, by another way."""
    from cookbook.align.preference_trainers import make_trainer
    from cookbook.train_callbacks import PeakWatch, TrainProgress, quiet

    base = load(toy, device="cpu")
    wanted = [score.log_likelihood for score in base.log_likelihoods(
        [(row["prompt"], row[side] + "<end>") for row in PAIRS[:4] for side in ("chosen",)])]
    progress = TrainProgress(silent, PeakWatch("cpu"))
    with quiet():
        tuner = make_trainer(load(toy, device="cpu"), PAIRS[:4], QUICK, tmp_path, progress)
        with torch.no_grad():  # an adapter that is no longer at zero
            for name, parameter in tuner.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.1)
        batch = next(iter(tuner.get_train_dataloader()))
        chosen, _ = tuner.compute_ref_log_probs(tuner.model, batch)
    assert sorted(chosen.tolist()) == pytest.approx(sorted(wanted), rel=1e-4)


def test_a_dpo_run_changes_what_it_should_and_says_so(toy: str, tmp_path: Path) -> None:
    settings = replace(QUICK, max_steps=12, learning_rate=1e-2)
    said: list[str] = []
    aligned = align(toy, PAIRS, settings, tmp_path / "run", report=said.append)
    margins = [value for _, value in aligned.logged("rewards/margins")]
    assert abs(margins[0]) < 1e-4 < margins[-1]
    assert aligned.changed > 0
    assert any("greedy answers changed" in line for line in said)
    again = align(toy, PAIRS, settings, tmp_path / "run", report=silent)
    assert (again.said, again.curve) == (aligned.said, aligned.curve)
    with pytest.raises(AdvisorError, match=r"data\.sha256"):
        align(toy, PAIRS[::-1], settings, tmp_path / "run", report=silent)


def test_a_run_that_changed_nothing_says_so(toy: str, tmp_path: Path) -> None:
    aligned = align(toy, PAIRS, replace(QUICK, learning_rate=0.0), tmp_path / "run", report=silent)
    assert aligned.changed == 0
    assert "NO ANSWER CHANGED" in aligned.text()


def test_both_rewards_are_logged_and_one_is_followed(toy: str, tmp_path: Path) -> None:
    follow = rule_reward(lambda _, said, __: float(len(said)), "length")
    watch = rule_reward(lambda _, said, __: -float(len(said)), "brevity")
    aligned = align(toy, PROMPTS, ONLINE, tmp_path / "run", rewards=[follow], watched=[watch],
                    report=silent)  # fmt: skip
    lengths, brief = (aligned.logged(f"rewards/{n}/mean") for n in ("length", "brevity"))
    assert [value for _, value in lengths] == [-value for _, value in brief]
    assert aligned.logged("reward") == lengths
    record = json.loads((tmp_path / "run" / "training.json").read_text(encoding="utf-8"))
    assert (record["mark"]["rewards"], record["mark"]["watched"]) == (["length"], ["brevity"])


def test_a_reward_model_learns_and_is_loaded_as_it_was(toy: str, tmp_path: Path) -> None:
    settings = small_reward(max_steps=12, batch_size=8)
    made = train_reward(toy, PAIRS, settings, tmp_path / "reward", report=silent)
    report = reward_report(scored_pairs(made.score, PAIRS))
    assert report.accuracy.value > 0.9
    prompts, said = [row["prompt"] for row in PAIRS], [row["chosen"] for row in PAIRS]
    one_by_one = [made.score([p], [s])[0] for p, s in zip(prompts, said, strict=True)]
    assert made.score(prompts, said) == pytest.approx(one_by_one, abs=1e-4)
    again = load_reward(tmp_path / "reward", device="cpu")
    assert again.score(prompts, said) == pytest.approx(one_by_one, abs=1e-4)
    with pytest.raises(AdvisorError, match="no reward model"):
        load_reward(tmp_path)


def test_safety_rows_train_without_their_metadata(toy: str, tmp_path: Path) -> None:
    from cookbook.train_settings import small_model
    from cookbook.training_rows import rows_sha256

    rows = [
        DataRow(n, {"prompt": row["prompt"], "completion": row["chosen"], "policy": f"rule {n}",
                    "use_case": "shop"})
        for n, row in enumerate(PAIRS, start=1)
    ]  # fmt: skip
    settings = small_model("lora", max_steps=2)
    trained = safety_sft(toy, rows, settings, tmp_path / "run", report=silent)
    record = json.loads((trained.folder / "training.json").read_text(encoding="utf-8"))
    plain = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
    assert record["mark"]["data"]["sha256"] == rows_sha256(plain)
    del rows[1].data["policy"]
    with pytest.raises(AdvisorError, match="policy"):
        safety_sft(toy, rows, settings, tmp_path / "other", report=silent)


# ------------------------------------------------------------------------------ killed
RUN = """
import sys, json
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_align_preferences import PAIRS, QUICK
from dataclasses import replace
from cookbook.align.preferences import align
align({toy!r}, PAIRS, replace(QUICK, max_steps=8), {folder!r}, report=lambda line: None)
"""


@pytest.mark.timeout(240)
def test_a_killed_run_goes_on_to_the_same_end(toy: str, tmp_path: Path) -> None:
    settings = replace(QUICK, max_steps=8)
    whole = align(toy, PAIRS, settings, tmp_path / "whole", report=silent)
    folder = tmp_path / "killed"
    code = RUN.format(tests=str(Path(__file__).parent), toy=toy, folder=str(folder))
    env = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)
    mark = folder / "checkpoints" / "checkpoint-2" / "whole.json"
    deadline = time.monotonic() + 200
    while not mark.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    lines: list[str] = []
    resumed = align(toy, PAIRS, settings, folder, report=lines.append)
    if not json.loads((folder / "training.json").read_text(encoding="utf-8"))["done"]:
        raise AssertionError("not done")
    assert [p.loss for p in resumed.curve] == pytest.approx([p.loss for p in whole.curve], rel=1e-5)
    assert [s.after for s in resumed.said] == [s.after for s in whole.said]


RL_RUN = """
import sys
from dataclasses import replace
sys.path.insert(0, {tests!r})
from test_align_preferences import ONLINE, PROMPTS
from cookbook.align.preferences import align
from cookbook.align.rewards import rule_reward
rule = rule_reward(lambda prompt, said, row: float(len(said) % 3), "rule")
settings = replace(ONLINE, max_steps=6, save_every=2)
align({toy!r}, PROMPTS, settings, {folder!r}, rewards=[rule], report=print)
"""


@pytest.mark.timeout(240)
def test_a_killed_rl_run_draws_the_same_answers_again(toy: str, tmp_path: Path) -> None:
    """The random state goes on where it was, so that weights end the same to the last bit."""

    def begun(folder: Path) -> subprocess.Popen[bytes]:
        code = RL_RUN.format(tests=str(Path(__file__).parent), toy=toy, folder=str(folder))
        env = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        told = (tmp_path / "told").open("w")
        return subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=told, stderr=subprocess.DEVNULL
        )

    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert begun(whole).wait(100) == 0
    child, mark = begun(folder), folder / "checkpoints" / "checkpoint-2" / "whole.json"
    while not mark.exists() and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (folder / "adapter_model.safetensors").exists()
    assert begun(folder).wait(100) == 0
    assert "goes on from step" in (tmp_path / "told").read_text(encoding="utf-8")
    one, other = (load_file(place / "adapter_model.safetensors") for place in (whole, folder))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loss_that_is_no_number_ends_the_run(toy: str, tmp_path: Path) -> None:
    broken = load(toy, device="cpu")
    with torch.no_grad():
        broken.model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    with pytest.raises(AdvisorError) as caught:
        align(broken, PAIRS, QUICK, tmp_path / "run", report=silent, prompts=["a"])
    assert caught.value.exit_code == EXIT_NO
    assert not list((tmp_path / "run").glob("*.safetensors"))
