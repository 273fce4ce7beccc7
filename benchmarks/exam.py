"""Score the advisor on published cases: is the path it puts first one of those that won?

    python benchmarks/exam.py [--cases FILE] [--json] [--save --remark TEXT]

A collection holds scenario facts, what was tried and what scored best. tests/data holds
published-cases.json, known when the rules were written, and more-cases-1, -2 and -3, each written
without sight of the rules and scored blind once before the rules were revised.
The advisor sees the scenario only. Each source group weighs one, however many cases it gave.
Printed beside the score: simple baselines, and a leave-one-group-out run in which every rule that
rests on the scored group's evidence alone is switched off.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advisor.case import Case
from advisor.decision import because, decide
from advisor.errors import AdvisorError
from advisor.evidence import load_evidence
from advisor.flowchart import Flowchart, facts, flowchart

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "data" / "published-cases.json"

# Which classes of the case file each path of ours stands for.
CLASSES: dict[str, frozenset[str]] = {
    "prompt": frozenset({"PROMPT"}),
    "prompt-optimisation": frozenset({"PROMPT_OPT"}),
    "stronger-model": frozenset({"PROMPT"}),
    "long-context": frozenset({"LONG_CONTEXT"}),
    "rag": frozenset({"RAG"}),
    "encoder": frozenset({"ENCODER_FT"}),
    "lora": frozenset({"PEFT", "FT"}),
    "qlora": frozenset({"PEFT", "FT"}),
    "full-ft": frozenset({"FULL_FT", "FT"}),
    "rag-ft": frozenset({"FT+RAG"}),
    "distil": frozenset({"DISTILL"}),
    "safety-sft": frozenset({"ALIGN_SFT"}),
    "dpo": frozenset({"DPO", "SFT+DPO"}),
    "cpt": frozenset({"CPT"}),
    "cpt-ft": frozenset({"CPT+FT"}),
    "cpt-rag": frozenset({"CPT+RAG"}),
    "rl": frozenset({"RL", "RLHF"}),
    "pretrain": frozenset({"SCRATCH"}),
}

# The scenario's free text -> a task of the case file; the first pattern that is found decides.
TASKS = (
    (r"pipeline|multi-hop|math", "reasoning"),
    (r"classif|sentiment|stance|intent|narrow tasks", "classification"),
    (r"extract|relation|entity recognition", "extraction"),
    (r"correction", "correction"),
    (r"sql|code|programming", "code"),
    (r"summar", "summarization"),
    (r"translation(?!.*(qa|generation))|, 10 directions", "translation"),
    (r"nli|commonsense|reason", "reasoning"),
    (r"\btool|api call|agent", "tool-use"),
    (r"assistant|dialogue|chat|model harmless", "dialogue"),
    (r"style|emulate|write", "generation"),
    (r"qa\b|question|prompting tasks", "question-answering"),
)
SAFETY = r"harmless|attack|jailbreak|toxic|unsafe"
LEVELS = {"static": "never"}


def case_of(row: Mapping[str, Any]) -> Case:
    """Translate a published scenario into the answers of a case file.

    A row may carry its own `answers` (nested as in a case file), which then win.
    """
    scene = row["scenario"]
    text = scene["task"].lower()
    external = scene.get("needs_external_knowledge")
    changes = scene.get("knowledge_changes")
    foreign = scene.get("new_language_or_domain_vocab")
    answers: dict[str, Any] = {
        "task": next((task for pattern, task in TASKS if re.search(pattern, text)), None),
        "model.weights": {"api": "closed", "open": "open"}.get(scene.get("weights_access")),
        "knowledge.source": None if external is None else "private" if external else "none",
        "knowledge.changes": LEVELS.get(changes, changes),
        "knowledge.citations": "required" if scene.get("need_citations") else "no",
        "behaviour.need": scene.get("style_or_format_need"),
        "domain.language": {True: "underrepresented", False: "covered"}.get(foreign),
        "data.labelled": scene.get("labelled_examples"),
        "data.unlabelled_tokens": scene.get("unlabelled_tokens"),
        "data.preference_pairs": scene.get("preference_pairs"),
        "data.verifiable_reward": scene.get("verifiable_reward"),
        "quality.hallucination_tolerance": scene.get("hallucination_tolerance"),
        "quality.keep_general_skills": scene.get("must_keep_general_skills"),
        "quality.safety_critical": bool(re.search(SAFETY, text)),
        "serving.cost_pressure": scene.get("latency_cost_pressure"),
        "team.budget": scene.get("compute_budget"),
    }
    case = Case({})
    for key, value in {**answers, **_flat(row.get("answers", {}))}.items():
        case = case.replace(key, value) if value is not None else case
    return case


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in nested.items():
        nested_too = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{key}.") if nested_too else {prefix + key: value}
    return found


def with_baseline(row: Mapping[str, Any], case: Case) -> Case:
    """The same case once the team has measured its own prompt (share metrics only)."""
    share = row["metric"] in ("accuracy %", "execution accuracy %")
    prompts = ("zero_shot", "prompt", "base_prompt", "starcoder_base")
    names = [name for name in prompts if name in row["tried"]]
    if not (share and names and isinstance(row["tried"][names[0]], int | float)):
        return case
    case = case.replace("quality.metric", "accuracy")
    return case.replace("quality.prompt_only", row["tried"][names[0]] / 100)


@dataclass(frozen=True)
class Result:
    """One case: what was put first, whether it is accepted, and how much was lost.

    `new_source` says that no row of the evidence came from its paper when the case was written.
    """

    id: str
    group: str
    weight: float
    top: str
    accept: tuple[str, ...]
    hit: bool
    regret: float | None
    metric: str
    new_source: bool
    reasons: tuple[str, ...]


def mark(row: Mapping[str, Any], classes: Iterable[str]) -> tuple[bool, float | None]:
    """Hit or miss, and the regret in points of the metric (None where the scores don't tell)."""
    classes = set(classes)
    scores = {name: float(v) for name, v in row["tried"].items() if isinstance(v, int | float)}
    mine = [score for name, score in scores.items() if row["tried_class"].get(name) in classes]
    hit = bool(classes & set(row["accept"]))
    if not mine or len(scores) < 2:
        return hit, None
    best = max if row["higher_is_better"] else min
    return hit, abs(best(scores.values()) - best(mine))


def examine(
    rows: list[dict[str, Any]],
    read: Callable[[dict[str, Any]], Case],
    chart_of: Callable[[str], Flowchart],
) -> list[Result]:
    """Decide every case and mark the path put first."""
    sizes = _group_sizes(rows)
    results = []
    for row in rows:
        decision = decide(facts(read(row)), chart_of(row["group"]))
        hit, regret = mark(row, CLASSES[decision.top])
        said = because(decision, decision.top)
        reasons = tuple(reason["rule"] for reason in said if "against" not in reason["effect"])
        results.append(_result(row, sizes, decision.top, hit, regret, reasons))
    return results


def _result(
    row: Mapping[str, Any],
    sizes: Mapping[str, int],
    top: str,
    hit: bool,
    regret: float | None,
    reasons: tuple[str, ...] = (),
) -> Result:
    group, accept = row["group"], tuple(row["accept"])
    weight, new = 1 / sizes[group], row.get("notes", "").startswith("[new-source]")
    return Result(row["id"], group, weight, top, accept, hit, regret, row["metric"], new, reasons)


def _group_sizes(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    groups = [row["group"] for row in rows]
    return {group: groups.count(group) for group in groups}


def score(results: Iterable[Result]) -> float:
    """Share of accepted top paths, each source group weighing one."""
    results = list(results)
    return sum(r.weight for r in results if r.hit) / sum(r.weight for r in results)


BASELINES: dict[str, Callable[[Case], frozenset[str]]] = {
    "always prompt": lambda _: CLASSES["prompt"],
    "always RAG": lambda _: CLASSES["rag"],
    "always fine-tune": lambda _: CLASSES["lora"],
    "RAG if knowledge, else fine-tune": lambda case: CLASSES[
        "lora" if case.get("knowledge.source") in (None, "none") else "rag"
    ],
}


def baseline(rows: list[dict[str, Any]], choose: Callable[[Case], frozenset[str]]) -> list[Result]:
    """Mark a rule of thumb in the same way."""
    sizes = _group_sizes(rows)
    return [_result(row, sizes, "", *mark(row, choose(case_of(row)))) for row in rows]


def run(rows: list[dict[str, Any]]) -> dict[str, list[Result]]:
    """Every row of the table, by name."""
    chart, groups = flowchart(), {e.id: e.group for e in load_evidence().values()}
    table = {
        "advisor": examine(rows, case_of, lambda _: chart),
        "advisor, prompt already measured": examine(
            rows, lambda row: with_baseline(row, case_of(row)), lambda _: chart
        ),
        "advisor, leave one group out": examine(
            rows, case_of, lambda group: chart.without_group(group, groups)
        ),
    }
    return table | {name: baseline(rows, choose) for name, choose in BASELINES.items()}


def report(table: Mapping[str, list[Result]]) -> str:
    """The table, then every miss with the reason given."""
    count = len(next(iter(table.values())))
    groups = len({result.group for result in next(iter(table.values()))})
    lines = [f"{count} cases from {groups} source groups", ""]
    lines.append(f"{'':34} score  hits   mean regret (cases that tell)")
    for name, results in table.items():
        regrets = [result.regret for result in results if result.regret is not None]
        mean = f"{sum(regrets) / len(regrets):6.2f} ({len(regrets)})" if regrets else "     - (0)"
        hits = sum(result.hit for result in results)
        lines.append(f"{name:34} {score(results):5.3f}  {hits:>2}/{count}  {mean}")
    lines += ["", _switched_off({result.group for result in next(iter(table.values()))})]
    if new := new_sources(table["advisor"]):
        lines.append(f"of these, from papers not in the evidence: {new[0]} of {new[1]} passed")
    for name in [name for name in table if name not in BASELINES]:
        misses = [result for result in table[name] if not result.hit]
        lines += ["", f"misses of '{name}':" if misses else f"'{name}' misses none"]
        lines += [line for miss in misses for line in _miss_lines(miss)]
    return "\n".join(lines)


def new_sources(results: Iterable[Result]) -> tuple[int, int] | None:
    """Hits and cases among those whose paper was not in the evidence; None where nothing says."""
    new = [result.hit for result in results if result.new_source]
    return (sum(new), len(new)) if new else None


def _switched_off(groups: set[str]) -> str:
    chart, by_id = flowchart(), {e.id: e.group for e in load_evidence().values()}
    off = {g: len(chart.rules) - len(chart.without_group(g, by_id).rules) for g in sorted(groups)}
    named = ", ".join(f"{group} {count}" for group, count in off.items() if count) or "none"
    return f"rules that rest on one scored group alone (off in the leave-one-out run): {named}"


def _miss_lines(miss: Result) -> tuple[str, str]:
    lost = "" if miss.regret is None else f", {miss.regret:g} of {miss.metric} lost"
    accepted, reasons = " or ".join(miss.accept), ", ".join(miss.reasons[:4])
    return (
        f"  {miss.id} (weight {miss.weight:.2f}): {miss.top} first, accepted {accepted}{lost}",
        f"    because {reasons or 'nothing else was supported'}",
    )


def load(path: Path) -> list[dict[str, Any]]:
    """The cases of a file.

    Raises:
        AdvisorError: the file is no case collection.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdvisorError(f"{path}: not a collection of cases ({error})") from None
    return list(rows)


def main() -> int:
    """Run the exam and print it."""
    parser = argparse.ArgumentParser(description="Score the advisor on published cases.")
    parser.add_argument("--cases", type=Path, default=CASES, help="another collection of cases")
    parser.add_argument("--json", action="store_true", help="print every result as JSON")
    parser.add_argument("--save", action="store_true", help="append to results/exam.json")
    parser.add_argument("--remark", default="", help="what to know about this run, with --save")
    options = parser.parse_args()
    try:
        table = run(load(options.cases))
    except AdvisorError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    data = {
        name: {"score": score(results), "results": [asdict(result) for result in results]}
        for name, results in table.items()
    }
    print(json.dumps(data, indent=2) if options.json else report(table))
    if options.save:
        from results import append

        scores = {name: round(row["score"], 4) for name, row in data.items()}
        count, name = len(table["advisor"]), options.cases.name
        figures = {"collection": name, "cases": count, "remark": options.remark}
        figures |= {"new_sources": new_sources(table["advisor"]), "scores": scores}
        append("exam", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
