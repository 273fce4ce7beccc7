"""Run Google's model-alignment with scripted models: what it does where a prompt can get lost.

Reads {"sequences": [...]} on stdin, writes {"versions", "defects", "prompts"} on stdout. Every
model here is a function of its prompt, so that a run can be repeated word for word. A sequence is
a start prompt and steps {"feedback", "edit"}: the pattern and replacement that an aligner applies.
"""

import contextlib
import io
import json
import random
import re
import sys
from importlib.metadata import version

import pandas as pd
from model_alignment import labeler, model_helper, single_run

ROWS = 40


class Scripted(model_helper.ModelHelper):
    """A model that answers by a function and counts its calls."""

    def __init__(self, answer):
        self.answer, self.prompts = answer, []

    def predict(self, prompt, candidate_count=1, **_):
        self.prompts.append(prompt)
        said = self.answer(prompt)
        return said if candidate_count == 1 else [said] * candidate_count


def session(answer, prompt="Say {item}.", reply=lambda _: "an answer"):
    made = single_run.AlignableSingleRun(Scripted(reply), Scripted(answer))
    made.set_model_description(prompt)
    return made


def json_braces():
    made = session(str, 'Answer as {"name": "..."} about {item}.')
    try:
        made.send_input({"item": "a boat"})
    except (KeyError, ValueError, IndexError) as error:
        return type(error).__name__
    return None


def direct_edits_discarded():
    made = session(lambda prompt: prompt.rpartition("PRINCIPLE")[0] and "Say {item}. Be brief.")
    made.data.principles = ["Be brief."]
    made.data.preamble = "Say {item}. NEVER NAME A PRICE."  # a direct edit
    made.update_model_description_from_principles()
    asked = made.helper.alignment_model.prompts[0]
    return None if "NEVER NAME A PRICE" in asked else "the aligner never sees the direct edit"


def critique_is_blind():
    made = session(lambda _: "Say {item} briefly.", reply=lambda _: "OUTPUT-7")
    made.send_input({"item": "INPUT-7"})
    made.update_model_description_from_feedback("too long")
    asked = made.helper.alignment_model.prompts[0]
    missing = [each for each in ("INPUT-7", "OUTPUT-7") if each not in asked]
    return f"{len(missing)} of input and output missing from the call" if missing else None


def choice(number):
    def run():
        made = session(lambda _: number)
        made.send_input({"item": "a boat"})
        made.data.principles = ["First.", "Last."]
        try:
            after = made.critique_response("too long")
        except IndexError as error:
            return type(error).__name__
        return None if after == ["First.", "Last."] else f"principles became {after}"

    return run


def three_candidates():
    made = session(lambda _: "1")
    made.send_input({"item": "a boat"}, generate_multiple_candidates=True)
    try:
        made.critique_response("too long")
    except AttributeError as error:
        return type(error).__name__
    return None


def placeholder_dropped():
    made = session(lambda _: "Say it nicely.")
    made.update_model_description_from_feedback("be nice")
    made.send_input({"item": "a boat"})
    asked = made.helper.prompt_model.prompts[-1]
    return None if "a boat" in asked else "accepted; the value no longer reaches the model"


def prefix_kept():
    made = session(lambda prompt: "1" if "1:" in prompt else "INSTRUCTION_ADDITION: {Be brief.")
    made.send_input({"item": "a boat"})
    after = made.kudos_response("short and good")
    return after[-1] if "INSTRUCTION_ADDITION" in after[-1] else None


def calls_per_update():
    made = session(lambda _: "Say {item}.")
    made.data.principles = ["One.", "Two.", "Three.", "Four."]
    made.update_model_description_from_principles()
    calls = len(made.helper.alignment_model.prompts)
    return f"{calls} calls for 4 principles" if calls > 1 else None


def trainer(answer, mutations=2):
    hparams = {**labeler.DEFAULT_HPARAMS, "n_mutations_to_try": mutations}
    made = labeler.Labeler(["text"], "label", ["yes", "no"], "Is it fine?", Scripted(answer),
                           Scripted(judge), hparams=hparams)  # fmt: skip
    start = labeler.LabelerCheckpoint()
    start.attributes = [{"id": "a", "value": "GOOD", "label": "yes"},
                        {"id": "b", "value": "rest", "label": "no"}]  # fmt: skip
    return made, start


def judge(prompt):
    """Right on most rows under the start rulebook, and always "no" when a rule was spoilt."""
    text = prompt.rpartition("row-")[2][:3]
    wrong = text in ("003", "017", "031")
    fine = int(text) % 2 == 0
    return "no" if "SPOILT" in prompt else ("yes" if fine != wrong else "no")


def rows():
    labels = ["yes" if n % 2 == 0 else "no" for n in range(ROWS)]
    return pd.DataFrame({"text": [f"row-{n:03}" for n in range(ROWS)], "label": labels})


def parent_lost():
    made, start = trainer(lambda prompt: "1" if "rule" in prompt and "Add a new" in prompt
                          else "SPOILT")  # fmt: skip
    before = made.get_score(rows(), made.infer_checkpoint(start, rows()))
    after = made.get_score(rows(), made.infer_checkpoint(made.train_step(start, rows()), rows()))
    return f"accuracy {before:.3f} to {after:.3f} in one step" if after < before else None


def mutations_ignored():
    made, start = trainer(lambda _: "1", mutations=4)
    tried = []
    kept = made.get_mutations
    made.get_mutations = lambda *given: tried.append(given[3]) or kept(*given)
    made.train_step(start, rows())
    return f"4 asked for, {tried[0]} tried" if tried and tried[0] != 4 else None


def substring_label():
    made, start = trainer(str)
    made.eval_model_helper = Scripted(lambda _: "not sure")
    found = made.infer_checkpoint(start, rows().head(1))[0]["prediction"]
    return f"'not sure' was read as {found!r}" if found else None


def shared_rows():
    made, start = trainer(lambda _: "1")
    seen = []
    kept = made.evaluate_candidates_bruteforce
    made.evaluate_candidates_bruteforce = lambda candidates, test, best: (
        seen.append(set(test["text"])) or kept(candidates, test, best)
    )
    made.train_step(start, rows())
    both = len(seen[0] & set(rows()["text"]))
    return f"{both} of {ROWS} validation rows are training rows" if both else None


def gemini_output_limit():
    helper = model_helper.GeminiModelHelper("no-key")
    try:
        helper.predict("x", 0.1, max_output_tokens=8)
    except TypeError as error:
        return type(error).__name__
    return None


DEFECTS = {
    "1 an output limit with Gemini": gemini_output_limit,
    "4 a prompt with JSON in it": json_braces,
    "5 direct edits and the next principle": direct_edits_discarded,
    "6 what a direct critique sees": critique_is_blind,
    "7 a choice that is not on the menu": choice("9"),
    "7 a choice of zero": choice("0"),
    "8 three candidates, then a critique": three_candidates,
    "9 a rewrite without its placeholder": placeholder_dropped,
    "10 the parent among the candidates": parent_lost,
    "11 the number of mutations": mutations_ignored,
    "12 a label inside another word": substring_label,
    "12 validation rows": shared_rows,
    "12 calls for one update": calls_per_update,
    "13 a prefix before the principle": prefix_kept,
}


def followed(sequence):
    """The prompt at the end of a session: each step edits the prompt as it then is."""
    edit = {}

    def answer(_):
        return re.sub(edit["edit"][0], edit["edit"][1], made.get_model_description(), count=1)

    made = session(answer, sequence["prompt"])
    made.send_input({"item": "a boat"})
    for step in sequence["steps"]:
        edit = step
        made.update_model_description_from_feedback(step["feedback"])
    return made.get_model_description()


def main():
    given = json.load(sys.stdin)
    random.seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        defects = {name: check() for name, check in DEFECTS.items()}
        prompts = [followed(each) for each in given.get("sequences", [])]
    versions = {"model-alignment": version("model-alignment")}
    json.dump({"versions": versions, "defects": defects, "prompts": prompts}, sys.stdout)


main()
