"""What advice must hold for every case, whatever is known or not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import THRESHOLDS, cases

from advisor.advice import advise
from advisor.case import Case, dump_case, parse_case
from advisor.decision import BANDS, decide
from advisor.evidence import load_evidence
from advisor.explain import diagram
from advisor.flowchart import STRENGTHS, facts, flowchart
from advisor.questions import questions
from advisor.render import advice_json, advice_markdown, advice_text
from advisor.sensitivity import alternatives, live_keys, next_question, settled

CHART = flowchart()
PATHS = {path.id for path in CHART.paths}
SUPERVISED = set(CHART.groups["supervised"])
TUNING_ONLY = set(CHART.groups["tuning_only"])
VENDOR = {"lora", "rag-ft", "dpo", "safety-sft", "distil"}
plain_cases = cases(awkward_text=False)


def decision(case: Case):
    return decide(facts(case), CHART)


# ---- the shape of an answer


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_case_gets_a_complete_answer(case: Case) -> None:
    advice = advise(case).to_dict()
    assert [row["path"] for row in advice["ranking"]].count("rag") == 1
    assert {row["path"] for row in advice["ranking"]} == PATHS
    assert len(advice["ranking"]) == len(PATHS)
    bands = [BANDS.index(row["band"]) for row in advice["ranking"]]
    assert bands == sorted(bands)
    assert advice["verdict"] or advice["ranking"][0]["band"] == "recommended"
    assert advice["plan"]
    assert json.loads(advice_json(advice)) == advice
    assert advice_markdown(advice)
    assert advice_text(advice, width=80)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_same_case_gives_the_same_bytes(case: Case) -> None:
    once = advice_json(advise(case).to_dict())
    again = advice_json(advise(parse_case(dump_case(case))).to_dict())
    assert once == again


@settings(max_examples=100, deadline=None)
@given(plain_cases)
def test_the_plan_holds_nothing_blocked(case: Case) -> None:
    advice = advise(case).to_dict()
    blocked = decision(case).blocked
    for stage in advice["plan"]:
        assert stage["path"] not in blocked
        assert stage["gate"]["measure"]
        assert stage["gate"]["stop_when"]


@settings(max_examples=60, deadline=None)
@given(plain_cases)
def test_a_flip_does_what_it_says(case: Case) -> None:
    advice = advise(case).to_dict()
    for row in advice["ranking"][:4]:
        for flip in row["flips_if"][:4]:
            changed = decision(case.replace(flip["answer"], flip["value"]))
            assert changed.bands[row["path"]] == flip["band"] != row["band"]
            assert changed.outcome == flip["then_first"]


# ---- what an expert would insist on


@settings(max_examples=400, deadline=None)
@given(plain_cases)
def test_closed_weights_leave_only_the_vendors_tuning(case: Case) -> None:
    bands = decision(case.replace("model.weights", "closed")).bands
    changing = set(CHART.groups["weights"]) | {"pretrain"}
    assert {p for p in changing if bands[p] != "ruled-out"} <= VENDOR
    assert bands["qlora"] == bands["full-ft"] == bands["cpt"] == bands["rl"] == "ruled-out"


@settings(max_examples=400, deadline=None)
@given(plain_cases)
def test_without_labels_no_supervised_tuning_yet(case: Case) -> None:
    bands = decision(case.replace("data.labelled", 0)).bands
    assert all(bands[path] in ("not-yet", "ruled-out") for path in SUPERVISED)


@settings(max_examples=400, deadline=None)
@given(plain_cases)
def test_live_knowledge_is_never_answered_by_tuning_alone(case: Case) -> None:
    answer = decision(case.replace("knowledge.changes", "live"))
    assert answer.top not in TUNING_ONLY
    assert all(answer.bands[path] in ("not-yet", "ruled-out") for path in TUNING_ONLY)


@settings(max_examples=500, deadline=None)
@given(plain_cases, st.lists(st.sampled_from(THRESHOLDS), min_size=2, max_size=2).map(sorted))
def test_more_labels_never_lower_tuning(case: Case, labels: list[int]) -> None:
    few, many = (decision(case.replace("data.labelled", count)) for count in labels)
    for path in SUPERVISED | set(CHART.groups["weights"]):
        assert BANDS.index(many.bands[path]) <= BANDS.index(few.bands[path]), path
    if labels[0] >= 50:  # below that, no supervised path is open at all
        assert _untuned_ahead(many) <= _untuned_ahead(few)


def _untuned_ahead(answer) -> int:
    tuning = SUPERVISED | set(CHART.groups["weights"])
    order = [standing.path for standing in answer.standings]
    best = min(order.index(path) for path in SUPERVISED)
    return sum(path not in tuning for path in order[:best])


@settings(max_examples=300, deadline=None)
@given(plain_cases)
def test_pretraining_is_never_offered(case: Case) -> None:
    assert decision(case).bands["pretrain"] == "ruled-out"


@pytest.mark.parametrize("items", [0, None])
def test_without_an_evaluation_set_measuring_comes_first(items: int | None) -> None:
    case = parse_case("data: {labelled: 5000}\nbehaviour: {need: high}")
    advice = advise(case.replace("quality.evaluation_set", items)).to_dict()
    assert advice["plan"][0]["path"] == "measure-first"
    assert (advice["verdict"] == "measure-first") == (items == 0)


def test_a_met_target_ends_the_search() -> None:
    scores = "quality: {few_shot: 0.8, target: 0.75, evaluation_set: 200}"
    case = parse_case(f"{scores}\ndata: {{labelled: 9000}}")
    advice = advise(case).to_dict()
    assert advice["verdict"] == "good-enough"
    assert [stage["path"] for stage in advice["plan"]] == ["prompt"]


# ---- the questions


@settings(max_examples=60, deadline=None)
@given(plain_cases)
def test_a_question_that_is_not_live_changes_nothing(case: Case) -> None:
    before, live = decision(case), set(live_keys(case))
    for key in questions():
        after = questions()[key].after
        pointless = bool(after) and case.given(after) and case.get(after) in (None, "none")
        if key in live or case.given(key) or pointless:
            continue
        for value in alternatives(case, key, CHART):
            after = decision(case.replace(key, value))
            assert (after.outcome, _open(after)) == (before.outcome, _open(before)), (key, value)


def _open(answer) -> set[str]:
    return {path for path, band in answer.bands.items() if band == "recommended"}


@settings(max_examples=40, deadline=None)
@given(plain_cases, st.data())
def test_what_is_settled_stays_first(case: Case, data: st.DataObject) -> None:
    first = settled(case)
    for key in questions():
        if first and not case.given(key):
            values = [None, *alternatives(case, key, CHART)]
            case = case.replace(key, data.draw(st.sampled_from(values)))
    assert first is None or decision(case).top == first


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_flow_ends(data: st.DataObject) -> None:
    case, asked = Case(), 0
    while (key := next_question(case)) is not None:
        values = [None, *alternatives(case, key, CHART)]
        case = case.replace(key, data.draw(st.sampled_from(values)))
        asked += 1
        assert asked <= len(questions())
    assert live_keys(case) == []


# ---- the flowchart file


def test_every_row_of_evidence_is_used_and_every_cited_row_exists() -> None:
    cited = {e for rule in CHART.rules for e in (*rule.evidence, *rule.contradicted_by)}
    assert cited == set(load_evidence())
    assert len(cited) >= 60


def test_no_rule_cites_a_row_on_both_sides() -> None:
    for rule in CHART.rules:
        assert rule.evidence, rule.id
        assert not set(rule.evidence) & set(rule.contradicted_by), rule.id


@pytest.mark.parametrize("rule", CHART.rules, ids=lambda rule: rule.id)
def test_every_rule_can_fire_and_does_something(rule) -> None:
    assert rule.effects or rule.warning or rule.verdict
    for every in rule.when:
        known = {condition.key: _holds(condition) for condition in every}
        assert rule.state(known) is True, [str(condition) for condition in every]


def _holds(condition):
    question = questions().get(condition.key)
    words = [*question.values, True, False] if question else ["room", "tight", "no"]
    numbers = [bound + step for bound in condition.bounds for step in (-1, 0, 1)]
    tried = numbers if condition.bounds else words
    return None if condition.about_unknown else next(v for v in tried if condition.test(v))


@settings(max_examples=200, deadline=None)
@given(plain_cases)
def test_a_smaller_card_never_makes_tuning_look_better(case: Case) -> None:
    case = case.replace("model.id", "meta-llama/Llama-3.1-8B").replace("hardware.count", 1)
    order = ("MI300X", "A100-80GB", "RTX-4090", "RTX-3060-12GB", "RTX-4060")
    bands = [decision(case.replace("hardware.gpu", card)).bands for card in order]
    best = [min(BANDS.index(b[path]) for path in ("lora", "qlora")) for b in bands]
    assert best == sorted(best)


def test_a_metric_that_falls_is_read_the_other_way() -> None:
    scores = "quality: {metric: word error rate, prompt_only: 30, target: 10, evaluation_set: 300}"
    advice = advise(parse_case(scores)).to_dict()
    assert advice["verdict"] is None
    assert advice["plan"][0]["gate"]["stop_when"] == "word error rate is 10 or less"
    assert advise(parse_case(scores.replace("30", "9"))).to_dict()["verdict"] == "good-enough"


def test_a_met_target_with_dear_requests_leaves_only_what_is_cheaper() -> None:
    scores = "quality: {few_shot: 0.93, target: 0.9, metric: accuracy, evaluation_set: 200}"
    text = "task: extraction\nknowledge: {source: none}\ndata: {labelled: 3000}\n"
    advice = advise(parse_case(f"{text}{scores}\nserving: {{cost_pressure: high}}")).to_dict()
    assert {stage["path"] for stage in advice["plan"]} == {"encoder", "distil"}
    assert all("costs less" in stage["gate"]["stop_when"] for stage in advice["plan"])


def test_every_path_can_be_recommended_or_says_why_not() -> None:
    raisable = {e.path for r in CHART.rules for e in r.effects if STRENGTHS.get(e.kind, 0) > 0}
    assert PATHS - raisable == {"pretrain"}


def test_the_diagram_names_every_question_and_every_path() -> None:
    text = diagram()
    assert text.startswith("flowchart LR")
    assert all(node.question in text for node in CHART.nodes)
    assert all(path in text for path in PATHS)
