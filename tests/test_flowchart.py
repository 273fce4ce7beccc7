"""What the flowchart must hold, one expert's sentence a row: a case, and what has to come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.advice import advise
from advisor.case import parse_case
from advisor.decision import because, decide
from advisor.flowchart import facts, flowchart

ROOT = Path(__file__).resolve().parent.parent
OPEN = "model: {weights: open}\n"
NONE = "knowledge: {source: none}\n"
LABELS = "task: classification\n" + OPEN + NONE

FIRST = {
    "nothing known: start with a prompt": ("", "prompt"),
    "private facts: retrieve": ("knowledge: {source: private}", "rag"),
    "live facts: retrieve, even with many labels": (
        "task: dialogue\nknowledge: {source: public, changes: live}\ndata: {labelled: 500}",
        "rag",
    ),
    "a small stable corpus fits the prompt": (
        "knowledge: {source: private, changes: yearly, tokens: 60000}\n"
        "serving: {cost_pressure: low}",
        "long-context",
    ),
    "facts and plenty of labels: train with retrieved context": (
        "knowledge: {source: private, changes: never}\ndata: {labelled: 3000}",
        "rag-ft",
    ),
    "a style of one's own: adapters": (
        OPEN + NONE + "behaviour: {need: high}\ndata: {labelled: 500}",
        "lora",
    ),
    "a style, closed weights: the vendor's tuning": (
        "model: {weights: closed}\n" + NONE + "behaviour: {need: high}\ndata: {labelled: 500}",
        "lora",
    ),
    "labels by the hundred: a small encoder": (LABELS + "data: {labelled: 400}", "encoder"),
    "a few labels and dear requests allowed: examples in the prompt": (
        LABELS + "data: {labelled: 60}\nserving: {cost_pressure: low}",
        "prompt",
    ),
    "memory binds: four bits": (
        "model: {id: mistralai/Mistral-7B-v0.3, weights: open}\n"
        + NONE
        + "behaviour: {need: high}\ndata: {labelled: 900}\n"
        + "hardware: {gpu: RTX-3060-12GB, count: 1}",
        "qlora",
    ),
    "the last points, with the means": (
        "task: code\n" + OPEN + NONE + "data: {labelled: 200000}\nteam: {budget: high}",
        "full-ft",
    ),
    "a new language and billions of tokens: go on pre-training": (
        "task: generation\n"
        + OPEN
        + NONE
        + "domain: {language: unseen}\ndata: {unlabelled_tokens: 20e9}\nteam: {budget: high}",
        "cpt",
    ),
    "the same with labels: pre-train on, then tune": (
        "task: translation\n"
        + OPEN
        + NONE
        + "domain: {language: unseen}\ndata: {unlabelled_tokens: 20e9, labelled: 20000}",
        "cpt-ft",
    ),
    "preferences: DPO": (
        "task: dialogue\n" + OPEN + NONE + "data: {preference_pairs: 20000, labelled: 5000}",
        "dpo",
    ),
    "answers a program can check, with the means: reinforcement": (
        "task: reasoning\n" + OPEN + NONE + "data: {verifiable_reward: true}\nteam: {budget: high}",
        "rl",
    ),
    "the same with a small budget: search the prompt": (
        "task: reasoning\n"
        + OPEN
        + NONE
        + "behaviour: {need: low}\nteam: {budget: low}\n"
        + "data: {verifiable_reward: true, labelled: 300}",
        "prompt-optimisation",
    ),
    "harm is possible: safety tuning": (
        "task: dialogue\n"
        + OPEN
        + NONE
        + "quality: {safety_critical: true}\ndata: {labelled: 800}",
        "safety-sft",
    ),
    "no labels and cheap requests: a teacher labels": (
        "task: extraction\n" + OPEN + NONE + "data: {labelled: 0}\nserving: {cost_pressure: high}",
        "distil",
    ),
}  # fmt: skip

BLOCKED = {
    "closed-weights": (
        "model: {weights: closed}",
        ["qlora", "full-ft", "cpt", "cpt-ft", "cpt-rag", "rl"],
        "ruled-out",
    ),
    "never-pretrain": ("", ["pretrain"], "ruled-out"),
    "small-raw-corpus-hurts": (
        "data: {unlabelled_tokens: 2000000}",
        ["cpt", "cpt-ft"],
        "not-yet",
    ),
    "no-pairs-no-dpo": ("data: {preference_pairs: 0}", ["dpo"], "not-yet"),
    "no-labels": ("data: {labelled: 0}", list(flowchart().groups["supervised"]), "not-yet"),
    "not-a-label-task": ("task: dialogue", ["encoder"], "ruled-out"),
    "domain-covered": (
        "domain: {language: covered}\ndata: {unlabelled_tokens: 50e9}",
        ["cpt", "cpt-ft"],
        "not-yet",
    ),
    "live-knowledge": (
        "knowledge: {changes: live}",
        list(flowchart().groups["tuning_only"]),
        "not-yet",
    ),
    "retrieval-without-need": ("knowledge: {source: none}", ["rag", "long-context"], "not-yet"),
}


@pytest.mark.parametrize(("text", "path"), FIRST.values(), ids=FIRST.keys())
def test_what_comes_first(text: str, path: str) -> None:
    assert decide(facts(parse_case(text)), flowchart()).top == path


@pytest.mark.parametrize(("rule", "row"), BLOCKED.items(), ids=BLOCKED.keys())
def test_what_is_blocked_and_by_which_rule(rule: str, row: tuple[str, list[str], str]) -> None:
    text, paths, band = row
    decision = decide(facts(parse_case(text)), flowchart())
    assert {path: decision.bands[path] for path in paths} == dict.fromkeys(paths, band)
    assert all(rule in [r["rule"] for r in because(decision, path)] for path in paths)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("tuning-erodes-safety", "data: {labelled: 60}"),
        ("tune-an-instruct-model", "model: {weights: open}\ndata: {labelled: 60}"),
        ("naive-stacking-warning", "knowledge: {source: private}\ndata: {labelled: 60}"),
        ("replay-the-original-mix", "data: {unlabelled_tokens: 1e9}"),
        ("raw-data", "data: {labelled: 60, quality: raw}"),
    ],
)
def test_what_is_warned_of(rule: str, text: str) -> None:
    assert rule in [warning["rule"] for warning in advise(parse_case(text)).to_dict()["warnings"]]


def test_a_recipe_that_a_path_names_is_a_notebook_of_ours() -> None:
    stems = (path.stem for path in (ROOT / "nbs" / "recipes").glob("[!.]*.ipynb"))
    recipes = {stem.lstrip("0123456789_").replace("_", "-") for stem in stems}
    assert {path.recipe for path in flowchart().paths if path.recipe} <= recipes


def test_the_plan_puts_cheap_steps_first_and_brings_what_a_path_stands_on() -> None:
    text = "task: dialogue\nmodel: {weights: open}\nquality: {evaluation_set: 200}\n"
    advice = advise(parse_case(text + "data: {preference_pairs: 20000, labelled: 5000}")).to_dict()
    assert [stage["path"] for stage in advice["plan"]] == ["prompt", "lora", "dpo"]
