"""Calls written down: a run killed in the middle pays nothing twice, and repeats word for word."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import EXIT_NO, EXIT_UNKNOWN, AdvisorError
from cookbook.align.calls import BudgetSpent, Ledgered, Replay, StandIn, ask
from cookbook.generation import Completion
from cookbook.models import LanguageModel, load
from cookbook.server_model import CallLedger, ServerModel


def turns(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


@pytest.fixture(scope="module")
def lab_model() -> LanguageModel:
    return load("lab-instruct", device="cpu")


class Paid:
    """A model that notes each call it answers in a file, and hangs at the call `stuck`."""

    name = "paid"

    def __init__(self, notes: Path, stuck: int = -1) -> None:
        self.notes, self.stuck = notes, stuck

    def chat(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], **how: object
    ) -> list[Completion]:
        made = []
        for conversation in conversations:
            asked = f"{conversation[-1]['content']} {how['seed']}"
            with self.notes.open("a") as stream:
                stream.write(asked + "\n")
            if len(self.notes.read_text().split("\n")) - 1 == self.stuck:
                time.sleep(600)
            made.append(Completion(asked.upper(), 3, 2, "stop", 0.0))
        return made


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_align_calls import Paid, turns
from cookbook.align.calls import Ledgered
from cookbook.server_model import CallLedger
model = Ledgered(Paid(Path(sys.argv[1]), stuck=4), CallLedger(sys.argv[2]))
model.chat(turns("same"), temperature=1.0)
model.chat(turns(*["same"] * 5), temperature=1.0)
"""


def test_a_killed_run_goes_on_and_pays_for_no_call_twice(tmp_path: Path) -> None:
    notes, kept = tmp_path / "notes", tmp_path / "calls.jsonl"
    code = KILLED.format(tests=str(Path(__file__).parent))
    run = subprocess.Popen([sys.executable, "-c", code, str(notes), str(kept)])
    limit = time.monotonic() + 60
    while not (notes.exists() and notes.read_text().count("\n") == 4):
        assert time.monotonic() < limit
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert kept.read_bytes().count(b"\n") == 3  # the fourth was in flight
    with kept.open("ab") as stream:
        stream.write(b'{"key": "torn')  # what a kill during the writing leaves
    again = Ledgered(Paid(notes), CallLedger(kept), calls=5)
    answers = [each.text for each in again.chat(turns(*["same"] * 5), temperature=1.0)]
    assert answers == [f"SAME {seed}" for seed in range(5)]
    paid = notes.read_text().splitlines()
    assert paid == ["same 0", "same 1", "same 2", "same 3", "same 3", "same 4"]
    assert again.spent()["calls"] == 5
    replayed = Replay(CallLedger(kept)).chat(turns(*["same"] * 5), temperature=1.0)
    assert [each.text for each in replayed] == answers


def test_samples_of_the_lab_model_differ_and_repeat(
    lab_model: LanguageModel, tmp_path: Path
) -> None:
    kept = tmp_path / "calls.jsonl"
    how: Any = {"temperature": 2.0, "max_new_tokens": 12, "seed": 3}
    asked = turns("Name a fruit.", "Name a fruit.", "Name a fruit.", "Who are you?")
    first = Ledgered(lab_model, CallLedger(kept)).chat(asked, **how)
    assert len({each.text for each in first[:3]}) > 1
    replay = Replay(CallLedger(kept))
    assert replay.name == lab_model.name
    assert [each.text for each in replay.chat(asked, **how)] == [each.text for each in first]
    alone = Ledgered(lab_model, CallLedger()).chat(asked[:1], **{**how, "seed": 4})
    assert alone[0].text == first[1].text  # a sample is its key's, whatever stood beside it


def test_greedy_answers_are_those_of_the_model(lab_model: LanguageModel) -> None:
    asked = turns(*(f"What is {number} and 2?" for number in range(20)))
    direct = [each.text for each in lab_model.chat(asked, max_new_tokens=8)]
    model = Ledgered(lab_model, CallLedger())
    assert [each.text for each in model.chat(asked, max_new_tokens=8)] == direct
    assert [each.text for each in model.chat(asked, max_new_tokens=8, seed=9)] == direct
    assert model.spent()["calls"] == 20


def test_a_budget_ends_before_the_call_and_raising_it_goes_on(tmp_path: Path) -> None:
    kept, notes = tmp_path / "calls.jsonl", tmp_path / "notes"
    texts = [f"question {number}" for number in range(40)]
    with pytest.raises(BudgetSpent) as caught:
        Ledgered(Paid(notes), CallLedger(kept), calls=25).chat(turns(*texts))
    assert caught.value.exit_code == EXIT_NO
    assert "25 of 25 calls" in str(caught.value)
    assert len(notes.read_text().splitlines()) == 25
    with pytest.raises(BudgetSpent):  # a new start is no new money
        Ledgered(Paid(notes), CallLedger(kept), calls=25).chat(turns(*texts))
    model = Ledgered(Paid(notes), CallLedger(kept), calls=40)
    assert len(model.chat(turns(*texts))) == 40
    assert len(notes.read_text().splitlines()) == 40
    assert model.spent() == {"calls": 40, "tokens": 200, "dollars": 0}


@pytest.mark.parametrize(
    ("budget", "made"), [({"tokens": 34}, 3), ({"dollars": 0.000_071}, 3), ({"calls": 0}, 0)]
)
def test_what_a_call_may_cost_is_reserved(
    budget: dict[str, float], made: int, tmp_path: Path
) -> None:
    how: Any = {**budget, "prices": (1.0, 2.0)}
    model = Ledgered(Paid(tmp_path / "notes"), CallLedger(), **how)
    with pytest.raises(BudgetSpent):
        model.chat(turns("aaa", "bbb", "ccc", "ddd", "eee"), max_new_tokens=10)
    assert model.spent()["calls"] == made


def test_accounts_of_two_models_in_one_ledger_are_apart() -> None:
    ledger = CallLedger()
    first = Ledgered(StandIn("a", lambda _: "yes"), ledger, calls=1)
    second = Ledgered(StandIn("b", lambda _: "no"), ledger, calls=2)
    assert (ask(first, "x"), ask(second, "x"), ask(second, "y")) == ("yes", "no", "no")
    assert (first.spent()["calls"], second.spent()["calls"]) == (1, 2)
    with pytest.raises(AdvisorError, match="Which model"):
        Replay(ledger)
    assert ask(Replay(ledger, "stand-in:b"), "x") == "no"


def test_other_settings_are_other_calls() -> None:
    model = Ledgered(StandIn("a", lambda _: "one two three"), CallLedger())
    hows: list[Any] = [{"max_new_tokens": 2}, {"stop": ["two"]}, {"system": "s"}]
    for how in ({}, *hows, {"temperature": 1}):
        ask(model, "x", **how)
    assert model.spent()["calls"] == 5


class OneShot(BaseHTTPRequestHandler):
    """Answers everything with the number of the call."""

    calls = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).calls += 1
        data = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_is_asked_once_and_a_second_ledger_is_refused(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OneShot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, kept = f"http://127.0.0.1:{server.server_address[1]}/v1", tmp_path / "calls.jsonl"
    for _ in range(2):
        with ServerModel(url, "m") as plain:
            Ledgered(plain, CallLedger(kept)).chat(turns("a", "b", "a"))
    assert OneShot.calls == 2
    server.shutdown()
    server.server_close()
    with ServerModel(url, "m", retries=0, timeout=5) as dead:
        assert len(Ledgered(dead, CallLedger(kept)).chat(turns("a", "b"))) == 2
        with pytest.raises(AdvisorError, match="tried 1 times") as caught:
            Ledgered(dead, CallLedger(kept)).chat(turns("c"))
    assert caught.value.exit_code == EXIT_UNKNOWN
    with (
        ServerModel(url, "m", ledger=tmp_path / "own.jsonl") as own,
        pytest.raises(AdvisorError, match="already writes"),
    ):
        Ledgered(own, CallLedger())
