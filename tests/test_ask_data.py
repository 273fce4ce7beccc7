"""`advisor ask --data FILE`: what is filled in, what wins, and every kind of file that is given."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from advisor import data_answers, data_look
from advisor.case import Case, dump_case, load_case
from advisor.cli import main
from advisor.data_answers import DataVerdict, fill_from, run_check
from advisor.data_look import look_at
from advisor.dialogue import DRAFT_LINE
from advisor.errors import AdvisorError

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Ask {n}?", "completion": f"Answer {n}, at length."} for n in range(count)]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def ask(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["ask", *words], input=stdin, prog_name="advisor")


@pytest.fixture(autouse=True)
def _no_cookbook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_answers, "check_program", lambda: None)


def program(path: Path, stdout: str, code: int = 0) -> str:
    """A stand-in for `cookbook` that prints this and keeps its arguments beside itself."""
    said, got = repr(stdout), repr(str(path) + ".words")
    path.write_text(
        f"#!{sys.executable}\nimport json, sys\nopen({got}, 'w').write(json.dumps(sys.argv[1:]))\n"
        f"sys.stdout.write({said})\nsys.exit({code})\n"
    )
    path.chmod(0o755)
    return str(path)


# -- what is filled in


def test_json_without_a_terminal(tmp_path: Path) -> None:
    done = ask("--data", jsonl(tmp_path / "t.jsonl", rows_of(60)), "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["case"]["data"] == {"labelled": 60, "quality": "raw"}
    assert [each["key"] for each in found["looked"]["filled"]] == ["data.labelled", "data.quality"]
    assert "looked" not in json.loads(ask("--set", "task=code", "--json").stdout)


def test_text_says_what_was_filled_on_standard_error(tmp_path: Path) -> None:
    done = ask("--data", jsonl(tmp_path / "t.jsonl", rows_of(60)))
    assert done.exit_code == 0
    assert "data.labelled: 60 (rows with a question and an answer, of 60 rows)" in done.stderr
    assert "data.quality: raw (not checked: the cookbook is not installed)" in done.stderr
    assert "Looked at" not in done.stdout


def test_answers_and_sets_win_and_the_conflict_is_said(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", rows_of(60))
    (tmp_path / "case.yaml").write_text(dump_case(Case({"task": "code", "data.labelled": 7})))
    for words in (["--answers", str(tmp_path / "case.yaml")], ["--set", "data.labelled=7"]):
        done = ask("--data", file, *words, "--json")
        found = json.loads(done.stdout)
        assert found["case"]["data"]["labelled"] == 7
        assert found["looked"]["kept"] == [{
            "key": "data.labelled", "given": 7, "found": 60,
            "why": "rows with a question and an answer, of 60 rows",
        }]  # fmt: skip
        assert "stays 7, as you said; the data say 60" in ask("--data", file, *words).stderr


def test_a_not_known_answer_is_filled(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", rows_of(60))
    found = json.loads(ask("--data", file, "--set", "data.labelled=unknown", "--json").stdout)
    assert found["case"]["data"]["labelled"] == 60
    assert found["looked"]["kept"] == []


def test_several_files_count_together(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", rows_of(30))
    second = jsonl(tmp_path / "b.jsonl", [*rows_of(5), *[PAIR] * 4])
    (tmp_path / "c.txt").write_text("x" * 4000)
    found = fill_from(Case(), [first, second, str(tmp_path / "c.txt"), first])
    assert found.case.get("data.labelled") == 35
    assert found.case.get("data.preference_pairs") == 4
    assert found.case.get("data.unlabelled_tokens") == 1000


def test_a_draft_is_filled_and_asked_on(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", rows_of(60))
    draft = tmp_path / "case.draft.yaml"
    draft.write_text(f"{DRAFT_LINE}\n{dump_case(Case({'task': 'extraction'}))}")
    quiet = json.loads(ask("--resume", str(draft), "--data", file, "--json").stdout)
    assert quiet["case"]["task"] == "extraction"
    assert quiet["case"]["data"]["labelled"] == 60
    save = str(tmp_path / "case.yaml")
    done = ask("--resume", str(draft), "--data", file, "--plain", "--save", save, stdin="?\nq\n")
    assert done.exit_code == 0, done.output
    assert load_case(save).get("data.labelled") == 60
    assert not draft.exists()


def test_a_person_is_not_asked_what_a_file_tells(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", rows_of(60))
    done = ask("--data", file, "--plain", stdin="classification\n" + "?\n" * 40)
    assert "Question 1" in done.stderr
    assert "How many examples of input and wanted output" not in done.stderr
    asked = ask("--plain", stdin="classification\n" + "?\n" * 40)
    assert "How many examples of input and wanted output" in asked.stderr


# -- the check


def test_a_clean_check_makes_data_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.dumps({"rows": 60, "findings": [], "verdict": "clean"})
    fake = program(tmp_path / "cookbook", report)
    monkeypatch.setattr(data_answers, "check_program", lambda: fake)
    file = jsonl(tmp_path / "t.jsonl", rows_of(60))
    assert json.loads(ask("--data", file, "--json").stdout)["case"]["data"]["quality"] == "checked"
    words = json.loads((tmp_path / "cookbook.words").read_text())
    assert words == ["data", "check", "--json", "--", file]


def test_findings_become_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = {"kind": "label-conflict", "lines": [1, 2], "count": 2, "why": "Same question.",
               "remedy": "Keep one."}  # fmt: skip
    report = json.dumps({"rows": 60, "findings": [finding], "verdict": "wasted"})
    fake = program(tmp_path / "cookbook", report, code=1)
    monkeypatch.setattr(data_answers, "check_program", lambda: fake)
    file = jsonl(tmp_path / "t.jsonl", rows_of(60))
    found = json.loads(ask("--data", file, "--set", "data.quality=checked", "--json").stdout)
    assert found["looked"]["kept"][0]["key"] == "data.quality"
    told = [each for each in found["warnings"] if each["rule"] == "data-check"]
    assert told[0]["text"] == "2 x label-conflict: Same question. Keep one."
    assert "2 x label-conflict: Same question. Keep one." in ask("--data", file).stdout


@pytest.mark.parametrize("said", ["", "not JSON", "[]", '{"verdict": "fine", "findings": []}'])
def test_a_check_that_fails_leaves_data_raw(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = program(tmp_path / "cookbook", said, code=2)
    monkeypatch.setattr(data_answers, "check_program", lambda: fake)
    found = run_check(jsonl(tmp_path / "t.jsonl", rows_of(3)))
    assert found.verdict == ""
    assert found.why.startswith("not checked: the check gave no verdict")


def test_a_large_file_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_answers, "CHECK_BYTES", 100)
    found = run_check(jsonl(tmp_path / "t.jsonl", rows_of(60)))
    assert found == DataVerdict("", found.why)
    assert "--data report.json" in found.why


def test_a_report_instead_of_data(tmp_path: Path) -> None:
    report = {"rows": 60, "findings": [], "verdict": "clean", "file": "t.jsonl"}
    (tmp_path / "report.json").write_text(json.dumps(report))
    name = str(tmp_path / "report.json")
    gone = fill_from(Case(), [name])  # its rows are not there any more, and it does not say which
    assert dict(gone.case.answers) == {"data.quality": "checked"}
    jsonl(tmp_path / "t.jsonl", [*rows_of(50), {"prompt": "x", "completion": ""}])
    beside = fill_from(Case(), [name])
    assert dict(beside.case.answers) == {"data.labelled": 50, "data.quality": "checked"}
    (tmp_path / "report.json").write_text(json.dumps({"verdict": "clean"}))
    with pytest.raises(AdvisorError, match="not a report"):
        fill_from(Case(), [name])


# -- files


def test_large_files_are_sampled_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_look, "WHOLE_BYTES", 100_000)
    monkeypatch.setattr(data_look, "HEAD_BYTES", 100_000)
    monkeypatch.setattr(data_look, "BLOCK_BYTES", 4_000)
    draw = random.Random(0)
    rows = [{"question": "w" * draw.randint(1, 99), "answer": "" if n % 4 == 0 else "yes or no"}
            for n in range(20_000)]  # fmt: skip
    exact = 15_000
    jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    lines = ["question,answer", *(f"{row['question']},{row['answer']}" for row in rows)]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    for name in ("a.jsonl", "b.json", "c.csv"):
        found = look_at(str(tmp_path / name))
        assert found.estimated
        assert abs(found.count("labelled") / exact - 1) < 0.05, (name, found)
        assert abs(found.rows / 20_000 - 1) < 0.05, (name, found)
    filled = fill_from(Case(), [str(tmp_path / "a.jsonl")], lambda _path: None)
    assert "estimated from" in filled.text()


def test_lines_longer_than_a_block_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_look, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(data_look, "BLOCK_BYTES", 1000)
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "x" * 9000, "completion": "y"}] * 9)
    with pytest.raises(AdvisorError, match="lines of more than"):
        look_at(file)


WRONG = {
    "missing.jsonl": (None, "no such file"),
    "empty.csv": (b"", "the file is empty"),
    "utf16.jsonl": ('{"text": "a"}'.encode("utf-16"), "only UTF-8"),
    "table.xlsx": (b"PK", "is not known"),
    "prose.jsonl": (b"Dear all,\nthis is no JSON.\n", "2 of 2 rows can't be read"),
    "header.csv": (b"prompt,completion\n", "0 of 0 rows"),
    "list.json": (b'[{"text": "a"},\n {"text": ]', "not JSON"),
    "numbers.jsonl": (b"1\n2\n", "2 of 2 rows can't be read"),
    "broken.parquet": (b"PAR1xxxxPAR1", "not readable Parquet"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_told(name: str, tmp_path: Path) -> None:
    data, said = WRONG[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    done = ask("--data", str(tmp_path / name), "--json")
    assert done.exit_code == 2
    assert said in json.loads(done.stderr)["error"]["message"]
    assert done.stdout == ""


def test_parquet_with_and_without_pyarrow(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    file = str(tmp_path / "t.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows_of(60)), file)
    assert look_at(file).count("labelled") == 60
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        f"from advisor.cli import main; main(['ask', '--data', {file!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 2
    assert "reading Parquet needs pyarrow" in done.stderr
    assert "pip install pyarrow" in done.stderr


def test_looking_loads_nothing_heavy(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", rows_of(60))
    script = (
        "import sys\nfrom advisor import data_answers\n"
        "data_answers.check_program = lambda: None\nfrom advisor.cli import main\n"
        f"try:\n    main(['ask', '--data', {file!r}, '--json'])\nexcept SystemExit: pass\n"
        "print('|'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True)  # fmt: skip
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split("|")}
    assert not loaded & {"torch", "numpy", "pyarrow", "cookbook", "transformers", "rich"}
