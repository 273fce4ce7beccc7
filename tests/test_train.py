"""The training core: what a run must not lose, hide or get wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import EXIT_NO, EXIT_UNKNOWN, EXIT_USAGE, AdvisorError
from cookbook.models import LanguageModel, load
from cookbook.toy_model import make_toy
from cookbook.train import Trained, train
from cookbook.train_settings import TrainSettings

torch = pytest.importorskip("torch")

WORDS = ("tea", "bread", "honey", "river", "town", "shop")
ROWS = [
    {"prompt": f"What does the shop {n} sell? Answer:", "completion": f" {WORDS[n % 6]}\n"}
    for n in range(24)
]
TEXTS = [{"text": f"The shop {n} is in the town {n * n} by the river."} for n in range(30)]
SHORT = TrainSettings(
    rank=4, learning_rate=1e-2, batch_size=4, max_steps=6, max_length=128, save_every=2,
    dropout=0.0,
)  # fmt: skip
EXACT = 1e-6  # what a resumed curve may differ by; on a CPU it is the same to the last digit


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_toy(tmp_path_factory.mktemp("toy")))


def silent(line: str) -> None:
    del line


def run(
    model: LanguageModel | str, folder: Path, settings: TrainSettings = SHORT,
    rows: Sequence[Any] = ROWS, **more: Any,
) -> Trained:  # fmt: skip
    return train(model, rows, settings, folder, report=more.pop("report", silent), **more)


def adapter_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ------------------------------------------------------------------------------------ seeds
def test_the_seed_reaches_everything(toy: str, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        random.seed(name)
        torch.manual_seed(len(made) + 100)  # what happened before must not matter
        settings = replace(SHORT, seed=seed, dropout=0.1, max_steps=3)
        made.append(adapter_weights(run(toy, tmp_path / name, settings).folder))
    assert same(made[0], made[1])
    assert not same(made[0], made[2])
    first = next(name for name in made[0] if "lora_A" in name)
    assert (made[0][first] - made[2][first]).abs().max() > 0.01  # initialisation too


def test_accumulation_gives_the_same_curve(toy: str, tmp_path: Path) -> None:
    rows = [  # of uneven length: a mean of means would differ
        {"prompt": "Question:", "completion": " " + "tea and honey " * (n % 7 + 1)}
        for n in range(40)
    ]
    one = run(toy, tmp_path / "8x1", replace(SHORT, batch_size=8, max_steps=5), rows)
    settings = replace(SHORT, batch_size=1, accumulation=8, max_steps=5)
    other = run(toy, tmp_path / "1x8", settings, rows)
    assert one.losses == pytest.approx(other.losses, rel=1e-4)
    left, right = adapter_weights(one.folder), adapter_weights(other.folder)
    for key, weight in left.items():
        assert torch.allclose(weight, right[key], atol=2e-4), key


# ------------------------------------------------------------------------------ what is learnt
def test_the_end_is_learnt_and_the_question_is_not(toy: str, tmp_path: Path) -> None:
    row = {"prompt": "What does the shop sell? Answer:", "completion": " bread\n"}
    settings = replace(SHORT, method="full", max_steps=60, learning_rate=5e-3)
    trained = run(toy, tmp_path / "run", settings, [row] * 8)
    said = trained.model.generate([row["prompt"]], max_new_tokens=20)[0]
    assert (said.text, said.finish) == (" bread\n", "stop")
    assert trained.losses[-1] < 0.2
    base = load(toy, device="cpu")
    before, after = (
        m.log_likelihoods([("", row["prompt"])])[0].log_likelihood for m in (base, trained.model)
    )
    learnt = [
        m.log_likelihoods([(row["prompt"], row["completion"])])[0].log_likelihood
        for m in (base, trained.model)
    ]
    assert learnt[1] - learnt[0] > 5 > after - before


def test_only_answers_of_a_chat_are_learnt_where_the_template_tells(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "How is it painted?"},
                          {"role": "assistant", "content": "golden"}]}] * 4  # fmt: skip
    labels = _labels("lab-instruct", rows, SHORT, tmp_path / "a")
    tokenizer = load("lab-instruct", device="cpu").tokenizer
    learnt = tokenizer.decode([n for n in labels[0] if n != -100])
    assert learnt == "golden<|end|>"
    everything = _labels("lab-instruct", rows, replace(SHORT, assistant_only=False), tmp_path / "b")
    assert -100 not in everything[0]


def _labels(model: str, rows: Sequence[Any], settings: TrainSettings, folder: Path) -> Any:
    """What the trainer would train on, row by row."""
    from cookbook.train_callbacks import PeakWatch, TrainProgress, quiet
    from cookbook.train_plan import plan_training
    from cookbook.train_source import load_for_training, look_at
    from cookbook.train_trainer import make_tuner

    plan = plan_training(look_at(model, settings.method), rows, None, settings)
    loaded = load_for_training(plan.source, plan.settings)
    with quiet():
        tuner, _ = make_tuner(plan, loaded, folder, TrainProgress(silent, PeakWatch("cpu")))
    return tuner.train_dataset["labels"]


def test_packed_documents_do_not_see_each_other(toy: str) -> None:
    from cookbook.train_callbacks import PackedBatch

    model = load(toy, device="cpu")
    documents = [model.tokenizer(row["text"])["input_ids"] for row in TEXTS[:3]]
    joined = [number for each in documents for number in each]
    pack = {
        "input_ids": joined, "labels": joined,
        "seq_lengths": [len(each) for each in documents],
    }  # fmt: skip
    longer = {"input_ids": [3] * 99, "labels": [3] * 99, "seq_lengths": [99]}
    batch = PackedBatch(0)([pack, longer])
    batch["use_cache"] = batch.pop("labels") is None  # with a cache no walls are made
    with torch.inference_mode():
        together = model.model(**batch).logits[0]
        start = 0
        for ids in documents:
            alone = model.model(input_ids=torch.tensor([ids])).logits[0]
            assert torch.allclose(together[start : start + len(ids)], alone, atol=1e-4)
            start += len(ids)
        batch["position_ids"] = torch.arange(99)[None].expand(2, 99)
        mixed = model.model(**batch).logits[0]  # the check can fail: no positions, no walls
    assert not torch.allclose(mixed[start - 5 : start], together[start - 5 : start], atol=1e-2)


def test_raw_text_loses_no_token_in_packing(toy: str, tmp_path: Path) -> None:
    long = [{"text": TEXTS[0]["text"] * 9}, *TEXTS]
    settings = replace(SHORT, objective="text", max_length=64)
    labels = _labels(toy, long, settings, tmp_path)
    tokenizer = load(toy, device="cpu").tokenizer
    ends = sum(row.count(tokenizer.eos_token_id) for row in labels)
    wanted = sum(len(tokenizer(row["text"])["input_ids"]) + 1 for row in long)
    assert sum(map(len, labels)) == wanted
    assert ends == len(long)
    assert max(map(len, labels)) <= 64


def test_raw_text_trains_as_rows_do(toy: str, tmp_path: Path) -> None:
    """A packed batch has the loss of the same documents one by one (but for first tokens)."""
    settings = replace(SHORT, objective="text", batch_size=50, max_steps=1, learning_rate=0.0)
    packed = run(toy, tmp_path / "packed", settings, TEXTS)
    model = load(toy, device="cpu")
    end = model.tokenizer.eos_token
    total, count = 0.0, 0
    for row in TEXTS:
        ids = torch.tensor([model.tokenizer(row["text"] + end)["input_ids"]])
        with torch.inference_mode():
            logs = model.model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        total -= float(logs.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert packed.losses[0] == pytest.approx(total / count, rel=1e-4)


# ------------------------------------------------------------------------------------- QLoRA
def _lora_gradients(model: Any, ids: Any) -> list[Any]:
    import peft

    torch.manual_seed(0)
    with_adapter = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in with_adapter.named_parameters():
        if "lora_" in name:  # B is zero at first, and A would then have no gradient
            torch.manual_seed(len(name))
            parameter.data = torch.randn(parameter.shape) * 0.05
    with_adapter.eval()
    with torch.no_grad():
        with_adapter(input_ids=ids)  # the evaluation in between
    with_adapter.train()
    with_adapter(input_ids=ids, labels=ids).loss.backward()
    return [p.grad for p in with_adapter.parameters() if p.requires_grad]


def _dequantised(model: Any) -> Any:
    """The same model with every 4-bit layer as the plain layer it stands for."""
    import bitsandbytes

    kind: Any = bitsandbytes.nn.Linear4bit
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                weight = child.weight
                plain = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
                layer = torch.nn.Linear(child.in_features, child.out_features, bias=False)
                layer.weight.data = plain.float()
                setattr(module, name, layer)
    for attribute in ("is_loaded_in_4bit", "is_quantized", "hf_quantizer"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def test_qlora_gradients_are_those_of_the_dequantised_model(tmp_path: Path) -> None:
    folder = str(make_toy(tmp_path / "wide", width=128))
    ids = torch.tensor([list(range(3, 60))] * 2)
    quantised = _lora_gradients(load(folder, quantization="nf4", device="cpu").model, ids)
    plain = _dequantised(load(folder, quantization="nf4", device="cpu").model)
    wanted = _lora_gradients(plain, ids)
    assert len(quantised) == len(wanted) > 0
    for one, other in zip(quantised, wanted, strict=True):
        cosine = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
        assert float(cosine) > 0.999
        assert float(one.norm() / other.norm()) == pytest.approx(1, abs=0.01)


def test_qlora_learns_with_evaluations_in_between(tmp_path: Path) -> None:
    folder = str(make_toy(tmp_path / "wide", width=128))
    settings = replace(SHORT, method="qlora", max_steps=30, learning_rate=5e-3, evaluate_every=5)
    trained = run(folder, tmp_path / "run", settings, eval_rows=ROWS[:8])
    held_out = [p.eval_loss for p in trained.curve if p.eval_loss is not None]
    assert len(held_out) == 6
    assert held_out[-1] < held_out[0]
    lora = run(folder, tmp_path / "lora", replace(settings, method="lora"), eval_rows=ROWS[:8])
    assert trained.losses[-1] < trained.losses[0] / 2
    assert trained.losses[-1] == pytest.approx(lora.losses[-1], rel=0.25)


# ------------------------------------------------------------------------ killed, full, broken
CHILD = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_train import SHORT, ROWS, run, silent
from cookbook.train_callbacks import Tuner  # everything is imported before a child is made
import peft, datasets
from dataclasses import replace

toy, home, kills = {toy!r}, Path({home!r}), {kills}
settings = replace(SHORT, max_steps=12, save_every=2, dropout=0.1, keep=2, evaluate_every=3)

def child(folder):
    pid = os.fork()
    if pid == 0:
        run(toy, folder, settings, eval_rows=ROWS[:8])
        os._exit(0)
    return pid

began = time.time()
assert os.waitpid(child(home / "whole"), 0)[1] == 0
longest = time.time() - began
rng, done, killed = random.Random(0), 0, 0
while killed < kills or not done:
    pid = child(home / f"killed-{{done}}")
    if killed < kills:
        time.sleep(rng.uniform(0.05, 1.0) * longest)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        killed += 1
    else:
        assert status == 0, status
        done += 1
assert os.waitpid(child(home / f"killed-{{done}}"), 0)[1] == 0  # the last one killed goes on too
print(killed, "killed")
"""


def curve(folder: Path) -> list[tuple[int, float, float | None]]:
    record = json.loads((folder / "training.json").read_text())
    assert record["done"]
    return [(point["step"], point["loss"], point["eval_loss"]) for point in record["curve"]]


def child(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=home, check=False,
        env={**environment, "PYTHONPATH": str(Path(__file__).parent.parent)}, timeout=280,
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children made by fork")
def test_killed_at_random_points_and_resumed(toy: str, tmp_path: Path) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent), toy=toy, home=str(tmp_path), kills=KILLS)
    made = child(code, tmp_path)
    assert made.returncode == 0, made.stderr[-3000:]
    assert f"{KILLS} killed" in made.stdout
    whole = tmp_path / "whole"
    others = sorted(tmp_path.glob("killed*"))
    assert others
    for folder in others:
        for one, other in zip(curve(whole), curve(folder), strict=True):
            assert one == pytest.approx(other, abs=EXACT)
        assert same(adapter_weights(whole), adapter_weights(folder))
        assert not (folder / "checkpoints").exists()
        assert len(list(folder.glob("*.part"))) == 0


KILLS = 20


def test_a_folder_of_a_run_killed_at_its_first_file_is_still_free(tmp_path: Path) -> None:
    from cookbook.manifest import look
    from cookbook.train_folder import RECORD, begin

    tmp_path.joinpath(".advisor-12-ab.tmp").write_text("{")
    assert look(tmp_path, "lora").state == "free"
    assert begin(tmp_path, {"seed": 0}, resume=True) == {}
    assert (tmp_path / RECORD).is_file()
    assert look(tmp_path, "lora").state == "foreign"


def test_a_half_written_checkpoint_is_skipped(toy: str, tmp_path: Path) -> None:
    from cookbook.checkpoints import checkpoints, last_whole

    whole = run(toy, tmp_path / "whole")
    stopped = _stopped(toy, tmp_path / "stopped", at=5)
    newest = checkpoints(stopped / "checkpoints")[-1]
    assert newest.name == "checkpoint-4"
    part = newest / "optimizer.pt"
    part.write_bytes(part.read_bytes()[:-1])
    assert (last_whole(stopped / "checkpoints") or newest).name == "checkpoint-2"
    told: list[str] = []
    again = run(toy, stopped, report=told.append)
    assert "goes on from step 2" in told
    assert again.losses == pytest.approx(whole.losses, abs=EXACT)
    assert same(adapter_weights(whole.folder), adapter_weights(again.folder))


class Stop(Exception):
    """Stands for whatever ends a run from outside."""


def _stopped(toy: str, folder: Path, at: int, **more: Any) -> Path:
    """A run that ends in the middle of a step."""
    from cookbook import train_callbacks

    old = train_callbacks.Tuner.training_step

    def step(self: Any, *arguments: Any, **rest: Any) -> Any:
        if self.state.global_step + 1 == at:
            raise Stop
        return old(self, *arguments, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_callbacks.Tuner, "training_step", step)
        with pytest.raises(Stop):
            run(toy, folder, **more)
    return folder


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_train import SHORT, run
from advisor.errors import AdvisorError
from dataclasses import replace

def report(line):
    print(line)
    if line.startswith("step 4: held-out"):  # the disk is full from here on
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))

from test_train import ROWS
try:
    run({toy!r}, Path({home!r}), replace(SHORT, evaluate_every=2), eval_rows=ROWS[:4],
        report=report)
except AdvisorError as error:
    print(error.exit_code, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
def test_a_full_disk_leaves_the_last_good_checkpoint(toy: str, tmp_path: Path) -> None:
    from cookbook.checkpoints import checkpoints, is_whole

    folder = tmp_path / "run"
    made = child(FULL.format(tests=str(Path(__file__).parent), toy=toy, home=str(folder)), tmp_path)
    assert f"{EXIT_UNKNOWN} A checkpoint could not be saved" in made.stdout, made.stderr[-2000:]
    assert "the one of step 2 is whole" in made.stdout
    left = checkpoints(folder / "checkpoints")
    assert [path.name for path in left] == ["checkpoint-2"]
    assert is_whole(left[0])
    told: list[str] = []
    settings = replace(SHORT, evaluate_every=2)
    again = run(toy, folder, settings, eval_rows=ROWS[:4], report=told.append)
    assert "goes on from step 2" in told
    whole = run(toy, tmp_path / "whole", settings, eval_rows=ROWS[:4])
    assert again.losses == pytest.approx(whole.losses, abs=EXACT)


def test_too_little_disk_is_said_before(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(AdvisorError, match="are free") as caught:
        run(toy, tmp_path / "run")
    assert caught.value.exit_code == EXIT_UNKNOWN


def test_no_more_checkpoints_than_wanted(toy: str, tmp_path: Path) -> None:
    from cookbook.checkpoints import checkpoints

    settings = replace(SHORT, save_every=1, keep=2)
    stopped = _stopped(toy, tmp_path / "run", at=6, settings=settings)
    names = [path.name for path in checkpoints(stopped / "checkpoints")]
    assert names == ["checkpoint-4", "checkpoint-5"]


# ----------------------------------------------------------------------------- NaN, early stop
def test_a_loss_that_is_no_number_ends_the_run(toy: str, tmp_path: Path) -> None:
    from cookbook.checkpoints import checkpoints

    broken = load(toy, device="cpu")
    broken.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(AdvisorError, match="step 1: the loss is no finite number") as caught:
        run(broken, tmp_path / "run", replace(SHORT, method="full", save_every=1))
    assert caught.value.exit_code == EXIT_NO
    assert "broken" in caught.value.hint
    assert checkpoints(tmp_path / "run" / "checkpoints") == []


def test_training_ends_when_the_held_out_loss_rises(toy: str, tmp_path: Path) -> None:
    other = [{**row, "completion": " zzzz qqqq\n"} for row in ROWS[:8]]
    settings = replace(
        SHORT, method="full", max_steps=60, learning_rate=3e-3, evaluate_every=2, patience=2
    )
    trained = run(toy, tmp_path / "run", settings, eval_rows=other)
    held_out = {p.step: p.eval_loss for p in trained.curve if p.eval_loss is not None}
    assert max(held_out) < 60
    best = min(held_out, key=lambda step: held_out[step] or 0.0)
    assert max(held_out) == best + 4  # two evaluations without a better one
    again = replace(settings, max_steps=best, patience=None, schedule="constant", warmup=0.0)
    assert again.max_steps == best
    found = _loss(trained.model, other)
    assert found == pytest.approx(held_out[best], rel=0.02)  # the best weights, not the last


def _loss(model: LanguageModel, rows: Sequence[Any]) -> float:
    scores = model.log_likelihoods(
        [(row["prompt"], row["completion"] + model.tokenizer.eos_token) for row in rows]
    )
    return -sum(s.log_likelihood for s in scores) / sum(s.tokens for s in scores)


# -------------------------------------------------------------------------------- one run, twice
def test_the_same_call_returns_what_is_done(toy: str, tmp_path: Path) -> None:
    one = run(toy, tmp_path / "run")
    told: list[str] = []
    other = run(toy, tmp_path / "run", report=told.append)
    assert told == [f"{tmp_path / 'run'}: this run is done already"]
    assert other.curve == one.curve
    assert other.model.sha256 == one.model.sha256
    pairs = [(row["prompt"], row["completion"]) for row in ROWS[:4]]
    for left, right in zip(
        one.model.log_likelihoods(pairs), other.model.log_likelihoods(pairs), strict=True
    ):
        assert left.log_likelihood == pytest.approx(right.log_likelihood, abs=1e-4)
    for rows, settings in ((ROWS[1:], SHORT), (ROWS, replace(SHORT, rank=2))):
        with pytest.raises(AdvisorError, match="another run is there"):
            run(toy, tmp_path / "run", settings, rows)
    third = run(toy, tmp_path / "run", replace(SHORT, rank=2), resume=False)
    assert third.settings.rank == 2


def test_a_folder_with_something_else_is_left_alone(toy: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(AdvisorError, match=r"thesis\.txt"):
            run(toy, tmp_path, resume=resume)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_model_in_memory_is_trained_in_place_once(toy: str, tmp_path: Path) -> None:
    model = load(toy, device="cpu")
    full = replace(SHORT, method="full", learning_rate=1e-3)
    first = run(model, tmp_path / "one", full)
    with pytest.raises(AdvisorError, match="in place already"):
        run(model, tmp_path / "two", full)
    second = run(first.model, tmp_path / "two", full)  # on purpose: one after the other
    assert second.losses[0] < first.losses[0]
    with_adapter = run(second.model, tmp_path / "three")
    with pytest.raises(AdvisorError, match="carries an adapter"):
        run(with_adapter.model, tmp_path / "four")
    with pytest.raises(AdvisorError, match="an adapter, not a model"):
        run(str(tmp_path / "three"), tmp_path / "four")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_rate_of_zero_changes_nothing_and_says_so(toy: str, tmp_path: Path, method: str) -> None:
    told: list[str] = []
    settings = replace(SHORT, method=method, learning_rate=0.0, max_steps=2)
    trained = run(toy, tmp_path / "run", settings, report=told.append)
    assert not trained.changed
    assert "DID NOT CHANGE" in told[-1]
    assert run(toy, tmp_path / "other").changed


# ---------------------------------------------------------------------------- memory, said before
def test_what_cannot_fit_is_refused_unless_forced(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cookbook import train_estimate

    monkeypatch.setattr(train_estimate, "machine", lambda: {"memory_bytes": 200 * 2**20})
    with pytest.raises(AdvisorError, match="does not fit") as caught:
        run(toy, tmp_path / "run")
    assert caught.value.exit_code == EXIT_NO
    assert run(toy, tmp_path / "run", force=True).changed


def test_the_estimate_stands_beside_the_peak(toy: str, tmp_path: Path) -> None:
    told: list[str] = []
    trained = run(toy, tmp_path / "run", report=told.append)
    assert told[0].startswith("memory: about")
    assert trained.estimate_bytes is not None
    assert 0.5 < trained.peak_bytes / trained.estimate_bytes < 1.5
    assert all(p.tokens_per_second and p.memory_bytes for p in trained.curve)
    assert f"estimate {trained.estimate_bytes / 2**30:.2f}" in told[-1]


# --------------------------------------------------------------------------------- what is kept
def test_the_card_says_everything_and_no_path(toy: str, tmp_path: Path) -> None:
    folder = run(toy, tmp_path / "run").folder
    card = (folder / "README.md").read_text()
    base = load(toy, device="cpu")
    for wanted in (base.sha256, "24 of prompt-completion", "learning_rate", "transformers"):
        assert wanted in card, wanted
    assert str(tmp_path) not in card
    assert toy not in card
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == toy  # the name as it was given
    again = load(str(folder), device="cpu")
    assert again.sha256 == run(toy, tmp_path / "run").model.sha256


@pytest.mark.parametrize("use_dora", [False, True])
def test_merged_is_base_and_adapter(toy: str, tmp_path: Path, use_dora: bool) -> None:
    from cookbook.merge import TOLERANCE, delta, logit_distance, merge

    trained = run(toy, tmp_path / "run", replace(SHORT, use_dora=use_dora))
    folder = merge(trained, tmp_path / "merged")
    merged = load(str(folder), device="cpu")
    base = load(toy, device="cpu")
    assert logit_distance(trained.model, merged) < TOLERANCE
    assert logit_distance(trained.model, base) > TOLERANCE  # the check can fail
    assert not delta(base, merged, [row["prompt"] for row in ROWS[:8]]).nothing
    assert delta(base, load(toy, device="cpu"), ["The shop sells"]).nothing


def test_an_adapter_is_not_merged_into_other_weights(toy: str, tmp_path: Path) -> None:
    from cookbook.merge import merge

    trained = run(toy, tmp_path / "run")
    other = make_toy(tmp_path / "other", seed=5)
    path = trained.folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(other)}))
    with pytest.raises(AdvisorError, match="other weights") as caught:
        merge(trained.folder, tmp_path / "merged")
    assert caught.value.exit_code == EXIT_USAGE
    assert not (tmp_path / "merged").exists()


# ------------------------------------------------------------------------------------ bad rows
@pytest.mark.parametrize(
    "rows",
    [
        [], [{"prompt": "a"}], [{"prompt": "a", "completion": ""}],
        [{"prompt": "a", "completion": None}], [{"text": "a"}],
        [{"prompt": "a", "completion": "b"}, {"text": "a"}],
        [{"prompt": "a", "completion": "tea " * 400}],
        [{"messages": [{"role": "wizard", "content": "a"}]}],
    ],
)  # fmt: skip
def test_bad_rows_are_refused_before_a_model_is_loaded(
    toy: str, tmp_path: Path, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cookbook import train_source

    monkeypatch.setattr(train_source, "load", None)
    with pytest.raises(AdvisorError):
        run(toy, tmp_path / "run", SHORT, rows)
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------- several processes
def test_two_processes_train_as_one_does(toy: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    values = {
        "rank": 4, "learning_rate": 1e-2, "max_steps": 5, "max_length": 128, "save_every": 2,
        "dropout": 0.0,  # processes draw apart
    }  # fmt: skip
    file = {
        "model": toy, "rows": str(rows), "output": str(tmp_path / "two"),
        "settings": {**values, "batch_size": 4},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(file))
    root = Path(__file__).parent.parent
    made = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "cookbook.train_launch", str(tmp_path / "run.json")],
        capture_output=True, text=True, cwd=root, check=False, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-4000:]
    one = run(toy, tmp_path / "one", TrainSettings(**values, batch_size=8))
    two = curve(tmp_path / "two")
    assert [loss for _, loss, _ in two] == pytest.approx(one.losses, rel=1e-4)
    left, right = adapter_weights(one.folder), adapter_weights(tmp_path / "two")
    for key, weight in left.items():
        assert torch.allclose(weight, right[key], atol=1e-3), key
    told = [line for line in made.stderr.splitlines() if line.startswith("memory: about")]
    assert len(told) == 1  # one process speaks


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero3"])
def test_the_shipped_configs_are_read_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = Path(__file__).parent.parent / "cookbook" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes == 2
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    assert str(config.distributed_type).endswith(kinds[name])
