"""The case file: strict reading with exact complaints, canonical writing, schema and example."""
# ruff: noqa: E501 (the exact wording of messages is kept on one line)

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import time

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

from advisor.case import Case, apply_sets, dump_case, load_case, parse_case, save_case
from advisor.errors import AdvisorError, CaseError
from advisor.files import data_path
from advisor.questions import allowed, questions
from advisor.schema import example_yaml, json_schema

TASKS = (
    "classification | extraction | question-answering | summarization | generation | dialogue | code"
    " | translation | reasoning | correction | tool-use"
)
DATA = "labelled, preference_pairs, unlabelled_tokens, verifiable_reward, quality"
TOP = "name, task, model, knowledge, behaviour, domain, data, quality, serving, hardware, team"


def message(text: str, source: str = "case.yaml") -> str:
    with pytest.raises(CaseError) as caught:
        parse_case(text, source)
    return caught.value.message


EXACT = [
    ("\ntask: Code", f"case.yaml:2: task: found 'Code'; allowed: {TASKS}. Did you mean 'code'?"),
    (
        "task: code\ndata:\n  labeled: 4",
        f"case.yaml:3: data.labeled: unknown key in data; allowed: {DATA}. Did you mean 'labelled'?",
    ),
    (
        "labelled: 4",
        f"case.yaml:1: labelled: unknown key; allowed: {TOP}. Did you mean 'data.labelled'?",
    ),
    ("modle: {id: a, size: 7}", f"case.yaml:1: modle: unknown key; allowed: {TOP}. Did you mean 'model'?"),
    (
        "data.labelled: 4",
        "case.yaml:1: data.labelled: dotted keys are for --set; in a file write data: {labelled: ...}",
    ),
    (
        "knowledge: {citations: False}",
        "case.yaml:1: knowledge.citations: found 'False'; allowed: required | nice | no."
        " Did you mean 'no'?",
    ),
    (
        "data:\n  # none\n  labelled: lots",
        "case.yaml:3: data.labelled: found 'lots'; allowed: a whole number of examples, 0 or more.",
    ),
    (
        "data: {labelled: [4]}",
        "case.yaml:1: data.labelled: found a list; allowed: a whole number of examples, 0 or more.",
    ),
    ("task: {a: b, c: d}", f"case.yaml:1: task: found a mapping; allowed: {TASKS}."),
    ("model: gpt", "case.yaml:1: model: found 'gpt'; allowed: a mapping with id, weights."),
    (
        "quality: {target: 48%}",
        "case.yaml:1: quality.target: found '48%'; allowed: a number on the scale of the metric,"
        " 0 or more.",
    ),
    ("task: code\n\ntask: code", "case.yaml:3: task: given twice; first on line 1."),
    ("team:\n  budget: low\n  budget: low", "case.yaml:3: team.budget: given twice; first on line 2."),
    ("team: {}\ndata: {}\nteam: {budget: low}", "case.yaml:3: team: given twice; first on line 1."),
    ("schema: 2", "case.yaml:1: schema: found '2'; this version reads 1."),
    ("- task", "case.yaml:1: found a list; a case is a mapping (key: value)."),
    ("task: code\n---\ntask: code", "case.yaml:2: a second document; a case file holds one."),
    (
        "task: code\nname: *bot",
        "case.yaml:2: found *bot; anchors and aliases are not read. Quote it if it is text.",
    ),
    (
        "name: &bot x",
        "case.yaml:1: found &bot; anchors and aliases are not read. Quote it if it is text.",
    ),
    (
        "name: !!python/object/apply:os.system [ls]",
        "case.yaml:1: found the tag 'tag:yaml.org,2002:python/object/apply:os.system'; tags are not"
        " read. Quote it if it is text.",
    ),
    ("team:\n  <<: 1", "case.yaml:2: merge keys (<<) are not read."),
    ("? [a]\n: b", "case.yaml:1: a key must be a single word."),
    ("data:\n\tlabelled: 4", "case.yaml:2: not valid YAML: a tab; YAML is indented with spaces."),
    (
        "name: a: b",
        "case.yaml:1: not valid YAML: mapping values are not allowed in this context.",
    ),
    ("name: x\nmodel: {id: \x1b}", "case.yaml:2: a control character ('\\x1b') is not allowed."),
    ("[" * 100_000, "case.yaml:1: nested deeper than 20 levels; a case file has two."),
    (
        "name: ''",
        "case.yaml:1: name: found ''; allowed: text on one line, 1 to 200 characters.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EXACT, ids=[e.split(": ", 1)[1][:40] for _, e in EXACT])
def test_wording(text: str, expected: str) -> None:
    assert message(text) == expected


def test_error_knows_its_place_and_the_next_step() -> None:
    with pytest.raises(CaseError) as caught:
        parse_case("task: code\ndata: {labelled: x}", "my.yaml")
    error = caught.value
    assert (error.file, error.line, error.key, error.exit_code) == ("my.yaml", 2, "data.labelled", 2)
    assert str(error).endswith("\n  `advisor schema` lists every key and its values; null means"
                               ' "don\'t know".')
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_first_five_of_seven_in_file_order() -> None:
    lines = message("".join(f"bad{n}: 1\n" for n in range(6)) + "bad0: 2\n").split("\n")
    assert [line.split(": ")[0] for line in lines[:5]] == [f"case.yaml:{n}" for n in range(1, 6)]
    assert lines[5:] == ["... and 2 more (7 in all)"]


def test_an_unknown_section_is_one_error() -> None:
    assert message("tem: {budget: low, experience: some}").count("\n") == 0


NUMBERS = [
    ("2_000_000", 2_000_000), ("2e6", 2_000_000), ("2.0", 2), ("2.e3", 2000), ("+7", 7), ("0", 0),
    ("'400'", 400), ("1e18", 10**18), ("999999999999999999", 10**18 - 1), ("20e-1", 2),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_integers_in(text: str, value: int) -> None:
    got = parse_case(f"data: {{labelled: {text}}}").get("data.labelled")
    assert got == value
    assert type(got) is int


NOT_INTEGERS = [
    "2.5", "-1", "-2e3", "nan", ".nan", "inf", ".inf", "-.inf", "1e19", "1e400", "1e999999", "2M",
    "1e99999999999", "9" * 5000, "1:30", "0x10", "0o7", "true", "1,000", "''", "4 5", "2026-01-01", "_1",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_INTEGERS)
def test_integers_out(text: str) -> None:
    said = message(f"data:\n  labelled: {text}")
    assert said.endswith("; allowed: a whole number of examples, 0 or more.")


@pytest.mark.parametrize("raw", [True, float("nan"), float("inf"), -1, 2.5, [1], {}, b"1"])
def test_integer_objects_out(raw: object) -> None:
    with pytest.raises(CaseError, match="allowed: a whole number"):
        Case.from_dict({"data": {"labelled": raw}})


def test_an_integer_too_long_to_print() -> None:
    with pytest.raises(CaseError, match="found a number of more than 60 digits; allowed"):
        Case.from_dict({"data": {"labelled": 10**9000}})


@pytest.mark.parametrize("word", ["", "~", "null", "Null", "NULL", "unknown"])
def test_words_for_not_known(word: str) -> None:
    case = parse_case(f"name: {word}\ntask: {word}\nquality:\n  target: {word}\n")
    assert dict(case.answers) == {"name": None, "task": None, "quality.target": None}
    assert case.given("task")
    assert not case.given("team.budget")


def test_the_schema_reads_scalars_not_yaml_1_1() -> None:
    case = parse_case("name: 'null'\nmodel: {id: 4.10}\nknowledge: {citations: no}\n"
                      "quality: {safety_critical: yes, target: 5e-1}\nbehaviour: {need: none}")
    assert dict(case.answers) == {
        "name": "null", "model.id": "4.10", "knowledge.citations": "no", "behaviour.need": "none",
        "quality.target": 0.5, "quality.safety_critical": True,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "\n", "# nothing", "---\n", "null", "{}", "\ufeff", "hardware:\n",
                                  "schema: 1", "schema:", "data: {}"])
def test_nothing_known(text: str) -> None:
    assert parse_case(text) == Case()


def _bomb() -> str:
    rows = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    rows += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(rows)


NASTY = {
    "alias bomb": _bomb(),
    "too large": "a: 1\n" * 2_000_000,
    "flow nesting": "{a: " * 60_000,
    "block nesting": "\n".join(" " * n + "a:" for n in range(600)),
    "unknown keys": "\n".join(f"key{n}: 1" for n in range(20_000)),
    "duplicates": "task: code\n" * 20_000,
    "one long key": "k" * 250_000 + ": 1",
    "one long value": "task: " + "v" * 250_000,
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files_fail_fast(name: str) -> None:
    start = time.perf_counter()
    said = message(NASTY[name])
    assert time.perf_counter() - start < 1
    assert len(said) < 3000


def test_other_yaml_reader_gives_the_same_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert message("task: code\n\ntask: code") == "case.yaml:3: task: given twice; first on line 1."
    assert parse_case(example_yaml()).get("data.labelled") == 400


@given(cases())
def test_round_trip(case: Case) -> None:
    again = parse_case(dump_case(case))
    assert again == case
    assert hash(again) == hash(case)
    assert [type(value) for value in again.answers.values()] == [
        type(value) for value in case.answers.values()
    ]
    assert dump_case(again) == dump_case(case)


@pytest.mark.parametrize("score", [1e-07, 1e17, 1e18, 5e-324, 0.1 + 0.2])
def test_floats_have_a_dot_for_yaml_1_1(score: float) -> None:
    text = dump_case(Case({"quality.target": score}))
    assert yaml.safe_load(text)["quality"]["target"] == score
    assert parse_case(text).get("quality.target") == score


def test_no_minus_zero() -> None:
    for zero in (-0.0, "-0.0", "-0", 0):
        assert repr(Case({"quality.target": zero}).get("quality.target")) == "0.0"


@given(cases())
def test_other_readers_take_the_dump_the_same_way(case: Case) -> None:
    """A plain YAML 1.1 reader sees the same values, so nothing depends on our own reader."""
    assert yaml.safe_load(dump_case(case)) == case.to_dict()


@given(cases())
def test_dictionaries_and_json_round_trip(case: Case) -> None:
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case
    assert pickle.loads(pickle.dumps(case)) == case
    jsonschema.validate(case.to_dict(), json_schema())


@given(st.text(alphabet=st.sampled_from(" \t\nabtsk:{}[],&*!|>'\"%#?-~<0.e1é\x00"), max_size=60))
@settings(max_examples=500)
def test_any_text_is_a_case_or_a_case_error(text: str) -> None:
    complaint = "case.yaml:"
    try:
        parse_case(text)
    except CaseError as error:
        complaint = str(error)
    assert complaint.startswith("case.yaml:")


def test_json_schema_is_valid_and_strict() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(yaml.safe_load(example_yaml()), json_schema())
    for wrong in ({"tsk": 1}, {"task": "qa"}, {"data": {"labelled": -1}}, {"data": {"x": 1}},
                  {"schema": 2}, {"name": ""}, {"name": "a\nb"}, {"quality": {"target": True}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, json_schema())
        with pytest.raises(CaseError):
            Case.from_dict(wrong)


def test_the_example_is_the_one_of_the_design() -> None:
    nested = parse_case(example_yaml()).to_dict()
    assert nested["quality"] == {
        "metric": "accuracy", "prompt_only": 0.48, "few_shot": None, "target": 0.75,
        "hallucination_tolerance": "low", "keep_general_skills": True, "safety_critical": False,
        "evaluation_set": 200,
    }  # fmt: skip
    assert (nested["name"], nested["task"]) == ("support-bot", "question-answering")
    for row in example_yaml().splitlines():
        assert row.startswith("#") or row.endswith(":") or row == "schema: 1" or " # " in row


def test_every_question_row() -> None:
    assert list(questions())[:3] == ["name", "task", "model.id"]
    assert len(questions()) == 31
    for key, row in questions().items():
        assert row.key == key
        assert row.question.endswith("?"), key
        assert row.why.endswith("."), key
        assert row.why.count(". ") == 0, key
        assert bool(row.choices) == (row.kind == "choice"), key
        assert bool(row.unit) == (row.kind in ("integer", "number")), key
        assert len(set(row.values)) == len(row.values), key
        assert all(choice.label for choice in row.choices), key
        assert row.parse(row.example) == row.example, key
        assert row.parse("unknown") is None or row.kind == "text", key
        assert allowed(row), key


def test_methods() -> None:
    case = Case({"team.budget": "low", "task": "code"})
    assert list(case.answers) == ["task", "team.budget"]
    assert case.replace("task", "unknown").given("task")
    assert case.replace("task", None).get("task") is None
    assert case.without("task") == Case({"team.budget": "low"})
    assert case != Case({"team.budget": "low", "task": None})
    assert "| `task` | code |" in case._repr_markdown_()
    with pytest.raises(TypeError):
        case.answers["task"] = "extraction"  # type: ignore[index]
    for call in (case.get, case.given, case.without):
        with pytest.raises(CaseError, match=r"^tsk: unknown key\. Did you mean 'task'\?"):
            call("tsk")


SETS = [
    ("knowledge.changes=livee", "--set: knowledge.changes: found 'livee'; allowed: never | yearly |"
     " monthly | weekly | daily | live. Did you mean 'live'?"),
    ("labeled=4", "--set: labeled: unknown key. Did you mean 'data.labelled'?"),
    ("task", "--set: found 'task'; allowed: KEY=VALUE, such as data.labelled=400."),
    ("=4", "--set: found '=4'; allowed: KEY=VALUE, such as data.labelled=400."),
    ("model=gpt", "--set: model: a group of keys; allowed: model.id, model.weights."),
]  # fmt: skip


@pytest.mark.parametrize(("item", "expected"), SETS)
def test_set_wording(item: str, expected: str) -> None:
    with pytest.raises(CaseError) as caught:
        apply_sets(Case(), [item])
    assert caught.value.message == expected


def test_sets_apply_in_turn() -> None:
    case = apply_sets(Case({"task": "code"}), ["data.labelled=2e3", "data.labelled = 5", "task=", "name=a=b"])
    assert dict(case.answers) == {"name": "a=b", "task": None, "data.labelled": 5}


def test_files(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, file = parse_case(example_yaml()), tmp_path / "case.yaml"
    save_case(case, file)
    assert load_case(file) == load_case(str(file)) == case
    with pytest.raises(AdvisorError, match="exists already"):
        save_case(case, file)
    save_case(Case(), file, force=True)
    assert load_case(file) == Case()
    file.write_bytes(b"x" * 10_000_000)
    with pytest.raises(AdvisorError, match="too large: 10,000,000 bytes; the limit is 262,144"):
        load_case(file)
    monkeypatch.setattr(sys, "stdin", io.StringIO("tsk: code"))
    with pytest.raises(CaseError, match=r"^<stdin>:1: tsk: unknown key"):
        load_case("-")


def test_questions_file_is_in_the_package() -> None:
    with open(data_path("questions.toml"), encoding="utf-8") as stream:
        assert stream.read().count("[[questions]]") == len(questions())


def test_importing_is_light() -> None:
    heavy = ("yaml", "tomllib", "json", "decimal", "difflib")
    code = f"import sys, advisor.case; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
