"""Checking and cleaning of data: odd files, every format, exit codes, kills at any moment."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from advisor.errors import AdvisorError
from cookbook.data import KINDS
from cookbook.data.cli import data_group

for package in ("sklearn", "faiss", "rensa", "ftfy"):
    pytest.importorskip(package)

XRAY = Path(__file__).parent / "data" / "xray"
TEXT = (
    "river shop letter garden winter bread silver music corner window teacher morning village "
    "copper lantern harbour feather bottle mountain picture ticket kitchen pocket engine"
)
WORDS = TEXT.split()


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words)).capitalize() + "."


def some_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [{"prompt": f"What of {text(draw, 9)}", "completion": text(draw, 14)}
            for _ in range(count)]  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(data_group, [str(word) for word in words])


def code(result: Result) -> int:
    return getattr(result.exception, "exit_code", getattr(result.exception, "code", 0)) or 0


def checked(*words: str | Path) -> tuple[dict[str, Any], int]:
    result = run("check", *words, "--json")
    assert result.stdout, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found, result.exit_code


def lines_of(found: Mapping[str, Any], kind: str) -> set[int]:
    return {line for each in found["findings"] if each["kind"] == kind for line in each["lines"]}


# The report


def test_planted_faults_are_found_by_line(tmp_path: Path) -> None:
    rows: list[Any] = some_rows(400)
    held = some_rows(30, seed=9)
    rows[10] = rows[3]
    rows[20] = {**rows[20], "completion": "  "}
    rows[30] = {**rows[30], "completion": "The cafÃ© by the harbour is open until late."}
    rows[40] = "{ not JSON"
    rows[50] = held[4]
    rows[60] = {**rows[60], "completion": rows[5]["completion"].replace("a", "the ") * 90}
    rows[70] = {"prompt": rows[6]["prompt"], "completion": "Nothing of that sort, ever, my friend."}
    found, exit_code = checked(
        write(tmp_path / "train.jsonl", rows), "--against", write(tmp_path / "eval.jsonl", held)
    )
    assert exit_code == 1
    assert found["verdict"] == "wasted"
    assert found["rows"] == 399
    wanted = {"exact-duplicate": 11, "empty": 21, "mojibake": 31, "broken-line": 41,
              "contamination": 51, "length-outlier": 61, "label-conflict": 71}  # fmt: skip
    assert {kind: line in lines_of(found, kind) for kind, line in wanted.items()} == dict.fromkeys(
        wanted, True
    )
    for each in found["findings"]:
        assert list(each) == ["kind", "lines", "count", "why", "remedy"]
        assert each["kind"] in KINDS
        assert each["why"]
        assert each["remedy"]
        assert all(isinstance(line, int) and line >= 1 for line in each["lines"])
    assert lines_of(found, "contamination") == {51}
    assert lines_of(found, "broken-line") == {41}


def test_clean_rows_give_nothing(tmp_path: Path) -> None:
    """What a table or a sample says of good rows is no finding."""
    found, exit_code = checked(write(tmp_path / "good.jsonl", some_rows(300)))
    assert (found["verdict"], found["findings"], exit_code) == ("clean", [], 0)


def test_long_lists_of_lines_go_to_a_file(tmp_path: Path) -> None:
    rows = some_rows(40) * 30
    file = write(tmp_path / "many.jsonl", rows)
    found, _ = checked(file, "--lines", tmp_path / "lists")
    first = next(each for each in found["findings"] if each["kind"] == "exact-duplicate")
    assert first["count"] == 1160
    assert first["lines"] == first["lines_file"]
    assert [int(n) for n in Path(first["lines_file"]).read_text().split()] == [*range(41, 1201)]
    told, _ = checked(file)
    elsewhere = next(Path(e["lines_file"]) for e in told["findings"] if "lines_file" in e)
    assert elsewhere.exists()
    assert tmp_path not in elsewhere.parents
    assert found["verdict"] == "wasted"  # more than half of the rows are copies


def test_grave_counts_rows_of_a_kind(tmp_path: Path) -> None:
    few = [*some_rows(197), "x", "{", "["]
    found, exit_code = checked(write(tmp_path / "some.jsonl", few))
    assert (lines_of(found, "broken-line"), exit_code) == ({198, 199, 200}, 1)
    found, exit_code = checked(write(tmp_path / "fewer.jsonl", [*some_rows(198), "{", ""]))
    assert (lines_of(found, "broken-line"), exit_code) == ({199}, 0)


# Odd files


def as_csv(path: Path, rows: Sequence[Mapping[str, str]], mark: str = "") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        stream.write(mark)
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_one_row(tmp_path: Path) -> None:
    for page in ((), ("-o", tmp_path / "page.html")):
        result = run("check", write(tmp_path / "one.jsonl", some_rows(1)), *page)
        assert code(result) == 0, result.exception


def test_all_rows_the_same(tmp_path: Path) -> None:
    file = write(tmp_path / "same.jsonl", some_rows(1) * 300)
    found, exit_code = checked(file)
    assert len(lines_of(found, "exact-duplicate")) == 299
    assert (found["verdict"], exit_code) == ("wasted", 1)
    assert code(run("check", file, "-o", tmp_path / "page.html")) == 1
    assert run("clean", file, "-o", tmp_path / "clean.jsonl").exit_code == 0
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_with_and_without_a_byte_order_mark(mark: str, tmp_path: Path) -> None:
    rows = some_rows(30)
    rows[9] = {"prompt": 'A "quoted", long\nquestion?', "completion": "Yes, it is."}
    rows[19] = rows[9]
    found, _ = checked(as_csv(tmp_path / "rows.csv", rows, mark))
    assert found["rows"] == 30
    assert lines_of(found, "exact-duplicate") == {22}  # one record before it has two lines


def test_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = some_rows(50)
    rows[7] = rows[2]
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    found, _ = checked(tmp_path / "rows.parquet")
    assert lines_of(found, "exact-duplicate") == {8}
    assert run("clean", tmp_path / "rows.parquet", "-o", tmp_path / "out.jsonl").exit_code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[7]) == rows[8]


STRANGE = [
    ("Wo wird Tee verkauft? Größe ß €", "Im Laden am Fluß, für 3 €."),
    ("お茶はどこで売っていますか。", "川のそばの店です。"),
    ("أين يباع الشاي؟", "في المتجر قرب النهر."),
    ("चाय कहाँ बिकती है?", "नदी के पास की दुकान में।"),
    ("Where is tea sold? 🫖", "🏪 by the 🌊! 👩‍👩‍👧‍👦"),
    ("Где продают чай?", "Пойдите на рынок."),
]


def test_other_languages_and_emoji_are_no_faults(tmp_path: Path) -> None:
    rows = [{"prompt": asked, "completion": said} for asked, said in STRANGE]
    found, exit_code = checked(write(tmp_path / "strange.jsonl", rows))
    assert {each["kind"] for each in found["findings"]} <= {"inconsistent-format"}
    assert exit_code == 0
    page = tmp_path / "page.html"
    assert code(run("check", tmp_path / "strange.jsonl", "-o", page)) == 0
    assert "🫖" in page.read_text(encoding="utf-8") or not found["findings"]
    assert run("clean", tmp_path / "strange.jsonl", "-o", tmp_path / "c.jsonl").exit_code == 0
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "strange.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["empty.jsonl", "blank.jsonl", "none.jsonl", "rows.txt", "x.csv"])
def test_files_without_rows_are_bad_input(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name != "none.jsonl":
        file.write_text({"blank.jsonl": "\n\n", "x.csv": "prompt,completion\n"}.get(name, ""))
    for command in (("check", file), ("clean", file, "-o", tmp_path / "out.jsonl")):
        result = run(*command)
        assert isinstance(result.exception, AdvisorError), command
        assert result.exception.exit_code == 2
    assert not (tmp_path / "out.jsonl").exists()


def test_broken_files_of_xray_never_crash() -> None:
    for file in sorted(XRAY.iterdir()):
        result = run("check", file, "--json")
        bad = isinstance(result.exception, AdvisorError)
        assert bad or result.exit_code in (0, 1), (file.name, result.exception)
        if bad:
            assert result.exception.exit_code == 2  # type: ignore[union-attr]
            assert file.name in result.exception.message  # type: ignore[union-attr]


# The page


def test_page_needs_nothing_and_shows_rows(tmp_path: Path) -> None:
    rows: list[Any] = some_rows(120)
    rows[4] = {"prompt": "<script>alert(1)</script>", "completion": ""}
    rows[5] = {"prompt": "x", "completion": "y", "policy": "harm", "use_case": "chat"}
    rows[6] = {"prompt": "z", "completion": "w", "policy": "fraud", "use_case": "search"}
    file = write(tmp_path / "train.jsonl", rows)
    run("check", file, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"(?:src|href)=|url\(|@import", page)
    assert 'class="none">none' in page  # an empty cell of policy by use case
    assert page.count("<circle") >= 120
    assert f"{tmp_path}" not in page


@pytest.mark.browser
def test_page_has_no_sideways_scroll_on_a_phone(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    rows: list[Any] = some_rows(60)
    rows[3] = {"prompt": "w" * 500, "completion": ""}
    for n in range(12):
        rows[10 + n] |= {"policy": f"a policy of number {n}", "use_case": f"longusecase{n}"}
    run("check", write(tmp_path / "t.jsonl", rows), "-o", tmp_path / "page.html")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for width in (360, 1200):
            view = browser.new_page(viewport={"width": width, "height": 800})
            view.goto((tmp_path / "page.html").as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()


# Cleaning


def dirty(count: int = 600) -> list[Any]:
    draw = random.Random(3)
    rows: list[Any] = some_rows(count, seed=4)
    for place in range(0, count, 20):
        rows[place + 1] = dict(rows[place])
        rows[place + 3] = {**rows[place + 3], "completion": ""}
        rows[place + 5] = {**rows[place + 5], "completion": "The cafÃ© by the harbour is open."}
        words = rows[place + 7]["completion"].split()
        words[draw.randrange(len(words) - 1)] = "stone"
        rows[place + 8] = {"prompt": rows[place + 7]["prompt"], "completion": " ".join(words)}
        rows[place + 11] = '{"prompt": "broken'
    return rows


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_cleaning_twice_changes_nothing_more(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", dirty())
    before = source.read_bytes()
    first = run("clean", source, "-o", tmp_path / "one.jsonl", "--json")
    second = run("clean", tmp_path / "one.jsonl", "-o", tmp_path / "two.jsonl", "--json")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    done, again = json.loads(first.stdout), json.loads(second.stdout)
    assert (again["removed"], again["repaired"]) == ({}, {})
    assert source.read_bytes() == before
    assert done["removed"]["broken-line"] == 30
    assert done["removed"]["empty"] == 30
    assert done["removed"]["exact-duplicate"] >= 30
    assert done["rows"] == 600 == done["kept"] + sum(done["removed"].values())


def test_every_line_is_kept_or_removed_with_a_reason(tmp_path: Path) -> None:
    rows = dirty()
    run("clean", write(tmp_path / "raw.jsonl", rows), "-o", tmp_path / "good.jsonl")
    gone = [json.loads(line) for line in (tmp_path / "good.removed.jsonl").open()]
    told = json.loads((tmp_path / "good.decisions.json").read_text())
    kept = (tmp_path / "good.jsonl").read_text().splitlines()
    lines = {each["line"] for each in gone}
    assert len(lines) == len(gone)
    assert all(each["why"] and each["kind"] in KINDS for each in gone)
    for each in gone:
        raw = rows[each["line"] - 1]
        assert each.get("row", each.get("text")) == raw
        assert each.get("kept", 1) not in lines, "a copy points to a row that is there"
    changed = {each["line"] for each in told["repaired_lines"]}
    left = [n for n in range(1, 601) if n not in lines]
    assert len(left) == len(kept)
    for line, out in zip(left, kept, strict=True):
        same = json.dumps(rows[line - 1], ensure_ascii=False) == out
        assert same == (line not in changed)


@pytest.mark.parametrize("kind", ["exact-duplicate", "near-duplicate", "empty", "mojibake"])
def test_each_remedy_can_be_left_out(kind: str, tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", dirty())
    out = run("clean", source, "-o", tmp_path / "good.jsonl", "--json", "--keep", kind)
    done = json.loads(out.stdout)
    assert kind not in {**done["removed"], **done["repaired"]}
    others = {"exact-duplicate", "empty", "mojibake"} - {kind}
    assert others <= {**done["removed"], **done["repaired"]}.keys()


def test_contrasts_and_conflicts_stay(tmp_path: Path) -> None:
    """Rows that differ in little but have another answer are no copies to clean away."""
    long = "please send the twelve copper lanterns for the winter garden to the corner shop by the"
    rows = [
        {"prompt": f"{long} river today", "completion": "smith"},
        {"prompt": f"{long} river soon", "completion": "clerk"},
        {"prompt": f"{long} river now", "completion": "smith"},
        *some_rows(30),
        {"prompt": "Is the harbour open in winter?", "completion": "yes"},
        {"prompt": "Is the harbour open in winter?", "completion": "no"},
    ]
    run("clean", write(tmp_path / "raw.jsonl", rows), "-o", tmp_path / "good.jsonl")
    gone = [json.loads(line)["line"] for line in (tmp_path / "good.removed.jsonl").open()]
    assert gone == [3]


def test_a_copy_of_a_removed_row_takes_its_place() -> None:
    from cookbook.data.clean import Taken, _copies  # the rule alone, without a finder

    near = SimpleNamespace(groups={4: 4, 10: 4, 12: 4})
    found = _copies("near-duplicate", near, {4: Taken("empty", "")}, {})
    assert {line: each.kept for line, each in found.items()} == {12: 10}


def test_output_must_not_be_the_input(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", dirty(40))
    link = tmp_path / "link.jsonl"
    link.symlink_to(source)
    before = source.read_bytes()
    for name in ("raw.jsonl", "link.jsonl"):
        result = run("clean", source, "-o", tmp_path / name, "--force")
        assert code(result) == 2, name
    aside = write(tmp_path / "good.removed.jsonl", dirty(40))
    assert code(run("clean", aside, "-o", tmp_path / "good.jsonl")) == 2
    assert source.read_bytes() == before == aside.read_bytes()


def test_nothing_left_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "raw.jsonl", [{"prompt": f"q {n}", "completion": ""} for n in range(9)])
    result = run("clean", file, "-o", tmp_path / "good.jsonl")
    assert "no row would be left" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir() if "good.jsonl" in path.name] == []


# Faults


def start(*words: str | Path) -> subprocess.Popen[bytes]:
    code_ = "from cookbook.cli import main; main()"
    call = [sys.executable, "-c", code_, "data", *(str(word) for word in words)]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_at_any_moment_output_is_whole_or_absent(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", dirty(4000))
    whole = tmp_path / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert start("clean", source, "-o", whole / "good.jsonl").wait() == 0
    took = time.monotonic() - began
    wanted = {name: data for name, data in digests(whole).items() if "decisions" not in name}
    folder = tmp_path / "out"
    folder.mkdir()
    draw, killed = random.Random(6), 0
    for _ in range(12):
        process = start("clean", source, "-o", folder / "good.jsonl", "--force")
        time.sleep(took * draw.uniform(0.3, 1.0))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        found = digests(folder)
        for name, data in found.items():
            assert name.endswith(".part") or "decisions" in name or data == wanted[name], name
        if "good.jsonl" in found:
            assert {"good.removed.jsonl", "good.decisions.json"} <= found.keys()
    assert killed >= 6
    assert start("clean", source, "-o", folder / "good.jsonl", "--force").wait() == 0
    found = digests(folder)
    assert {name: data for name, data in found.items() if "decisions" not in name} == wanted
    assert source.exists()


@pytest.mark.slow
def test_killed_split_leaves_the_old_parts_or_none(tmp_path: Path) -> None:
    """Ten random moments: the folder is absent or complete, broken lines in their file."""
    source = write(tmp_path / "raw.jsonl", dirty(4000))
    began = time.monotonic()
    assert start("split", source, "-o", tmp_path / "whole").wait() == 0
    took, wanted = time.monotonic() - began, digests(tmp_path / "whole")
    assert "broken.txt" in wanted
    wanted.pop("split.json")  # names its folder
    draw, killed = random.Random(7), 0
    for turn in range(10):
        folder = tmp_path / f"out-{turn}"
        process = start("split", source, "-o", folder)
        time.sleep(took * draw.uniform(0.3, 1.0))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if folder.exists():
            found = digests(folder)
            assert found.pop("split.json")
            assert found == wanted
        assert start("split", source, "-o", folder, "--force").wait() == 0
        found = digests(folder)
        assert found.pop("split.json")
        assert found == wanted
    assert killed >= 5


def test_killed_between_the_files_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each renaming in turn: the kept rows never stand without the others."""
    source = write(tmp_path / "raw.jsonl", dirty(60))
    from cookbook.data import clean

    for stop in range(1, 4):
        folder = tmp_path / f"stop-{stop}"
        folder.mkdir()
        done = 0

        def counted(call: Callable[..., Any], stop: int = stop) -> Callable[..., Any]:
            def step(*words: Any, **more: Any) -> Any:
                nonlocal done
                done += 1
                if done == stop:
                    raise KeyboardInterrupt
                return call(*words, **more)

            return step

        with monkeypatch.context() as patch:
            for name in ("link", "replace"):
                patch.setattr(os, name, counted(getattr(os, name)))
            with pytest.raises(KeyboardInterrupt):
                clean.clean_file(source, folder / "good.jsonl")
        assert not (folder / "good.jsonl").exists()
        assert clean.clean_file(source, folder / "good.jsonl").kept > 0


def test_parts_of_dead_runs_are_swept_and_of_living_ones_not(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", dirty(40))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        f"good.jsonl.{ended.pid}-0a1b2c3d.part": False,
        f"good.removed.jsonl.{ended.pid}-0a1b2c3d.part": False,
        f"good.jsonl.{os.getpid()}-0a1b2c3d.part": True,
        "good-notes.part": True,
        f"other.jsonl.{ended.pid}-0a1b2c3d.part": True,
    }
    for name in names:
        (tmp_path / name).write_text("x")
    run("clean", source, "-o", tmp_path / "good.jsonl")
    assert {name: (tmp_path / name).exists() for name in names} == names


# Splitting and audit


def test_split_shares_nothing_and_an_audit_sees_a_leak(tmp_path: Path) -> None:
    rows = dirty(400)
    source = write(tmp_path / "raw.jsonl", rows)
    split = run("split", source, "-o", tmp_path / "parts", "--json")
    told = json.loads(split.stdout)
    assert sum(told["rows"].values()) + told["broken"] == 400
    assert told["broken"] == 20
    audit = run("audit", tmp_path / "parts", "--json")
    assert (json.loads(audit.stdout)["leaks"], audit.exit_code) == ([], 0)
    test = tmp_path / "parts" / "test.jsonl"
    stolen = json.loads((tmp_path / "parts" / "train.jsonl").read_text().splitlines()[4])
    with test.open("a") as stream:
        stream.write(json.dumps({**stolen, "prompt": stolen["prompt"].upper()}) + "\n")
    leaky = run("audit", tmp_path / "parts", "--json")
    (leak,) = [each for each in json.loads(leaky.stdout)["leaks"] if "test" in each["other"]]
    assert (leaky.exit_code, 5 in leak["lines"]) == (1, True)
    assert leak["other_lines"][-1] == len(test.read_text().splitlines())


def test_a_group_stays_in_one_part(tmp_path: Path) -> None:
    rows = [{**row, "person": f"p{n % 40}"} for n, row in enumerate(some_rows(400))]
    source = write(tmp_path / "rows.jsonl", rows)
    assert code(run("split", source, "-o", tmp_path / "parts", "--group", "person")) == 0
    people = [
        {json.loads(line)["person"] for line in (tmp_path / "parts" / f"{name}.jsonl").open()}
        for name in ("train", "validation", "test")
    ]
    assert sum(map(len, people)) == 40 == len(set.union(*people))


def test_split_of_a_folder_that_exists_needs_force(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", some_rows(100))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "notes.md").write_text("mine")
    assert code(run("split", source, "-o", tmp_path / "parts")) == 2
    assert code(run("split", source, "-o", tmp_path / "parts", "--force")) == 0
    assert (tmp_path / "parts" / "notes.md").read_text() == "mine"
    assert (tmp_path / "parts" / "train.jsonl").exists()


# The commands


def test_examples_of_the_help_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = some_rows(90)
    write(Path("train.jsonl"), rows)
    write(Path("eval.jsonl"), some_rows(20, seed=5))
    ran = 0
    for name in ("check", "clean", "split", "audit"):
        text_ = run(name, "--help").stdout
        assert "Examples:\n" in text_, name
        for line in text_.split("Examples:\n")[1].split("\n\n")[0].splitlines():
            words = shlex.split(line)
            assert words[:3] == ["cookbook", "data", name]
            result = run(*words[2:])
            assert code(result) == 0, (line, result.exception)
            ran += 1
    assert ran >= 7


def test_help_stays_light() -> None:
    code_ = (
        "import sys\nfrom cookbook.cli import main\n"
        "heavy = {'numpy', 'torch', 'sklearn', 'pandas', 'faiss', 'rensa'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code_], check=True)
