"""Plans: every example and any case, the strict reader, and every row of the settings table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

from advisor.case import Case, load_case
from advisor.cli import main
from advisor.errors import AdvisorError
from advisor.evidence import load_evidence
from advisor.flowchart import flowchart
from advisor.hyperparameters import METHODS, OBJECTIVES, SURE_OF, Guideline, Situation, guidelines
from advisor.make_plan import LESSONS, make_plan, means_of, rows_per_update, settings_of
from advisor.plan_file import (
    TRAINING,
    Plan,
    PlanGate,
    PlanStage,
    dump_plan,
    number_text,
    plan_sha256,
)
from advisor.plan_reading import parse_plan
from advisor.questions import Answer

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
each_row = pytest.mark.parametrize("row", guidelines(), ids=lambda row: row.id)


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=stdin, prog_name="advisor")


# ---- the table


@each_row
def test_row_says_where_it_comes_from(row: Guideline) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.id)
    assert row.sure in SURE_OF
    assert 5 <= len(row.reason) <= 110
    if row.sure == "assumption":
        assert row.source.startswith("our assumption")
        assert (row.url, row.read) == ("", "")
    else:
        assert re.fullmatch(r"https://[^\s/]+\.[^\s]+", row.url)
        assert row.read
    assert set(row.evidence) <= set(load_evidence())


@each_row
def test_row_can_apply(row: Guideline) -> None:
    assert set(row.methods) <= set(METHODS)
    assert set(row.objectives) <= set(OBJECTIVES)
    assert set(row.paths) <= {path.id for path in flowchart().paths}
    if row.low is not None and isinstance(row.value, int | float):
        assert row.low <= row.value <= (row.high or row.low)


def test_rows_have_ids_of_their_own() -> None:
    ids = [row.id for row in guidelines()]
    assert len(ids) == len(set(ids))


def test_every_setting_ends_with_a_row_that_always_applies() -> None:
    narrow = {"replay": "text", "quantisation": "qlora", "beta": "preference"}
    for setting in {row.setting for row in guidelines()} - set(narrow):
        last = [row for row in guidelines() if row.setting == setting][-1]
        conditions = (last.methods, last.objectives, last.paths, last.languages)
        assert not any(conditions), setting
        assert (last.parameters_above, last.examples_above) == (None, None)


# ---- plans


@each_example
def test_plan_of_an_example_is_read_back_the_same(path: Path) -> None:
    plan = make_plan(load_case(path))
    again = parse_plan(dump_plan(plan))
    assert again == plan
    assert plan_sha256(again) == plan_sha256(plan)
    assert yaml.safe_load(dump_plan(plan))["stages"][0]["path"] == plan.stages[0].path


@settings(max_examples=60, deadline=None)
@given(cases())
def test_plan_of_any_case_is_read_back_the_same(case: Case) -> None:
    plan = make_plan(case)
    text = dump_plan(plan)
    assert parse_plan(text) == plan
    assert isinstance(yaml.safe_load(text), dict)
    assert [stage.path for stage in plan.stages if stage.training] == [
        stage.path for stage in plan.stages
        if stage.path in LESSONS and case.get("model.weights") != "closed"
    ]  # fmt: skip


@each_example
def test_stages_are_those_of_the_advice(path: Path) -> None:
    advice = json.loads(run("ask", "--answers", str(path), "--json").stdout)["plan"]
    stages = [stage.path for stage in make_plan(load_case(path)).stages]
    assert stages == [stage["path"] for stage in advice]


LESSON_IDS = [
    (path, number, method)
    for path, lessons in LESSONS.items()
    for number, lesson in enumerate(lessons)
    for method in lesson.methods
]


@pytest.mark.parametrize("card", ["T4", None])
@pytest.mark.parametrize(("path", "number", "method"), LESSON_IDS)
def test_every_setting_has_a_reason(path: str, number: int, method: str, card: str | None) -> None:
    known: dict[str, Answer] = {
        "model.id": "Qwen/Qwen2.5-7B-Instruct",
        "data.labelled": 3000,
        "hardware.gpu": card,
    }
    means = means_of(Case(known))
    values, reasons = settings_of(LESSONS[path][number], method, means)
    assert set(values) - set(reasons) == {"method", "objective"}
    assert set(values) <= set(TRAINING)
    text = dump_plan(Plan((PlanStage(path, path, PlanGate("a", "b"), training=values),)))
    parse_plan(text)  # nothing contradicts anything
    assert values["dtype"] == "float16" if card == "T4" else values["dtype"] != "float16"


def test_more_rows_never_take_fewer_for_an_update() -> None:
    sizes = [
        rows_per_update(Situation("full-ft", "full"), rows, 3)[0] for rows in range(1, 6000, 37)
    ]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, 128)


def test_a_larger_card_takes_as_many_rows_and_the_update_stays() -> None:
    case = load_case(ROOT / "examples" / "support-bot.yaml")
    found = {
        card: make_plan(case.replace("hardware.gpu", card)).stages[-1].training
        for card in ("RTX-4090", "H100-80GB")
    }
    small, large = found["RTX-4090"], found["H100-80GB"]
    assert small
    assert large
    assert small["batch_size"] <= large["batch_size"]
    assert small["batch_size"] * small["accumulation"] == 8
    assert large["batch_size"] * large["accumulation"] == 8


def test_largest_batch_fits_and_the_next_does_not() -> None:
    """The promise on the page: up to N rows fit."""
    from dataclasses import replace

    from advisor.fit import allocated_budget
    from advisor.make_plan import largest, training_run
    from advisor.memory import PeakCurve

    means = means_of(load_case(ROOT / "examples" / "support-bot.yaml"))
    values, _ = settings_of(LESSONS["rag-ft"][0], "lora", means)
    most = largest(values, means)
    step = training_run(values, 1)
    assert step
    assert means.model
    assert means.gpu
    assert most
    curve = PeakCurve(means.model, replace(step, batch=2))
    budget = allocated_budget(means.gpu, step.loss)
    assert curve(most, values["max_length"]) <= budget < curve(most + 1, values["max_length"])


def test_weights_that_do_not_fit_in_32_bits_are_taken_in_16() -> None:
    case = Case({"model.id": "Qwen/Qwen2.5-7B", "hardware.gpu": "H100-80GB", "data.labelled": 900})
    large, _ = settings_of(LESSONS["full-ft"][0], "full", means_of(case))
    small, _ = settings_of(LESSONS["full-ft"][0], "full", means_of(
        case.replace("model.id", "Qwen/Qwen2.5-0.5B")))  # fmt: skip
    assert (small["dtype"], small["optimizer"]) == ("float32", "adamw-fused")
    assert large["dtype"] == "bfloat16"


def test_closed_weights_are_left_to_the_vendor() -> None:
    stages = make_plan(load_case(ROOT / "examples" / "agriculture-qa.yaml")).stages
    assert not any(stage.training for stage in stages)
    assert "vendor" in stages[-1].note


# ---- numbers


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_back_by_any_reader(value: float) -> None:
    found = yaml.safe_load(number_text(value))
    assert isinstance(found, float)
    assert found == value


# ---- the reader


def good() -> str:
    return dump_plan(make_plan(load_case(ROOT / "examples" / "support-bot.yaml")))


GOOD = good()


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("rank: 16", "rnak: 16", "stages[3].training.rnak", "Did you mean 'rank'?"),
        ("rank: 16", "rank: 0", "stages[3].training.rank", "a whole number from 1"),
        ("rank: 16", "rank: 1.5", "stages[3].training.rank", "a whole number from 1"),
        ("schedule: cosine", "schedule: cosin", "stages[3].training.schedule", "'cosine'?"),
        ("packing: false", "packing: maybe", "stages[3].training.packing", "true, false"),
        ("learning_rate: 2.0e-4", "learning_rate: fast", "learning_rate", "a number from"),
        ("learning_rate: 2.0e-4", "learning_rate: .nan", "learning_rate", "a number from"),
        ("held_out: 0.1", "held_out: [1]", "stages[3].training.held_out", "a single value"),
        ("    gate:", "    gaet:", "gaet", "Did you mean 'gate'?"),
        ("schema: 1", "schema: 7", "schema", "this version reads 1"),
        ("tool:", "took:", "took", "Did you mean 'tool'?"),
    ],
)
def test_a_mistake_names_its_line_and_key(old: str, new: str, key: str, said: str) -> None:
    text = GOOD.replace(old, new, 1)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the message is judged below
        parse_plan(text, "my plan.yaml")
    message = str(caught.value)
    assert f"my plan.yaml:{line_of(text, new)}: " in message
    assert key in message
    assert said in message


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "a", "schema: 1", "schema: 1\nstages: {a: 1}", "schema: 1\nstages: [1]",
        "schema: 1\nstages:\n  - path: x\n", "a: &a 1\nb: *a", "!!python/object:os.system x",
        "schema: 1\nstages: []\n---\nschema: 1", "\x00", "stages: [" * 1000, "{" * 40,
        "schema: 1\nstages: []\nschema: 1\n", "? [a]\n: 1",
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_in_our_words(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    done = run("export", str(path), "--to", "trl")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "unexpected" not in done.stderr


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_makes_the_reader_fall(data: st.DataObject) -> None:
    text = GOOD
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 40))
    piece = data.draw(st.text(max_size=12) | st.sampled_from(["\n", ": ", "- ", "{", "]", "'"]))
    with suppress(AdvisorError):  # anything else would be a fall
        parse_plan(text[:at] + piece + text[at + length :])


def test_what_a_hand_writes_is_read() -> None:
    text = GOOD.replace("2.0e-4", "2e-4").replace("packing: false", "packing: no")
    text = text.replace("targets: all-linear", "targets: [q_proj, v_proj]")
    training = parse_plan(text).stages[-1].training
    assert training
    assert training["learning_rate"] == 2e-4
    assert training["packing"] is False
    assert training["targets"] == ("q_proj", "v_proj")
    again = parse_plan(dump_plan(parse_plan(text))).stages[-1].training
    assert again == training


# ---- the command


def test_plan_goes_to_a_file_once(tmp_path: Path) -> None:
    target = tmp_path / "plan.yaml"
    assert run("plan", str(EXAMPLES[0]), "-o", str(target)).exit_code == 0
    before = target.read_text()
    refused = run("plan", str(EXAMPLES[1]), "-o", str(target))
    assert (refused.exit_code, target.read_text()) == (2, before)
    assert "--force" in refused.stderr
    assert run("plan", str(EXAMPLES[1]), "-o", str(target), "--force").exit_code == 0
    assert target.read_text() != before


def test_plan_as_json_has_reasons_and_gates() -> None:
    done = run("plan", str(ROOT / "examples" / "support-bot.yaml"), "--json")
    plan = json.loads(done.stdout)
    assert plan["schema"] == 1
    assert plan["stages"][-1]["reasons"]["rank"]
    assert all(stage["gate"]["stop_when"] for stage in plan["stages"])


def test_set_changes_the_case_and_its_hash() -> None:
    path = str(ROOT / "examples" / "support-bot.yaml")
    one = json.loads(run("plan", path, "--json").stdout)
    two = json.loads(run("plan", path, "--set", "hardware.gpu=T4", "--json").stdout)
    assert one["case_sha256"] != two["case_sha256"]
    assert two["stages"][-1]["training"]["method"] == "qlora"


def test_plan_without_a_case_says_what_to_do() -> None:
    done = run("plan")
    assert done.exit_code == 2
    assert "advisor plan case.yaml" in done.stderr
    assert run("plan", "--set", "task=code").exit_code == 0


def test_what_will_not_fit_is_said() -> None:
    from advisor.plan_cli import doubts

    estimate = {"verdict": "no", "memory_gib": 40.0, "gpu": "T4"}
    stage = PlanStage("lora", "LoRA", PlanGate("a", "b"), estimate=estimate)
    assert doubts(Plan((stage,))) == [
        "stage 1 (lora): 40.0 GiB are not there on T4; advisor fit names cards and changes."
    ]
    assert doubts(make_plan(load_case(ROOT / "examples" / "support-bot.yaml"))) == []


def test_plan_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom advisor.cli import main\n"
        "try:\n    main(['plan', 'examples/support-bot.yaml'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'cookbook', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_cookbook_reads_the_plan(tmp_path: Path) -> None:
    """`cookbook new RECIPE DIR --plan plan.yaml` takes the parameters of the stage's recipe."""
    runner = pytest.importorskip("cookbook.runner")
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD)
    assert runner.plan_values(path, "rag") == {
        "model": "meta-llama/Llama-3.1-8B-Instruct", "mode": "full",
    }  # fmt: skip
