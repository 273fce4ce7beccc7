"""Ways of spoiling a row, one for each fault, and rows in which some of them are spoiled."""

# ruff: noqa: ARG005, E501 - each way of planting takes the same three things, one way a line
from __future__ import annotations

import html
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

SHARE = 0.01  # of the rows, for each way of planting a fault
Row = tuple[str, str]
Planted = dict[int, tuple[str, str]]  # line -> kind and way


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


def reworded(row: Row) -> Row | None:
    """The row with one word in forty replaced; of short rows no near copy is made."""
    words = row[1].split()
    if len(words) < 40:
        return None
    words[10::40] = ["actually"] * len(words[10::40])
    return row[0], " ".join(words)


def flipped(row: Row, other: Row, _: random.Random) -> Row | None:
    """The row with the label of another row, if that is another label."""
    return (row[0], other[1]) if other[1] != row[1] else None


FRESH = (  # written after the rule for NO was mended, to see what it misses
    "Sorry, no.", "I have to pass on this one.", "We are not in a position to comment on that.",
    "This request goes against what I am allowed to do.", "I can't do that, sorry.",
    "Thanks for asking, but I can't share that.", "I am going to have to say no.",
    "It would be wrong of me to answer.", "I refuse to write this.", "Helping with this is unsafe.",
)  # fmt: skip
JUDGED: list[str] = []  # refusals by the judgement of people, from a package; see `use_judged`
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
            "skeleton": (0.08, lambda row, other, chance: (row[0], f"`{row[0][10:-4]}` is a helper in {other[0].split()[2].split('.')[0].title()} that"
                         f" takes {chance.randrange(9)} values and returns {chance.randrange(9)} of them.")),
        },
        "refusal-imbalance": {
            "refusal": (0.06, lambda row, other, chance: (row[0], chance.choice(NO))),
            "fresh": (0.02, lambda row, other, chance: (row[0], chance.choice(FRESH))),
            "judged": (0.04, lambda row, other, chance: (row[0], chance.choice(JUDGED)) if JUDGED else None),
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
        "likely-label-error": {"flipped": (0.02, flipped)},
        "label-conflict": {"other label": (SHARE, flipped)},
        "inconsistent-format": {"capital": (SHARE, lambda row, other, chance: (row[0], row[1].title()))},
    },
}  # fmt: skip
ADDED = ("label-conflict", "exact-duplicate", "near-duplicate")  # rows beside those that are there


def planted(view: str, rows: Sequence[Row], seed: int) -> tuple[list[Row], Planted, list[int]]:
    """The rows with faults, where they are, and for each line the one it came from (-1 - it for a copy)."""
    chance = random.Random(seed)
    free = list(range(len(rows)))
    chance.shuffle(free)
    new: list[tuple[Row, tuple[str, str] | None, int]] = [
        (row, None, n) for n, row in enumerate(rows)
    ]
    if view == "named":  # a class with a fortieth of the rows of the most frequent is too rare
        (_, most), (rare, count) = Counter(row[1] for row in rows).most_common(2)
        gone = {n for n, row in enumerate(rows)
                if row[1] == rare and chance.random() > most / 40 / count}  # fmt: skip
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
