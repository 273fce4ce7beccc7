"""Recipes on a GPU, proven without one: rows, going on, the time, and what the bundle carries."""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("papermill")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_bundle  # noqa: E402
import gpu_recipes  # noqa: E402
from packaging.requirements import Requirement  # noqa: E402

from cookbook.figures import Figure  # noqa: E402
from cookbook.kernel import Failure  # noqa: E402
from cookbook.manifest import write_manifest  # noqa: E402
from cookbook.measure import append_row, read_rows  # noqa: E402
from cookbook.record import Record  # noqa: E402
from cookbook.runner import RunResult  # noqa: E402

RECIPES = ROOT / "tests" / "data" / "recipes"
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 81559 * 2**20, "driver": "580.159.04",
        "compute_capability": "9.0"}  # fmt: skip


def words(folder: Path, *more: str, device: str = "cpu") -> list[str]:
    return ["--device", device, "--recipes", str(RECIPES), "--append", str(folder / "rows.jsonl"),
            "--runs", str(folder / "runs"), "--reference", str(folder / "cpu"), *more]  # fmt: skip


def options(folder: Path, *more: str, device: str = "cpu") -> argparse.Namespace:
    return gpu_recipes.parsed(words(folder, *more, device=device))


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_rows(str(folder / "rows.jsonl"))


def reference(folder: Path, low: float, high: float, **manifest: Any) -> None:
    """A CPU's run of the coin, with that interval."""
    record = Record(folder / "cpu" / "coin", "coin")
    record.add(Figure("heads", (low + high) / 2, low, high, 200))
    record.save()
    if manifest:
        write_manifest(folder / "cpu" / "coin", {"recipe": "coin", "status": "done", **manifest})


# ------------------------------------------------------------------------------------------ rows
def test_a_row_says_what_ran_where_and_is_not_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference(tmp_path, 0.4, 0.6)
    assert gpu_recipes.main(words(tmp_path, "--only", "coin")) == 0
    (row,) = rows(tmp_path)
    assert (row["recipe"], row["status"], row["device"]) == ("coin", "done", "cpu")
    assert row["dtype"] == "float32"
    assert row["parameters"]["mode"] == "smoke"
    assert row["versions"]["torch"]
    assert row["peak_rss_bytes"] > 2**20
    assert row["figures"]["heads"]["n"] == 200
    assert row["against_cpu"]["inside"] == ["heads"]
    assert row["against_cpu"]["stale"] == ["no manifest"]
    assert "1 of 1 in the CPU's intervals" in capsys.readouterr().out
    assert gpu_recipes.main(words(tmp_path, "--only", "coin")) == 0
    assert "done before" in capsys.readouterr().out
    assert len(rows(tmp_path)) == 1


def test_a_recipe_that_fails_is_a_row_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        assert gpu_recipes.main(words(tmp_path, "--only", "broken")) == 1
        assert len(rows(tmp_path)) == number
    (row, _) = rows(tmp_path)
    assert row["status"] == "failed"
    assert row["error"]["error"] == "ValueError"
    assert 'int("forty-two")' in row["error"]["source"]
    assert row["against_cpu"] is None
    assert "cell 5 (Fail): ValueError: invalid literal" in capsys.readouterr().out


def test_new_code_or_other_weights_make_another_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coin = RECIPES / "10_coin.ipynb"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"one")
    folder = ["--model", str(tmp_path / "weights")]
    keys = [gpu_recipes.key("coin", coin, options(tmp_path, *more)) for more in ([], folder)]
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"another")
    keys.append(gpu_recipes.key("coin", coin, options(tmp_path, *folder)))
    monkeypatch.setattr(gpu_recipes, "card", lambda: H100)
    keys.append(gpu_recipes.key("coin", coin, options(tmp_path, device="cuda")))
    monkeypatch.setattr(gpu_recipes, "code_sha256", lambda: "changed")
    keys.append(gpu_recipes.key("coin", coin, options(tmp_path)))
    assert len(set(keys)) == len(keys)


# ------------------------------------------------------------------------------------------ time
def test_nothing_is_begun_that_the_time_does_not_do_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_recipes.main(words(tmp_path, "--minutes", "0")) == 3
    assert "left for lack of time: coin, broken, sleepy" in capsys.readouterr().out
    assert rows(tmp_path) == []


def planned(folder: Path, before: list[dict[str, Any]], device: str = "cpu") -> dict[str, float]:
    """Seconds that are expected of each recipe, in the order in which they are run."""
    chosen = options(folder, device=device)
    return {job.name: job.seconds for job in gpu_recipes.jobs(chosen, before)}


def test_the_shortest_comes_first(tmp_path: Path) -> None:
    before = [
        {"recipe": "coin", "device": "cpu", "status": "done", "seconds": 70.0},
        {"recipe": "sleepy", "device": "cpu", "status": "failed", "seconds": 3.0},
        {"recipe": "sleepy", "device": "cuda", "status": "done", "seconds": 0.5},
    ]
    stated = {"coin": 1.2, "broken": 90.0, "sleepy": 90.0}  # two notebooks do not say
    assert list(planned(tmp_path, []).items()) == list(stated.items())
    assert planned(tmp_path, before) == {**stated, "coin": 70.0}
    assert list(planned(tmp_path, before, "cuda").items()) == [
        ("sleepy", 0.5), ("coin", 1.2), ("broken", 90.0),
    ]  # fmt: skip
    reference(tmp_path, 0.4, 0.6, seconds=33.0)
    assert planned(tmp_path, [])["coin"] == 33.0


def test_a_run_that_takes_too_long_is_stopped_and_leaves_no_row(tmp_path: Path) -> None:
    chosen = options(tmp_path, "--only", "sleepy")
    (job,) = gpu_recipes.jobs(chosen, [])
    row = gpu_recipes.run_job(job, chosen, left=2.0)
    assert row["status"] == "late"
    assert "the time was up" in gpu_recipes.line(row)


def test_a_folder_of_another_run_is_refused_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "cpu" / "coin").mkdir(parents=True)
    (tmp_path / "runs" / "cpu" / "coin" / "mine.txt").write_text("kept", encoding="utf-8")
    assert gpu_recipes.main(words(tmp_path, "--only", "coin", "--only", "broken")) == 1
    assert [row["status"] for row in rows(tmp_path)] == ["refused", "failed"]
    assert "it is not empty and holds no run" in capsys.readouterr().out


def test_stopping_it_by_hand_is_no_lack_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> RunResult:
        return RunResult("coin", tmp_path, "interrupted", {})

    monkeypatch.setattr(gpu_recipes, "run_recipe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu_recipes.run_all(options(tmp_path, "--only", "coin"))
    assert rows(tmp_path) == []


# ----------------------------------------------------------------------------------- on the card
def result(tmp_path: Path, gpu: int | None = 2**30, **values: Any) -> RunResult:
    manifest = {
        "parameters": {"model": "lab"}, "mode": "smoke", "seed": 0, "model_sha256": "m",
        "notebook_sha256": "n", "code_sha256": "c", "started": "2026-11-21T12:00:00+0000",
        "seconds": 12.5, "peak_rss_bytes": 2**31, "peak_gpu_bytes": gpu, "hardware": {},
        "versions": {"torch": "2.11.0+cu130"},
    }  # fmt: skip
    figures = {"heads": Figure("heads", 0.7, 0.65, 0.75, 200)}
    return RunResult("coin", tmp_path, **{
        "status": "done", "manifest": manifest, "figures": figures, **values,
    })  # fmt: skip


def test_a_row_of_a_card_and_how_far_it_is_from_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reference(tmp_path, 0.4, 0.6, mode="smoke", seed=0, model_sha256="m", notebook_sha256="n",
              code_sha256="older")  # fmt: skip
    monkeypatch.setattr(gpu_recipes, "card", lambda: H100)
    monkeypatch.setattr(gpu_recipes, "run_recipe", lambda *_, **__: result(tmp_path))
    assert gpu_recipes.main(words(tmp_path, "--only", "coin", device="cuda")) == 0
    (row,) = rows(tmp_path)
    assert (row["dtype"], row["card"]["driver"]) == ("bfloat16", "580.159.04")
    assert row["peak_gpu_bytes"] == 2**30
    assert row["against_cpu"]["outside"]["heads"]["by"] == pytest.approx(0.1)
    assert row["against_cpu"]["stale"] == ["code_sha256"]
    text = capsys.readouterr().out
    assert "heads: 0.7 misses [0.4, 0.6] by +0.1" in text
    assert "its run differs in code_sha256" in text
    said = gpu_recipes.summary(rows(tmp_path))["coin, cuda"]
    assert said["card"] == H100["name"]
    assert said["outside, by"]["heads"] == pytest.approx(0.1)


def test_an_older_card_computes_in_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_recipes, "card", lambda: {**H100, "compute_capability": "7.5"})
    chosen = options(tmp_path, "--only", "coin", device="cuda")
    (job,) = gpu_recipes.jobs(chosen, [])
    assert gpu_recipes.row_of(job, result(tmp_path), chosen)["dtype"] == "float16"


def test_a_run_that_did_not_touch_the_card_has_failed(tmp_path: Path) -> None:
    assert gpu_recipes.judged(result(tmp_path), "cuda") == ("done", None)
    for gpu in (None, 0):
        status, error = gpu_recipes.judged(result(tmp_path, gpu), "cuda")
        assert status == "failed"
        assert error is not None
        assert "it ran on the CPU" in error["message"]
        assert gpu_recipes.judged(result(tmp_path, gpu), "cpu") == ("done", None)
    assert gpu_recipes.judged(result(tmp_path, figures={}), "cuda")[0] == "failed"
    died = Failure(3, "Gate", "assert x", "AssertionError", "x")
    failed = result(tmp_path, status="failed", failure=died)
    status, error = gpu_recipes.judged(failed, "cuda")
    assert (status, error and error["cell"]) == ("failed", 3)


def test_figures_are_set_beside_the_cpus() -> None:
    expected = {
        "in": Figure("in", 0.5, 0.4, 0.6, 100), "below": Figure("below", 0.5, 0.4, 0.6, 100),
        "edge": Figure("edge", 1.0, 0.9, 1.0, 100), "once": Figure("once", 2.0, 2.0, 2.0, 1),
        "time": Figure("time", 9.0, 8.0, 10.0, 50, unit="seconds"),
        "gone": Figure("gone", 0.5, 0.4, 0.6, 100),
    }  # fmt: skip
    found = {
        "in": Figure("in", 0.6, 0.5, 0.7, 100), "below": Figure("below", 0.3, 0.2, 0.4, 100),
        "edge": Figure("edge", 1.0, 0.9, 1.0, 100), "once": Figure("once", 2.5, 2.5, 2.5, 1),
        "time": Figure("time", 1.0, 1.0, 1.0, 50, unit="seconds"),
        "new": Figure("new", 0.5, 0.4, 0.6, 100),
    }  # fmt: skip
    said = gpu_recipes.compare(found, expected)
    assert said["inside"] == ["in", "edge"]
    assert list(said["outside"]) == ["below"]
    assert said["outside"]["below"]["by"] == pytest.approx(-0.1)
    assert said["single"] == {"once": 0.5}
    assert said["in one alone"] == ["gone", "new"]


def test_without_a_card_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_recipes, "card", lambda: None)
    assert gpu_recipes.main(words(tmp_path, device="cuda")) == 3
    assert "no NVIDIA GPU here" in capsys.readouterr().err


def test_an_unknown_recipe_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_row(str(tmp_path / "rows.jsonl"), {"recipe": "coin", "key": "", "status": "refused"})
    assert gpu_recipes.main(words(tmp_path, "--only", "coins")) == 2
    assert "coin" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- the bundle
def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def needs(project: str, found: dict[str, str], by: str) -> None:
    """All that a project requires here, and what theirs require."""
    if name(project) in found:
        return
    found[name(project)] = by
    try:
        required = distribution(project).requires or []
    except PackageNotFoundError:
        return
    for each in map(Requirement, required):
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            needs(each.name, found, project)


def test_the_bundle_and_the_machine_have_all_that_a_recipe_needs() -> None:
    found: dict[str, str] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["cookbook"]):
        if (named := Requirement(text).name) != "jupyterlab":  # an editor, for people
            needs(named, found, "the cookbook")
    there = (*gpu_bundle.TRAVELS, *gpu_bundle.RECIPES, *gpu_bundle.PRESENT, *gpu_bundle.LEFT_OUT)
    known = {name(each) for each in there}
    of_torch = ("nvidia-", "cuda-")
    lacking = {k: by for k, by in found.items() if k not in known and not k.startswith(of_torch)}
    assert lacking == {}
    assert not {name(each) for each in gpu_bundle.RECIPES} & {name(e) for e in gpu_bundle.PRESENT}


@pytest.mark.parametrize(
    ("wheel", "python", "expected"),
    [
        ("rpds_py-1-cp312-cp312-manylinux_2_17_x86_64.whl", "3.12", False),
        ("rpds_py-1-cp312-cp312-manylinux_2_17_x86_64.whl", "3.11", True),
        ("pyzmq-27-cp312-abi3-manylinux_2_26_x86_64.whl", "3.11", True),
        ("pyzmq-27-cp312-abi3-manylinux_2_26_x86_64.whl", "3.13", False),
        ("faiss_cpu-1-cp310-abi3-manylinux_2_27_x86_64.whl", "3.11", False),
        ("papermill-2-py3-none-any.whl", "3.11", False),
    ],
)
def test_which_wheels_another_python_cannot_check(wheel: str, python: str, expected: bool) -> None:
    assert gpu_bundle.foreign(wheel, python) is expected


def test_a_requirement_and_its_wheel_are_the_same_project() -> None:
    wheel = "langchain_core-1.7.2-py3-none-any.whl"
    assert gpu_bundle.project("langchain-core", "1.7.2") == gpu_bundle.project(
        *wheel.split("-")[:2]
    )


def test_the_bundle_carries_recipes_weights_and_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = tmp_path / "checkout" / "build" / "recipes" / "coin"
    figures.mkdir(parents=True)
    (figures / "metrics.json").write_text("{}", encoding="utf-8")
    (figures / "executed.ipynb").write_text("{}", encoding="utf-8")
    for part in ("advisor", "cookbook", "benchmarks", "nbs"):
        (tmp_path / "checkout" / part).symlink_to(ROOT / part)
    monkeypatch.setattr(gpu_bundle, "ROOT", tmp_path / "checkout")
    gpu_bundle.copy_repository(tmp_path / "app")
    here = {path.name for path in (ROOT / "nbs" / "recipes").glob("*.ipynb")}
    assert {path.name for path in (tmp_path / "app" / "nbs" / "recipes").iterdir()} == here
    assert (tmp_path / "app" / "cookbook" / "lab" / "world.toml").is_file()
    assert (tmp_path / "app" / "benchmarks" / "gpu_recipes.py").is_file()
    carried = tmp_path / "app" / "build" / "recipes" / "coin"
    assert [path.name for path in carried.iterdir()] == ["metrics.json"]
