"""Streaming: every line is a row or handed over, in every format; files are whole or not there."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advisor.errors import AdvisorError
from cookbook.data.lines import BrokenLine
from cookbook.data.stream import batches, rows_of, stream
from cookbook.data.writing import rewrite, writing
from cookbook.row_files import read_rows

ROWS = [{"prompt": f"question {n}", "completion": f'an "answer", no {n}'} for n in range(1, 301)]


def json_lines(rows: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write(path: Path) -> Path:
    """The same rows in the format of the suffix."""
    import pandas

    if path.suffix == ".csv":
        pandas.DataFrame(ROWS).to_csv(path, index=False)
    elif path.suffix == ".tsv":
        pandas.DataFrame(ROWS).to_csv(path, index=False, sep="\t")
    elif path.suffix == ".parquet":
        pandas.DataFrame(ROWS).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(json_lines(ROWS)))
    elif path.suffix == ".jsonl":
        path.write_bytes(json_lines(ROWS))
    else:
        from datasets import Dataset

        Dataset.from_list(ROWS).save_to_disk(path)
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet", "a.json", "folder"]
)
def test_all_formats_give_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    told: list[tuple[int, int]] = []
    rows = list(rows_of(path, broken=None, progress=lambda *step: told.append(step)))
    assert [row.data for row in rows] == ROWS
    assert name == "a.json" or told[-1][0] == told[-1][1] > 0
    if path.suffix not in ("", ".gz"):
        assert [row.line for row in rows] == [row.line for row in read_rows(path)]


def test_several_sets_in_a_folder_are_named(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    parts = {"train": Dataset.from_list(ROWS[:3]), "test": Dataset.from_list(ROWS[3:5])}
    DatasetDict(parts).save_to_disk(tmp_path / "both")
    with pytest.raises(AdvisorError, match="train, test"):
        list(rows_of(tmp_path / "both", broken=None))
    assert len(list(rows_of(tmp_path / "both" / "test", broken=None))) == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(AdvisorError, match="not a folder that"):
        list(rows_of(tmp_path / "none", broken=None))


@pytest.mark.parametrize("seed", range(5))
def test_no_line_is_dropped_in_silence(tmp_path: Path, seed: int) -> None:
    """Lines damaged at random: each non-empty line is a row or a broken line, never neither."""
    rng = random.Random(seed)
    lines = json_lines(ROWS).splitlines(keepends=True)
    for place in rng.sample(range(len(lines)), 60):
        line = bytearray(lines[place])
        at = rng.randrange(len(line) - 1)
        line[at : at + rng.randint(0, 3)] = rng.choice([b"\xff", b"\0", b"{", b'"', b"", b"\\"])
        lines[place] = bytes(line).replace(b"\n", b"") + b"\n"
    data = b"".join(lines)[: -rng.randint(1, 5)]  # the last line is cut off too
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    broken: list[BrokenLine] = []
    good = [row.line for row in rows_of(path, broken=broken)]
    physical = data.split(b"\n")
    filled = [number for number, line in enumerate(physical, 1) if line.strip()]
    assert sorted([*good, *(line.line for line in broken)]) == filled
    for line in broken:
        assert line.raw.rstrip(b"\n") == physical[line.line - 1]
        assert line.why


def test_csv_with_a_quote_that_nobody_closed_loses_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    body = [f'{n},"text, {n}"' for n in range(1, 200)]
    body[50] = '51,"text'
    path.write_text("a,b\n" + "\n".join(body) + "\n", encoding="utf-8")
    broken: list[BrokenLine] = []
    good = [int(row.data["a"]) for row in rows_of(path, broken=broken)]
    assert [line.line for line in broken] == [52]
    assert good == [n for n in range(1, 200) if n != 51]


def test_mostly_broken_file_says_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"a,b\n" * 5000)
    seen: list[BrokenLine] = []
    with pytest.raises(AdvisorError, match="one JSON object a line was expected"):
        list(stream(path, broken=seen))
    assert len(seen) < 1000  # it does not read on to the end
    path.write_bytes(b'x\n{"a": 1}\n{"a": 2}\n')
    assert len(list(stream(path, broken=seen))) == 2


def test_batches_share_their_rows_once() -> None:
    some = list(batches(iter(range(10)), 4))  # type: ignore[arg-type]
    assert some == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]


KILLED = """
import json, sys
from cookbook.data.writing import writing
print("ready", flush=True)
for turn in range(1000):
    with writing(sys.argv[1], force=True) as out:
        for n in range(3000):
            out.write({"turn": turn, "n": n})
"""


def test_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    rng = random.Random(0)
    target = tmp_path / "out.jsonl"
    turns = set()
    for _ in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        end = time.monotonic() + 60
        while not target.exists() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        rows = [row.data for row in rows_of(target, broken=None)]
        assert [row["n"] for row in rows] == list(range(3000))
        assert len({row["turn"] for row in rows}) == 1
        turns.add(rows[0]["turn"])
    left = [path.name for path in tmp_path.iterdir() if path != target]
    assert all(name.endswith(".part") for name in left)  # never read, never in the way
    assert turns


def test_error_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_bytes(b'{"old": 1}\n')
    with pytest.raises(ZeroDivisionError), writing(target, force=True) as out:
        out.write({"new": 1 / 0})
    assert target.read_bytes() == b'{"old": 1}\n'
    with pytest.raises(AdvisorError, match="exists already"), writing(target):
        pass
    assert list(tmp_path.iterdir()) == [target]


def test_name_that_was_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"

    def race() -> None:
        with writing(target) as out:
            out.write({"mine": 1})
            target.write_bytes(b'{"theirs": 1}\n')

    with pytest.raises(AdvisorError, match="exists already"):
        race()
    assert target.read_bytes() == b'{"theirs": 1}\n'


def test_rewrite_keeps_the_bytes_of_untouched_rows(tmp_path: Path) -> None:
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_bytes(b'{"a":1}\r\n\n{ "a" : "\\u00e4" }\n{"a"\n{"a": 3}\n{"a": 4.0}')
    broken: list[BrokenLine] = []
    written = rewrite(source, target, drop=[5], change={6: {"a": 5}}, broken=broken)
    assert written == 3
    assert target.read_bytes() == b'{"a":1}\r\n{ "a" : "\\u00e4" }\n{"a": 5}\n'
    assert [line.line for line in broken] == [4]
    assert rewrite(write(tmp_path / "c.csv"), tmp_path / "c.jsonl", drop=[2]) == 299


def test_times_and_exact_numbers_of_parquet_survive(tmp_path: Path) -> None:
    """What JSON has no form for is written so that it can be read back."""
    from datetime import UTC, date, datetime
    from decimal import Decimal

    import pandas

    from cookbook.data.clean import clean_file

    at = [datetime(2026, 1, n, 12, 30, 0, 250_000, tzinfo=UTC) for n in range(1, 31)]
    table = pandas.DataFrame({
        "prompt": [f"What was decided at meeting number {n}?" for n in range(30)],
        "completion": [f"Point {n} was put off to week {n * 7 + 1}." for n in range(30)],
        "at": at, "day": [date(2026, 1, n) for n in range(1, 31)],
        "price": [Decimal(f"{n}.10") for n in range(30)],
    })  # fmt: skip
    table.to_parquet(tmp_path / "rows.parquet")
    kept = clean_file(
        tmp_path / "rows.parquet", tmp_path / "out.jsonl", remedies=["exact-duplicate", "empty"]
    ).kept
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert kept == len(rows) == 30
    assert [datetime.fromisoformat(row["at"]) for row in rows] == at
    assert [date.fromisoformat(row["day"]) for row in rows] == list(table["day"])
    assert [Decimal(row["price"]) for row in rows] == list(table["price"])
