"""Google's model-alignment beside `cookbook.refine`: its known defects, and 100 random sessions.

The library runs in an environment of its own (build/peers/model-alignment, 2.7 GB: it imports
Keras and TensorFlow). In a session both get the same feedback and the same aligner, which edits
the prompt it is given: sometimes for the better, sometimes for the worse, and now and then it
loses the placeholder. The score is that of a target whose answers are a function of the prompt.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers import Peer, python_of, run
from results import append

from cookbook.align.calls import StandIn
from cookbook.align.feedback import Feedback, ShownCase
from cookbook.align.gate import PromptItem
from cookbook.align.record import RefineHistory
from cookbook.refine import RefineSession, RefineSettings

LIBRARY = Peer("model_alignment.py", ("model-alignment==0.3",), "", environment="model-alignment")
START = "Answer in one word about {item}.\nBe polite.\n"
SESSIONS, STEPS, ITEMS = 100, 6, 300
HELP, HARM = 0.2, 0.05  # the shares of items that a good rule helps and harms; a bad one: reversed


def chance(*about: object) -> float:
    """A number from 0 to 1 that depends on nothing but `about`."""
    return int(hashlib.sha256(repr(about).encode()).hexdigest()[:8], 16) / 16**8


def right(prompt: str, item: str) -> bool:
    """Whether the target answers an item right: rules in the prompt help some and harm others."""
    if item not in prompt:
        return False
    well = chance("start", item) < 0.5
    for rule in re.findall(r"Rule (\w+):", prompt):
        good, share = rule.startswith("g"), chance(rule, item)
        if share < HELP:
            well = good
        elif share > 1 - HARM:
            well = not good
    return well and ("Be polite" in prompt or chance("rude", item) < 0.9)


def sequences(seed: int) -> list[dict[str, Any]]:
    """Sessions of edits: [pattern, replacement], as an aligner might write them."""
    rng = random.Random(seed)
    made = []
    for session in range(SESSIONS):
        steps = []
        for step in range(STEPS):
            kind = rng.choices(["good", "bad", "placeholder", "line"], [45, 35, 10, 10])[0]
            rule = f"Rule {kind[0]}{session:03}x{step}: as the feedback says.\n"
            lost = {"placeholder": [r"\{+item\}+", "it"], "line": ["Be polite.\n", ""]}
            edit = lost.get(kind, [r"\Z", rule])
            steps.append({"feedback": f"feedback {step}", "edit": edit})
        made.append({"prompt": START, "steps": steps})
    return made


def edited(text: str, edit: Sequence[str]) -> str:
    """The text after one edit."""
    return re.sub(edit[0], edit[1], text, count=1)


def items(name: str) -> list[str]:
    """Items of a set, no two alike."""
    return [f"{name}-{n:03}" for n in range(ITEMS)]


def score(template: str, names: Sequence[str]) -> float:
    """The share of items that the target answers right with a prompt."""
    return sum(right(template.replace("{item}", name), name) for name in names) / len(names)


def gated(sequence: Mapping[str, Any], folder: Path) -> str:
    """The prompt at the end of a session of ours, every edit through the gate."""
    todo = {"edit": ["", ""]}

    def rewrite(conversation: Sequence[Mapping[str, str]]) -> str:
        asked = conversation[-1]["content"]
        text = asked.split("<prompt>\n", 1)[1].split("\n</prompt>", 1)[0]
        return f"<template>\n{edited(text, todo['edit'])}\n</template>"

    def target(conversation: Sequence[Mapping[str, str]]) -> str:
        asked = conversation[-1]["content"]
        found = re.search(r"held-\d{3}", asked)
        return "right" if found and right(asked, found[0]) else "wrong"

    held = [PromptItem({"item": name}, "right", name) for name in items("held")]
    session = RefineSession(
        RefineHistory.start(folder, sequence["prompt"].replace("{item}", "{{item}}"), who="us"),
        StandIn("target", target), StandIn("aligner", rewrite),
        settings=RefineSettings("benchmark"), held_out=held,
    )  # fmt: skip
    for step in sequence["steps"]:
        todo["edit"] = step["edit"]
        case = ShownCase({"item": "a boat"}, "an answer")
        session.refine([Feedback("critique", step["feedback"], "benchmark", (case,))], "direct")
    return session.template.text.replace("{{item}}", "{item}")


def measured(prompts: Sequence[str]) -> dict[str, float]:
    """What sessions did to the score, on the items of the gate and on unseen ones."""
    found: dict[str, float] = {}
    for name in ("held", "unseen"):
        before = score(START, items(name))
        after = [score(prompt, items(name)) for prompt in prompts]
        found[f"{name}_before"] = before
        found[f"{name}_after_mean"] = sum(after) / len(after)
        found[f"{name}_sessions_lower"] = sum(each < before for each in after)
    found["placeholder_lost"] = sum("{item}" not in prompt for prompt in prompts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    sessions = sequences(args.seed)
    library = run(python_of("model-alignment", LIBRARY), LIBRARY, {"sequences": sessions})
    with tempfile.TemporaryDirectory() as home:
        ours = [gated(each, Path(home) / str(n)) for n, each in enumerate(sessions)]
    print(f"model-alignment {library['versions']['model-alignment']}")
    for name, seen in library["defects"].items():
        print(f"  {name:40} {seen or 'not seen'}")
    figures = {"library": measured(library["prompts"]), "ours": measured(ours)}
    print(f"{SESSIONS} sessions of {STEPS} edits, {ITEMS} items a set")
    print(f"  {'':24} {'library':>8} {'ours':>8}")
    for key, own in figures["ours"].items():
        print(f"  {key:24} {figures['library'][key]:8.3f} {own:8.3f}")
    if args.record:
        append("alignment_library", {"seed": args.seed, "defects": library["defects"], **figures})


if __name__ == "__main__":
    main()
