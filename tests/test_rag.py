"""Retrieval end to end: any order of edits, any vector store, any embeddings; the same answers."""

from __future__ import annotations

import ast
import random
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("sklearn")

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from advisor.errors import AdvisorError
from cookbook.citations import PromptFormat, learn_threshold
from cookbook.embedding import (
    HashedEmbeddings,
    HiddenStateEmbeddings,
    SentenceEmbeddings,
    embed,
    fitted,
)
from cookbook.ingest import Index, delete, ingest
from cookbook.rag import Item, Settings, answer, evaluate, retrieve
from cookbook.search import METHODS, cross_encoder, fused_lists, nearest, search
from cookbook.splitting import Splitting
from cookbook.store import by_words, count, documents, ids_of

ROOT = Path(__file__).resolve().parents[1]
ENDINGS = ("mar", "ton", "wick", "ho")
SUBJECTS = [a + b for a in ("bel", "cor", "dun", "eld", "fal") for b in ENDINGS]


def page(subject: str, version: int = 0) -> str:
    extra = " ".join(f"note{version}x{n}" for n in range(30))
    return f"# {subject}\nThe town of {subject} has {version + 3} gates.\n# Notes\n{extra}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    root.mkdir()
    for subject in SUBJECTS:
        (root / f"{subject}.md").write_text(page(subject))
    return root


def content(index: Index) -> list[tuple[Any, ...]]:
    """Everything the passages say, without the numbers SQLite gave them."""
    query = (
        "SELECT id, text, source, position, heading, line, vector FROM passages "
        "ORDER BY source, position"
    )
    return index.store.connection.execute(query).fetchall()


@pytest.mark.parametrize("seed", range(4))
def test_edits_in_any_order_end_where_a_fresh_build_does(
    folder: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    plain = HashedEmbeddings(64)
    with Index(tmp_path / "edited.db", embeddings=plain) as index:
        ingest(index, folder)
        for version in range(1, 6):
            for path in rng.sample(sorted(folder.iterdir()), 4):
                if rng.random() < 0.3:
                    path.unlink()
                else:
                    path.write_text(page(path.stem, version))
            (folder / f"new{version}.txt").write_text(f"New page {version}.")
            ingest(index, folder)
        with Index(tmp_path / "fresh.db", embeddings=plain) as fresh:
            ingest(fresh, folder)
            assert content(index) == content(fresh)
            assert documents(index.store) == documents(fresh.store)
            for method in METHODS:
                for subject in SUBJECTS[:6]:
                    edited, new = (search(i, subject, 4, method=method) for i in (index, fresh))
                    assert [h.score for h in edited] == pytest.approx([h.score for h in new])
        with Index(tmp_path / "edited.db", embeddings=plain, verify=True) as again:
            assert set(again.vectors.vectors.numbers) == {row[0] for row in content(index)}


def test_what_did_not_change_is_not_embedded_again(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        assert ingest(index, folder).embedded == 2 * len(SUBJECTS)
        assert ingest(index, folder).embedded == 0
        path = folder / "belmar.md"
        path.write_text("# Preface\nA line above everything.\n" + page("belmar"))
        report = ingest(index, folder)
        assert (report.embedded, report.counts()["changed"]) == (1, 1)
        first = index.store.connection.execute(
            "SELECT line FROM passages WHERE source = 'belmar.md' ORDER BY position"
        )
        assert [row[0] for row in first] == [2, 4, 6]


def test_deleting_needs_no_folder(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
        gone = ids_of(index.store, "dunwick.md")
        report = delete(index, ["dunwick.md", "atlantis.md"])
        assert report.counts() == {"deleted": 1, "failed": 1}
        for method in METHODS:
            found = search(index, "town of dunwick", 50, method=method)
            assert not {hit.passage.id for hit in found} & set(gone)


def test_a_reopened_index_gives_the_same_scores(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
        before = {m: search(index, "gates of fal", 5, method=m) for m in METHODS}
    with Index(tmp_path / "index.db") as index:
        assert {m: search(index, "gates of fal", 5, method=m) for m in METHODS} == before


@pytest.mark.parametrize("kind", ["in-memory", "community-faiss"])
def test_another_vector_store_finds_the_same(kind: str, folder: Path, tmp_path: Path) -> None:
    plain = HashedEmbeddings(256)
    if kind == "in-memory":
        store: Any = InMemoryVectorStore(plain)
    else:
        community = pytest.importorskip("langchain_community.vectorstores")
        faiss = pytest.importorskip("faiss")
        from langchain_community.docstore.in_memory import InMemoryDocstore

        flat = faiss.IndexFlatIP(256)
        store = community.FAISS(plain, flat, InMemoryDocstore({}), {})
    with (
        Index(tmp_path / "ours.db", embeddings=plain) as ours,
        Index(tmp_path / "theirs.db", vectors=store) as theirs,
    ):
        for version in range(3):
            (folder / "cormar.md").write_text(page("cormar", version))
            for index in (ours, theirs):
                ingest(index, folder)
        (folder / "faltwick.md").unlink(missing_ok=True)
        delete(ours, ["eldho.md"])
        delete(theirs, ["eldho.md"])
        for subject in SUBJECTS:
            for method in METHODS:
                question = f"the town {subject}"
                mine, other = (search(i, question, 1, method=method) for i in (ours, theirs))
                assert [hit.passage.id for hit in mine] == [hit.passage.id for hit in other]


def test_a_foreign_store_is_given_the_heading_too(folder: Path, tmp_path: Path) -> None:
    """Found by its vector, "belmar > Notes" would else be a passage of notes about nothing."""
    plain = HashedEmbeddings(256)
    with (
        Index(tmp_path / "ours.db", embeddings=plain) as ours,
        Index(tmp_path / "theirs.db", vectors=InMemoryVectorStore(plain)) as theirs,
    ):
        for index in (ours, theirs):
            ingest(index, folder)
        for question in ("belmar notes", "gates of faltwick", "note0x7"):
            mine, other = (dict(nearest(index, question, 9)) for index in (ours, theirs))
            assert sorted(mine.values()) == pytest.approx(sorted(other.values()), abs=2e-3)


class Distances(InMemoryVectorStore):
    """As a store that answers with distances, the nearest first."""

    def similarity_search_with_score(self, query: str, k: int = 4, **_: Any) -> Any:
        found = super().similarity_search_with_score(query, k)
        return [(document, 1 - score) for document, score in found]


class NoScores(InMemoryVectorStore):
    """As a store that answers without scores."""

    def similarity_search_with_score(self, query: str, k: int = 4, **_: Any) -> Any:
        raise NotImplementedError

    def similarity_search(self, query: str, k: int = 4, **_: Any) -> Any:
        found = InMemoryVectorStore.similarity_search_with_score(self, query, k)
        return [document for document, _ in found]


@pytest.mark.parametrize("kind", [Distances, NoScores])
def test_scores_of_any_kind_are_fused(kind: Any, folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db", vectors=kind(HashedEmbeddings(256))) as index:
        ingest(index, folder)
        for question in ("the town of cormar", "the town of corrmar"):
            hits = search(index, question, 3)
            assert hits[0].passage.source == "cormar.md"
            assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
            assert all(0 <= h.score <= 1 for h in hits)


def test_fusing_hears_the_list_that_has_something_to_say() -> None:
    """Fifty passages with the one known word of a question; the vectors know the other one."""
    words = [(f"p{n}", 2.0 - n / 1000) for n in range(50)]
    dense = [("p40", 0.9), *((f"p{n}", 0.2 - n / 1000) for n in range(30))]
    assert fused_lists(words, dense)[0][0] == "p40"
    assert fused_lists([("rare", 9.0), *words[:49]], dense)[0][0] == "rare"
    assert fused_lists([("rare", 9.0)], dense)[0][0] == "rare"  # the only one that has the word


def test_vectors_that_nobody_knows_are_passed_over(folder: Path, tmp_path: Path) -> None:
    """As after a crash between the two stores."""
    store = InMemoryVectorStore(HashedEmbeddings(256))
    with Index(tmp_path / "index.db", vectors=store) as index:
        ingest(index, folder)
        store.add_texts(["the town of belmar"], ids=["orphan"])
        found = [hit.passage.source for hit in search(index, "the town of belmar", 3)]
        assert found[0] == "belmar.md"
        assert len(found) == 3


def test_any_langchain_embeddings_will_do_and_are_remembered(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with Index(path, embeddings=DeterministicFakeEmbedding(size=32)) as index:
        ingest(index, folder)
        assert len(search(index, "belmar", 3, method="dense")) == 3
    with pytest.raises(AdvisorError, match="other embeddings"):
        Index(path, embeddings=DeterministicFakeEmbedding(size=48))
    with pytest.raises(AdvisorError, match="other embeddings"):
        Index(path, embeddings=HashedEmbeddings(32))
    with Index(path, embeddings=DeterministicFakeEmbedding(size=32)) as index:
        assert count(index.store) == 2 * len(SUBJECTS)


def test_the_weights_are_frozen_at_the_first_ingest(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
        before = {row[0]: row[6] for row in content(index)}
        for n in range(40):
            (folder / f"zebra{n}.txt").write_text("zebra " * 50 + str(n))
        ingest(index, folder)
        after = {row[0]: row[6] for row in content(index)}
    assert {one: after[one] for one in before} == before


def test_splitting_by_tokens(folder: Path, tmp_path: Path) -> None:
    by_word = Splitting(size=12, overlap=2, count=lambda text: len(text.split()))
    with Index(tmp_path / "index.db", splitting=by_word) as index:
        ingest(index, folder)
        rows = content(index)
    assert max(len(row[1].split()) for row in rows) <= 12
    assert len(rows) > 2 * len(SUBJECTS)


def test_words_are_searched_as_sqlite_ranks_them(folder: Path, tmp_path: Path) -> None:
    """Our query against the plainest one that SQLite can be asked."""
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
        plain = index.store.connection.execute(
            "SELECT p.id FROM words JOIN passages p ON p.number = words.rowid "
            "WHERE words MATCH 'town OR belmar' ORDER BY bm25(words), p.number LIMIT 5"
        ).fetchall()
        assert [one for one, _ in by_words(index.store, "belmar town", 5)] == [r[0] for r in plain]


# ---- answers


class Reader:
    """Reads the number of gates of the town in the question, from any passage; else shrugs."""

    def generate(self, prompts: list[str], **_: Any) -> list[Any]:
        import re

        said = []
        for prompt in prompts:
            town = prompt.rsplit("town of ", 1)[1].split("?")[0]
            found = re.search(rf"town of {town} has (\d+ gates)", prompt)
            said.append(SimpleNamespace(text=found[1] if found else "I do not know."))
        return said


def questions(towns: list[str]) -> list[Item]:
    return [
        Item(f"How many gates has the town of {town}?", "3 gates", (f"{town}.md",))
        for town in towns
    ]


def test_retrieval_closes_the_gap_to_the_oracle(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
        found = evaluate(Reader(), questions(SUBJECTS), index, k=3)
        assert (found.closed_book.value, found.oracle.value, found.retrieved.value) == (0, 1, 1)
        assert found.outcomes["right"] == len(SUBJECTS)
        assert all(a.supported and a.citations[0].place for a in found.answers)


def test_a_learnt_threshold_abstains_on_what_nobody_wrote(folder: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
        known = [item.question for item in questions(SUBJECTS)]
        unknown = [item.question for item in questions(["atlantis", "oz", "utopia", "lilliput"])]
        scores = [[retrieve(index, q, Settings())[1] for q in some] for some in (known, unknown)]
        learnt = learn_threshold(scores[0][:10], scores[1][:2])
        assert (learnt.kept, learnt.refused) == (1.0, 1.0)
        settings = Settings(threshold=learnt.value)
        given = [answer(Reader(), q, index, settings=settings) for q in known[10:] + unknown[2:]]
        assert [a.abstained for a in given] == [""] * (len(known) - 10) + ["not-found"] * 2


def test_the_prompt_format_is_a_parameter(folder: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def generate(prompts: list[str], **options: Any) -> list[Any]:
        asked.extend(prompts)
        assert options["stop"] == ("\n",)
        return [SimpleNamespace(text="3 gates [1]")] * len(prompts)

    form = PromptFormat("{{passages}}Q: {{question}}\nA:", "{{number}}. {{text}}\n", separator="")
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
        got = answer(
            SimpleNamespace(generate=generate), "town of belmar?", index,
            settings=Settings(k=1, prompt=form),
        )  # fmt: skip
    assert asked == ["1. The town of belmar has 3 gates.\nQ: town of belmar?\nA:"]
    assert (got.text, got.supported, got.citations[0].given) == ("3 gates [1]", True, True)


# ---- embeddings with a model


def test_hidden_states_of_a_tiny_model() -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()

    def tokenizer(text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=torch.tensor([[ord(c) % 128 for c in text]]))

    states = HiddenStateEmbeddings(model, tokenizer).centred_on(["a lamp", "a rope"])
    rows = embed(states, ["a lamp", "a rope", "a lamp"])
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.array_equal(rows[0], rows[2])
    assert float(rows[0] @ rows[1]) == pytest.approx(-1, abs=1e-4)  # two points about their mean


def test_sentence_transformers_embed_and_rerank(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz"
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join([*marks, *letters, *(f"##{letter}" for letter in letters)]))
    config = transformers.BertConfig(
        vocab_size=57, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=1,
    )  # fmt: skip
    for name, kind in (("plain", "BertModel"), ("cross", "BertForSequenceClassification")):
        getattr(transformers, kind)(config).save_pretrained(tmp_path / name)
        transformers.BertTokenizerFast(vocab_file=str(words)).save_pretrained(tmp_path / name)
    encoder = SentenceEmbeddings(str(tmp_path / "plain"), device="cpu")
    with Index(tmp_path / "index.db", embeddings=encoder) as index:
        ingest(index, folder)
        text = search(index, "x", 1)[0].passage.text
        assert len(search(index, text, 3, method="dense")) == 3
        again = search(index, text, 3, rerank=cross_encoder(str(tmp_path / "cross"), device="cpu"))
        assert [h.score for h in again] == sorted((h.score for h in again), reverse=True)
    with pytest.raises(AdvisorError, match="cannot be loaded"):
        SentenceEmbeddings(str(tmp_path / "docs"))


def test_missing_sentence_transformers_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    for build in (SentenceEmbeddings, cross_encoder):
        with pytest.raises(AdvisorError, match="pip install sentence-transformers"):
            build("any/model")


def test_weights_tell_rare_from_common() -> None:
    texts = [f"the common words and {subject}" for subject in SUBJECTS]
    weighed, plain = fitted(texts), HashedEmbeddings()
    question = ["where is belmar"]

    def margin(embeddings: HashedEmbeddings) -> float:
        near = (embeddings.array(question) @ embeddings.array(texts).T)[0]
        return float(near[0] - np.sort(near)[-2])

    assert margin(weighed) > margin(plain) > 0


# ---- no pickle, anywhere


def test_nothing_is_pickled(folder: Path, tmp_path: Path) -> None:
    names = (
        "documents", "splitting", "embedding", "vectors", "store", "ingest", "search", "rag",
        "rag_data",
    )  # fmt: skip
    for name in names:
        tree = ast.parse((ROOT / "cookbook" / f"{name}.py").read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "joblib", "dill", "shelve", "marshal"}
    with Index(tmp_path / "index.db") as index:
        ingest(index, folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["docs", "index.db"]
    with sqlite3.connect(tmp_path / "index.db") as plain:  # readable without us
        assert plain.execute("SELECT count(*) FROM passages").fetchone()[0] == 2 * len(SUBJECTS)
