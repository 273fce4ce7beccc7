"""Growth with a model behind a real server, faults and kills included; gates that must hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from advisor.errors import AdvisorError
from cookbook.data.contamination import Contamination
from cookbook.data.examples import Example, as_example
from cookbook.data.failures import cluster_failures
from cookbook.data.grow import GrowthSettings, grow, plan_growth
from cookbook.data.provenance import Provenance, accept, accepted, stamp
from cookbook.data.review import (
    ReviewSession,
    candidate_id,
    export_review,
    import_review,
)
from cookbook.data.sift import sift, verified
from cookbook.row_files import DataRow
from cookbook.rows import convert
from cookbook.server_model import CallLedger, ServerModel
from cookbook.training_rows import checked_rows

pytestmark = pytest.mark.timeout(300)

SERVER = '''
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COUNTS, LOCK, LOADED = {}, threading.Lock(), {}


def written(asked):
    with LOCK:
        if not LOADED:
            from cookbook.models import load
            LOADED["lab"] = load("lab-instruct", device="cpu")
        options = dict(max_new_tokens=asked["max_tokens"], seed=asked["seed"],
                       temperature=asked["temperature"], stop=asked.get("stop", ()))
        if "messages" in asked:
            return LOADED["lab"].chat([asked["messages"]], **options)[0]
        return LOADED["lab"].generate([asked["prompt"]], **options)[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, status, data, **headers):
        text = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for key, value in {"Content-Length": len(text), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        if self.path == "/counts":
            self.say(200, COUNTS)
        else:
            self.say(200, {"data": [{"id": "lab-instruct"}, {"id": "echo"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["model"]
        with LOCK:
            COUNTS[name] = count = COUNTS.get(name, 0) + 1
            busy, most = name + " now", name + " at once"
            COUNTS[busy] = COUNTS.get(busy, 0) + 1
            COUNTS[most] = max(COUNTS.get(most, 0), COUNTS[busy])
        try:
            self.answer(asked, name, count)
        finally:
            with LOCK:
                COUNTS[busy] -= 1

    def answer(self, asked, name, count):
        text = asked.get("prompt") or asked["messages"][-1]["content"]
        if name == "echo":
            time.sleep(0.05)
        if name == "slow":
            time.sleep(0.3)
        if name == "flaky" and count <= 2:
            return self.say(429, {"error": {"message": "busy"}}, Retry_After=0)
        if name == "broken" or (name == "half" and count == 1):
            return self.say(503, b"<html>gone</html>", Retry_After=0)
        if name == "hangs":
            time.sleep(3)
        if name == "garbage":
            return self.say(200, b"<html>not json</html>")
        if name == "empty":
            return self.say(200, {"choices": []})
        if name == "dies":
            os._exit(1)
        if name == "keyed" and self.headers.get("Authorization") != "Bearer right":
            return self.say(401, {"error": {"message": "bad key"}})
        if name == "lab-instruct":
            one = written(asked)
            said, finish, used = one.text, one.finish, (one.prompt_tokens, one.completion_tokens)
        elif name in ("echo", "flaky", "half", "hangs", "keyed", "slow"):
            said, finish, used = text.upper(), "stop", (1, 1)
        else:
            return self.say(404, {"error": {"message": "model not found"}})
        choice = {"finish_reason": finish}
        choice |= {"text": said} if "prompt" in asked else {"message": {"content": said}}
        usage = dict(zip(("prompt_tokens", "completion_tokens"), used))
        self.say(200, {"choices": [choice], "usage": usage})

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
'''


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    script = folder / "server.py"
    script.write_text(SERVER)
    child = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )  # fmt: skip
    assert child.stdout is not None
    return child, f"http://127.0.0.1:{int(child.stdout.readline())}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    child, address = start(tmp_path_factory.mktemp("server"))
    yield address
    child.kill()
    child.wait()


def counts(address: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{address}/counts", timeout=10) as answer:
        found: dict[str, int] = json.loads(answer.read())
    return found


def model(address: str, name: str, **more: Any) -> ServerModel:
    return ServerModel(f"{address}/v1", name, **{"timeout": 60, "retries": 2, **more})


def chats(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


# -------------------------------------------------------------------------------- server
def test_the_lab_behind_a_server_says_what_it_says_here(server: str) -> None:
    from cookbook.models import load

    asked = chats("good morning", "who are you?")
    with model(server, "lab-instruct", timeout=120) as far:
        there = [(one.text, one.completion_tokens) for one in far.chat(asked, max_new_tokens=12)]
    here = load("lab-instruct", device="cpu").chat(asked, max_new_tokens=12)
    assert there == [(one.text, one.completion_tokens) for one in here]


def test_busy_then_fine(server: str) -> None:
    with model(server, "flaky") as far:
        assert [one.text for one in far.chat(chats("a"))] == ["A"]
    assert counts(server)["flaky"] == 3


def test_no_more_tries_than_promised(server: str) -> None:
    with (
        model(server, "broken") as far,
        pytest.raises(AdvisorError, match=r"HTTP 503 \(tried 3 times\)") as told,
    ):
        far.chat(chats("a"))
    assert counts(server)["broken"] == 3
    assert told.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "said"), [("garbage", "not JSON: '<html>"), ("empty", "an answer without text")]
)
def test_garbage_is_told(server: str, name: str, said: str) -> None:
    with model(server, name, retries=0) as far, pytest.raises(AdvisorError, match=said):
        far.chat(chats("a"))


def test_a_server_that_hangs(server: str) -> None:
    began = time.monotonic()
    with (
        model(server, "hangs", timeout=0.5, retries=0) as far,
        pytest.raises(AdvisorError, match=r"no answer within 0.5 seconds"),
    ):
        far.chat(chats("a"))
    assert time.monotonic() - began < 2.9  # it did not wait for the answer


def test_a_wrong_name_gets_a_guess(server: str) -> None:
    with (
        model(server, "lab-instuct") as far,
        pytest.raises(AdvisorError, match="Did you mean 'lab-instruct'") as told,
    ):
        far.chat(chats("a"))
    assert counts(server)["lab-instuct"] == 1  # wrong in itself: not repeated
    assert "echo" in told.value.hint


def test_keys(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_KEY", "wrong-secret")
    with (
        model(server, "keyed", key_variable="LAB_KEY") as far,
        pytest.raises(AdvisorError, match="the key in LAB_KEY is refused") as told,
    ):
        far.chat(chats("a"))
    assert "wrong-secret" not in str(told.value)
    monkeypatch.setenv("LAB_KEY", "right")
    with model(server, "keyed", key_variable="LAB_KEY", ledger=tmp_path / "calls") as far:
        assert far.chat(chats("a"))[0].text == "A"
    assert "right" not in (tmp_path / "calls").read_text()


def test_nobody_there() -> None:
    with (
        ServerModel("http://127.0.0.1:9", "m", retries=0) as far,
        pytest.raises(AdvisorError, match=r"127\.0\.0\.1:9"),
    ):
        far.chat(chats("a"))


def test_concurrency_is_limited(server: str) -> None:
    with model(server, "echo", concurrency=3) as far:
        said = far.chat(chats(*(f"text {n}" for n in range(20))))
    assert [one.text for one in said] == [f"TEXT {n}" for n in range(20)]
    assert 2 <= counts(server)["echo at once"] <= 3


def test_a_server_that_dies_keeps_what_was_paid(tmp_path: Path) -> None:
    child, address = start(tmp_path)
    ledger = tmp_path / "calls.jsonl"
    try:
        with model(address, "echo", ledger=ledger) as far:
            far.chat(chats("a", "b"))
        with model(address, "dies", ledger=ledger, retries=0) as far, pytest.raises(AdvisorError):
            far.chat(chats("a"))
        child.wait(10)
        with model(address, "echo", ledger=ledger, retries=0) as far:  # from the file alone
            assert [one.text for one in far.chat(chats("b", "a"))] == ["B", "A"]
    finally:
        child.kill()


CLIENT = """
import sys
from cookbook.server_model import ServerModel
with ServerModel(sys.argv[1] + "/v1", "slow", concurrency=1, ledger=sys.argv[2]) as far:
    far.chat([[{"role": "user", "content": f"text {n}"}] for n in range(12)])
"""


def test_a_killed_run_does_not_pay_twice(server: str, tmp_path: Path) -> None:
    ledger = tmp_path / "calls.jsonl"
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, server, str(ledger)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if ledger.exists() and ledger.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.02)
    client.send_signal(signal.SIGKILL)
    client.wait()
    paid = len(CallLedger(ledger).calls)
    assert 4 <= paid < 12
    time.sleep(0.5)  # the request that was under way ends at the server
    before = counts(server)["slow"]
    with model(server, "slow", ledger=ledger) as far:
        said = far.chat(chats(*(f"text {n}" for n in range(12))))
    assert [one.text for one in said] == [f"TEXT {n}" for n in range(12)]
    assert counts(server)["slow"] - before == 12 - paid


# -------------------------------------------------------------------------------- growth
def pair(asked: str, answer: str) -> dict[str, Any]:
    return {"prompt": asked, "completion": answer}


def known(*texts: str) -> list[Example]:
    return [as_example(DataRow(n, pair(t, f"answer {n}"), "f")) for n, t in enumerate(texts, 1)]


def test_paraphrases_keep_answer_and_columns(server: str) -> None:
    rows = known("where is it", "what is it", "who is it")
    tagged = as_example(DataRow(1, {**rows[0].data, "policy": "p1"}, "f"))
    with model(server, "echo") as far:
        made = grow([tagged, *rows[1:]], far, GrowthSettings("paraphrase", 3, batch=2))
    by_parent = {row["provenance"]["parents"][0][0]: row for row in made.rows}
    assert [by_parent[n]["completion"] for n in (1, 2, 3)] == [f"answer {n}" for n in (1, 2, 3)]
    assert by_parent[1]["policy"] == "p1"
    assert by_parent[1]["provenance"]["model"] == "echo"
    with pytest.raises(AdvisorError, match=r"row:1: made by paraphrase with echo, and accepted by"):
        accepted(made.rows)


def test_a_grown_set_is_resumed_not_paid_again(server: str, tmp_path: Path) -> None:
    rows, wanted = known("a b", "c d", "e f"), GrowthSettings("instructions", 9, batch=3)
    with model(server, "echo") as far:
        first = grow(rows, far, wanted, folder=tmp_path)
    before = counts(server)["echo"]
    with model(server, "echo") as far:  # a new one, which remembers nothing itself
        again = grow(rows, far, wanted, folder=tmp_path)
        assert counts(server)["echo"] == before
        more = grow(rows, far, GrowthSettings("instructions", 9, batch=3, seed=1), folder=tmp_path)
    assert [row["prompt"] for row in first.rows] == [row["prompt"] for row in again.rows]
    assert counts(server)["echo"] > before  # another seed is another question
    assert len(more.rows) == 9


def test_budget_stops_before_the_first_call(server: str) -> None:
    from cookbook.data.grow import GrowthBudget

    before = counts(server).get("echo", 0)
    with model(server, "echo") as far, pytest.raises(AdvisorError, match="9 calls; the budget is"):
        grow(known("a", "b"), far, GrowthSettings("seeds", 9), budget=GrowthBudget(calls=8))
    assert counts(server).get("echo", 0) == before


def test_every_row_is_asked_before_any_is_asked_twice() -> None:
    rows = known(*(f"text {n}" for n in range(7)))
    asks, _ = plan_growth(rows, GrowthSettings("instructions", 14), has_chat=True)
    lines = [ask.parents[-1].line for ask in asks]
    assert sorted(lines[:7]) == sorted(lines[7:]) == list(range(1, 8))


# ---------------------------------------------------------------------------------- gates
def made(asked: str, answer: str, line: int = 1) -> dict[str, Any]:
    return stamp(pair(asked, answer), Provenance("seeds", "m", "", "v", ((line, "d"),)))


def test_training_refuses_what_nobody_accepted() -> None:
    how = Provenance("paraphrase", "lab", "0" * 64, "1", ((1, "0" * 64),), 0)
    made = stamp({"prompt": "p", "completion": "c"}, how)
    for refuses in (
        lambda: convert([DataRow(7, made, "rows.jsonl")]),
        lambda: checked_rows([made], "completion"),
    ):
        with pytest.raises(AdvisorError, match="accepted by nobody"):
            refuses()
    fine = accept(made, by="Ada", how="human")
    assert checked_rows([fine], "completion") == [{"prompt": "p", "completion": "c"}]
    foreign = {"prompt": "p", "completion": "c", "provenance": "scanned in May"}
    assert convert([DataRow(1, foreign)])[0].data == {"prompt": "p", "completion": "c"}


def test_an_acceptance_is_for_one_content() -> None:
    row = accept(made("a", "b"), by="rule", how="verifier")
    assert accepted([row]) == [pair("a", "b")]
    with pytest.raises(AdvisorError, match="changed after rule accepted it"):
        accepted([{**row, "completion": "c"}])


def test_nothing_near_the_evaluation_comes_through() -> None:
    test = [pair("when does the shop on the old market open on sundays", "never")]
    leaks = [made("When does the shop on the old market open on Sundays?", "at nine"),
             made("say when does the shop on the old market open please", "at ten")]  # fmt: skip
    fine = made("is tea sold by weight", "yes")
    found = sift([*leaks, fine], [], evaluation=test)
    assert found.reasons() == {"leak": 2}
    assert found.rows == [fine]


def test_a_short_question_of_the_test_leaks_whatever_its_answer() -> None:
    test = [pair("the tea came broken", "weaver")]
    found = sift([made("The tea came broken!", "smith"), made("the salt came broken", "smith", 2)],
                 [], evaluation=test)  # fmt: skip
    assert [each.row["prompt"] for each in found.dropped] == ["The tea came broken!"]
    # `Contamination` counts questions from five words on only, so it can't stand in here
    check = Contamination([as_example(DataRow(1, test[0]))])
    check.see([as_example(DataRow(1, pair("The tea came broken!", "smith")))])
    assert not check.leaks


def test_a_verifier_signs_what_it_lets_through() -> None:
    found = verified([made("1+1", "2"), made("1+2", "4", 2)],
                     lambda row: sum(map(int, row.asked.split("+"))) == int(row.answer), "sums")
    assert [row["provenance"]["accepted_by"] for row in found.rows] == ["sums"]
    assert found.reasons() == {"refused by sums": 1}


def test_clusters_find_what_was_broken() -> None:
    texts = [f"what does item {n} cost" for n in range(20)] + [f"open door {n}" for n in range(20)]
    clusters = cluster_failures(texts, [False] * 20 + [True] * 20)
    assert sum(len(each.places) for each in clusters) == 20
    named = {word for each in clusters for word, _ in each.words}
    assert named & {"cost", "does", "what", "item"}
    assert not named & {"open", "door"}


# --------------------------------------------------------------------------------- review
def table(path: Path, rows: list[dict[str, Any]], edit: dict[str, str]) -> Path:
    export_review(rows, path, force=True)
    text = path.read_text(encoding="utf-8-sig")
    for old, new in edit.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


ROWS = [made("a, or b", "one"), made("c", "two", 2), made("d", "three", 3)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",,,c,", ",accept,,c,", r":3: who: nobody"),
        (",,,c,", ",maybe,li,c,", r":3: decision: 'maybe' is not known"),
        (",,,c,two", ",accept,li,c,2", r":3: accept, but the words are not those"),
        (",,,c,two", ",,,c,2", r":3: words were changed, and there is no decision"),
        (",,,c,two", ",edit,li,c,two", r":3: edit, but nothing was changed"),
        ('"a, or b"', "a, or b", r":2: not as many fields as the header has"),
        (candidate_id(ROWS[1]), "0", r":3: id: '0' is no candidate here"),
        ("decision", "verdict", r":1: no column decision"),
    ],
)
def test_what_a_spreadsheet_breaks_is_told_by_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(AdvisorError, match=rf"t\.csv{said}"):
        import_review(table(tmp_path / "t.csv", ROWS, {old: new}), ROWS)


def test_a_table_from_another_country_and_with_lines_left_out(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ROWS[1:], {",,,c,": ",accept,li,c,"})
    text = path.read_text(encoding="utf-8").replace(",", ";").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = import_review(path, ROWS)
    assert [row["completion"] for row in found.rows] == ["two"]
    assert [row["prompt"] for row in found.waiting] == ["a, or b", "d"]


def test_decisions_are_on_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ReviewSession(ROWS, tmp_path / "d.jsonl", "li")
    session.decide(0, "accept")
    before = session.path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(AdvisorError, match="the disk is full"):
        session.decide(1, "reject")
    assert session.path.read_bytes() == before
    assert session.left == [1, 2]  # what could not be saved was not decided
