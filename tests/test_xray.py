"""Training data: bad files by line, each finding planted once, masks against TRL."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from advisor.errors import AdvisorError
from cookbook.data.cli import data_group

DATA = Path(__file__).parent / "data" / "xray"
pytest.importorskip("trl")

LAB = ("lab", "lab-instruct")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cookbook.toy_model import make_toy

    return make_toy(tmp_path_factory.mktemp("toy") / "model")


MARKED = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }}<turn>{% endgeneration %}{% else %}{{ m['content'] }}<turn>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer_of(toy: Path, template: str = MARKED) -> Any:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    tokenizer.chat_template = template
    return tokenizer


def talk(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]


# Equality with TRL


def prepared(toy: Path, tokenizer: Any, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Any:
    """The data set that a real SFTTrainer made of the rows: (ids, labels) of each."""
    import datasets
    import transformers
    import trl

    config = trl.SFTConfig(
        output_dir=str(toy.parent / "out"), use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, **settings,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(toy)
    trainer = trl.SFTTrainer(
        model, config, train_dataset=datasets.Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
    )  # fmt: skip
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


def odd_texts(count: int) -> list[str]:
    """Texts whose ends and beginnings merge, with spaces, accents, digits and special tokens."""
    draw = random.Random(5)
    parts = ["tea", " ", "The shop", "\n", "é", "€", "12", "<end>", "<turn>", ":", "  ", "honey"]
    return ["x" + "".join(draw.choices(parts, k=draw.randint(1, 9))) for _ in range(count)]


TEXTS = odd_texts(60)
MERGING = [("The sh", "op."), ("Answer: t", "ea"), ("a ", " ")]
PAIRS = [*zip(TEXTS[::2], TEXTS[1::2], strict=True), *MERGING]
CHATS = [talk("The shop?", "Tea.", "And?", "Honey."), *(talk(a, b) for a, b in PAIRS)]
CASES = {
    "strings": ([{"prompt": a, "completion": b} for a, b in PAIRS], {}),
    "text": ([{"text": text} for text in TEXTS], {}),
    "messages": ([{"messages": chat} for chat in CHATS], {}),
    "assistant": ([{"messages": chat} for chat in CHATS], {"assistant_only_loss": True}),
    "answers": ([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in CHATS], {}),
    "answers, assistant": (
        [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in CHATS],
        {"assistant_only_loss": True},
    ),
    "cut": ([{"prompt": a, "completion": b} for a, b in PAIRS], {"max_length": 12}),
}


@pytest.mark.parametrize("case", CASES)
def test_masks_equal_trl(case: str, toy: Path) -> None:
    from cookbook.masks import encode_row

    rows, settings = CASES[case]
    tokenizer = tokenizer_of(toy)
    limit = settings.get("max_length", 1024)
    wanted = prepared(toy, tokenizer, rows, **{"max_length": limit, **settings})
    only = settings.get("assistant_only_loss", False)
    ours = [encode_row(tokenizer, row, assistant_only=only).cut(limit) for row in rows]
    found = [
        (list(row.ids), [n if t else -100 for n, t in zip(row.ids, row.trained, strict=True)])
        for row in ours
        if any(row.trained)  # TRL drops rows that a cut left without trained tokens
    ]
    assert found == wanted
    assert case != "cut" or len(found) < len(rows)
    assert case != "strings" or any(row.clipped for row in ours)


def test_masks_equal_trl_where_it_swaps_the_template(toy: Path) -> None:
    import trl

    from cookbook.masks import encode_row, training_template

    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer = tokenizer_of(toy, (folder / "qwen2_5.jinja").read_text(encoding="utf-8"))
    assert training_template(tokenizer) is not None
    rows = [{"messages": chat} for chat in CHATS[:4]]
    wanted = prepared(toy, tokenizer, rows, assistant_only_loss=True)
    for row, (ids, labels) in zip(rows, wanted, strict=True):
        found = encode_row(tokenizer, row, assistant_only=True)
        assert list(found.ids) == ids
        assert list(found.trained) == [label != -100 for label in labels]
    assert 0 < sum(found.trained) < len(found.ids)


def test_masks_equal_trl_for_preferences(toy: Path) -> None:
    import datasets
    import transformers
    import trl

    from cookbook.masks import encode_row

    tokenizer = tokenizer_of(toy)
    rows = [{"prompt": a, "chosen": b, "rejected": b + "no"} for a, b in PAIRS]
    config = trl.DPOConfig(
        output_dir=str(toy.parent / "out"), use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(toy)
    trainer = trl.DPOTrainer(
        model, args=config, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    for row, made in zip(rows, trainer.train_dataset, strict=True):
        for side in ("chosen", "rejected"):
            found = encode_row(tokenizer, {"prompt": row["prompt"], "completion": row[side]})
            assert list(found.ids) == made["prompt_ids"] + made[f"{side}_ids"]


# Files that are refused, before any model is looked for

REFUSED = {
    "broken.jsonl": [":2: not JSON", ":3: not JSON", "One object a line"],
    "latin1.jsonl": [":2: not UTF-8: byte 0xe9", "iconv"],
    "mixed.jsonl": [":2: text, where line 1 is prompt-completion", ":4: messages", "One file"],
    "wrong_columns.csv": [":2: no format", "`answer` is `completion`", "Allowed: "],
    "nulls.jsonl": [":3: prompt: found null", "Repair"],
    "roles.json": [":3: messages: message 1: the role 'usr'", "Did you mean 'user'", "Allowed: "],
    "not_objects.jsonl": [":2: found ['a', 'b']", ":3: found 'c'", "One object"],
    "cut_off.json": [":3: not JSON", "A list of objects"],
    "fields.csv": [":4: 3 fields, where the header has 2", "Quote"],
    "slips.jsonl": [":2: not usable JSON: the key 'text'", ":3: not usable", ":4: half"],
    "text_and_messages.jsonl": [":2: prompt: messages, where the file has text", "Repair"],
    "nothing.jsonl": ["no rows", "One object a line"],
    "labels.jsonl": [":1: label: found 'maybe'; true or false", "Repair"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_refused_by_line(name: str) -> None:
    found = CliRunner().invoke(data_group, ["xray", str(DATA / name), "--model", "no/where"])
    assert isinstance(found.exception, AdvisorError), found.output
    assert found.exception.exit_code == 2
    for part in REFUSED[name]:
        assert part in str(found.exception)
    assert name in str(found.exception)


def test_every_bad_file_is_tried() -> None:
    assert {path.name for path in DATA.iterdir()} == set(REFUSED)


def test_the_four_readers_agree(tmp_path: Path) -> None:
    import csv

    import pyarrow
    from pyarrow import parquet

    from cookbook.row_files import read_rows

    rows = [{"prompt": a, "completion": b} for a, b in PAIRS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        assert [row.data for row in read_rows(tmp_path / name)] == rows, name
    assert [row.line for row in read_rows(tmp_path / "a.jsonl")] == list(range(1, len(rows) + 1))


# Every finding, planted once

GOOD = [talk("Where is tea sold?", "In Oru."), talk("And bread?", "In Bu."), talk("Ink?", "No.")]
STRINGS = [{"prompt": f"{a['content']} Answer: ", "completion": b["content"]} for a, b in GOOD]
TALKS = [{"messages": chat} for chat in GOOD]
CHOICES = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": f"{row['completion']} No"}
    for row in STRINGS
]
LONG = "tea and bread and honey " * 20


def swap(rows: Sequence[Mapping[str, Any]], line: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if n == line else dict(row) for n, row in enumerate(rows, start=1)]


PLANTED: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any], tuple[int, ...], bool]] = {
    "empty-answer": ("lab", swap(STRINGS, 2, completion=" \n"), {}, (2,), True),
    "prompt-too-long": ("lab", swap(STRINGS, 3, prompt=LONG), {"max_length": 64}, (3,), True),
    "mostly-cut": ("lab", swap(STRINGS, 2, completion=LONG), {"max_length": 64}, (2,), True),
    "cut": ("lab", swap(STRINGS, 2, completion="in Oru, in Bu and in Fa."), {"max_length": 22},
            (2,), False),
    "same-answers": ("lab", swap(CHOICES, 3, rejected="No."), {}, (3,), True),
    "same-after-cut": ("lab", swap(CHOICES, 2, chosen=f"{LONG}yes", rejected=f"{LONG}no"),
                       {"packing_strategy": "bfd", "max_length": 90}, (2,), True),
    "duplicate": ("lab", [*STRINGS, STRINGS[1]], {}, (4,), False),
    "prompt-merges": ("lab", swap(STRINGS, 2, prompt="Answer: t", completion="ea"), {}, (2,),
                      False),
    "unanswered": ("lab-instruct", swap(TALKS, 2, messages=[*GOOD[1], *talk("Why?")]), {}, (2,),
                   False),
    "unread-columns": ("lab", swap(STRINGS, 3, source="x"), {}, (3,), False),
    "beyond-model": ("lab", swap(STRINGS, 2, prompt=LONG), {"max_positions": 64}, (2,), True),
    "one-label": ("lab", [{**row, "label": True} for row in STRINGS], {}, (), True),
    "whole-conversation": ("lab-instruct", TALKS, {"assistant_only": False}, (), False),
    "no-chat-template": ("lab", TALKS, {}, (), True),
    "end-not-stop": ("lab", STRINGS, {"stop_ids": (5,)}, (1, 2, 3), False),
    "padding-is-end": ("lab", STRINGS, {"stop_ids": (1, 0)}, (), False),
    "packing-dense": ("lab", STRINGS, {"packing": True}, (), False),
    "packing-unsafe": ("lab", STRINGS, {"packing": True, "attention": "mine"}, (), True),
    "packing-joins": ("lab", STRINGS, {"packing": True, "packing_strategy": "wrapped"}, (), True),
}  # fmt: skip
# what needs a tokenizer of its own is planted below
OWN_TOKENIZER = {
    "template-refuses", "nothing-trained", "end-untrained", "no-generation-markers",
    "no-end-token", "double-start",
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found(kind: str) -> None:
    from cookbook.tokenizer_files import load_tokenizer
    from cookbook.xray import refuse, xray

    model, rows, settings, lines, fatal = PLANTED[kind]
    known = load_tokenizer(model)
    settings = {"stop_ids": known.stop_ids, "max_positions": known.max_positions, **settings}
    found = xray(rows, known.tokenizer, **settings)
    assert [each.kind for each in found.findings] == [kind]
    (finding,) = found.findings
    assert finding.lines == lines
    assert finding.fatal is fatal
    assert finding.why
    assert finding.remedy
    assert found.verdict == ("wasted" if fatal else "warnings")
    if not fatal:
        refuse(found)
        return
    with pytest.raises(AdvisorError, match=kind) as refused:
        refuse(found)
    assert refused.value.exit_code == 1
    assert finding.remedy in str(refused.value)
    assert not lines or f"row {lines[0]}" in str(refused.value)


@pytest.mark.parametrize("rows", [STRINGS, TALKS, CHOICES, [{"text": "Tea."}, {"text": "Ink."}]])
def test_clean_rows_have_no_findings(rows: list[dict[str, Any]]) -> None:
    from cookbook.tokenizer_files import load_tokenizer
    from cookbook.xray import xray

    known = load_tokenizer(LAB["messages" in rows[0]])
    found = xray(rows, known.tokenizer, stop_ids=known.stop_ids,
                 max_positions=known.max_positions)  # fmt: skip
    assert found.findings == ()
    assert found.verdict == "ready"


def kinds_of(rows: Sequence[Mapping[str, Any]], tokenizer: Any, **settings: Any) -> dict[str, Any]:
    from cookbook.xray import xray

    found = xray(rows, tokenizer, **{"stop_ids": (1, 2), **settings})
    return {each.kind: (each.lines, each.fatal) for each in found.findings}


def test_faults_of_a_template_are_found(toy: Path) -> None:
    assert kinds_of(TALKS, tokenizer_of(toy)) == {}
    bare = tokenizer_of(toy, MARKED.replace("{% generation %}", "").replace(
        "{% endgeneration %}", ""))  # fmt: skip
    assert kinds_of(TALKS, bare) == {"no-generation-markers": ((), True)}
    assert kinds_of(TALKS, bare, assistant_only=False) == {"whole-conversation": ((), False)}
    outside = tokenizer_of(
        toy, MARKED.replace("<turn>{% endgeneration %}", "{% endgeneration %}<turn>")
    )
    assert kinds_of(TALKS, outside) == {"end-untrained": ((1, 2, 3), True)}
    strict = tokenizer_of(
        toy, "{% if messages|length > 2 %}{{ raise_exception('too many') }}{% endif %}" + MARKED
    )
    rows = swap(TALKS, 2, messages=[*GOOD[1], *GOOD[2]])
    assert kinds_of(rows, strict) == {"template-refuses": ((2,), True)}
    silent = tokenizer_of(toy, MARKED.replace("m['role'] == 'assistant'", "m['content'] == 'No.'"))
    assert kinds_of(TALKS, silent) == {"nothing-trained": ((1, 2), True)}


def test_faults_of_a_tokenizer_are_found(toy: Path) -> None:
    endless = tokenizer_of(toy)
    endless.eos_token = None
    assert kinds_of(STRINGS, endless) == {"no-end-token": ((), True)}
    twice = tokenizer_of(toy)
    twice.bos_token = "<pad>"
    rows = swap([{"text": f"{row['prompt']}Oru"} for row in STRINGS], 2, text="<pad><pad>Tea.")
    assert kinds_of(rows, twice) == {"double-start": ((2,), False)}


def test_every_kind_of_finding_is_planted() -> None:
    import re

    source = "".join(
        Path("cookbook", name).read_text(encoding="utf-8") for name in ("row_checks.py", "xray.py")
    )
    kinds = set(re.findall(r'(?:DataFinding|RowCheck)\(\s*"([a-z-]+)"', source))
    assert kinds == set(PLANTED) | OWN_TOKENIZER


def test_a_row_of_100000_tokens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": "tea " * 100_000, "completion": "b"}, STRINGS[0],
            {"prompt": "a ", "completion": "tea " * 100_000}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(data_group, ["xray", str(path), "--model", "lab"])
    assert result.exit_code == 1
    assert "prompt-too-long, line 1:" in result.stdout
    assert "mostly-cut, line 3:" in result.stdout
    assert len(result.stdout) < 5_000


# The command


def test_no_weights_are_needed(toy: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(toy, tmp_path / "toy"))
    (folder / "model.safetensors").unlink()
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TALKS), encoding="utf-8")
    arguments = ["xray", str(path), "--model", str(folder), "--whole-conversation"]
    result = CliRunner().invoke(data_group, arguments)
    assert result.exit_code == 0, result.exception
    assert "[[user: Where is tea sold?<turn>" in result.stdout


def test_a_model_out_of_reach_is_exit_3(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    good = DATA.parent / "xray" / "mixed.jsonl"
    assert good.is_file()
    from cookbook.tokenizer_files import load_tokenizer

    with pytest.raises(AdvisorError, match="can't be fetched") as error:
        load_tokenizer("owner/name")
    assert error.value.exit_code == 3


def test_the_page_stands_alone(tmp_path: Path) -> None:
    path, page = tmp_path / "train.jsonl", tmp_path / "x.html"
    nasty = "<script>alert(1)</script> & \x1b[31m"
    rows = swap(STRINGS, 1, prompt=f"{nasty} Answer: ")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(
        data_group, ["xray", str(path), "--model", "lab", "-o", str(page)]
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\x1b" not in text
    assert "<mark>In Oru.&lt;|end|&gt;</mark>" in text
    assert "light-dark(" in text
    assert "width=device-width" in text
    for outside in ("http:", "https:", "//", "@import", "url(", str(tmp_path)):
        assert outside not in text


def test_json_holds_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*STRINGS, STRINGS[0]]))
    result = CliRunner().invoke(data_group, ["xray", str(path), "--model", "lab", "--json"])
    values = json.loads(result.stdout)
    assert values["verdict"] == "warnings"
    assert values["findings"][0]["lines"] == [4]
    assert values["format"] == "prompt-completion"


def test_packed_rows_are_kept_apart(toy: Path) -> None:
    """What lets `packing-dense` be a warning: sdpa, eager and flex attention do not mix rows."""
    import transformers

    from cookbook.packing import packing_leak

    for attention in ("sdpa", "eager", "flex_attention"):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            toy, attn_implementation=attention
        )  # fmt: skip
        assert packing_leak(model) < 1e-3, attention


def test_reading_a_csv_leaves_the_limit_of_others_alone(tmp_path: Path) -> None:
    from cookbook.row_files import read_rows

    before = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text("text\n" + "a" * 200_000 + "\n")
    assert len(read_rows(tmp_path / "rows.csv")) == 1
    assert csv.field_size_limit() == before
