"""The question flow: the state machine, lines through pipes, arrow keys on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import answers, cases

from advisor.ask import plain_front_end, read_move
from advisor.case import Case, apply_sets, dump_case, load_case
from advisor.dialogue import (
    BACK,
    DRAFT_LINE,
    STOP,
    UNKNOWN,
    Dialogue,
    Interrupted,
    Move,
    apply,
    converse,
    is_draft,
    keep_draft,
    leaders,
    next_key,
    prompt,
    resume_text,
    sets_of,
)
from advisor.errors import AdvisorError, CaseError
from advisor.questions import questions
from advisor.sensitivity import live_keys

ADVISOR = [str(Path(sys.executable).with_name("advisor")), "ask"]
START = Dialogue(Case())


def raw_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@st.composite
def moves(draw, dialogue: Dialogue) -> Move:
    kind = draw(st.sampled_from(["answer"] * 6 + ["unknown", "unknown", "back"]))
    if kind != "answer":
        return Move(kind)
    value = draw(answers(questions()[dialogue.key or "task"], awkward_text=False))
    return UNKNOWN if value is None else Move("answer", raw_of(value))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_moves_never_raise_and_back_undoes(data) -> None:
    dialogue = START
    for _ in range(data.draw(st.integers(1, 25))):
        before, move = dialogue, data.draw(moves(dialogue))
        dialogue = apply(dialogue, move)
        if prompt(dialogue):
            assert leaders(dialogue).startswith("So far: ") == bool(dialogue.asked)
        if move.kind in ("answer", "unknown") and dialogue != before:
            assert apply(dialogue, BACK) == before
        assert len(set(dialogue.asked)) == len(dialogue.asked)
        assert set(dialogue.asked) == set(dialogue.case.answers)
        assert "name" not in dialogue.asked


@given(cases(awkward_text=False), st.data())
@settings(max_examples=25, deadline=None)
def test_it_always_ends_and_then_nothing_is_live(case: Case, data) -> None:
    def front_end(shown) -> Move:
        value = data.draw(answers(shown.question, awkward_text=False))
        return UNKNOWN if value is None else Move("answer", raw_of(value))

    end = converse(Dialogue(case), front_end)
    assert len(end.asked) <= len(questions())
    assert live_keys(end.case) == []
    assert prompt(end) is None
    assert apply(end, Move("answer", "x")) == end


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_only_questions_that_can_matter_are_asked(data) -> None:
    dialogue = START
    while (shown := prompt(dialogue)) is not None:
        assert shown.question.key in live_keys(dialogue.case)
        value = data.draw(answers(shown.question, awkward_text=False))
        dialogue = apply(dialogue, UNKNOWN if value is None else Move("answer", raw_of(value)))
    assert dialogue.asked[0] == "task"


@given(st.text(max_size=30), st.sampled_from(list(questions())))
def test_any_line_is_a_move_or_a_case_error(line: str, key: str) -> None:
    shown = prompt(START)
    assert shown is not None
    shown = type(shown)(questions()[key], "", "", False)
    try:
        move = read_move(shown, line)
    except CaseError:
        return
    if move.kind == "answer":
        questions()[key].parse(move.raw)


@pytest.mark.parametrize("key", [key for key, row in questions().items() if row.choices])
def test_numbers_and_words_mean_the_same(key: str) -> None:
    shown = type(prompt(START))(questions()[key], "", "", False)
    for number, value in enumerate(questions()[key].values, 1):
        assert (
            read_move(shown, str(number))
            == read_move(shown, value.upper())
            == Move("answer", value)
        )


def test_interruption_carries_the_answers() -> None:
    lines = iter(["code\n", "?\n", ""])
    with pytest.raises(Interrupted) as caught:
        converse(START, plain_front_end(lambda: next(lines), lambda _: None))
    assert list(caught.value.dialogue.case.answers.values()) == ["code", None]


def test_back_at_the_start_and_stop_change_nothing() -> None:
    assert apply(START, BACK) == START == apply(START, STOP)


@given(cases())
@settings(max_examples=50, deadline=None)
def test_sets_give_the_case_again(case: Case) -> None:
    import shlex

    words = shlex.split(sets_of(case))
    again = apply_sets(Case(), words[1::2])
    # A text that reads like "not known" or has spaces around it cannot be written as --set.
    same = {
        k: v
        for k, v in case.answers.items()
        if not isinstance(v, str) or v.lower() not in ("null", "~", "unknown")
    }
    assert {key: again.get(key) for key in same} == same


def test_drafts_never_replace_anything_else(tmp_path: Path) -> None:
    mine = tmp_path / "case.draft.yaml"
    mine.write_text("# mine\n")
    first = keep_draft(Case({"task": "code"}), str(tmp_path))
    assert os.path.basename(first) == "case.draft-2.yaml"
    assert mine.read_text() == "# mine\n"
    keep_draft(Case(), str(tmp_path), resumed=str(mine))
    assert mine.read_text() == "# mine\n"
    assert keep_draft(Case(), str(tmp_path), resumed=first) == first
    assert load_case(first) == Case()
    assert is_draft(first)
    assert not is_draft(str(mine))
    assert not is_draft(str(tmp_path))


def test_all_draft_names_taken_says_so(tmp_path: Path) -> None:
    for number in range(100):
        keep = f"case.draft-{number}.yaml" if number > 1 else "case.draft.yaml"
        (tmp_path / keep).write_text("x")
    with pytest.raises(AdvisorError, match="exists already"):
        keep_draft(Case({"task": "code"}), str(tmp_path))
    said = resume_text(Dialogue(Case({"task": "code"}), ("task",)), [], str(tmp_path))
    assert "--set task=code" in said


# -- plain lines, through pipes


def plain(lines: str, *words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ADVISOR, "--plain", *words], input=lines, capture_output=True, text=True, cwd=cwd,
        env={**os.environ, **env}, timeout=60, check=False,
    )  # fmt: skip


def test_plain_asks_on_stderr_and_advises_on_stdout(tmp_path: Path) -> None:
    done = plain("3\nhello\n400\n?\nb\nq\n", "--save", "bot.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "What should the model do?" in done.stderr
    assert "found 'hello'; allowed: a whole number of examples, 0 or more." in done.stderr
    assert "What should the model do?" not in done.stdout
    assert done.stdout.strip()
    case = load_case(tmp_path / "bot.yaml")
    assert dict(case.answers) == {"task": "question-answering", "data.labelled": 400}
    again = subprocess.run(
        [*ADVISOR, "--answers", "bot.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert again.stdout == done.stdout
    assert again.stderr == ""


def test_plain_to_the_very_end(tmp_path: Path) -> None:
    done = plain("?\n" * 40, cwd=tmp_path)
    assert done.returncode == 0
    assert "No other answer can change the advice." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_end_of_input_keeps_a_draft_and_resume_finishes(tmp_path: Path) -> None:
    done = plain("code\n", "--save", "out.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith(
        "Interrupted. Your answers are kept in case.draft.yaml\n"
        "Go on with: advisor ask --save out.yaml --plain --resume case.draft.yaml\n"
    )
    assert (tmp_path / "case.draft.yaml").read_text().startswith(DRAFT_LINE + "\n")
    done = plain("400\nq\n", "--save", "out.yaml", "--resume", "case.draft.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.yaml"]
    assert dict(load_case(tmp_path / "out.yaml").answers) == {"task": "code", "data.labelled": 400}


def test_a_draft_stays_when_nothing_was_saved(tmp_path: Path) -> None:
    draft = keep_draft(Case({"task": "code"}), str(tmp_path))
    assert plain("q\n", "--resume", draft, cwd=tmp_path).returncode == 0
    assert is_draft(draft)
    assert plain("q\n", "--resume", draft, "--save", draft, "--force", cwd=tmp_path).returncode == 0
    assert load_case(draft) == Case({"task": "code"})


def test_resume_of_a_case_file_never_removes_it(tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    file.write_text(dump_case(Case({"task": "code"})))
    assert plain("q\n", "--resume", "case.yaml", "--save", "new.yaml", cwd=tmp_path).returncode == 0
    assert file.exists()


def test_nothing_answered_leaves_nothing(tmp_path: Path) -> None:
    done = plain("", cwd=tmp_path)
    assert done.returncode == 130
    assert "nothing was written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_before_the_first_question(tmp_path: Path) -> None:
    (tmp_path / "bot.yaml").write_text("mine")
    for words in (["--save", "bot.yaml"], ["-o", "bot.yaml"]):
        done = plain("3\nq\n", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert (
            done.stderr
            == "error: bot.yaml: the file exists already.\n  Add --force to replace it.\n"
        )
    assert (tmp_path / "bot.yaml").read_text() == "mine"


# -- arrow keys, on a terminal

DOWN, ENTER, CTRL_C = "\x1b[B", "\r", "\x03"


def terminal(folder: Path, *words: str, command: str = "", **env: str) -> pexpect.spawn:
    line = command or " ".join([*ADVISOR, *words])
    return pexpect.spawn(
        "/bin/sh", ["-c", line], cwd=str(folder), dimensions=(24, 80), encoding="utf-8", timeout=30,
        env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **env},
    )  # fmt: skip


def finish(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus if child.exitstatus is not None else 128 + child.signalstatus


def answer(child: pexpect.spawn, wait_for: str, keys: str) -> None:
    child.expect_exact(wait_for)
    child.send(keys)


def test_arrow_keys(tmp_path: Path) -> None:
    child = terminal(tmp_path, command=f"{' '.join(ADVISOR)} --save bot.yaml > advice.txt")
    answer(child, "stop and advise", DOWN + DOWN + ENTER)
    answer(child, "q stop and advise)", "400" + ENTER)
    answer(child, "stop and advise", "d" + ENTER)
    answer(child, "stop and advise", "b" + ENTER)
    answer(child, "stop and advise", "3" + ENTER)
    answer(child, "stop and advise", "q" + ENTER)
    assert finish(child) == 0
    case = load_case(tmp_path / "bot.yaml")
    third = [key for key in case.answers if key not in ("task", "data.labelled")]
    assert (case.get("task"), case.get("data.labelled")) == ("question-answering", 400)
    assert [case.get(key) for key in third] == [questions()[third[0]].values[2]]
    advice = (tmp_path / "advice.txt").read_text()
    assert advice.strip()
    assert "stop and advise" not in advice
    assert "\x1b" not in advice


def test_back_is_closed_on_the_first_question(tmp_path: Path) -> None:
    child = terminal(tmp_path)
    answer(child, "back (this is the first question)", "q" + ENTER)
    assert finish(child) == 0


def test_ctrl_c_leaves_a_draft_and_resume_finishes(tmp_path: Path) -> None:
    child = terminal(tmp_path)
    answer(child, "stop and advise", "7" + ENTER)
    answer(child, "q stop and advise)", CTRL_C)
    child.expect_exact("Go on with: advisor ask --resume case.draft.yaml")
    assert finish(child) == 130
    assert dict(load_case(tmp_path / "case.draft.yaml").answers) == {"task": "code"}
    child = terminal(tmp_path, "--resume", "case.draft.yaml", "--save", "case.yaml")
    answer(child, "q stop and advise)", "5" + ENTER)
    answer(child, "stop and advise", "q" + ENTER)
    child.expect_exact("the draft case.draft.yaml was removed")
    assert finish(child) == 0
    assert dict(load_case(tmp_path / "case.yaml").answers) == {"task": "code", "data.labelled": 5}
    assert not (tmp_path / "case.draft.yaml").exists()


def test_a_wrong_answer_is_told_and_asked_again(tmp_path: Path) -> None:
    child = terminal(tmp_path)
    answer(child, "stop and advise", "7" + ENTER)
    answer(child, "q stop and advise)", "lots" + ENTER)
    child.expect_exact("allowed: a whole number of examples")
    child.send("\x15" + "q" + ENTER)
    assert finish(child) == 0


def test_no_color_means_none(tmp_path: Path) -> None:
    child = terminal(tmp_path, NO_COLOR="1")
    answer(child, "stop and advise", "q" + ENTER)
    child.expect(pexpect.EOF)
    assert "\x1b[3" not in (child.before or "")


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    child = terminal(tmp_path, TERM="dumb")
    answer(child, "Answer: ", "7\n")
    answer(child, "Answer: ", "q\n")
    assert finish(child) == 0
    assert "\x1b" not in (child.before or "")


def test_ctrl_c_at_a_plain_prompt(tmp_path: Path) -> None:
    child = terminal(tmp_path, "--plain")
    answer(child, "Answer: ", "7\n")
    answer(child, "Answer: ", CTRL_C)
    child.expect_exact("--resume case.draft.yaml")
    assert finish(child) == 130


def test_a_folder_without_permission_still_gives_the_answers(tmp_path: Path) -> None:
    done = plain("code\n", "--save", "/proc/case.yaml", cwd=tmp_path)
    assert done.returncode == 130
    assert "no draft was written: /proc/case.draft.yaml" in done.stderr
    assert "--set task=code" in done.stderr


def test_first_question_of_the_flow() -> None:
    assert next_key(Case()) == "task"
    assert next_key(Case({"task": "code"})) == prompt(Dialogue(Case({"task": "code"}))).question.key
