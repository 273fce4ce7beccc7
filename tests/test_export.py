"""Exports: nothing is lost in silence, every key is one that the trainer knows, files are whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import exports as bench  # noqa: E402

from advisor.case import load_case  # noqa: E402
from advisor.cli import main  # noqa: E402
from advisor.export import TARGETS, export_plan, merged_files, not_said  # noqa: E402
from advisor.export_llamafactory import template_of  # noqa: E402
from advisor.export_text import StageExport, kind_of  # noqa: E402
from advisor.make_plan import make_plan  # noqa: E402
from advisor.plan_file import TRAINING, Plan, dump_plan, plan_sha256  # noqa: E402

SNAPSHOTS = ROOT / "tests" / "data" / "trainers"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
each_target = pytest.mark.parametrize("target", list(TARGETS))


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), prog_name="advisor")


@cache
def plans() -> dict[str, Plan]:
    return {
        name: plan
        for name, plan in bench.plans().items()
        if any(stage.training for stage in plan.stages)
    }


def settings_text(done: StageExport) -> str:
    """The settings in a file: without the stamp, whose hash changes with everything."""
    rows = "\n".join(done.files.values()).splitlines()
    return "\n".join(row for row in rows if not row.startswith("#"))


# ---- nothing is lost in silence

OTHER: dict[str, Any] = {
    "rank": 7, "alpha": 13.0, "dropout": 0.33, "targets": ("q_proj",), "use_dora": True,
    "use_rslora": True, "learning_rate": 3.3e-5, "schedule": "constant", "warmup": 0.77,
    "weight_decay": 0.123, "epochs": 7, "batch_size": 32, "accumulation": 64, "max_length": 777,
    "packing": True, "dtype": "float32", "gradient_checkpointing": False, "optimizer": "sgd",
    "beta": 0.77, "replay": 0.66, "held_out": 0.33, "seed": 99, "quantisation": "nf4",
}  # fmt: skip
SECOND: dict[str, Any] = {"dtype": "bfloat16", "packing": False, "batch_size": 16}


@each_target
def test_every_setting_changes_the_file_or_is_reported(target: str) -> None:
    """Change one setting: if neither the file nor the report changes, it was ignored."""
    ignored = []
    for name, plan in plans().items():
        for done in export_plan(plan, target):
            stage = plan.stages[done.stage - 1]
            training = dict(stage.training or {})
            for key, value in OTHER.items():
                if done.refused or key not in {*training, "use_dora", "use_rslora"}:
                    continue
                if key.startswith("use_") and training["method"] == "full":
                    continue
                if training.get(key) == value:
                    value = SECOND[key]
                other = replace(stage, training={**training, key: value})
                stages = tuple(other if one is stage else one for one in plan.stages)
                (again,) = export_plan(replace(plan, stages=stages), target, stage=done.stage)
                same = settings_text(again) == settings_text(done)
                if same and again.missing == done.missing:
                    ignored.append(f"{name}, {stage.name}: {key}")
    assert ignored == []


def test_a_setting_that_an_exporter_forgets_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor import export_trl

    monkeypatch.delitem(export_trl.SAME, "weight_decay")
    (done,) = export_plan(plans()["support-bot"], "trl")
    assert done.missing == ("weight_decay = 0.0",)


def test_all_settings_are_tried_here() -> None:
    assert set(OTHER) == set(TRAINING) - {"method", "objective"}


# ---- what is written


@each_target
def test_every_example_that_trains_is_exported(target: str) -> None:
    trained = 0
    for path in EXAMPLES:
        plan = make_plan(load_case(path))
        if any(stage.training for stage in plan.stages):
            for done in export_plan(plan, target):
                trained += 1
                assert done.files
                assert done.command
    assert trained == 2


@each_target
def test_numbers_are_numbers_and_the_stamp_names_the_plan(target: str) -> None:
    plan = plans()["support-bot"]
    (done,) = export_plan(plan, target)
    text = next(iter(done.files.values()))
    assert "2.0e-4" in text
    assert f"sha256:{plan_sha256(plan)[:16]}" in text.splitlines()[1]
    assert "2.0e-4" not in json.dumps(yaml.safe_load(text))  # read as a text it would still be
    assert "0.0002" in json.dumps(yaml.safe_load(text))


def test_dpo_is_exported_where_it_can_be() -> None:
    plan = plans()["lessons-RTX-4090"]
    number = next(n for n, stage in enumerate(plan.stages, 1) if stage.path == "dpo")
    refused = {t: export_plan(plan, t, stage=number)[0].refused for t in TARGETS}
    assert {t for t, why in refused.items() if why} == {"unsloth", "litgpt"}
    (done,) = export_plan(plan, "trl", stage=number)
    assert done.command.startswith("trl dpo --config ")


# ---- every key is one that the trainer knows


def snapshot(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((SNAPSHOTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def written(target: str) -> list[dict[str, Any]]:
    found = []
    for plan in plans().values():
        for done in export_plan(plan, target):
            found += [yaml.safe_load(t) for n, t in done.files.items() if n.endswith(".yaml")]
    assert len(found) > 30
    return found


def test_trl_knows_every_key() -> None:
    known = snapshot("trl")["fields"]
    for values in written("trl"):
        assert set(values) <= set(known["dpo" if "beta" in values else "sft"])


def test_llamafactory_knows_every_key_and_template() -> None:
    known = snapshot("llamafactory")["fields"]
    for values in written("llamafactory"):
        assert set(values) <= set(known["keys"])
        assert values["template"] in known["templates"]


def test_llamafactory_names_the_same_templates() -> None:
    models = snapshot("llamafactory")["fields"]["models"]
    assert len(models) > 200
    assert list(bench.template_differences(models)) == []
    assert sum(template_of(model) == theirs for model, theirs in models.items()) >= 190


def test_axolotl_knows_every_key() -> None:
    known = snapshot("axolotl")["fields"]
    for values in written("axolotl"):
        assert set(values) <= set(known["keys"])
        kind = "dpo_dataset" if values.get("rl") else "sft_dataset"
        for row in values["datasets"]:  # `field` is read by its completion strategy
            assert set(row) - {"field"} <= set(known[kind])


def test_unsloth_knows_every_key() -> None:
    known = snapshot("unsloth")["fields"]
    for values in written("unsloth"):
        assert set(values) <= set(known)
        for section in ("data", "training", "lora"):
            assert set(values.get(section, {})) <= set(known[section])


def test_litgpt_knows_every_key() -> None:
    known = snapshot("litgpt")["fields"]
    for values in written("litgpt"):
        command = "finetune_lora" if "lora_r" in values else "finetune_full"
        assert set(values) <= set(known[command])
        assert set(values["train"]) <= set(known["train"])
        assert set(values["data"]["init_args"]) <= set(known["data"])
        assert values["data"]["init_args"]["prompt_style"] in known["prompt_styles"]


@each_target
def test_the_last_reading_by_the_trainer_refused_nothing(target: str) -> None:
    """benchmarks/exports.py asked the trainer itself; this is what it answered."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "exports.json").read_text())
    last = rows[-1]["figures"][target]
    assert last["files"] > 30
    assert last["refused"] == {}
    assert last["version"] == snapshot(target)["version"]
    stamped = sys.modules[TARGETS[target].__module__].VERSION
    assert last["version"].startswith(stamped.split()[-1])


# ---- the trainers themselves, where they are installed


def reader(target: str) -> str:
    if target == "trl":
        pytest.importorskip("trl")
    elif "ADVISOR_TRAINERS" not in os.environ:
        pytest.skip(
            f"no {target} here: set ADVISOR_TRAINERS to a folder that benchmarks/exports.py filled"
        )
    return bench.environment(target)


@pytest.mark.slow
@each_target
def test_the_trainer_reads_the_files_and_refuses_broken_ones(target: str, tmp_path: Path) -> None:
    python = reader(target)
    plan = plans()["support-bot"]
    (done,) = export_plan(plan, target)
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
        (folder / "train.jsonl").touch()
        for name, text in done.files.items():
            spoilt = f"{text}learning_raet: 1\n" if name.endswith(".yaml") else text
            (folder / name).write_text(text if folder == good else spoilt)
    paths = [str(next(folder.glob("*.yaml"))) for folder in (good, bad)]
    ran = subprocess.run(
        [python, str(bench.CHECKS), target, *paths], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    answers = json.loads(ran.stdout.splitlines()[-1])
    assert answers[paths[0]] == "accepted"
    assert answers[paths[1]] != "accepted"


# ---- the command


@pytest.fixture
def plan_file(tmp_path: Path) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(dump_plan(plans()["support-bot"]))
    return str(path)


def test_strict_is_an_honest_no_and_writes_nothing(plan_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("export", plan_file, "--to", "unsloth", "--strict", "-o", str(out))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "stage 3 (rag-ft): not representable: schedule = cosine: always linear" in done.stderr
    assert not out.exists()
    assert run("export", plan_file, "--to", "trl", "--strict").exit_code == 0


def test_files_are_written_once(plan_file: str, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    words = ("export", plan_file, "--to", "llamafactory", "-o", str(out))
    first = run(*words)
    assert (first.exit_code, first.stdout) == (
        0, "llamafactory-cli train 03-rag-ft.llamafactory.yaml\n",
    )  # fmt: skip
    names = sorted(path.name for path in out.iterdir())
    assert names == ["03-rag-ft.llamafactory.yaml", "dataset_info.json"]
    (out / names[0]).unlink()
    again = run(*words)
    assert again.exit_code == 2
    assert "dataset_info.json: exists already." in again.stderr
    assert not (out / names[0]).exists(), "all files or none"
    assert run(*words, "--force").exit_code == 0


def test_a_failure_half_way_leaves_nothing(
    plan_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advisor.export as module
    from advisor.errors import AdvisorError

    def full(path: str, text: str, *, force: bool = False) -> None:
        assert not force
        if path.endswith(".json"):
            raise AdvisorError(f"{path}: the disk is full; nothing was changed.")
        Path(path).write_text(text)

    monkeypatch.setattr(module, "write_text", full)
    done = run("export", plan_file, "--to", "llamafactory", "-o", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_rows_are_named_as_seen_from_the_folder(plan_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    relative = os.path.relpath(tmp_path / "rows.jsonl")
    run("export", plan_file, "--to", "llamafactory", "-o", str(out), "--data", relative)
    info = json.loads((out / "dataset_info.json").read_text())
    assert info["rows"]["file_name"] == "../rows.jsonl"


def test_json_holds_files_and_what_is_lost(plan_file: str) -> None:
    done = run("export", plan_file, "--to", "litgpt", "--json")
    data = json.loads(done.stdout)
    assert (data["schema"], data["target"]) == (1, "litgpt")
    assert data["files"][0]["name"] == "03-rag-ft.litgpt.yaml"
    assert len(data["not_representable"]) == len(done.stderr.splitlines()) == 2


def test_rows_are_looked_at(plan_file: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    done = run("export", plan_file, "--to", "trl", "--data", str(rows))
    values = yaml.safe_load(done.stdout)
    assert values["completion_only_loss"] is True
    assert values["datasets"][0]["data_files"] == str(rows)
    rows.write_text('{"text": "a"}\n')
    refused = run("export", plan_file, "--to", "trl", "--data", str(rows))
    assert refused.exit_code == 2
    assert "rows of kind text; the stage learns completion" in refused.stderr
    rows.write_bytes(b"\xff\xfe not json")
    refused = run("export", plan_file, "--to", "trl", "--data", str(rows))
    assert f"{rows}:1: not a row that a trainer knows" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--to", "axolotel"], 2, "axolotl"),
        (["--to", "trl", "--stage", "1"], 2, "--stage 1 trains nothing"),
        (["--to", "trl", "--stage", "12"], 2, "the plan has 3 stages"),
        ([], 2, "--to"),
    ],
)
def test_wrong_words(plan_file: str, words: list[str], code: int, said: str) -> None:
    done = run("export", plan_file, *words)
    assert done.exit_code == code
    assert done.stdout == ""
    assert said in done.stderr


def test_a_plan_that_trains_nothing_is_an_honest_no(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(dump_plan(make_plan(load_case(ROOT / "examples" / "agriculture-qa.yaml"))))
    done = run("export", str(path), "--to", "trl")
    assert done.exit_code == 1
    assert "Closed weights" in done.stderr


def test_stages_that_a_trainer_does_not_have_are_named() -> None:
    lines = not_said(export_plan(plans()["lessons-T4"], "litgpt"))
    assert any("(dpo): not representable: litgpt's finetuning commands" in line for line in lines)
    merged = merged_files(export_plan(plans()["lessons-T4"], "llamafactory"))
    assert set(json.loads(merged["dataset_info.json"])) == {"train", "corpus", "pairs"}


def test_kinds_of_rows() -> None:
    assert kind_of({"chosen": [], "rejected": [], "messages": []}) == "preference"
    assert kind_of({"instruction": "", "output": ""}) == "alpaca"
    assert kind_of({"conversations": []}) == "sharegpt"
    assert kind_of({"label": 1}) is None
