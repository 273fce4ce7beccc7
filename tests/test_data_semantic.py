"""Rows of the same meaning: with an encoder of our own, since no hub can be reached in a test."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from advisor.errors import AdvisorError
from cookbook.cli import main
from cookbook.data import semantic
from cookbook.data.check import check_file
from cookbook.data.examples import Example
from cookbook.data.semantic import SemanticDuplicates, alike_pairs


class Numbered:
    """An encoder that knows that the words of a pair mean the same."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows = np.zeros((len(texts), 400))
        for n, text in enumerate(texts):
            for word in text.split():
                rows[n, int(word[1:]) % 400] += 1
        return rows.tolist()


def paraphrased(count: int, seed: int = 0) -> tuple[list[str], set[int]]:
    """Texts of words a0 to a399; a tenth say in b0 to b399 what an earlier one says in a."""
    chance = random.Random(seed)
    texts: list[str] = []
    aim: set[int] = set()
    unsaid: list[str] = []  # not yet said again
    for line in range(1, count + 1):
        if unsaid and chance.random() < 0.1:
            aim.add(line)
            words = unsaid.pop().split()
            chance.shuffle(words)
            texts.append(" ".join("b" + word[1:] for word in words))
        else:
            texts.append(" ".join(f"a{chance.randrange(400)}" for _ in range(12)))
            unsaid.append(texts[-1])
    return texts, aim


def seen(check: SemanticDuplicates, texts: list[str], size: int = 64) -> set[int]:
    rows = [Example(n, "", text, {}) for n, text in enumerate(texts, 1)]
    for start in range(0, len(rows), size):
        check.see(rows[start : start + size])
    return {line for found in check.findings() for line in found.lines}


def test_paraphrases_are_found_and_others_left_alone() -> None:
    texts, aim = paraphrased(600)
    assert seen(SemanticDuplicates(0.95, model=Numbered()), texts) == aim
    assert seen(SemanticDuplicates(0.95), texts) == set()  # letters see no other words


def test_cells_find_what_all_pairs_find(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, aim = paraphrased(3000)
    monkeypatch.setattr(semantic, "ALL_PAIRS", 100)
    found = seen(SemanticDuplicates(0.95, model=Numbered()), texts)
    assert found <= aim
    assert len(found) >= 0.9 * len(aim)


def test_pairs_are_those_of_brute_force() -> None:
    rows = np.random.default_rng(1).normal(size=(200, 4))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    full = vectors.astype(np.float32)
    alike = np.argwhere(np.triu(full @ full.T >= 0.9, 1))
    assert set(alike_pairs(vectors, 0.9)) == {(int(a), int(b)) for a, b in alike}


def test_no_more_rows_are_kept_than_said() -> None:
    texts, _ = paraphrased(300)
    check = SemanticDuplicates(0.95, model=Numbered(), most=100)
    seen(check, texts, 50)
    assert sum(map(len, check._vectors)) == 100
    assert "only 100 rows" in next(iter(check.findings())).why


def test_it_is_off_unless_named(tmp_path: Path) -> None:
    parts = ["The gate opens at nine.", "Dogs have to stay outside.", "Tickets are sold inside."]
    texts = [" ".join(parts), " ".join(reversed(parts)), *paraphrased(40)[0]]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    call = ["data", "check", str(file), "--json"]
    plain = CliRunner().invoke(main, call)
    named = CliRunner().invoke(main, [*call, "--semantic", "letters"])
    kinds = [[each["kind"] for each in json.loads(done.stdout)["findings"]]
             for done in (plain, named)]  # fmt: skip
    assert "near-duplicate" not in kinds[0]
    assert "near-duplicate" in kinds[1]
    with pytest.raises(AdvisorError):
        check_file(file, semantic=str(tmp_path / "no-model"))
