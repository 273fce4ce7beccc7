"""Salience against captum, against arithmetic, and on prompts whose cause is known."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from cookbook.generation import encode_pair
from cookbook.lab.tasks import Item, draw_items
from cookbook.models import LanguageModel, load
from cookbook.prompt_parts import ComposedPrompt, from_conversation, from_sections
from cookbook.salience import explain, values_of

SECTIONS = (
    ("first", "Input: tin\nLabel: Gurvam\n"),
    ("second", "Input: olive\nLabel: Gilbes\n"),
    ("question", "Input: marble\nLabel:"),
)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load("lab", device="cpu")


@pytest.fixture(scope="module")
def prompt() -> ComposedPrompt:
    return from_sections(SECTIONS)


def of_embeddings(lm: LanguageModel, prompt: ComposedPrompt, target: str) -> tuple[Any, Any]:
    """The prompt's embeddings, and the target's log-probability as a function of them."""
    before, after = encode_pair(lm.tokenizer, prompt.text, target)
    table = lm.model.get_input_embeddings()
    given = table(torch.tensor([before])).detach()
    rest = table(torch.tensor([after])).detach()
    wanted = torch.tensor(after)

    def value(some: Any) -> Any:
        tail = rest.expand(some.shape[0], -1, -1)
        logits = lm.model(inputs_embeds=torch.cat([some, tail], 1), use_cache=False).logits
        logs = logits[:, len(before) - 1 : -1].log_softmax(-1)
        return logs.gather(-1, wanted.expand(some.shape[0], -1)[..., None]).sum((1, 2))

    return given, value


def test_gradient_times_input_is_captums(lm: LanguageModel, prompt: ComposedPrompt) -> None:
    attr: Any = pytest.importorskip("captum.attr")
    given, value = of_embeddings(lm, prompt, " Gurvam")
    theirs = attr.InputXGradient(value).attribute(given.clone().requires_grad_()).sum(-1)[0]
    ours = explain(lm, prompt, " Gurvam", method="grad-x-input", grain="token")
    assert list(ours.scores) == pytest.approx(theirs.tolist(), abs=1e-4)


def test_integrated_gradients_are_captums(lm: LanguageModel, prompt: ComposedPrompt) -> None:
    attr: Any = pytest.importorskip("captum.attr")
    given, value = of_embeddings(lm, prompt, " Gurvam")
    theirs = attr.IntegratedGradients(value).attribute(
        given.clone(), n_steps=16, method="gausslegendre", internal_batch_size=8
    ).sum(-1)[0]  # fmt: skip
    ours = explain(
        lm, prompt, " Gurvam", method="integrated-gradients", grain="token", steps=16
    )
    assert list(ours.scores) == pytest.approx(theirs.tolist(), abs=1e-3)


@pytest.mark.parametrize("method", ["ablation", "shapley"])
def test_taking_parts_away_is_captums(
    lm: LanguageModel, prompt: ComposedPrompt, method: str
) -> None:
    attr: Any = pytest.importorskip("captum.attr")
    kind = attr.FeatureAblation if method == "ablation" else attr.ShapleyValues

    def value(there: Any) -> Any:
        """Log-probability with the parts whose number is 1."""
        texts = [
            "".join(body for (_, body), kept in zip(SECTIONS, row, strict=True) if kept)
            for row in there.tolist()
        ]
        return torch.tensor(values_of(lm, texts, " Gurvam"))

    theirs = kind(value).attribute(torch.ones(1, 3), baselines=0.0)[0]
    ours = explain(lm, prompt, " Gurvam", method=method)
    assert list(ours.scores) == pytest.approx(theirs.tolist(), abs=1e-3)


def test_shapley_values_add_up(lm: LanguageModel, prompt: ComposedPrompt) -> None:
    for grain in ("section", "word"):  # exact, and by drawn orders
        found = explain(lm, prompt, " Gurvam", method="shapley", grain=grain, orders=4)
        empty = values_of(lm, [""], " Gurvam")[0]
        assert sum(found.scores) == pytest.approx(found.value - empty, abs=1e-3)


def test_integrated_gradients_say_how_far_off_they_are(
    lm: LanguageModel, prompt: ComposedPrompt
) -> None:
    found = explain(
        lm, prompt, " Gurvam", method="integrated-gradients", grain="token", steps=16
    )
    given, value = of_embeddings(lm, prompt, " Gurvam")
    with torch.no_grad():
        rise = float(value(given) - value(0 * given))
    # RMSNorm hides the way from zero: nearly all of it lies in the last thousandth
    assert found.completeness_error == pytest.approx(abs(sum(found.scores) / rise - 1), rel=1e-2)


def test_marks_of_the_chat_template_are_never_taken_away() -> None:
    model = load("lab-instruct", device="cpu")
    talk = [{"role": "user", "content": "The horn is red. What is red?"}]
    found = explain(model, from_conversation(model, talk), "the horn", grain="role")
    fixed = [score for part, score in zip(found.parts, found.scores, strict=True) if part.fixed]
    assert fixed
    assert set(fixed) == {0.0}


# ---- a known cause


def planted(item: Item, place: int) -> tuple[ComposedPrompt, str]:
    """The item with one example more, the asked word with the other label; and that label."""
    *shots, asked = item.prompt.split("Input: ")[1:]
    labels = {line[7:] for line in item.prompt.split("\n") if line.startswith("Label: ")}
    (wrong,) = labels - {item.answer}
    shots.insert(place, f"{asked.splitlines()[0]}\nLabel: {wrong}\n")
    named = [(f"example {n}", f"Input: {shot}") for n, shot in enumerate(shots)]
    return from_sections([*named, ("question", f"Input: {asked}")]), wrong


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_that_causes_a_wrong_answer_is_found(lm: LanguageModel) -> None:
    rng = random.Random(0)
    items = [i for i in draw_items("labels_4", 900, seed=0) if len(set(_labels(i))) == 2]
    cases = [(item, place, *planted(item, place)) for item in items
             for place in [rng.randrange(5)]]  # fmt: skip
    clean = lm.generate([item.prompt for item, *_ in cases], max_new_tokens=12, stop=["\n"])
    said = lm.generate([case[2].text for case in cases], max_new_tokens=12, stop=["\n"])
    caused = [
        case for case, right, wrong in zip(cases, clean, said, strict=True)
        if right.text.strip() == case[0].answer and wrong.text.strip() == case[3]
    ][:200]  # fmt: skip
    assert len(caused) == 200
    found = 0
    for item, place, prompt, wrong in caused:
        worths = explain(lm, prompt, f" {wrong}", contrast=f" {item.answer}").ranked()
        top = next(part.name for part, _ in worths if part.name != "question")
        found += top == f"example {place}"
    assert found >= 180, found


def _labels(item: Item) -> list[str]:
    return [line for line in item.prompt.split("\n") if line.startswith("Label: ")]
