"""Salience against captum, against arithmetic, and on prompts whose cause is known."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from advisor.errors import AdvisorError
from cookbook.faithfulness import (
    faithfulness,
    rank_agreement,
    removal_curves,
    shuffled_agreement,
    spearman,
)
from cookbook.generation import Completion, encode_pair
from cookbook.lab.tasks import Item, draw_items
from cookbook.models import LanguageModel, load
from cookbook.prompt_parts import (
    ComposedPrompt,
    from_conversation,
    from_messages,
    from_sections,
    parts_of,
)
from cookbook.salience import METHODS, Explained, explain, values_of, without
from cookbook.salience_answers import explain_by_answers
from cookbook.salience_files import SalienceCase, read_cases
from cookbook.salience_gradients import AGGREGATES, STEPS, TOLERANCE
from cookbook.salience_report import debug_prompt
from cookbook.salience_set import salience_set

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
        lm, prompt, " Gurvam", method="integrated-gradients", grain="token", steps=16,
        baseline="zero",
    )  # fmt: skip
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
        lm, prompt, " Gurvam", method="integrated-gradients", grain="token", steps=16,
        baseline="zero",
    )  # fmt: skip
    given, value = of_embeddings(lm, prompt, " Gurvam")
    with torch.no_grad():
        rise = float(value(given) - value(0 * given))
    # RMSNorm hides the way from zero: nearly all of it lies in the last thousandth
    assert found.completeness_error == pytest.approx(abs(sum(found.scores) / rise - 1), rel=1e-2)


def test_from_a_prompt_of_spaces_the_integral_adds_up(
    lm: LanguageModel, prompt: ComposedPrompt
) -> None:
    asked = {"contrast": " Gilbes", "method": "integrated-gradients", "grain": "token"}
    found = explain(lm, prompt, " Gurvam", **asked)
    assert found.settings is not None
    assert found.completeness_error is not None
    assert found.completeness_error <= TOLERANCE or found.settings.steps == STEPS[-1]
    assert found.completeness_error < 0.05
    from_zero = explain(lm, prompt, " Gurvam", **asked, baseline="zero", steps=STEPS[-1])
    assert from_zero.completeness_error is not None
    assert from_zero.completeness_error > found.completeness_error


@pytest.mark.parametrize("method", ["grad-x-input", "ablation", "shapley"])
def test_a_contrast_is_the_difference_of_two(
    lm: LanguageModel, prompt: ComposedPrompt, method: str
) -> None:
    both = explain(lm, prompt, " Gurvam", contrast=" Gilbes", method=method)
    a, b = (explain(lm, prompt, each, method=method) for each in (" Gurvam", " Gilbes"))
    wanted = [x - y for x, y in zip(a.scores, b.scores, strict=True)]
    assert list(both.scores) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(("aggregate", "wanted"), [("sum", 2.0), ("mean", 1.0), ("max", 3.0),
                                                   ("l2", math.sqrt(10))])  # fmt: skip
def test_aggregates(aggregate: str, wanted: float) -> None:
    assert AGGREGATES[aggregate]([-1.0, 3.0]) == pytest.approx(wanted)


def test_only_examples_are_taken_away_at_the_grain_of_examples(lm: LanguageModel) -> None:
    named = (("example 1", SECTIONS[0][1]), ("example 2", SECTIONS[1][1]), SECTIONS[2])
    found = explain(lm, from_sections(named), " Gurvam", grain="example")
    assert [part.name for part, _ in found.ranked()] in (
        ["example 1", "example 2"], ["example 2", "example 1"])  # fmt: skip
    assert [part.name for part in found.parts if part.fixed] == ["rest"]


def test_marks_of_the_chat_template_are_never_taken_away() -> None:
    model = load("lab-instruct", device="cpu")
    talk = [{"role": "user", "content": "The horn is red. What is red?"}]
    found = explain(model, from_conversation(model, talk), "the horn", grain="role")
    fixed = [score for part, score in zip(found.parts, found.scores, strict=True) if part.fixed]
    assert fixed
    assert set(fixed) == {0.0}


# ---- checks


def bad_example(lm: LanguageModel, method: str = "ablation") -> Explained:
    """Six examples, the fourth of which gives the asked word the wrong label."""
    shots = [("tin", "Gurvam"), ("olive", "Gilbes"), ("copper", "Gurvam"), ("zinc", "Gilbes"),
             ("iron", "Gurvam"), ("fig", "Gilbes")]  # fmt: skip
    named = [(f"example {n}", f"Input: {a}\nLabel: {b}\n") for n, (a, b) in enumerate(shots, 1)]
    prompt = from_sections([*named, ("question", "Input: zinc\nLabel:")])
    return explain(lm, prompt, " Gilbes", contrast=" Gurvam", method=method, grain="example")


def test_curves_begin_and_end_at_the_same_prompts(lm: LanguageModel) -> None:
    found = bad_example(lm)
    deletion, insertion = removal_curves(lm, found, orders=5)
    empty = without(found.prompt, found.parts, list(range(6)))
    bare = values_of(lm, [empty], " Gilbes", " Gurvam")[0]
    assert deletion.values[0] == insertion.values[-1] == pytest.approx(found.value, abs=1e-3)
    assert deletion.values[-1] == insertion.values[0] == pytest.approx(bare, abs=1e-3)
    assert deletion.shares == tuple(n / 6 for n in range(7))


def test_a_picture_turned_upside_down_fails_the_curves(lm: LanguageModel) -> None:
    found = bad_example(lm, "shapley")
    check = faithfulness(lm, found, stages=())
    turned = dataclasses.replace(found, scores=tuple(-score for score in found.scores))
    worse = faithfulness(lm, turned, stages=())
    assert check.deletion.gain > 0 > worse.deletion.gain
    assert check.insertion.gain > 0 > worse.insertion.gain
    assert not worse.believable


def test_three_parts_have_too_few_orders_to_tell() -> None:
    from cookbook.faithfulness import TOO_FEW, RemovalCurve

    some = {"values": (3.0, 2.0, 1.0, 0.0), "area": 0.1, "low": 1.0, "chance": 2.0, "high": 3.0}
    few = RemovalCurve("deletion", (0.0, 0.33, 0.67, 1.0), **some)  # type: ignore[arg-type]
    assert few.verdict == TOO_FEW
    more = dataclasses.replace(few, shares=(0.0, 0.25, 0.5, 0.75, 1.0))
    assert more.verdict == "better than chance"


def test_a_large_score_against_the_answer_is_no_cause(lm: LanguageModel) -> None:
    found = dataclasses.replace(bad_example(lm), scores=(-9.0, 1.0, 2.0, 0.0, 0.5, -1.0, 50.0))
    assert found.parts[6].fixed
    assert found.ranked()[0][0].name == "example 1"
    assert found.cause().name == "example 3"


def test_shuffled_weights_change_the_picture(lm: LanguageModel) -> None:
    found = bad_example(lm)
    again = shuffled_agreement(lm, found, seed=1)
    assert list(again) == ["last layer", "upper half", "all weights"]
    assert all(each.rho < 0.99 for each in again.values())
    assert bad_example(lm).scores == found.scores  # the model itself is as it was


def test_agreement_needs_the_same_parts(lm: LanguageModel, prompt: ComposedPrompt) -> None:
    a, b = (explain(lm, prompt, " Gurvam", grain=grain) for grain in ("section", "line"))
    assert rank_agreement(a, a).rho == pytest.approx(1)
    with pytest.raises(AdvisorError):
        rank_agreement(a, b)


def test_an_interval_of_few_parts_excludes_nothing() -> None:
    few, many = spearman([1, 2, 3], [1, 2, 3]), spearman(range(40), range(40))
    assert (few.low, few.high) == (-1, 1)
    assert many.low > 0.9
    rng = random.Random(0)
    inside = 0
    for _ in range(300):
        found = spearman([rng.random() for _ in range(12)], [rng.random() for _ in range(12)])
        inside += found.low <= 0 <= found.high
    assert inside / 300 >= 0.9


def test_a_report_warns_of_sums_over_unlike_lengths(lm: LanguageModel) -> None:
    long = "Input: tin\nLabel: Gurvam\n" * 8
    whole = from_sections([("long", long), ("question", "Input: marble\nLabel:")])
    asked = {"methods": ["grad-x-input"], "check": False}
    warned = debug_prompt(lm, whole, " Gurvam", **asked)
    assert any("longer parts" in note for note in warned.notes)
    calm = debug_prompt(lm, whole, " Gurvam", aggregate="mean", **asked)
    assert not any("longer parts" in note for note in calm.notes)


# ---- answers alone


class Rented:
    """A server that says no unless the user is asked to be kind; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def chat(self, conversations: Any, **_: Any) -> list[Completion]:
        self.calls += len(conversations)
        kind = [any("kind" in m["content"] for m in each) for each in conversations]
        return [Completion("Yes." if each else "No.", 1, 1, "stop", 0.0) for each in kind]


def test_answers_alone_show_what_turns_them() -> None:
    talk = from_messages([{"role": "system", "content": "Be kind. Be brief."},
                          {"role": "user", "content": "May I go?"}])  # fmt: skip
    server = Rented()
    found = explain_by_answers(server, talk, "yes", contrast="no", grain="sentence")
    assert [part.name.strip() for part, score in found.ranked() if score] == ["Be kind."]
    free = [part for part in parts_of(talk, "sentence") if not part.fixed]
    assert server.calls == len(free) + 1


# ---- sets


def test_a_set_tells_wrong_from_right_and_goes_on_where_it_stopped(
    lm: LanguageModel, tmp_path: Any
) -> None:
    found = bad_example(lm)
    good = SalienceCase("good", found.prompt, " Gilbes", " Gurvam")
    bad = SalienceCase("bad", found.prompt, " Gurvam", " Gilbes")
    done: list[int] = []
    file = tmp_path / "results.jsonl"
    report = salience_set(lm, [good, bad], file, grain="example")
    assert {report.count(right=True), report.count(right=False)} == {1}
    again = salience_set(lm, [good, bad], file, grain="example",
                         progress=lambda at, _: done.append(at))  # fmt: skip
    assert (again, done) == (report, [])
    salience_set(lm, [good, bad], file, grain="example", method="shapley",
                 progress=lambda at, _: done.append(at))  # fmt: skip
    assert done == [1, 2]


def test_a_broken_row_is_named(tmp_path: Any) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    with pytest.raises(AdvisorError, match=r"rows\.jsonl:2"):
        read_cases(file)


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
    by_method = dict.fromkeys(METHODS, 0)
    for item, place, prompt, wrong in caused[:12]:
        for name in METHODS:
            why = explain(lm, prompt, f" {wrong}", contrast=f" {item.answer}", method=name,
                          grain="example", steps=64)  # fmt: skip
            by_method[name] += why.cause().name == f"example {place}"
    assert by_method["ablation"] >= 10, by_method
    assert by_method["shapley"] >= 10, by_method


def _labels(item: Item) -> list[str]:
    return [line for line in item.prompt.split("\n") if line.startswith("Label: ")]
