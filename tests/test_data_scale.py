"""The steps of one machine and the same steps as a datatrove pipeline keep the same rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="pip install 'llm-adaptation-advisor[scale]'")

from advisor.errors import AdvisorError
from cookbook.data import scale
from cookbook.data.contamination import Contamination
from cookbook.data.duplicates import ExactDuplicates, NearDuplicates
from cookbook.data.scale import ScaleJob, ScaleReport, pipeline, run_scaled, stages
from cookbook.data.stream import batches, stream

WORDS = [f"word{n}" for n in range(4000)]


def sentence(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(WORDS, k=length))


def changed(rng: random.Random, text: str, share: float) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), max(1, int(len(words) * share))):
        words[place] = rng.choice(WORDS)
    return " ".join(words)


def make(seed: int, count: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows with every sort of copy, and an evaluation set of which some rows leaked."""
    rng = random.Random(seed)
    rows = [{"prompt": sentence(rng, rng.randint(1, 30)),
             "completion": sentence(rng, rng.randint(1, 60))} for _ in range(count)]  # fmt: skip
    rows += [{"prompt": "...", "completion": "?!"}, {"prompt": "...", "completion": "?!"}] * 2
    rows += [{"prompt": "yes", "completion": "no"}] * 3
    long = {"prompt": sentence(rng, 900), "completion": sentence(rng, 400)}
    rows += [long, {**long, "completion": changed(rng, long["completion"], 0.05)}]
    for row in rng.sample(rows[:count], count // 4):
        sort = rng.randrange(3)
        text = row["completion"]
        text = [text, text.upper() + "!", changed(rng, text, rng.choice((0.02, 0.1, 0.3)))][sort]
        rows.append({**row, "completion": text})
    template = sentence(rng, 60)  # alike by what they share with all, not copies of one another
    rows += [{"prompt": f"{template}. {sentence(rng, 4)}", "completion": sentence(rng, 4)}
             for _ in range(count // 4)]  # fmt: skip
    rng.shuffle(rows)
    evaluation = [dict(row) for row in rng.sample(rows, 15)]
    return rows, evaluation


def jsonl(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def one_machine(file: str, against: str | None) -> tuple[list[str], dict[str, int]]:
    """The lines that stay, and how many of each kind go, by the checks as they are."""
    checks: dict[str, Any] = {"exact": ExactDuplicates(), "near": NearDuplicates()}
    if against:
        checks["leaks"] = Contamination(stream(against, broken=None))
    for batch in batches(stream(file, broken=None), 97):
        for check in checks.values():
            check.see(batch)
    gone = {name: {line for each in check.findings() for line in each.lines}
            for name, check in checks.items()}  # fmt: skip
    drop = set().union(*gone.values())
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    kept = [line for number, line in enumerate(lines, 1) if number not in drop]
    return kept, {name: len(found) for name, found in gone.items()}


def split(folder: Path, rows: list[dict[str, str]], parts: int) -> list[str]:
    size = -(-len(rows) // parts)
    return [jsonl(folder / f"part{n}.jsonl", rows[n * size : (n + 1) * size]) for n in range(parts)]


def lines_of(folder: Path) -> list[str]:
    return [line for file in sorted(folder.iterdir())
            for line in file.read_text(encoding="utf-8").splitlines()]  # fmt: skip


@pytest.mark.parametrize(("count", "parts", "workers"), [(400, 1, 1), (1200, 3, 2)])
def test_the_same_rows_are_kept(count: int, parts: int, workers: int, tmp_path: Path) -> None:
    rows, evaluation = make(count, count)
    whole, held = jsonl(tmp_path / "all.jsonl", rows), jsonl(tmp_path / "eval.jsonl", evaluation)
    kept, counts = one_machine(whole, held)
    found = run_scaled(split(tmp_path, rows, parts), str(tmp_path / "work"), str(tmp_path / "out"),
                       workers=workers, against=[held])  # fmt: skip
    assert found == ScaleReport(len(rows), len(kept), counts["exact"], counts["near"],
                                counts["leaks"], 0)  # fmt: skip
    assert lines_of(tmp_path / "out") == kept
    assert min(counts.values()) > 5


def test_common_shingles_are_judged_over_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sample smaller than the data, so that which rows are sampled matters too."""
    from cookbook.data import duplicates

    monkeypatch.setattr(duplicates, "SAMPLED", 150)
    rows, _ = make(7, 500)
    kept, _ = one_machine(jsonl(tmp_path / "all.jsonl", rows), None)
    run_scaled(split(tmp_path, rows, 4), str(tmp_path / "work"), str(tmp_path / "out"))
    assert lines_of(tmp_path / "out") == kept


def test_another_threshold_keeps_other_rows(tmp_path: Path) -> None:
    rows, _ = make(3, 300)
    files = split(tmp_path, rows, 2)
    loose = run_scaled(files, str(tmp_path / "a"), str(tmp_path / "b"), similarity=0.5)
    strict = run_scaled(files, str(tmp_path / "c"), str(tmp_path / "d"), similarity=0.95)
    assert loose is not None
    assert strict is not None
    assert loose.near > strict.near
    assert loose.exact == strict.exact


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = make(5, 200)
    files = split(tmp_path, rows, 3)
    calls: list[int] = []
    sign = scale.TASKS["sign"]

    def dies(job: ScaleJob, number: int) -> None:
        if number == 1 and not calls:
            calls.append(number)
            raise KeyboardInterrupt
        sign(job, number)

    monkeypatch.setitem(scale.TASKS, "sign", dies)
    where = str(tmp_path / "work"), str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run_scaled(files, *where)
    assert not (tmp_path / "out").exists()
    words = sorted((tmp_path / "work" / "words").iterdir())
    before = [file.stat().st_mtime_ns for file in words]
    run_scaled(files, *where)
    assert [file.stat().st_mtime_ns for file in words] == before, "done work was done again"
    assert lines_of(tmp_path / "out") == one_machine(jsonl(tmp_path / "all.jsonl", rows), None)[0]


def test_broken_lines_are_set_aside(tmp_path: Path) -> None:
    rows, _ = make(5, 50)
    files = split(tmp_path, rows, 2)
    with open(files[1], "a", encoding="utf-8") as file:
        file.write('{"prompt": "cut o\n')
    found = run_scaled(files, str(tmp_path / "work"), str(tmp_path / "out"))
    assert found is not None
    assert (found.rows, found.broken) == (len(rows), 1)
    assert (tmp_path / "work/broken/00001.jsonl").read_text() == '{"prompt": "cut o\n'


def test_executors_are_chained_by_parameter(tmp_path: Path) -> None:
    job = ScaleJob(("a.jsonl", "b.jsonl"), str(tmp_path / "work"), str(tmp_path / "out"))
    wanted = [(stage.name, stage.tasks) for stage in stages(job)]
    for kind, options in (("local", {}), ("ray", {}),
                          ("slurm", {"partition": "cpu", "time": "1:00:00"})):  # fmt: skip
        last, found = pipeline(job, kind, 4, **options), []
        assert type(last).__name__.lower().startswith(kind)
        while last is not None:
            found.append((last.pipeline[0].name, last.tasks))
            last = last.depends
        assert found[::-1] == wanted
    with pytest.raises(AdvisorError, match="no executor 'spark'"):
        pipeline(job, "spark")


def test_a_task_can_travel(tmp_path: Path) -> None:
    """Executors send stages to other processes and machines."""
    import pickle

    job = ScaleJob(("a.jsonl",), str(tmp_path / "work"), str(tmp_path / "out"))
    for stage in stages(job):
        assert pickle.loads(pickle.dumps(stage)) == stage
