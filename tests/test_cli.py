"""The command line: exact output, exit codes, what goes where, and every way of failing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from strategies import cases

from advisor import __version__
from advisor.case import Case, dump_case, load_case
from advisor.cli import main
from advisor.evidence import load_evidence
from advisor.flowchart import flowchart
from advisor.schema import example_yaml, json_schema

ROOT = Path(__file__).resolve().parent.parent
ADVISOR = str(Path(sys.executable).with_name("advisor"))
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
HINT = """  `advisor schema` lists every key and its values; null means "don't know"."""
TASKS = (
    "classification | extraction | question-answering | summarization | generation | dialogue"
    " | code | translation | reasoning | correction | tool-use"
)


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=stdin, prog_name="advisor")


def shell(line: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/bash", "-c", line.replace("advisor ", f"{ADVISOR} ", 1)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "", **env},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def failed(result: Result, stderr: str, code: int = 2) -> None:
    assert result.stderr == stderr
    assert result.stdout == ""
    assert result.exit_code == code


# -- help


def test_help_and_version() -> None:
    assert run("--version").stdout == f"advisor, version {__version__}\n"
    shown = run("--help")
    assert (shown.exit_code, shown.stderr) == (0, "")
    for line in (
        "0  done, or yes",
        "1  an honest no",
        "2  bad usage",
        "3  could not",
        "130  interrupted",
    ):
        assert line in shown.stdout
    assert run("-h").stdout == shown.stdout == run().stdout


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_a_purpose_and_examples(name: str) -> None:
    text = run(name, "--help").stdout
    assert "Examples:\n" in text
    purpose = text.split("\n\n")[1].strip()
    assert purpose.endswith(".")
    assert "..." not in run("--help").stdout.split("Commands:")[1].split("Exit codes")[0]
    lines = [line.strip() for line in text.split("Examples:\n")[1].split("\n\n")[0].splitlines()]
    for line in lines:
        assert line.startswith(f"advisor {name}"), line
    assert max(map(len, text.splitlines())) <= 80


def test_the_examples_of_the_help_work(tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(example_yaml())
    (tmp_path / "train.jsonl").write_text('{"prompt": "Paid twice", "completion": "billing"}\n')
    for name in main.commands:
        text = run(name, "--help").stdout
        for line in text.split("Examples:\n")[1].split("\n\n")[0].splitlines():
            if line.strip() in (
                "advisor ask --save case.yaml",
                "advisor schema --example -o case.yaml",
            ):
                continue  # the first needs a terminal, the second a folder without the file
            done = shell(line.strip(), cwd=tmp_path)
            said = "Looked at train.jsonl" if " ask --data" in line else ""
            assert (done.returncode, done.stderr.partition(":")[0]) == (0, said), line


# -- usage errors


HELP = "\n  Help: advisor"
USAGE = {
    "aks": f"No such command 'aks'. Did you mean 'ask'?{HELP} --help",
    "ask --anwsers x": f"No such option '--anwsers'. Did you mean '--answers'?{HELP} ask --help",
    "ask --answers": f"Option '--answers' requires an argument.{HELP} --help",
    "ask --format xml": "Invalid value for '--format': 'xml' is not one of"
    f" 'text', 'markdown', 'json'.{HELP} ask --help",
    "ask --width 5": "Invalid value for '--width': 5 is not in the range 40<=x<=500."
    f"{HELP} ask --help",
    "ask --answers a --resume b": "--answers and --resume exclude each other.",
    "ask --save -": "--save needs a file name; --format json prints the answers too.",
    "ask --resume -": "--resume needs a file: standard input is where the answers come from.",
    "ask --save new.yaml -o ./new.yaml": "--save and --output name the same file.",
    "ask --answers no.yaml": "no.yaml: no such file.",
    "ask --set tsk=code": f"--set: tsk: unknown key. Did you mean 'task'?\n{HINT}",
    "ask --set task=qa": f"--set: task: found 'qa'; allowed: {TASKS}.\n{HINT}",
    "explain qlroa": "'qlroa' is no path, rule or question. Did you mean 'qlora'?"
    "\n  run `advisor explain` for the list of paths and questions",
    "explain rag --diagram": "--diagram draws the whole flowchart or a case file, not 'rag'."
    "\n  Try: advisor explain --diagram",
    "evidence lewis-rga": "no evidence row has the id 'lewis-rga'. Did you mean 'lewis-rag'?"
    "\n  List them all: advisor evidence",
    "evidence a b": f"Got unexpected extra argument (b){HELP} evidence --help",
    "evidence --path rgg": "no path is called 'rgg'. Did you mean 'rag'?\n  Paths: "
    + ", ".join(path.id for path in flowchart().paths),
}


@pytest.mark.parametrize("line", USAGE)
def test_usage(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed(run(*line.split()), f"error: {USAGE[line]}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", USAGE)
def test_usage_as_json(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, *rest = line.split()
    done = run(command, "--json", *rest)
    assert (done.exit_code, done.stdout) == (2, "")
    message, _, hint = USAGE[line].partition("\n  ")
    expected = {"message": message, "hint": hint, "exit_code": 2}
    assert json.loads(done.stderr) == {"error": expected}
    assert list(json.loads(done.stderr)["error"]) == list(expected)


NOBODY = (
    f"nothing was answered, and {{why}}. Missing first: task ({TASKS}).\n  Give it with --set"
    " task=classification, or all answers with --answers FILE"
    " (`advisor schema --example` prints one).\n"
)


def test_nobody_to_ask() -> None:
    failed(run("ask"), "error: " + NOBODY.format(why="there is no terminal to ask on"))
    done = shell("advisor ask")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: " + NOBODY.format(why="there is no terminal to ask on")
    done = shell("advisor ask --json")
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["message"].startswith(
        "nothing was answered, and --json never asks."
    )


def test_the_next_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text("task: code\n")
    done = run("ask", "--resume", str(tmp_path / "case.yaml"))
    assert done.exit_code == 2
    assert "Missing first: data.labelled (a whole number of examples, 0 or more)." in done.stderr
    assert "--set data.labelled=400" in done.stderr


# -- bad case files


def case_file(folder: Path, data: bytes) -> str:
    (folder / "case.yaml").write_bytes(data)
    return str(folder / "case.yaml")


BOMB = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 110)
)
BROKEN = {
    "broken YAML": (b"task: [code", "not valid YAML"),
    "a tab": (b"data:\n\tlabelled: 4", "a tab; YAML is indented with spaces"),
    "latin-1": ("name: Grüße".encode("latin-1"), "not UTF-8: byte 0xfc at offset 8 (line 1)"),
    "utf-16": ("task: code".encode("utf-16"), "UTF-16 text; only UTF-8 is read"),
    "binary": (b"task: c\x00de", "a NUL byte"),
    "ten megabytes": (
        b"a: 1\n" * 2_000_000,
        "too large: 10,000,000 bytes; the limit is 262,144 bytes",
    ),
    "alias bomb": (BOMB, "anchors and aliases are not read"),
    "unknown keys": (b"labeled: 4", "case.yaml:1: labeled: unknown key"),
    "wrong types": (
        b"data: {labelled: [4]}",
        "case.yaml:1: data.labelled: found a list; allowed: a whole number",
    ),
    "a list": (b"- task", "case.yaml:1: found a list; a case is a mapping"),
    "nested": (b"[" * 50_000, "nested deeper than 20 levels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_case_files(name: str, tmp_path: Path) -> None:
    data, said = BROKEN[name]
    file = case_file(tmp_path, data)
    for words in (
        ["ask", "--answers", file],
        ["explain", file],
        ["ask", "--resume", file],
        ["ask", "--answers", file, "--save", str(tmp_path / "new.yaml")],
    ):
        done = run(*words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr) < 3000
    assert [path.name for path in tmp_path.iterdir()] == ["case.yaml"]


def test_a_folder_as_a_case_file(tmp_path: Path) -> None:
    failed(run("ask", "--answers", str(tmp_path)), f"error: {tmp_path}: is a folder, not a file.\n")


def test_no_permission(tmp_path: Path) -> None:
    file = case_file(tmp_path, b"task: code")
    os.chmod(file, 0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    failed(run("ask", "--answers", file), f"error: {file}: no permission to read it.\n")


def test_standard_input() -> None:
    text = (ROOT / "examples" / "support-bot.yaml").read_text()
    by_name = run("ask", "--answers", str(ROOT / "examples" / "support-bot.yaml"), "--json")
    assert run("ask", "--answers", "-", "--json", stdin=text).stdout == by_name.stdout
    failed(
        run("ask", "--answers", "-", stdin="- x"),
        "error: <stdin>:1: found a list; a case is a mapping (key: value).\n",
    )
    assert run("explain", "-", stdin=text).exit_code == 0


# -- advice


@pytest.mark.parametrize("file", EXAMPLES, ids=[path.stem for path in EXAMPLES])
@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_saved_answers_reproduce_the_advice(file: Path, form: str, tmp_path: Path) -> None:
    first = run(
        "ask",
        "--answers",
        str(file),
        "--set",
        "team.budget=null",
        "--format",
        form,
        "--save",
        str(tmp_path / "a.yaml"),
    )
    assert (first.exit_code, first.stderr) == (0, "")
    again = run(
        "ask",
        "--answers",
        str(tmp_path / "a.yaml"),
        "--format",
        form,
        "--save",
        str(tmp_path / "b.yaml"),
    )
    assert again.stdout_bytes == first.stdout_bytes
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


@given(cases())
@settings(max_examples=25, deadline=None)
def test_any_case_reproduces(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.yaml").write_text(dump_case(case), encoding="utf-8")
    first = run(
        "ask", "--answers", str(folder / "a.yaml"), "--json", "--save", str(folder / "b.yaml")
    )
    assert first.exit_code == 0, first.stderr
    assert (
        run("ask", "--answers", str(folder / "b.yaml"), "--json").stdout_bytes == first.stdout_bytes
    )


@pytest.mark.parametrize("file", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_json_is_one_object_with_the_case(file: Path) -> None:
    done = run("ask", "--answers", str(file), "--json")
    advice = json.loads(done.stdout)
    assert advice["case"] == load_case(file).to_dict()
    assert {row["path"] for row in advice["ranking"]} == {path.id for path in flowchart().paths}
    assert done.stdout == run("ask", "--answers", str(file), "--format", "json").stdout


def test_every_verdict_is_a_success() -> None:
    for words, verdict in (
        (["quality.evaluation_set=0"], "measure-first"),
        (
            ["quality.prompt_only=0.9", "quality.target=0.8", "quality.evaluation_set=200"],
            "good-enough",
        ),
        (["task=code"], None),
    ):
        done = run("ask", *(part for word in words for part in ("--set", word)), "--json")
        assert (done.exit_code, json.loads(done.stdout)["verdict"]) == (0, verdict)


def test_a_setting_wins_over_the_file() -> None:
    done = run(
        "ask",
        "--answers",
        str(EXAMPLES[0]),
        "--set",
        "task=code",
        "--set",
        "task=reasoning",
        "--json",
    )
    assert json.loads(done.stdout)["case"]["task"] == "reasoning"


def test_no_answers_at_all_is_advice_too() -> None:
    assert run("ask", "--answers", "-", stdin="").exit_code == 0


def test_text_to_a_pipe_has_no_colour_and_a_fixed_width() -> None:
    wide = shell(
        "advisor ask --set task=code", COLUMNS="200", TERM="xterm-256color", FORCE_COLOR="1"
    )
    narrow = shell("advisor ask --set task=code", COLUMNS="40")
    assert wide.stdout == narrow.stdout
    assert "\x1b" not in wide.stdout
    assert max(map(len, wide.stdout.splitlines())) <= 100
    assert (
        max(map(len, run("ask", "--set", "task=code", "--width", "60").stdout.splitlines())) <= 60
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_output_encoding(encoding: str) -> None:
    done = subprocess.run(
        [ADVISOR, "ask", "--answers", "examples/support-bot.yaml", "--set", "name=日本"],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode(encoding)


# -- writing


def test_output_and_save_write_whole_files(tmp_path: Path) -> None:
    done = run(
        "ask",
        "--set",
        "task=code",
        "-o",
        str(tmp_path / "advice.md"),
        "--format",
        "markdown",
        "--save",
        str(tmp_path / "case.yaml"),
    )
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "advice.md").read_text().startswith("# ")
    assert load_case(tmp_path / "case.yaml") == Case({"task": "code"})
    done = run("ask", "--set", "task=code", "-o", str(tmp_path / "advice.txt"))
    assert done.stdout == ""
    assert "\x1b" not in (tmp_path / "advice.txt").read_text()
    assert (
        run("ask", "--set", "task=code", "-o", "-").stdout
        == run("ask", "--set", "task=code").stdout
    )


@pytest.mark.parametrize("option", ["--save", "-o"])
def test_existing_files_need_force(option: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("mine")
    failed(
        run("ask", "--set", "task=code", option, str(file)),
        f"error: {file}: the file exists already.\n  Add --force to replace it.\n",
    )
    assert file.read_text() == "mine"
    assert run("ask", "--set", "task=code", option, str(file), "--force").exit_code == 0
    assert file.read_text() != "mine"


@pytest.mark.parametrize(
    "command", [["explain"], ["evidence"], ["schema"], ["doctor"]], ids=" ".join
)
def test_every_result_can_go_to_a_file(command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "x"
    assert run(*command, "-o", str(file)).stdout == ""
    assert file.read_text()
    assert run(*command, "-o", str(file)).exit_code == 2


@pytest.mark.parametrize(("target", "said"), [
    ("nowhere/x.yaml", "the folder {} does not exist."),
    (".", "is a folder, not a file."),
    ("/proc/x.yaml", ""),
])  # fmt: skip
def test_targets_that_cannot_be_written(
    target: str, said: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for option in ("--save", "-o"):
        done = run("ask", "--set", "task=code", option, target)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {target}: ")
        assert said.format(tmp_path / "nowhere") in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "words", ["ask --set task=code", "ask --set task=code --json", "evidence", "--help", "doctor"]
)
def test_a_full_disk_behind_standard_output(words: str) -> None:
    done = shell(f"advisor {words} > /dev/full")
    assert done.returncode == 2
    if "--json" in words:
        assert (
            json.loads(done.stderr)["error"]["message"]
            == "standard output: No space left on device."
        )
    else:
        assert done.stderr == "error: standard output: No space left on device.\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_behind_a_file() -> None:
    for option in ("--save", "-o"):
        done = shell(f"advisor ask --set task=code {option} /dev/full --force")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: /dev/full: the disk is full; nothing was changed.\n"


def test_a_full_file_system(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        (tmp_path / "fill").write_bytes(b"x" * 4096)
        for option in ("--save", "-o"):
            done = run("ask", "--set", "task=code", option, str(tmp_path / "x.yaml"))
            failed(done, f"error: {tmp_path}/x.yaml: the disk is full; nothing was changed.\n")
        assert [path.name for path in tmp_path.iterdir()] == ["fill"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_reader_that_stops_early() -> None:
    for words in ("evidence", "--help", "ask --answers examples/support-bot.yaml --json"):
        done = shell(f"advisor {words} | true; echo ${{PIPESTATUS[0]}}")
        assert done.stdout == "0\n", words
        assert done.stderr == "", words


def test_closed_standard_output() -> None:
    done = shell("advisor ask --set task=code >&-")
    assert done.returncode == 2
    assert done.stderr == "error: standard output is closed.\n  -o FILE writes to a file.\n"


# -- the unexpected


def test_unexpected_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("advisor.schema.json_schema", explode)
    failed(
        run("schema"),
        "error: unexpected: ZeroDivisionError: boom\n"
        "  Run it again as `advisor --debug ...` and report what it prints.\n",
        3,
    )
    debugged = run("--debug", "schema")
    assert "Traceback" in debugged.stderr
    assert "in explode" in debugged.stderr
    assert debugged.exit_code == 3


def test_debug_shows_where_an_expected_error_came_from() -> None:
    done = run("--debug", "explain", "qlroa")
    assert "Traceback" in done.stderr
    assert "find_part" in done.stderr
    assert done.stderr.endswith("run `advisor explain` for the list of paths and questions\n")
    assert "Traceback" not in run("explain", "qlroa").stderr


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("advisor.schema.json_schema", interrupt)
    done = run("schema")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.strip() == "Interrupted."


# -- explain, evidence, schema, doctor


PARTS = [*flowchart().paths, *flowchart().nodes, *flowchart().rules]


@pytest.mark.parametrize("name", [part.id for part in PARTS] + ["measure-first", "good-enough"])
def test_everything_can_be_explained(name: str) -> None:
    text, data = run("explain", name), run("explain", name, "--json")
    assert (text.exit_code, data.exit_code) == (0, 0)
    found = json.loads(data.stdout)
    assert found["kind"] in ("path", "rule", "node")
    assert found[found["kind"]]
    assert text.stdout.strip()


def test_explain_lists_what_there_is() -> None:
    text, data = run("explain").stdout, json.loads(run("explain", "--json").stdout)
    for kind in ("paths", "nodes"):
        for row in data[kind]:
            assert row["id"] in text
    assert data["rules"] == [rule.id for rule in flowchart().rules]


def test_explain_a_case() -> None:
    file = str(ROOT / "examples" / "support-bot.yaml")
    rows = json.loads(run("explain", file, "--json").stdout)["rules"]
    assert [row["rule"] for row in rows] == [rule.id for rule in flowchart().rules]
    states = {row["rule"]: row for row in rows}
    assert states["changing-knowledge"]["state"] == "fired"
    assert states["no-evaluation-set"]["state"] == "no"
    assert states["changing-knowledge"]["text"][:20] in run("explain", file).stdout


def test_diagrams() -> None:
    whole = run("explain", "--diagram").stdout
    assert whole.startswith("flowchart LR\n")
    file = str(ROOT / "examples" / "support-bot.yaml")
    marked = run("explain", file, "--diagram").stdout
    assert marked.startswith("flowchart LR\n")
    assert marked != whole
    assert json.loads(run("explain", file, "--diagram", "--json").stdout)["mermaid"] == marked


def test_evidence_filters() -> None:
    rows = json.loads(run("evidence", "--json").stdout)["evidence"]
    assert [row["id"] for row in rows] == list(load_evidence())
    some = json.loads(run("evidence", "--kind", "measured", "--path", "rag", "--json").stdout)[
        "evidence"
    ]
    assert some
    assert {row["kind"] for row in some} == {"measured"}
    assert len(some) < len([row for row in rows if row["kind"] == "measured"])
    one = json.loads(run("evidence", rows[0]["id"], "--json").stdout)["evidence"]
    assert one == rows[:1]
    other = "paper" if rows[0]["kind"] != "paper" else "vendor"
    none = run("evidence", rows[0]["id"], "--kind", other)
    assert (none.exit_code, none.stdout, none.stderr) == (
        0,
        "",
        "No row of evidence is all of that.\n",
    )


def test_schema() -> None:
    assert json.loads(run("schema").stdout) == json_schema()
    assert run("schema", "--example").stdout == example_yaml()
    for file in EXAMPLES:
        jsonschema.validate(yaml.safe_load(file.read_text()), json_schema())


def test_doctor_json() -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert found["advisor"] == __version__
    assert {row["name"] for row in found["packages"]} >= {"click", "torch", "nbdev"}
