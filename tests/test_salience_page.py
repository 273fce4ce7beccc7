"""The page and the command of salience: what a reader sees, and what goes wrong in words."""

from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("torch")

from click.testing import CliRunner

from advisor.errors import AdvisorError
from cookbook.models import LanguageModel, load
from cookbook.prompt_parts import from_conversation, from_sections
from cookbook.salience import explain
from cookbook.salience_cli import salience_command
from cookbook.salience_page import SalienceView, marked_text, salience_page
from cookbook.salience_report import SalienceReport, as_csv, as_data, debug_prompt
from cookbook.salience_set import salience_set, set_page

SHOTS = (("tin", "Gurvam"), ("olive", "Gilbes"), ("copper", "Gurvam"), ("zinc", "Gilbes"))
NAMED = tuple((f"example {n}", f"Input: {a}\nLabel: {b}\n") for n, (a, b) in enumerate(SHOTS, 1))
SECTIONS = (*NAMED, ("question", "Input: zinc\nLabel:"))


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load("lab", device="cpu")


@pytest.fixture(scope="module")
def report(lm: LanguageModel) -> SalienceReport:
    methods = ["ablation", "grad-norm"]
    return debug_prompt(lm, from_sections(SECTIONS), " Gilbes", contrast=" Gurvam",
                        grain="example", methods=methods)  # fmt: skip


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page))


class Balanced(HTMLParser):
    """Raises on an end tag that closes nothing, and keeps what is still open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_loads_nothing_and_is_whole(report: SalienceReport) -> None:
    page = salience_page([report, dataclasses.replace(report, title="after")])
    assert not re.search(r"<script|<link|<img|src=|url\(|https?:", page)
    assert "default-src 'none'" in page
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert page.count("<section>") == 2
    assert len(set(re.findall(r'name="(strength-\d)"', page))) == 2  # buttons of their own


def test_the_prompt_stands_on_the_page_letter_for_letter(lm: LanguageModel) -> None:
    odd = from_sections([("a", "1 < 2 & <b>\n"), ("b", "\"Input\": 'x'")])
    found = explain(lm, odd, " Gilbes")
    assert text_of(marked_text(found)) == odd.text
    assert "<b>" not in marked_text(found)


def test_sign_is_told_by_more_than_colour(report: SalienceReport) -> None:
    ablation, norm = report.methods
    for part, score in ablation.ranked():
        (kind,) = re.findall(f'<mark class="(\\w+)[^>]*title="{part.name}:', marked_text(ablation))
        assert kind == ("for" if score > 0 else "against")
    assert "size" in marked_text(norm)
    assert "against" not in marked_text(norm)
    style = salience_page([report])
    assert "underline solid" in style
    assert "underline dotted" in style


def test_the_checks_stand_beside_the_picture(report: SalienceReport) -> None:
    page = text_of(salience_page([report]))
    for words in ("random orders", "with ablation:", "shuffled weights (all weights)",
                  "to believe", "never taken away"):  # fmt: skip
        assert words in page, words


def test_marks_of_a_chat_template_are_grey() -> None:
    model = load("lab-instruct", device="cpu")
    talk = [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "The horn is red. What is red?"}]  # fmt: skip
    found = debug_prompt(model, from_conversation(model, talk), "the horn", grain="role",
                         methods=["grad-x-input"], check=False)  # fmt: skip
    html = marked_text(found.methods[0])
    assert text_of(html) == found.prompt.text
    assert html.count('class="fixed"') == sum(part.fixed for part in found.methods[0].parts) > 0
    assert any("never taken away" in note for note in found.notes)


def test_tables(report: SalienceReport) -> None:
    data = json.loads(json.dumps(as_data(report), allow_nan=False))
    assert [row["part"] for row in data["parts"]] == [p.name for p in report.methods[0].parts]
    assert "".join(row["text"] for row in data["parts"]) == report.prompt.text
    assert len(as_csv(report).splitlines()) >= len(data["parts"]) + 1
    assert {check["method"] for check in data["checks"]} == {"ablation", "grad-norm"}


def test_a_notebook_shows_the_same(report: SalienceReport) -> None:
    assert marked_text(report.methods[0]) in SalienceView(report)._repr_html_()


# ---- the command


def asked(*words: str) -> Any:
    return CliRunner().invoke(salience_command, list(words))


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps({"sections": dict(SECTIONS), "answer": "Gilbes",
                                "instead": "Gurvam"}))  # fmt: skip
    return file


def test_the_command_writes_page_table_and_json(prompt_file: Path, tmp_path: Path) -> None:
    page, table = tmp_path / "p.html", tmp_path / "t.csv"
    done = asked(str(prompt_file), "--method", "ablation", "--grain", "example", "--no-check",
                 "-o", str(page), "--csv", str(table), "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["tops"] == {"example 4": ["ablation"]}
    assert "example 4" in page.read_text()
    assert table.read_text().startswith("part,start,end,fixed,text,ablation")


def test_the_command_puts_an_edit_beside(prompt_file: Path, tmp_path: Path) -> None:
    edited, page = tmp_path / "edited.json", tmp_path / "p.html"
    sections = dict(SECTIONS) | {"example 4": "Input: zinc\nLabel: Gurvam\n"}
    edited.write_text(json.dumps({"sections": sections, "answer": "Gilbes", "instead": "Gurvam"}))
    done = asked(str(prompt_file), "--edited", str(edited), "--method", "ablation", "--no-check",
                 "--grain", "example", "-o", str(page), "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    before, after = json.loads(done.stdout)["reports"]
    assert before["value"] > 0 > after["value"]
    assert page.read_text().count("<section>") == 2


def test_a_set_becomes_a_page(prompt_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(prompt_file.read_text()) | {"id": name} for name in "ab"]
    rows[1]["answer"], rows[1]["instead"] = "Gurvam", "Gilbes"
    file, page = tmp_path / "rows.jsonl", tmp_path / "p.html"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    done = asked(str(file), "--grain", "example", "-o", str(page), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["wrong"] == 1
    assert "example 4" in page.read_text()


class Shop(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that tells its answer and nothing else."""

    def do_POST(self) -> None:
        asked_for = self.rfile.read(int(self.headers["Content-Length"])).decode()
        text = "Closed." if "Sunday" in asked_for else "Open."
        body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1}}  # fmt: skip
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_a_server_is_asked_without_each_part(tmp_path: Path) -> None:
    file, page = tmp_path / "shop.txt", tmp_path / "p.html"
    file.write_text("We sell tea.\nOn Sunday we rest.\nIs the shop open?\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = asked(str(file), "--server", f"http://127.0.0.1:{server.server_port}/v1", "--model",
                     "shop", "--answer", "closed", "--instead", "open", "-o", str(page),
                     "--json")  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.exit_code == 0, done.output
    scores = {row["part"]: row["answers"] for row in json.loads(done.stdout)["parts"]}
    assert scores == {"We sell tea.\n": 0, "On Sunday we rest.\n": 2, "Is the shop open?": 0}
    assert "shares of answers" in page.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--grain", "principle"], "no section is of this kind"),
        (["--pattern", "("], "pattern"),
        (["--pattern", "I", "--grain", "word"], "grain of its own"),
        (["--server", "nowhere"], "no address"),
        (["--server", "http://localhost:1", "--method", "shapley"], "answers only"),
    ],
)
def test_errors_are_clear(prompt_file: Path, words: list[str], said: str) -> None:
    done = asked(str(prompt_file), *words)
    assert isinstance(done.exception, AdvisorError)
    assert said in done.exception.message


def test_an_answer_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("Input: tin\nLabel:\n")
    done = asked(str(file))
    assert isinstance(done.exception, AdvisorError)
    assert "which answer" in done.exception.message


def test_a_page_of_a_set_without_shares_says_so(lm: LanguageModel) -> None:
    from cookbook.salience_files import SalienceCase

    case = SalienceCase("x<y", from_sections(SECTIONS), " Nobody", None)
    page = set_page(salience_set(lm, [case], grain="example"))
    assert "1 answered wrong" in page
    assert "x<y" not in page
