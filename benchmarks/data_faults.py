"""Faults of every kind planted in texts of installed packages, and what the checks find.

The texts were written by others, for people (see data_texts.py), and have faults of their own. So
each table counts apart what was planted and found, what was found in the same rows before anything
was planted ("own"), and what appeared only with the planting ("new"). The rules were written on the
collection "docstrings"; "aws" was read to mend them, figures of "google" were seen meanwhile, and
"unseen" was measured after the last change.

    python benchmarks/data_faults.py [--collection unseen] [--seeds 0 1 2] [--record]
    python benchmarks/data_faults.py --collection aws --missed 5     what was planted and not found
    python benchmarks/data_faults.py --look KIND                     the rows' own hits
"""

# ruff: noqa: ARG005, E501 - each way of planting takes the same things, one way a line
from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_plants import JUDGED, WAYS, Row, cut, planted, reworded
from data_texts import PACKAGES, refusals, texts_of

from cookbook.data import KINDS
from cookbook.data.examples import DataCheck, Example
from cookbook.data.faults import usual_checks
from cookbook.figures import proportion

CELLS, USES = 4, ("chat", "search", "email", "voice")  # empty cells planted; use cases
LABELS = 6


def collection(name: str, most: int) -> dict[str, list[Row]]:
    """Rows of three sorts: explanations, answers to a passage, labels; each drawn evenly."""
    views: dict[str, list[Row]] = {"told": [], "read": [], "named": []}
    for text in texts_of(name):
        views["told"].append((f"What does {text.name} do?", text.prose))
        if len(text.rest) > 200:
            first = re.split(r"(?<=[.!?])\s", text.prose)[0]
            asked = f"Passage: {text.prose} {text.rest}\n\nQuestion: what is {text.name} for?"
            views["read"].append((asked, first))
        views["named"].append((f"Where does this belong?\n{text.prose}", text.label))
    for rows in views.values():
        random.Random(0).shuffle(rows)
        del rows[most:]
    return views


def as_examples(rows: Sequence[Row]) -> list[Example]:
    """Rows with their lines."""
    return [Example(n, row[0], row[1], {"prompt": row[0], "completion": row[1]})
            for n, row in enumerate(rows, 1)]  # fmt: skip


def checks_for(view: str, seed: int) -> list[DataCheck]:
    """The usual checks with the wanted share of refusals said, and G1's where they exist."""
    from cookbook.data.duplicates import ExactDuplicates, NearDuplicates

    more: list[DataCheck] = [ExactDuplicates(), NearDuplicates()] if view == "told" else []
    return [*usual_checks(refusals=0.02, seed=seed), *more]


def found_in(
    rows: Sequence[Row], checks: Sequence[DataCheck], *, first_too: bool = False
) -> tuple[dict[str, set[int]], dict[str, float]]:
    """Lines by kind, and the seconds of each check."""
    examples = as_examples(rows)
    lines: dict[str, set[int]] = defaultdict(set)
    seconds = {}
    for check in checks:
        start = time.perf_counter()
        check.see(examples)
        for finding in check.findings():
            lines[finding.kind].update(finding.lines)
        if first_too and hasattr(check, "groups"):  # shuffled, the first may be the later one
            lines["near-duplicate"].update(check.groups)
        seconds[type(check).__name__] = round(time.perf_counter() - start, 2)
    return dict(lines), seconds


def measured(
    view: str, rows: Sequence[Row], before: dict[str, set[int]], seed: int, missed: int = 0
) -> dict[str, Any]:
    """For each kind planted in a view: counts of planted, found, own hits and new hits."""
    faulty, marks, sources = planted(view, rows, seed)
    after, seconds = found_in(faulty, checks_for(view, seed))
    table: dict[str, Any] = {}
    rare = Counter(row[1] for row in rows).most_common(2)[1][0]
    kinds = [*WAYS[view], *(["class-imbalance"] if view == "named" else [])]
    for kind in kinds:
        aim = {line for line, (k, way) in marks.items() if k == kind and way != "first"}
        if kind == "class-imbalance":
            aim = {n for n, row in enumerate(faulty, 1) if row[1].lower() == rare}
        pairs = {line for line, (k, way) in marks.items() if k == kind and way == "first"}
        got = after.get(kind, set())
        # Of two copies one is named, the later: which of the two was planted cannot be known.
        there = {sources[line - 1] for line in pairs & got}
        hit = {line for line in aim if line in got or -1 - sources[line - 1] in there}
        beside = {line for line in got - aim - pairs if line not in marks}
        was = before.get(kind, set())
        own = {line for line in beside if sources[line - 1] + 1 in was}
        ways = Counter(marks[line][1] for line in aim if line in marks)
        hits = Counter(marks[line][1] for line in hit if line in marks)
        table[kind] = {
            "planted": len(aim), "found": len(hit), "own": len(own), "new": len(beside - own),
            "ways": {way: [hits[way], count] for way, count in ways.items()},
        }  # fmt: skip
        tell_missed(kind, {n: marks[n][1] for n in aim - hit if n in marks}, faulty, missed)
        if missed and beside - own:
            print(f"new {kind}:", *(f"\n    {faulty[n - 1][0][:60]!r} -> {faulty[n - 1][1][-100:]!r}"
                                    for n in sorted(beside - own)[:missed]))  # fmt: skip
    return {"kinds": table, "rows": len(faulty), "seconds": seconds}


def tell_missed(kind: str, lines: dict[int, str], rows: Sequence[Row], most: int) -> None:
    """Print some of the planted rows that were not found, each with its way."""
    told: Counter[str] = Counter()
    for line, way in sorted(lines.items()):
        told[way] += 1
        if told[way] <= most:
            asked, answer = rows[line - 1]
            print(f"missed {kind} ({way}): {asked[:60]!r} -> {answer[:60]!r} ... {answer[-80:]!r}")


def broken_lines(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Lines of a file broken in four ways, and which of them the reader set aside."""
    from cookbook.data.stream import stream

    chance = random.Random(seed)
    lines = [json.dumps({"prompt": a, "completion": b}).encode() for a, b in rows]
    aim = set(chance.sample(range(len(lines)), len(lines) // 100))
    ways = (lambda t: t[: len(t) // 2], lambda t: t.replace(b'"', b"'"), lambda t: b"\xff" + t,
            lambda t: b"[" + t + b"]")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(b"\n".join(
            chance.choice(ways)(text) if n in aim else text for n, text in enumerate(lines)
        ))  # fmt: skip
        broken: list[Any] = []
        read = sum(1 for _ in stream(path, broken=broken))
    got = {each.line - 1 for each in broken}
    return {"planted": len(aim), "found": len(aim & got), "own": 0, "new": len(got - aim),
            "ways": {}, "read": read}  # fmt: skip


def leaky(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Rows of an evaluation set planted in six dresses among the others, and which were seen."""
    from cookbook.data.contamination import Contamination

    chance = random.Random(seed)
    order = list(rows)
    chance.shuffle(order)
    some = len(order) // 10
    held, kept = order[:some], order[some:]
    ways = {
        "verbatim": lambda row, other: row,
        "capitals and marks": lambda row, other: (row[0], "* " + row[1].upper().replace(",", " -")),
        "first half": lambda row, other: long_enough((row[0][:4], row[1][: len(row[1]) // 2])),
        "inside another": lambda row, other: long_enough((other[0], f"{other[1]} {row[1]}"), row[1]),
        "reworded": lambda row, other: reworded(row),
        "question only": lambda row, other: (row[0], other[1]),
    }  # fmt: skip
    aim: dict[int, str] = {}
    train = [(row, "") for row in kept]
    for way, change in ways.items():
        for row in chance.sample(held, some // 10):
            new = change(row, chance.choice(kept))
            train += [(new, way)] if new else []
    chance.shuffle(train)
    before, check = Contamination(as_examples(held)), Contamination(as_examples(held))
    before.see(as_examples(kept))
    check.see(as_examples([row for row, _ in train]))
    was = {kept[leak.line - 1] for leak in before.leaks}
    aim = {line: way for line, (_, way) in enumerate(train, 1) if way}
    got = {leak.line for leak in check.leaks}
    own = {line for line in got - aim.keys() if train[line - 1][0] in was}
    planted_ways, hits = Counter(aim.values()), Counter(aim[n] for n in got & aim.keys())
    return {"planted": len(aim), "found": len(got & aim.keys()), "own": len(own),
            "new": len(got - aim.keys() - own),
            "ways": {way: [hits[way], count] for way, count in planted_ways.items()}}  # fmt: skip


def long_enough(row: Row, held: str = "") -> Row | None:
    """The row, if what it gives away has 12 words: of fewer nobody can say where they are from."""
    return row if len((held or row[1]).split()) >= 12 else None


def empty_cells(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """A matrix of labels by use cases of which some cells are emptied; which of them are named."""
    from cookbook.data.balance import CoverageMatrix

    chance = random.Random(seed)
    cells = [(label, use) for label in sorted({row[1] for row in rows}) for use in USES]
    aim = set(chance.sample(cells, CELLS))
    marked = [(row, (row[1], chance.choice(USES))) for row in rows]
    own = set(cells) - {cell for _, cell in marked}
    check = CoverageMatrix()
    check.see([Example(n, *row, {"policy": cell[0], "use_case": cell[1]})
               for n, (row, cell) in enumerate(marked, 1) if cell not in aim])  # fmt: skip
    said = " ".join(found.why for found in check.findings())
    got = {cell for cell in cells if f"{cell[0]} x {cell[1]}" in said}
    return {"planted": len(aim - own), "found": len((aim - own) & got), "own": len(own),
            "new": len(got - aim - own), "ways": {}}  # fmt: skip


def many_cut(rows: Sequence[Row], before: set[int], share: float, seed: int) -> dict[str, Any]:
    """A set of which a large share was cut off."""
    chance = random.Random(seed)
    aim, new = set(), []
    for n, row in enumerate(rows, 1):
        done = cut(row, row, chance) if chance.random() < share else None
        new.append(done or row)
        aim |= {n} if done else set()
    found, _ = found_in(new, usual_checks())
    got = found.get("truncated", set())
    own = (got - aim) & before
    return {"planted": len(aim), "found": len(aim & got), "own": len(own),
            "new": len(got - aim - own), "ways": {}}  # fmt: skip


def formats(rows: Sequence[Row]) -> dict[str, int]:
    """Lines that a check names as a template in sets whose answers rightly share a format."""
    sets = {
        "JSON answers": [(a, json.dumps({"description": b, "words": len(b.split())})) for a, b in rows],
        "XML answers": [(a, f"<answer><text>{b}</text></answer>") for a, b in rows],
        "Markdown tables": [(a, f"| Name | Text |\n| --- | --- |\n| it | {b} |") for a, b in rows],
    }  # fmt: skip
    plain = found_in(rows, usual_checks())[0].get("template-dominance", set())
    return {name: len(found_in(each, usual_checks())[0].get("template-dominance", set()) - plain)
            for name, each in sets.items()}  # fmt: skip


def judged_refusals() -> dict[str, dict[str, int]]:
    """Answers that people judged to be refusals or not: how many the rule finds."""
    from cookbook.data.balance import declines

    table = {}
    for part in ("read", "unread"):
        rows = refusals(part)
        said = [(refused, declines(text)) for text, refused in rows]
        table[part] = {"refusals": sum(r for r, _ in said), "found": sum(r and d for r, d in said),
                       "others": sum(not r for r, _ in said),
                       "false": sum(d and not r for r, d in said)}  # fmt: skip
    return table


def look(view: str, rows: Sequence[Row], kind: str, count: int = 20) -> None:
    """Print the rows' own hits of one kind, to be read by a person."""
    before, _ = found_in(rows, checks_for(view, 0))
    lines = sorted(before.get(kind, set()))
    print(f"{kind} in {view}: {len(lines)} of {len(rows)}")
    for line in random.Random(0).sample(lines, min(count, len(lines))):
        asked, answer = rows[line - 1]
        print(f"--- {line} | {asked[-90:]!r}\n    {answer[:150]!r} ... {answer[-90:]!r}")


def merged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of all views and seeds added up."""
    total: dict[str, Any] = {}
    for table in results:
        for kind, row in table.items():
            into = total.setdefault(
                kind, {"planted": 0, "found": 0, "own": 0, "new": 0, "ways": {}}
            )
            for key in ("planted", "found", "own", "new"):
                into[key] += row[key]
            for way, (hit, count) in row["ways"].items():
                old = into["ways"].get(way, [0, 0])
                into["ways"][way] = [old[0] + hit, old[1] + count]
    order = [*KINDS, *(kind for kind in total if kind not in KINDS)]
    return {kind: total[kind] for kind in order if kind in total}


def interval(hits: int, of: int) -> str:
    """A share with its 95 % interval (Wilson)."""
    low, high = proportion(hits, of) if of else (0.0, 1.0)
    return f"{hits / max(1, of):.3f} [{low:.2f}, {high:.2f}]"


def show(total: dict[str, Any]) -> None:
    """One line for each kind; precision counts new hits as false, and own ones not at all."""
    print(f"{'kind':<20} {'planted':>7} {'found':>5}  {'recall':<20} {'new':>4}  {'precision':<20}"
          f" {'own':>4}  by way")  # fmt: skip
    for kind, row in total.items():
        row["recall"] = round(row["found"] / max(1, row["planted"]), 4)
        row["precision"] = round(row["found"] / max(1, row["found"] + row["new"]), 4)
        ways = ", ".join(f"{way} {hit}/{count}" for way, (hit, count) in row["ways"].items())
        print(f"{kind:<20} {row['planted']:>7} {row['found']:>5}  "
              f"{interval(row['found'], row['planted']):<20} {row['new']:>4}  "
              f"{interval(row['found'], row['found'] + row['new']):<20} {row['own']:>4}  {ways}")  # fmt: skip


def whole(views: dict[str, list[Row]], seeds: Sequence[int], missed: int) -> dict[str, Any]:
    """Every measure of one collection."""
    tables: list[dict[str, Any]] = []
    seconds: dict[str, Any] = {}
    before = {
        view: found_in(rows, checks_for(view, 0), first_too=True)[0] for view, rows in views.items()
    }
    for seed in seeds:
        for view, rows in views.items():
            result = measured(view, rows, before[view], seed, missed)
            tables.append(result["kinds"])
            seconds[view] = result["seconds"]
        told, cut_before = views["told"], before["told"].get("truncated", set())
        tables.append({
            "broken-line": broken_lines(told, seed), "contamination": leaky(told, seed),
            "(empty cells)": empty_cells(views["named"], seed),
            "(a tenth cut)": many_cut(told, cut_before, 0.1, seed),
            "(a third cut)": many_cut(told, cut_before, 0.33, seed),
        })  # fmt: skip
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    total = merged(tables)
    show(total)
    false = formats(views["told"][:1000])
    print("false templates in 1,000 rows of one format:", false)
    judged = judged_refusals()
    print("answers judged by people:", json.dumps(judged))
    print("seconds", json.dumps(seconds))
    return {"kinds": total, "false_templates": false, "judged_refusals": judged,
            "seconds": seconds}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collection", choices=tuple(PACKAGES), default="docstrings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=1500, help="of each sort, drawn evenly")
    parser.add_argument("--missed", type=int, default=0, help="so many misses of each way, printed")
    parser.add_argument("--look", metavar="KIND")
    parser.add_argument("--note", default="", help="kept with the result")
    parser.add_argument("--record", action="store_true", help="append to results/data_faults.json")
    options = parser.parse_args()
    views = collection(options.collection, options.rows)
    part = "unread" if options.collection in ("google", "unseen") else "read"
    JUDGED.extend(text for text, refused in refusals(part) if refused)
    sizes = {view: len(rows) for view, rows in views.items()}
    print(options.collection, sizes, file=sys.stderr)
    if options.look:
        for view, rows in views.items():
            look(view, rows, options.look)
        return
    figures = {"collection": options.collection, "rows": sizes, "seeds": options.seeds,
               "note": options.note, **whole(views, options.seeds, options.missed)}  # fmt: skip
    if options.record:
        from results import append

        known = {"sklearn": "scikit-learn", "googleapiclient": "google-api-python-client"}
        names = [known.get(name, name) for name in PACKAGES[options.collection]]
        append("data_faults", figures, (*names, "ftfy", "rensa"))


if __name__ == "__main__":
    main()
