"""Every recipe, run by papermill on the lab model in smoke mode, and what its figures must show.

Runs are kept in build/recipes, where the site takes them from; one that was made by the very same
notebook, code and weights is read and not repeated.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")

from cookbook.figures import Difference, difference
from cookbook.recipes import list_recipes
from cookbook.record import Run, read_run
from cookbook.runner import run_recipe

ROOT = Path(__file__).resolve().parents[1]
NAMES = [recipe.name for recipe in list_recipes(ROOT / "nbs" / "recipes")]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@cache
def run(name: str) -> Run:
    folder = ROOT / "build" / "recipes" / name
    result = run_recipe(name, {}, folder, existing="resume")
    assert result.failure is None, f"{result.failure.message}\n{result.failure.source}"
    return read_run(folder)


def value(name: str, figure: str) -> float:
    return run(name).figures[figure].value


def change(name: str, before: str, after: str) -> Difference:
    items = run(name).items
    return difference(after, items[before], items[after])


@pytest.mark.parametrize("name", NAMES)
def test_recipe_runs(name: str) -> None:
    done = run(name)
    assert done.figures
    assert done.manifest is not None
    assert done.manifest["status"] == "done"


def test_training_follows_the_stored_curve() -> None:
    assert value("lab-pretraining", "loss_gap_100") <= 0.03
    assert value("lab-pretraining", "loss_gap_200") <= 0.10


def test_examples_bring_a_house_style() -> None:
    assert value("prompt", "zero_shot") <= 0.05
    assert value("prompt", "few_shot") >= 0.5
    assert value("prompt", "few_shot_tokens") > value("prompt", "zero_shot_tokens")


def test_steps_help_with_two_facts() -> None:
    assert change("prompt", "at_once", "in_steps").low > 0


def test_tools_answer_what_no_prompt_can() -> None:
    assert value("prompt", "without_tools") <= 0.1
    assert value("prompt", "with_tools") >= 0.8


def test_a_system_message_is_followed() -> None:
    assert value("prompt", "cites_rule") >= 0.9
    assert value("prompt", "cites_no_rule") <= 0.2


def test_eight_examples_lift_labels_by_eighty_points() -> None:
    lift = change("examples", "zero_shot", "eight_examples")
    assert value("examples", "zero_shot") <= 0.05
    assert value("examples", "eight_examples") >= 0.95
    assert lift.low >= 0.8
    assert lift.n >= 200


def test_which_examples_matters_when_they_are_few() -> None:
    assert value("examples", "nearest_4") >= value("examples", "random_4") + 0.1
    assert value("examples", "balanced_8") >= value("examples", "random_8") + 0.1


def test_routing_beats_the_single_template() -> None:
    gain = change("dynamic-templates", "single_template", "routed")
    figures = run("dynamic-templates").figures
    assert gain.low > 0.1
    assert figures["routed"].value <= figures["oracle_route"].high
    assert value("dynamic-templates", "routed_prompt_tokens") < value(
        "dynamic-templates", "single_prompt_tokens"
    )


def test_the_labeller_has_a_real_job() -> None:
    assert value("dynamic-templates", "labeller_macro_f1_known_forms") >= 0.95
    assert 0.2 <= value("dynamic-templates", "labeller_macro_f1_new_forms") <= 0.8


def test_retrieval_lifts_answers_from_nothing() -> None:
    lift = change("rag", "no_retrieval", "retrieved")
    assert value("rag", "no_retrieval") <= 0.05
    assert value("rag", "retrieved") >= 0.9
    assert lift.low >= 0.8
    assert value("rag", "oracle") >= value("rag", "retrieved") - 0.05


def test_retrieval_matters_and_forgets_what_was_deleted() -> None:
    assert value("rag", "retrieved_by_own_states") < value("rag", "retrieved") - 0.2
    assert value("rag", "deleted_found") == 0
    assert value("rag", "attacked_fooled") <= 0.1
    assert run("rag").notes["update"]["embedded"] <= 4
