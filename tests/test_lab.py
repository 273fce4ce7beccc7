"""The lab: what the shipped weights can do, whose card it is, and that training starts alike."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch")

from cookbook.lab import card, tasks
from cookbook.model_files import lab_folder, weights_sha256
from cookbook.models import LanguageModel, load

WEIGHTS = lab_folder("lab").parent
ITEMS = 500


@pytest.fixture(scope="module")
def base() -> LanguageModel:
    return load("lab", device="cpu")


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((WEIGHTS / "evaluation.json").read_text(encoding="utf-8"))
    return data


WANTED = [t for t in tasks.tasks().values() if t.at_least is not None or t.at_most is not None]


@pytest.mark.slow
@pytest.mark.parametrize("task", WANTED, ids=lambda task: task.name)
def test_the_base_model_can_do_what_recipes_need(task: tasks.Task, base: LanguageModel) -> None:
    figure = card.task_figure(base, task, ITEMS)
    assert card.missed({task.name: figure}) == [], str(figure)


def test_the_card_is_of_these_weights(evaluation: dict[str, Any]) -> None:
    for name in ("base", "instruct"):
        assert evaluation["facts"][f"{name} sha256"] == weights_sha256(WEIGHTS / name)
    figures = [f for found in evaluation["figures"].values() for f in found.values()]
    assert min(figure["n"] for figure in figures) >= ITEMS // 2


def test_the_table_is_of_the_evaluation(evaluation: dict[str, Any]) -> None:
    text = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    for figures in evaluation["figures"].values():
        for name, figure in figures.items():
            row = next(line for line in text.splitlines() if f"(`{name}`)" in line)
            shown = card.shown(card.Figure(name, **figure))
            assert shown in row


def test_the_weights_are_small() -> None:
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert size <= 12 * 2**20


def test_the_tuned_model_answers_turns_and_stops() -> None:
    tuned = load("lab-instruct", device="cpu")
    figure = card.task_figure(tuned, tasks.tasks()["passages_3"], 100)
    assert figure.value >= 0.85, str(figure)
    item = tasks.draw_items("passages_3", 1)[0]
    (said,) = tuned.chat([card.as_messages(item, "passages_3")])
    assert said.finish == "stop"


@pytest.mark.slow
def test_training_starts_on_the_stored_curve() -> None:
    import torch

    from cookbook.lab import pretraining, tokenizer

    lines = (WEIGHTS / "base" / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    stored = json.loads(lines[0])
    settings = pretraining.Settings()
    torch.manual_seed(settings.seed)
    bpe = tokenizer.train_tokenizer()
    model = pretraining.build_model(settings, bpe.get_vocab_size())
    (point,) = pretraining.train(model, bpe, settings, stop_at=stored["step"])
    assert point.tokens == stored["tokens"]
    assert point.loss == pytest.approx(stored["loss"], rel=0.03)


def test_the_tokenizer_of_the_weights_is_what_training_makes() -> None:
    from cookbook.lab.tokenizer import train_tokenizer

    made = json.loads(train_tokenizer().to_str())["model"]["vocab"]
    for name in ("base", "instruct"):
        text = (WEIGHTS / name / "tokenizer.json").read_text(encoding="utf-8")
        assert json.loads(text)["model"]["vocab"] == made
