"""Every row of advisor/data/evidence.csv, and the strictness of its reader."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.errors import AdvisorError
from advisor.evidence import COLUMNS, KINDS, SURE, Evidence, find_evidence, load_evidence

ROOT = Path(__file__).parents[1]
FILE = ROOT / "advisor" / "data" / "evidence.csv"
CASES = Path(__file__).parent / "data" / "published-cases.json"
ROWS = load_evidence()

each_row = pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))


@each_row
def test_row(row: Evidence) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", row.id)
    assert row.kind in KINDS
    assert row.sure in SURE
    assert re.fullmatch(r"https://[^\s/]+\.[^\s]+", row.url)
    assert 1990 <= row.year <= 2026
    assert 20 <= len(row.claim) <= 160
    assert row.claim.endswith(".")
    assert len(row.conditions) <= 140
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.group)


@each_row
def test_text_is_clean(row: Evidence) -> None:
    for value in row.to_dict().values():
        text = str(value)
        assert text == text.strip()
        assert text.isprintable()
        assert "  " not in text


@each_row
def test_an_arxiv_year_is_not_before_the_paper(row: Evidence) -> None:
    number = re.search(r"arxiv\.org/abs/(\d\d)\d\d\.\d{4,5}$", row.url)
    if "arxiv.org" in row.url:
        assert number, row.url
        assert row.year >= 2000 + int(number[1])


@each_row
def test_contradictions_name_rows(row: Evidence) -> None:
    # Word by word, so that a list written with anything but ", " cannot slip through unread.
    for named in re.findall(r"contradicts ([^;.]+)", row.note):
        others = re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+", named)
        assert others, row.note
        for other in others:
            assert other in ROWS
            assert other != row.id


@each_row
def test_unconfirmed_rows_say_so(row: Evidence) -> None:
    if row.sure == "unconfirmed":
        assert re.search(r"unconfirmed|not confirmed", row.note)
    if row.sure == "secondary":
        assert row.note, "a note must say where it was seen"


@each_row
def test_a_measured_row_has_its_figure(row: Evidence) -> None:
    if row.kind == "measured":
        assert re.search(r"\d", row.number)
        assert row.unit
    if row.number:
        assert row.unit


def test_there_are_enough_rows_and_all_kinds() -> None:
    assert len(ROWS) >= 90
    assert {row.kind for row in ROWS.values()} == set(KINDS)
    assert {row.sure for row in ROWS.values()} == set(SURE)


def test_one_paper_has_one_group() -> None:
    """Leaving a group out must take all rows of the same source with it."""
    groups: dict[str, set[str]] = {}
    for row in ROWS.values():
        groups.setdefault(row.url, set()).add(row.group)
    shared = {url: sorted(found) for url, found in groups.items() if len(found) > 1}
    # Meta's part 2 reports two measured cases of others beside its own opinions.
    meta = "https://ai.meta.com/blog/when-to-fine-tune-llms-vs-other-techniques/"
    assert shared == {meta: ["meta-blog", "seed-ft"]}


@pytest.mark.skipif(not CASES.exists(), reason="the published cases are not in this checkout")
def test_every_published_case_has_evidence_in_its_group() -> None:
    cases = json.loads(CASES.read_text(encoding="utf-8"))["cases"]
    assert {case["group"] for case in cases} <= {row.group for row in ROWS.values()}


def test_the_file_is_plain_csv() -> None:
    data = FILE.read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"\n")
    with FILE.open(encoding="utf-8", newline="") as stream:
        table = list(csv.reader(stream, strict=True))
    assert tuple(table[0]) == COLUMNS
    assert [line[0] for line in table[1:]] == list(ROWS)


def damaged(folder: Path, line: int, column: str, value: str) -> Path:
    """A copy of the file with one field changed; `line` counts rows, the header is 0."""
    with FILE.open(encoding="utf-8", newline="") as stream:
        table = list(csv.reader(stream))
    table[line][COLUMNS.index(column)] = value
    copy = folder / "evidence.csv"
    with copy.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(table)
    return copy


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("kind", "mesured", "Did you mean 'measured'?"),
        ("sure", "surely", "allowed: confirmed, abstract, secondary, unconfirmed"),
        ("id", "soudani-rag-long-tail", "used twice"),
        ("id", "", "id is empty"),
        ("url", "", "url is empty"),
        ("url", "http://example.org", "https://"),
        ("year", "", "year is empty"),
        ("year", "24", "four digits"),
        ("year", "٢٠٢٤", "four digits"),
        ("claim", " ", "claim is empty"),
        ("group", "", "group is empty"),
    ],
)
def test_a_broken_row_names_file_and_line(
    tmp_path: Path, column: str, value: str, said: str
) -> None:
    with pytest.raises(AdvisorError) as caught:
        load_evidence(damaged(tmp_path, 2, column, value))
    assert f"{tmp_path / 'evidence.csv'}:3: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: the header must be id,claim"),
        ("id,claim\n", ":1: the header must be id,claim"),
        (f"{','.join(COLUMNS)}\na,b\n", ":2: 2 fields; a row has 12"),
        (f"{','.join(COLUMNS)}\n\n", ":2: 0 fields; a row has 12"),
        (f'{",".join(COLUMNS)}\n"open', ":2: not well-formed CSV"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "evidence.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(AdvisorError, match=re.escape(said)):
        load_evidence(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError, match="no such file"):
        load_evidence(tmp_path / "none.csv")


def test_an_undamaged_copy_loads_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "evidence.csv"
    shutil.copy(FILE, copy)
    assert load_evidence(copy) == ROWS


def test_find_keeps_the_order_and_suggests() -> None:
    wanted = ["lima-1000", "agri-ft-plus-rag"]
    assert [row.id for row in find_evidence(wanted)] == wanted
    with pytest.raises(AdvisorError, match="Did you mean 'lima-1000'"):
        find_evidence(["lima-100"])


def test_a_row_becomes_json_and_markdown() -> None:
    row = ROWS["entigraph-synthetic"]
    assert Evidence(**json.loads(json.dumps(row.to_dict()))) == row
    shown = row._repr_markdown_()
    assert row.claim in shown
    assert f"({row.url})" in shown
    assert "39.49 -> 56.22 accuracy %" in shown


def test_import_and_load_pull_in_no_heavy_module() -> None:
    code = (
        "import sys; from advisor.evidence import load_evidence; load_evidence();"
        "heavy = {'torch', 'yaml', 'rich', 'difflib', 'importlib.resources'};"
        "print(*sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True, text=True, check=True, timeout=60,
    )
    assert done.stdout.strip() == ""
