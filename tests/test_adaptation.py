"""Data and paths of the training recipes: other models, broken folders, exact equalities."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from advisor.errors import AdvisorError
from cookbook.distil import Taught, kept_rows, shrink, teach
from cookbook.encoder import Classifier, load_body, load_classifier, train_classifier
from cookbook.lab.adaptation import items, needles, record_answer, rows, tickets
from cookbook.lab.knowledge import fact_texts, mixed, new_entities, recital_texts, replay_texts
from cookbook.long_context import RopeScaling, with_rope
from cookbook.models import LanguageModel, load


@pytest.fixture(scope="module")
def lab() -> LanguageModel:
    return load("lab")


def logits(model: LanguageModel, text: str) -> torch.Tensor:
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found: torch.Tensor = model.model(input_ids=ids).logits
    return found


# --- distillation


def test_a_student_with_every_layer_and_full_width_is_the_teacher(lab: LanguageModel) -> None:
    same = shrink(lab, 6, mlp=lab.model.config.intermediate_size)
    assert torch.equal(
        logits(same, "The price of Tarlo is "), logits(lab, "The price of Tarlo is ")
    )


@pytest.mark.parametrize("layers", [[0, 2, 5], 2, 1])
def test_a_student_generates_with_its_cache_as_without(
    lab: LanguageModel, layers: int | list[int]
) -> None:
    student = shrink(lab, layers, mlp=64)
    ids = lab.tokenizer("Question: Who made Tarlo?\nAnswer: ", return_tensors="pt")["input_ids"]
    ways = [
        student.model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=cache).tolist()
        for cache in (True, False)
    ]
    assert ways[0] == ways[1]
    assert len(lab.model.model.layers) == 6  # the teacher is whole
    assert lab.model.config.num_hidden_layers == 6


def test_a_student_can_be_saved_and_loaded(lab: LanguageModel, tmp_path: Path) -> None:
    student = shrink(lab, 3, mlp=100)
    student.model.save_pretrained(tmp_path)
    lab.tokenizer.save_pretrained(tmp_path)
    again = load(str(tmp_path))
    assert torch.equal(logits(again, "Table: "), logits(student, "Table: "))
    assert sum(p.numel() for p in again.model.parameters()) < 0.5 * sum(
        p.numel() for p in lab.model.parameters()
    )


@pytest.mark.parametrize("wrong", [0, 7, [], [6], [-1]])
def test_layers_that_are_not_there(lab: LanguageModel, wrong: int | list[int]) -> None:
    with pytest.raises(AdvisorError, match="layers"):
        shrink(lab, wrong)


def test_rows_leave_out_what_was_cut_off_or_refused_and_the_least_sure() -> None:
    taught = [
        Taught("a ", " 1", -0.1, True),
        Taught("b ", " 2", -0.2, False),
        Taught("c ", " 3", -0.3, True),
        Taught("d ", " 4", -9.0, True),
        Taught("e ", " no", -0.1, True),
    ]
    found = kept_rows(taught, keep=0.67, accept=lambda said: "no" not in said)
    assert found == [
        {"prompt": "a ", "completion": " 1\n"},
        {"prompt": "c ", "completion": " 3\n"},
    ]
    with pytest.raises(AdvisorError, match="none of 1"):
        kept_rows(taught[1:2])


def test_a_teacher_that_is_cut_off_teaches_nothing(lab: LanguageModel) -> None:
    prompts = [row["prompt"] for row in rows(record_answer, 4)]
    whole, cut = teach(lab, prompts), teach(lab, prompts, max_new_tokens=1)
    assert all(one.complete and one.sureness <= 0 for one in whole)
    assert not any(one.complete for one in cut)


# --- longer context


def frequencies(model: LanguageModel) -> torch.Tensor:
    found: torch.Tensor = model.model.model.rotary_emb.inv_freq
    return found


def test_linear_divides_every_frequency(lab: LanguageModel) -> None:
    scaled = with_rope(lab, 4, "linear", 384)
    torch.testing.assert_close(frequencies(scaled), frequencies(lab) / 4)


def test_ntk_keeps_the_fastest_and_divides_the_slowest_by_the_factor(lab: LanguageModel) -> None:
    scaled = with_rope(lab, 4, "ntk", 384)
    ratio = frequencies(lab) / frequencies(scaled)
    assert ratio[0] == pytest.approx(1.0)
    assert ratio[-1] == pytest.approx(4.0, rel=1e-4)


def test_yarn_keeps_the_fast_ones_and_divides_the_slow_ones(lab: LanguageModel) -> None:
    scaled = with_rope(lab, 4, "yarn", 384)
    ratio = frequencies(lab) / frequencies(scaled)
    turns = 384 * frequencies(lab) / (2 * math.pi)  # full turns within the trained length
    assert torch.allclose(ratio[turns > 32], torch.tensor(1.0))
    assert torch.allclose(ratio[turns < 0.5], torch.tensor(4.0))


@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_scaling_copies_the_weights_and_survives_saving(
    lab: LanguageModel, kind: str, tmp_path: Path
) -> None:
    before = frequencies(lab).clone()
    scaled = with_rope(lab, 2, kind, 384)
    assert scaled.model.config.max_position_embeddings == 768
    assert lab.model.config.max_position_embeddings == 2048
    assert torch.equal(frequencies(lab), before)
    weight = scaled.model.model.embed_tokens.weight
    assert torch.equal(weight, lab.model.model.embed_tokens.weight)
    assert weight.data_ptr() != lab.model.model.embed_tokens.weight.data_ptr()
    scaled.model.save_pretrained(tmp_path)
    lab.tokenizer.save_pretrained(tmp_path)
    again = load(str(tmp_path))
    assert torch.equal(logits(again, "Table: Tarlo = 3"), logits(scaled, "Table: Tarlo = 3"))
    with pytest.raises(AdvisorError, match="do not fit"):
        again.generate([items(needles(900, lambda t: len(t) // 4), 1)[0].prompt])


def test_scaling_twice_and_unknown_kinds_are_refused(lab: LanguageModel) -> None:
    with pytest.raises(AdvisorError, match="scaled already"):
        with_rope(with_rope(lab, 2, "yarn", 384), 2)
    for wrong in (("dynamic", 2.0, 384), ("yarn", 1.0, 384), ("yarn", 2.0, 0)):
        with pytest.raises(AdvisorError):
            RopeScaling(*wrong)


# --- encoder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with random weights, as a hub encoder lies on disk."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    texts, _ = tickets(400)
    words = sorted({word for text in texts for word in text.lower().replace(",", " ").split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def test_an_encoder_of_another_family_learns(bert: str) -> None:
    texts, desks = tickets(200)
    made, log = train_classifier(texts, desks, base=bert, epochs=8, learning_rate=3e-3, limit=32)
    assert log.losses[-1] < 0.7 * log.losses[0]
    assert made.body.config.model_type == "bert"


QUICK: dict[str, Any] = {"epochs": 1, "learning_rate": 3e-3, "limit": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def small(bert: str) -> Classifier:
    texts, desks = tickets(90)
    return train_classifier(texts, desks, base=bert, **QUICK)[0]


def test_training_twice_gives_the_same_classifier(bert: str, small: Classifier) -> None:
    texts, desks = tickets(90)
    again = train_classifier(texts, desks, base=bert, **QUICK)[0]
    assert again.logits(texts[:5]) == small.logits(texts[:5])
    other = train_classifier(texts, desks, base=bert, seed=1, **QUICK)[0]
    assert other.logits(texts[:5]) != small.logits(texts[:5])


def test_one_by_one_is_as_in_a_batch(small: Classifier) -> None:
    texts = ["my bread came broken", "where is the parcel with my wool, I still wait", "x"]
    for alone, row in zip(
        [small.logits([text])[0] for text in texts], small.logits(texts), strict=True
    ):
        assert alone == pytest.approx(row, abs=1e-5)


def test_a_saved_classifier_is_the_same_and_holds_no_pickle(
    small: Classifier, tmp_path: Path
) -> None:
    path = small.save(tmp_path / "desks")
    again = load_classifier(path, "cpu")
    assert again.predict(["where is my bread"]) == small.predict(["where is my bread"])
    assert not [each for each in path.iterdir() if each.suffix in (".bin", ".pt", ".pkl")]
    with pytest.raises(AdvisorError, match="exists"):
        small.save(path)


def test_a_device_is_taken_and_not_saved(small: Classifier, tmp_path: Path) -> None:
    path = small.save(tmp_path / "desks")
    assert "device" not in (path / "classifier.json").read_text()
    assert {str(each.device) for each in load_file(path / "head.safetensors").values()} == {"cpu"}
    again = load_classifier(path, device="cpu")
    assert str(again.device) == str(next(again.body.parameters()).device) == "cpu"


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:a", ""])
def test_an_unknown_device_is_bad_input(small: Classifier, tmp_path: Path, device: str) -> None:
    path = small.save(tmp_path / "desks")
    texts, desks = tickets(90)
    for start in (
        lambda: load_body(str(path), device),
        lambda: load_classifier(path, device),
        lambda: train_classifier(texts, desks, base=str(path), device=device),
    ):
        with pytest.raises(AdvisorError, match=r"device: .* is not known") as refused:
            start()
        assert refused.value.exit_code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_here_is_said(bert: str) -> None:
    with pytest.raises(AdvisorError, match="cuda is not available") as refused:
        load_body(bert, "cuda")
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classifier.json", "{"),
        ("classifier.json", "[]"),
        ("classifier.json", '{"labels": ["a"], "limit": 9, "temperature": 1, "threshold": 0}'),
        ("head.safetensors", "nothing"),
        ("config.json", "{"),
        ("model.safetensors", "nothing"),
    ],
)
def test_a_broken_folder_is_bad_input(
    small: Classifier, tmp_path: Path, name: str, content: str
) -> None:
    path = small.save(tmp_path / "desks")
    (path / name).write_text(content, encoding="utf-8")
    with pytest.raises(AdvisorError) as refused:
        load_classifier(path)
    assert refused.value.exit_code == 2


def test_a_missing_weight_is_not_drawn_at_random(small: Classifier, tmp_path: Path) -> None:
    path = small.save(tmp_path / "desks")
    weights = load_file(path / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdvisorError, match="1 weights are not in it"):
        load_classifier(path)


def test_a_missing_head_is_bad_input(small: Classifier, tmp_path: Path) -> None:
    path = small.save(tmp_path / "desks")
    (path / "head.safetensors").unlink()
    with pytest.raises(AdvisorError, match="no classifier"):
        load_classifier(path)
    shutil.rmtree(path)
    with pytest.raises(AdvisorError):
        load_body(str(path))


# --- knowledge


def test_nothing_in_the_training_text_asks_for_a_new_fact() -> None:
    new = {entity.name for entity in new_entities(12)}
    told = fact_texts(new_entities(12), 300)
    mix = mixed([(told, 0.6), (recital_texts(300), 0.2), (replay_texts(300), 0.2)], 900)
    for text in mix:
        for line in text.splitlines():
            if line.startswith("Question"):
                assert not any(name in line for name in new)


def test_seeds_give_other_entities() -> None:
    sets = [{entity.name for entity in new_entities(20, seed)} for seed in range(3)]
    assert len(sets[0] | sets[1] | sets[2]) > 50  # a name may come twice by chance


def test_the_wanted_format_is_json() -> None:
    for item in items(record_answer, 100):
        found = json.loads(item.answer)
        assert len(found) == 1
