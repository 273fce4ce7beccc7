"""Faults of every kind planted in docstrings of installed packages, and what the checks find.

The text was written by the authors of numpy, scipy, scikit-learn and pandas, for people: it
has faults of its own. So each table counts apart what was planted and found, what was found in the
same rows before anything was planted ("own"), and what appeared only with the planting ("new").
`--look KIND` prints the rows' own hits, to be read.

    python benchmarks/data_faults.py [--seeds 3] [--save] [--look KIND]
"""

# ruff: noqa: ARG005, E501 - each way of planting takes the same three things, one way a line
from __future__ import annotations

import argparse
import ast
import html
import importlib.util
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cookbook.data import KINDS
from cookbook.data.examples import DataCheck, Example
from cookbook.data.faults import usual_checks

PACKAGES = ("numpy", "pandas", "scipy", "sklearn")
SHARE = 0.01  # of the rows, for each way of planting a fault
Row = tuple[str, str]
Planted = dict[int, tuple[str, str]]  # line -> kind and way


def documented(package: str) -> Iterator[tuple[str, str]]:
    """Dotted names with their docstrings, read without importing the package."""
    spec = importlib.util.find_spec(package)
    (place,) = spec.submodule_search_locations or [""] if spec else [""]
    for path in sorted(Path(place).rglob("*.py")):
        parts = path.relative_to(Path(place).parent).with_suffix("").parts
        if "tests" in parts or any(part.startswith("_") for part in parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                yield ".".join((*parts, node.name)), str(ast.get_docstring(node))


def pieces(text: str) -> tuple[str, str]:
    """The prose of a docstring before its first section, and the text of its Parameters."""
    head = re.split(r"\n[A-Z][\w ]+\n[-=]{3,}|\n\.\. |\n>>> ", text)[0]
    prose = "\n\n".join(" ".join(part.split()) for part in head.split("\n\n") if part.strip())
    rest = text[len(head) :]
    return prose, " ".join(rest.split())[:1500]


def collection() -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of three sorts: explanations, answers to a passage, labels; equal ones once."""
    told, read, named, seen = [], [], [], set()
    for package in PACKAGES:
        for name, text in documented(package):
            prose, rest = pieces(text)
            if prose in seen or not 60 <= len(prose) <= 3000:
                continue
            seen.add(prose)
            told.append((f"What does {name} do?", prose))
            if len(rest) > 200:
                first = re.split(r"(?<=[.!?])\s", prose)[0]
                asked = f"Passage: {prose} {rest}\n\nQuestion: what is {name.rsplit('.')[-1]} for?"
                read.append((asked, first))
            named.append((f"Which library does this describe?\n{prose}", package))
    return told, read, named


# --- faults, each a function of a row, another row and a source of chance ------------------------
Plant = Callable[[Row, Row, random.Random], Row | None]


def cut(row: Row, _: Row, chance: random.Random) -> Row | None:
    size = int(len(row[1]) * chance.uniform(0.3, 0.9))
    text = row[1][:size].rstrip()
    return (row[0], text) if len(text.split()) > 4 and text[-1] not in ".!?:" else None


def wrong_encoding(row: Row, _: Row, chance: random.Random) -> Row | None:
    text = row[1].replace("'", "\u2019").replace(" - ", " \u2014 ")
    text = re.sub(r'"([^"]+)"', "\u201c\\1\u201d", text)
    if text == row[1] and text.isascii():
        return None
    code = chance.choice(("cp1252", "latin-1"))
    return row[0], text.encode().decode(code, errors="replace")


def lost(row: Row, _: Row, __: random.Random) -> Row | None:
    text = re.sub(r"(?<=[a-z])'(?=[a-z])", "?", row[1])
    return (row[0], text) if text != row[1] else None


def escaped(row: Row, _: Row, __: random.Random) -> Row | None:
    text = html.escape(row[1])
    return (row[0], text) if text != row[1] else None


def control(row: Row, _: Row, chance: random.Random) -> Row:
    place = chance.randrange(len(row[1]))
    return row[0], row[1][:place] + chance.choice("\x00\x0c\x08\ufffd\x85") + row[1][place:]


def number(row: Row, _: Row, chance: random.Random) -> Row | None:
    found = re.search(r"\b\d+\b", row[1])
    new = str(chance.randrange(100, 3000))
    if not found or new in row[0]:
        return None
    return row[0], row[1][: found.start()] + new + row[1][found.end() :]


def foreign(row: Row, other: Row, _: random.Random) -> Row:
    return row[0], f"{row[1]} {re.split(r'(?<=[.!?]) ', other[1])[0]}"


TAILS = ("It was added in {n}.", "Write to {w}@example.org for more.", "See https://{w}.example/{n}.",
         "It was proposed by Keith {W} of Heidelberg.", "It is {n} times faster.")  # fmt: skip


def invented(row: Row, other: Row, chance: random.Random) -> Row:
    word = max(re.findall(r"[a-z]+", other[1].lower()), key=len)
    tail = chance.choice(TAILS).format(n=chance.randrange(1000, 9999), w=word, W=word.title())
    return row[0], f"{row[1]} {tail}"


FRESH = (  # written after the rule for NO was mended, to see what it misses
    "Sorry, no.", "I have to pass on this one.", "We are not in a position to comment on that.",
    "This request goes against what I am allowed to do.", "I can't do that, sorry.",
    "Thanks for asking, but I can't share that.", "I am going to have to say no.",
    "It would be wrong of me to answer.", "I refuse to write this.", "Helping with this is unsafe.",
)  # fmt: skip
NOTHING = ("", "  \n", "N/A", "n/a", "TODO", "...", "-", "None", "null", "[TBD]", "nan")
NO = (
    "I'm sorry, but I can't help with that request.", "I cannot assist with this.",
    "As an AI language model, I am unable to provide that information.",
    "I won't be able to answer this question.", "Unfortunately, I can't discuss that topic.",
    "Sorry, that is something I cannot do.", "I must decline to answer.",
    "I'm not able to help with that.", "My guidelines don't allow me to answer this.",
    "That's not something I can help with.", "I'd rather not answer that.", "No, I will not do that.",
)  # fmt: skip
WAYS: dict[str, dict[str, dict[str, tuple[float, Plant]]]] = {
    "told": {
        "empty": {
            "answer": (SHARE, lambda row, other, chance: (row[0], chance.choice(NOTHING))),
            "question": (SHARE / 2, lambda row, other, chance: (chance.choice(("", " ", "...")), row[1])),
        },
        "truncated": {"cut": (2 * SHARE, cut)},
        "mojibake": {
            "encoding": (SHARE, wrong_encoding), "lost letters": (SHARE / 2, lost),
            "entities": (SHARE / 2, escaped), "control": (SHARE / 2, control),
        },
        "length-outlier": {
            "long": (SHARE / 4, lambda row, other, chance: (row[0], " ".join([row[1], other[1]] * 40))),
            "short": (SHARE / 4, lambda row, other, chance: (row[0], row[1].split()[0][:8] + ".")),
        },
        "template-dominance": {
            "opening": (0.08, lambda row, other, chance: (row[0], "Great question! Let me explain this: " + row[1])),
            "closing": (0.08, lambda row, other, chance: (row[0], row[1] + " I hope this helps, feel free to ask.")),
            "skeleton": (0.08, lambda row, other, chance: (row[0], f"`{row[0][10:-4]}` is a helper in {chance.choice(PACKAGES).title()} that"
                         f" takes {chance.randrange(9)} values and returns {chance.randrange(9)} of them.")),
        },
        "refusal-imbalance": {
            "refusal": (0.06, lambda row, other, chance: (row[0], chance.choice(NO))),
            "fresh": (0.02, lambda row, other, chance: (row[0], chance.choice(FRESH))),
        },
        "inconsistent-format": {
            "JSON": (SHARE / 2, lambda row, other, chance: (row[0], json.dumps({"answer": row[1]}))),
            "role mark": (SHARE / 2, lambda row, other, chance: (row[0], "Assistant: " + row[1])),
            "prompt end": (SHARE / 2, lambda row, other, chance: (row[0] + chance.choice((" ", "\n", "  ")), row[1])),
            "code fence": (SHARE / 2, lambda row, other, chance: (row[0], f"```\n{row[1]}\n```")),
            "spaces": (SHARE / 2, lambda row, other, chance: (row[0], f" {row[1]}\n")),
        },
        "label-conflict": {"other answer": (SHARE, lambda row, other, chance: (row[0].upper(), other[1]))},
        "exact-duplicate": {"copy": (SHARE, lambda row, other, chance: row)},
        "near-duplicate": {"reworded": (SHARE, lambda row, other, chance: reworded(row))},
    },
    "read": {
        "unsupported-answer": {
            "number": (SHARE, number), "invented": (SHARE, invented), "foreign": (SHARE, foreign),
        },
    },
    "named": {
        "likely-label-error": {"flipped": (0.02, lambda row, other, chance: flipped(row, chance))},
        "label-conflict": {"other label": (SHARE, lambda row, other, chance: flipped(row, chance))},
        "inconsistent-format": {"capital": (SHARE, lambda row, other, chance: (row[0], row[1].title()))},
    },
}  # fmt: skip
ADDED = ("label-conflict", "exact-duplicate", "near-duplicate")  # rows beside those that are there


def reworded(row: Row) -> Row | None:
    """The row with one word in twenty replaced; of short rows no near copy is made."""
    words = row[1].split()
    if len(words) < 40:
        return None
    words[10::40] = ["actually"] * len(words[10::40])
    return row[0], " ".join(words)


def flipped(row: Row, chance: random.Random) -> Row:
    return row[0], chance.choice([name for name in PACKAGES if name != row[1]])


def planted(view: str, rows: Sequence[Row], seed: int) -> tuple[list[Row], Planted, list[int]]:
    """The rows with faults, where they are, and for each line the one it came from (-1 - it for a copy)."""
    chance = random.Random(seed)
    free = list(range(len(rows)))
    chance.shuffle(free)
    new: list[tuple[Row, tuple[str, str] | None, int]] = [
        (row, None, n) for n, row in enumerate(rows)
    ]
    if view == "named":  # a class of which a fiftieth is left is too rare
        gone = {n for n, row in enumerate(rows) if row[1] == "numpy" and chance.random() < 0.9}
        free = [n for n in free if n not in gone]
        new = [each for n, each in enumerate(new) if n not in gone]
    where = {source: place for place, (_, _, source) in enumerate(new)}
    for kind, ways in WAYS[view].items():
        for way, (share, plant) in ways.items():
            left = int(share * len(rows))
            tried: list[int] = []
            while left and free:
                n = free.pop()
                done = plant(rows[n], rows[chance.randrange(len(rows))], chance)
                if done is None or (done == rows[n] and kind not in ADDED):
                    tried.append(n)
                    continue
                left -= 1
                if kind in ADDED:
                    new.append((done, (kind, way), -1 - n))
                    new[where[n]] = (rows[n], (kind, "first"), n)
                else:
                    new[where[n]] = (done, (kind, way), n)
            free = tried + free
    chance.shuffle(new)
    marks = {line: mark for line, (_, mark, _) in enumerate(new, 1) if mark}
    return [row for row, _, _ in new], marks, [source for _, _, source in new]


def checks_for(view: str, seed: int) -> list[DataCheck]:
    """The usual checks with the wanted share of refusals said, and G1's where they exist."""
    from cookbook.data.duplicates import ExactDuplicates, NearDuplicates

    more: list[DataCheck] = [ExactDuplicates(), NearDuplicates()] if view == "told" else []
    return [*usual_checks(refusals=0.02, seed=seed), *more]


def found_in(
    rows: Sequence[Row], checks: Sequence[DataCheck]
) -> tuple[dict[str, set[int]], dict[str, float]]:
    """Lines by kind, and the seconds of each check."""
    examples = [Example(n, row[0], row[1], {"prompt": row[0], "completion": row[1]})
                for n, row in enumerate(rows, 1)]  # fmt: skip
    lines: dict[str, set[int]] = defaultdict(set)
    seconds = {}
    for check in checks:
        start = time.perf_counter()
        check.see(examples)
        for finding in check.findings():
            lines[finding.kind].update(finding.lines)
        seconds[type(check).__name__] = round(time.perf_counter() - start, 2)
    return dict(lines), seconds


def measured(
    view: str, rows: Sequence[Row], before: dict[str, set[int]], seed: int
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """For each kind planted in a view: counts of planted, found, own hits and new hits."""
    faulty, marks, sources = planted(view, rows, seed)
    after, seconds = found_in(faulty, checks_for(view, seed))
    table: dict[str, Any] = {}
    strange: dict[str, list[int]] = {}
    kinds = [*WAYS[view], *(["class-imbalance"] if view == "named" else [])]
    for kind in kinds:
        aim = {line for line, (k, way) in marks.items() if k == kind and way != "first"}
        if kind == "class-imbalance":
            aim = {n for n, row in enumerate(faulty, 1) if row[1].lower() == "numpy"}
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
        strange[kind] = sorted(beside)
    return {"kinds": table, "rows": len(faulty), "seconds": seconds}, strange


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
    return {kind: total[kind] for kind in KINDS if kind in total}


def show(total: dict[str, Any]) -> None:
    """One line for each kind; precision counts new hits as false, and own ones not at all."""
    print(
        f"{'kind':<20} {'planted':>8} {'found':>6} {'recall':>7} {'new':>5} {'precision':>9} {'own':>6}"
    )
    for kind, row in total.items():
        row["recall"] = round(row["found"] / max(1, row["planted"]), 4)
        row["precision"] = round(row["found"] / max(1, row["found"] + row["new"]), 4)
        ways = ", ".join(f"{way} {hit}/{count}" for way, (hit, count) in row["ways"].items())
        print(f"{kind:<20} {row['planted']:>8} {row['found']:>6} {row['recall']:>7.3f} "
              f"{row['new']:>5} {row['precision']:>9.3f} {row['own']:>6}  {ways}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--look", metavar="KIND")
    parser.add_argument("--rows", type=int, default=3000, help="of each sort, drawn evenly")
    options = parser.parse_args()
    views = dict(zip(("told", "read", "named"), collection(), strict=True))
    for rows in views.values():
        random.Random(0).shuffle(rows)
        del rows[options.rows :]
    print({view: len(rows) for view, rows in views.items()}, file=sys.stderr)
    if options.look:
        for view, rows in views.items():
            look(view, rows, options.look)
        return
    tables, seconds = [], {}
    before = {view: found_in(rows, checks_for(view, 0))[0] for view, rows in views.items()}
    for seed in range(options.seeds):
        for view, rows in views.items():
            result, _ = measured(view, rows, before[view], seed)
            tables.append(result["kinds"])
            seconds[view] = result["seconds"]
        tables.append({"broken-line": broken_lines(views["told"], seed)})
        print(f"seed {seed}", flush=True)
        show(merged(tables))
    total = merged(tables)
    show(total)
    print("seconds", json.dumps(seconds))
    if options.save:
        from results import append

        sizes = {view: len(rows) for view, rows in views.items()}
        figures = {"rows": sizes, "seeds": options.seeds, "kinds": total, "seconds": seconds}
        append("data_faults", figures, (*("numpy", "pandas", "scipy", "scikit-learn"), "ftfy"))


if __name__ == "__main__":
    main()
