"""Schemas of alignment data: metadata is never trained, mistakes are named, TRL takes the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import EXIT_NO, AdvisorError
from cookbook.data.schemas import (
    METADATA,
    NEEDED,
    balanced_prompts,
    prompt_balance,
    schema_of,
    trl_rows,
    validate,
)
from cookbook.row_files import DataRow, read_rows
from cookbook.rows import sniff

SECRET = "zebra"  # a word of the metadata that stands nowhere else


def talk(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": each} for n, each in enumerate(said)]


def answer(said: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": said}]


def row_of(kind: str, chat: bool) -> dict[str, Any]:
    ask, say = (talk, answer) if chat else (str, str)
    content = {
        "safety": {"prompt": ask("How?"), "completion": say("No.")},
        "preference": {"prompt": ask("How?"), "chosen": say("No."), "rejected": say("Yes.")},
        "comparison": {"prompt": ask("How?"), "response_1": say("No."), "response_2": say("Yes."),
                       "better": 2},
        "rl-prompts": {"prompt": ask("How?"), "intent": "benign"},
    }[kind]  # fmt: skip
    metadata = {key: SECRET for key in METADATA if key != "form"}
    return {**metadata, "form": "question", **content}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from cookbook.tokenizer_files import load_tokenizer

    return load_tokenizer("lab-instruct").tokenizer


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", ["safety", "preference", "comparison"])
def test_no_token_of_the_metadata_is_trained(kind: str, chat: bool, tokenizer: Any) -> None:
    from cookbook.masks import encode_row
    from cookbook.row_checks import answers_of

    row = DataRow(1, row_of(kind, chat))
    converted = trl_rows([row], kind)[0].data
    assert SECRET not in json.dumps(converted)
    for each in answers_of(converted):
        ids = encode_row(tokenizer, each).ids
        assert SECRET not in tokenizer.decode(list(ids))
        bare = {k: v for k, v in each.items() if k in ("prompt", "completion", "messages")}
        assert ids == encode_row(tokenizer, bare).ids
    joined = {"prompt": f"{SECRET} How?", "completion": "No."}  # the check itself can fail
    assert SECRET in tokenizer.decode(list(encode_row(tokenizer, joined).ids))


@pytest.mark.parametrize("kind", ["safety", "preference", "comparison"])
def test_converted_rows_are_a_format_of_trl(kind: str) -> None:
    wanted = "prompt-completion" if kind == "safety" else "preference"
    for chat in (False, True):
        assert sniff(trl_rows([DataRow(1, row_of(kind, chat))], kind)) == wanted


def test_trl_trains_the_same_tokens(tokenizer: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from trl import SFTConfig, SFTTrainer

    from cookbook.masks import encode_row
    from cookbook.models import load

    model = load("lab").model
    rows = trl_rows([DataRow(1, row_of("safety", False))], "safety")
    settings_ = SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    trainer = SFTTrainer(model, settings_, processing_class=tokenizer,
                         train_dataset=datasets.Dataset.from_list([row.data for row in rows]))
    ids = trainer.train_dataset[0]["input_ids"]
    assert tuple(ids) == encode_row(tokenizer, rows[0].data).ids
    assert SECRET not in tokenizer.decode(ids)


def test_a_reward_is_given_the_metadata_and_the_model_is_not() -> None:
    row = trl_rows([DataRow(1, row_of("rl-prompts", True))], "rl-prompts")[0].data
    assert row == {"prompt": talk("How?"), "intent": "benign", "policy": SECRET,
                   "use_case": SECRET}  # fmt: skip


@pytest.mark.parametrize("kind", NEEDED)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_row_is_told_with_its_key(kind: str, data: st.DataObject) -> None:
    row = row_of(kind, chat=data.draw(st.booleans()))
    key = data.draw(st.sampled_from(list(NEEDED[kind])))
    bad = data.draw(st.sampled_from([None, 5.5, "", " ", [], {}, [{"role": "user"}], True]))
    with pytest.raises(AdvisorError) as caught:
        validate([DataRow(9, {**row, key: bad}, "f.jsonl")], kind)
    assert f"f.jsonl:9: {key}" in caught.value.message


def test_files_are_checked_by_line(tmp_path: Path) -> None:
    good = row_of("safety", chat=False)
    lines = [good, {**good, "use_cse": "x"}, {k: v for k, v in good.items() if k != "policy"}]
    file = tmp_path / "safety.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(AdvisorError) as caught:
        trl_rows(read_rows(str(file)), "safety")
    assert caught.value.message == (
        f"{file}:2: use_cse: unknown column. Did you mean 'use_case'?\n{file}:3: policy: missing."
    )


def test_comparisons_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "raters.csv"
    file.write_text("prompt,response_1,response_2,better\nHow?,A,B,2\nHow?,A,B,tie\nWhy?,C,D,1\n")
    found = [row.data for row in trl_rows(read_rows(str(file)), "comparison")]
    assert found == [{"prompt": "How?", "chosen": "B", "rejected": "A"},
                     {"prompt": "Why?", "chosen": "C", "rejected": "D"}]  # fmt: skip


@pytest.mark.parametrize("kind", NEEDED)
def test_a_schema_is_plain_json(kind: str) -> None:
    assert json.loads(json.dumps(schema_of(kind))) == schema_of(kind)


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_the_remedy_brings_the_balance(attacks: int, plain: int, stated: float) -> None:
    if attacks + plain == 0:
        return
    rows = [DataRow(n, {"prompt": "x", "intent": "adversarial" if n < attacks else "benign"})
            for n in range(attacks + plain)]  # fmt: skip
    found = prompt_balance(rows, stated, tolerance=0.05)
    assert found.holds == (abs(attacks / (attacks + plain) - stated) <= 0.05 + 1e-9)
    if found.holds:
        assert len(balanced_prompts(rows, stated)) == len(rows)
        return
    with pytest.raises(AdvisorError) as caught:
        balanced_prompts(rows, stated)
    assert caught.value.exit_code == EXIT_NO
    more = int(found.remedy().split()[1])
    sort = "adversarial" if "adversarial" in found.remedy() else "benign"
    added = [DataRow(0, {"prompt": "y", "intent": sort})] * more
    least = 0.5 / (attacks + plain + more)  # a share in whole rows
    assert abs(prompt_balance([*rows, *added], stated).share - stated) <= least + 1e-9
