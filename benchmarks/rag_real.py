"""Retrieval on documentation that nobody here wrote, beside plain LangChain and a BM25 library.

The pages are Debian packages: apt-get install linux-doc-6.1 python3.11-doc. Known-item questions
come from the pages: a unique heading (headings are not indexed here), or the first sentence of a
section (which is then cut out of the text). A question counts as answered when a passage of that
section is among the first k. The way and the weight of the fusion were chosen on development
questions, drawn with DEV_SEED; those reported are drawn with another seed, about other sections.

Run: python benchmarks/rag_real.py
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from results import append

from cookbook.documents import FileRead, Section, read_folder
from cookbook.embedding import embed
from cookbook.figures import difference, mean
from cookbook.ingest import Index, apply_changes, embedded_text, ingest, plan_changes
from cookbook.search import DENSE_WEIGHT, coverage_reranker, fused_lists, nearest, search
from cookbook.splitting import Passage, Splitting
from cookbook.store import by_words, count, passages, stored_vectors, unpacked

CORPORA = (
    "/usr/share/doc/linux-doc-6.1/html",
    "/usr/share/doc/python3.11/html",
)
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
DEPTH = 50
DEV_SEED = 101
RANK_CONSTANT = 60  # of reciprocal rank fusion, as in Cormack, Clarke and Büttcher 2009
Gold = tuple[str, str]  # source and number of the section


@dataclass(frozen=True)
class Asked:
    """A question, the section that answers it, and how the question was made."""

    text: str
    gold: Gold
    kind: str


def html_copy(root: Path, to: Path) -> Path:
    """The HTML files of a documentation tree, links resolved, in a folder of our own."""
    for path in sorted(root.resolve().rglob("*.html")):
        target = to / path.relative_to(root.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return to


def first_sentence(text: str) -> tuple[str, str] | None:
    """A first sentence worth asking, and the text after it, which must be long enough."""
    found = re.match(r"(.{30,200}?[.])\s+(?=[A-Z])", text.replace("\n", " "))
    if not found or len(text) - found.end() < 200 or len(found[1].split()) < 6:
        return None
    return found[1], text[found.end() :]


def ask(
    reads: Sequence[FileRead], wanted: Sequence[int], seeds: Sequence[int]
) -> tuple[list[FileRead], list[list[Asked]]]:
    """Pages without headings and without the sentences asked, and questions for each seed.

    `wanted` says how many of each kind a seed draws; no section is asked about twice.
    """
    edited = [[replace(s, heading="", key=str(n)) for n, s in enumerate(r.sections)] for r in reads]
    used = set[tuple[int, int]]()
    asked = [draw(reads, edited, used, *pair) for pair in zip(wanted, seeds, strict=True)]
    pages = [replace(r, sections=tuple(s), digest="1") for r, s in zip(reads, edited, strict=True)]
    return pages, asked


def draw(
    reads: Sequence[FileRead], edited: list[list[Section]], used: set[tuple[int, int]],
    wanted: int, seed: int,
) -> list[Asked]:  # fmt: skip
    """`wanted` questions a kind about sections that are not `used`; cuts what is asked."""
    leaves = Counter(s.heading.split(" > ")[-1] for read in reads for s in read.sections)
    places = [(r, n) for r, read in enumerate(reads) for n in range(len(read.sections))]
    rng = random.Random(seed)
    rng.shuffle(places)
    asked: dict[str, list[Asked]] = {"heading": [], "summary": []}
    for r, n in places:
        if (r, n) in used:
            continue
        section, gold = reads[r].sections[n], (reads[r].source, str(n))
        leaf = section.heading.split(" > ")[-1]
        if leaves[leaf] == 1 and 3 <= len(re.findall(r"\w+", leaf)) <= 15:
            if len(asked["heading"]) < wanted:
                asked["heading"].append(Asked(leaf, gold, "heading"))
                used.add((r, n))
        elif len(asked["summary"]) < wanted and (cut := first_sentence(section.text)):
            asked["summary"].append(Asked(cut[0], gold, "summary"))
            edited[r][n] = Section(cut[1], key=str(n))
            used.add((r, n))
    found = [*asked["heading"], *asked["summary"]]
    rng.shuffle(found)
    return found


def by_ranks(words: Sequence[str], dense: Sequence[str], weight: float = 0.5) -> list[str]:
    """Reciprocal rank fusion, the usual way, for comparison."""
    points: dict[str, float] = {}
    for ids, share in ((words, 1 - weight), (dense, weight)):
        for rank, one in enumerate(ids, 1):
            points[one] = points.get(one, 0.0) + share / (RANK_CONSTANT + rank)
    return sorted(points, key=lambda one: -points[one])


def ranks(index: Index, rows: Sequence[Sequence[str]], asked: Sequence[Asked]) -> list[float]:
    """The rank, from 1, of the first passage of the right section; inf if it is not there."""
    found = []
    for ids, one in zip(rows, asked, strict=True):
        places = [(p.source, p.key) for p in passages(index.store, ids[:10])]
        found.append(float(places.index(one.gold) + 1) if one.gold in places else float("inf"))
    return found


def scores(found: Sequence[float], kinds: Sequence[str]) -> dict[str, Any]:
    """Recall@1, 5 and 10 with intervals, MRR@10; recall@5 by kind of question."""
    row: dict[str, Any] = {"n": len(found)}
    for k in (1, 5, 10):
        figure = mean(f"recall@{k}", [float(rank <= k) for rank in found])
        row[f"recall@{k}"] = [round(x, 4) for x in (figure.value, figure.low, figure.high)]
    row["mrr@10"] = round(statistics.fmean(1 / rank for rank in found), 4)
    for kind in sorted(set(kinds)):
        part = [float(rank <= 5) for rank, other in zip(found, kinds, strict=True) if other == kind]
        row[f"recall@5 {kind}"] = round(statistics.fmean(part), 4)
    return row


def timed(
    run: Callable[[str], Any], questions: Sequence[str]
) -> tuple[list[Any], dict[str, float]]:
    """What `run` gives for each question, and how long it took in milliseconds."""
    results, took = [], []
    for question in questions:
        began = time.perf_counter()
        results.append(run(question))
        took.append(1000 * (time.perf_counter() - began))
    cuts = np.percentile(took, [50, 95])
    return results, {"p50_ms": round(float(cuts[0]), 2), "p95_ms": round(float(cuts[1]), 2)}


def rivals(index: Index, asked: Sequence[Asked], few: int) -> dict[str, Any]:
    """The same passages in a BM25 library, in FAISS flat and in memory through LangChain alone.

    The last two are given our vectors, so their index time is without embedding.
    """
    import bm25s
    from langchain_core.vectorstores import InMemoryVectorStore

    rows = index.store.connection.execute("SELECT id FROM passages ORDER BY number").fetchall()
    found = passages(index.store, [row[0] for row in rows])
    texts, kinds = [embedded_text(p) for p in found], [a.kind for a in asked]
    table: dict[str, Any] = {}

    def tokens(some: Sequence[str]) -> Any:
        return bm25s.tokenize(list(some), stopwords="en", show_progress=False)

    began = time.perf_counter()
    library = bm25s.BM25()
    library.index(tokens(texts), show_progress=False)
    built = time.perf_counter() - began
    got, took = timed(
        lambda q: library.retrieve(tokens([q]), k=10, show_progress=False)[0][0],
        [a.text for a in asked],
    )
    rows_found = [[found[int(i)].id for i in row] for row in got]
    found_at = ranks(index, rows_found, asked)
    table["bm25s"] = {**scores(found_at, kinds), "index_s": round(built, 2), **took}
    table["faiss-flat-langchain"] = flat_faiss(index, found, asked)
    memory = InMemoryVectorStore(Known(index, found))
    began = time.perf_counter()
    for start in range(0, len(found), 1000):
        some = found[start : start + 1000]
        memory.add_texts(texts[start : start + 1000], ids=[p.id for p in some])
    built = time.perf_counter() - began
    part = random.Random(1).sample(list(asked), few)  # a second a question
    got, took = timed(lambda q: memory.similarity_search(q, k=10), [a.text for a in part])
    rows_found = [[d.id for d in row] for row in got]
    table["in-memory-langchain"] = {
        **scores(ranks(index, rows_found, part), [a.kind for a in part]),
        "index_s": round(built, 2), **took,
        "same_as_our_vectors": same_lists(index, part, rows_found),
    }  # fmt: skip
    return table


class Known(Embeddings):
    """The embeddings of an index, with the vectors of its passages at hand."""

    def __init__(self, index: Index, found: Sequence[Passage]) -> None:
        packed = stored_vectors(index.store)
        self.vectors = {embedded_text(p): unpacked([packed[p.id]])[0] for p in found}
        self.embeddings = index.embeddings

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vectors[text].tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embeddings.embed_query(text)


def same_lists(index: Index, asked: Sequence[Asked], rows: Sequence[Sequence[str]]) -> float:
    """The share of questions with the same first passage as our own vector search."""
    ours = [nearest(index, one.text, 1) for one in asked]
    same = sum(mine[0][0] == theirs[0] for mine, theirs in zip(ours, rows, strict=True))
    return same / len(ours)


def flat_faiss(index: Index, found: Sequence[Any], asked: Sequence[Asked]) -> dict[str, Any]:
    """FAISS flat as LangChain's own store has it; queries are embedded in the time given."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that the package is being sunset
        from langchain_community.vectorstores import FAISS
        from langchain_community.vectorstores.utils import DistanceStrategy
    known, texts = Known(index, found), [embedded_text(p) for p in found]
    began = time.perf_counter()
    pairs = list(zip(texts, known.embed_documents(texts), strict=True))
    store = FAISS.from_embeddings(
        pairs, known, ids=[p.id for p in found],
        distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
    )  # fmt: skip
    built = time.perf_counter() - began
    got, took = timed(lambda q: store.similarity_search(q, k=10), [a.text for a in asked])
    rows = [[d.id for d in row] for row in got]
    kinds = [a.kind for a in asked]
    return {**scores(ranks(index, rows, asked), kinds), "index_s": round(built, 2), **took}


def quality(root: Path, folder: Path, wanted: int, few: int, seed: int) -> dict[str, Any]:
    """Recall of each way to search on one tree of pages, and of the rivals."""
    reads = [read for read in read_folder(html_copy(root, folder / "pages")) if read.sections]
    pages, (dev, test) = ask(reads, [wanted // 2, wanted], [DEV_SEED, seed])
    with Index(folder / "quality.db") as index:
        began = time.perf_counter()
        apply_changes(index, plan_changes({}, pages, index.splitting, False))
        built = time.perf_counter() - began
        kinds = [a.kind for a in test]
        at = {name: ranks(index, ids, test) for name, ids in ways(index, test).items()}
        table = {name: scores(rank, kinds) for name, rank in at.items()}
        best = max(("words", "dense"), key=lambda name: table[name]["recall@5"][0])
        return {
            "corpus": root.parent.name, "files": len(pages), "passages": count(index.store),
            "characters_per_passage": round(mean_length(index)), "index_s": round(built, 1),
            "seed": seed, "dev_seed": DEV_SEED, "dev_questions": len(dev),
            "dev_recall@5_by_dense_weight": by_weight(index, dev), "dense_weight": DENSE_WEIGHT,
            "ours": table, "fused_minus": {
                name: gain(at[name], at["fused"]) for name in ("words", "dense", "fused-by-ranks")
            },
            "best_single": best, "rivals": rivals(index, test, few),
        }  # fmt: skip


def ways(index: Index, asked: Sequence[Asked]) -> dict[str, list[list[str]]]:
    """The ids that each way to search finds, best first."""
    words = [by_words(index.store, a.text, DEPTH) for a in asked]
    dense = [nearest(index, a.text, DEPTH) for a in asked]
    rerank = coverage_reranker(index)
    rows = {"words": [ids(row) for row in words], "dense": [ids(row) for row in dense]}
    rows["fused-by-ranks"] = [by_ranks(*two) for two in zip(*rows.values(), strict=True)]
    rows["fused"] = [ids(fused_lists(*two)) for two in zip(words, dense, strict=True)]
    rows["fused-reranked"] = [
        [h.passage.id for h in search(index, a.text, 10, depth=20, rerank=rerank)] for a in asked
    ]
    return rows


def ids(found: Sequence[tuple[str, float]]) -> list[str]:
    """Without the scores."""
    return [one for one, _ in found]


def by_weight(index: Index, dev: Sequence[Asked]) -> dict[str, float]:
    """Recall@5 on the development questions for each weight of the dense list."""
    pairs = [(by_words(index.store, a.text, DEPTH), nearest(index, a.text, DEPTH)) for a in dev]
    table = {}
    for weight in WEIGHTS:
        at = ranks(index, [ids(fused_lists(*pair, weight)) for pair in pairs], dev)
        table[str(weight)] = round(statistics.fmean(rank <= 5 for rank in at), 4)
    return table


def gain(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """The difference of recall@5 on the same questions, with its 95 % interval."""
    hits = [{str(i): float(r <= 5) for i, r in enumerate(at)} for at in (before, after)]
    found = difference("recall@5", *hits)
    return {
        "value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4),
        "p_value": found.p_value and round(found.p_value, 4),
    }  # fmt: skip


def mean_length(index: Index) -> float:
    """The mean length of a passage in characters."""
    query = "SELECT avg(length(text)) FROM passages"
    return float(index.store.connection.execute(query).fetchone()[0])


def speed(roots: Sequence[Path], folder: Path, wanted: int, size: int) -> dict[str, Any]:
    """Build, reopen, query and change an index of all trees, through the public door."""
    pages = folder / "all"
    for root in roots:
        html_copy(root, pages / root.parent.name)
    path, splitting = folder / "speed.db", Splitting(size=size, overlap=size // 10)
    began = time.perf_counter()
    with Index(path, splitting=splitting) as index:
        report = ingest(index, pages)
        total = count(index.store)
    built = time.perf_counter() - began
    began = time.perf_counter()
    with Index(path, splitting=splitting) as index:
        reopened = time.perf_counter() - began
        rng = random.Random(5)
        rows = index.store.connection.execute("SELECT text FROM passages").fetchall()
        questions = []
        for row in rng.sample(rows, wanted):  # eight words in a row from anywhere
            words = row[0].split()
            start = rng.randrange(max(1, len(words) - 8))
            questions.append(" ".join(words[start : start + 8]))
        _, whole = timed(lambda q: search(index, q, 5), questions)
        _, embedding = timed(lambda q: embed(index.embeddings, [q]), questions)
        index.store.frequencies.clear()  # how common a word is gets counted once and kept
        _, words_only = timed(lambda q: by_words(index.store, q, DEPTH), questions)
        after = after_embedding(index, questions)
        files = sorted(pages.rglob("*.html"))
        changed = rng.sample(files, len(files) // 100)
        for file in changed:
            text = file.read_text(encoding="utf-8", errors="replace")
            file.write_text(text.replace("</p>", " It was changed.</p>", 3), encoding="utf-8")
        began = time.perf_counter()
        second = ingest(index, pages)
        took = time.perf_counter() - began
    return {
        "corpora": [root.parent.name for root in roots], "splitting": [size, size // 10],
        "passages": total, "build_s": round(built, 1), "reopen_s": round(reopened, 2),
        "bytes_per_passage": round(path.stat().st_size / total), "files": len(report.files),
        "query_with_embedding": whole, "embedding": embedding, "words_alone": words_only,
        "query_after_embedding": after, "questions": wanted,
        "change": {
            "files": len(changed), "embedded": second.embedded, "counts": second.counts(),
            "seconds": round(took, 2), "share_of_build": round(took / built, 4),
        },
    }  # fmt: skip


def after_embedding(index: Index, questions: Sequence[str]) -> dict[str, float]:
    """Query time with the vector of the question ready."""
    ready = dict(zip(questions, embed(index.embeddings, questions), strict=True))

    class Ready:
        def array(self, texts: Sequence[str]) -> Any:
            return np.stack([ready[text] for text in texts])

    store: Any = index.vectors
    kept, store.embedding = store.embedding, Ready()
    index.store.frequencies.clear()
    _, took = timed(lambda q: search(index, q, 5), questions)
    store.embedding = kept
    return took


def main() -> None:
    """Measure, print, and append to results/rag_real.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", action="append", type=Path, help="a folder of HTML pages")
    parser.add_argument("--questions", type=int, default=600, help="of each kind, in the test")
    parser.add_argument("--few", type=int, default=40, help="questions for the store in memory")
    parser.add_argument("--queries", type=int, default=500, help="timed queries")
    parser.add_argument("--size", type=int, default=450, help="characters a passage, timed index")
    parser.add_argument("--part", choices=("both", "quality", "speed"), default="both")
    parser.add_argument("--seed", type=int, default=202, help="of the questions reported")
    parser.add_argument("--no-append", action="store_true")
    options = parser.parse_args()
    roots = [path.resolve() for path in options.corpus or map(Path, CORPORA)]
    if missing := [root for root in roots if not root.is_dir()]:
        raise SystemExit(f"{missing[0]}: not there. apt-get install linux-doc-6.1 python3.11-doc")
    figures: dict[str, Any] = {
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load_at_start": [round(x, 1) for x in os.getloadavg()], "cores": os.cpu_count(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.part != "speed":
            figures["quality"] = quality(
                roots[0], folder, options.questions, options.few, options.seed
            )
        if options.part != "quality":
            figures["speed"] = speed(roots, folder, options.queries, options.size)
    import json

    print(json.dumps(figures, indent=1))
    if not options.no_append:
        append("rag_real", figures, ("faiss-cpu", "langchain-core", "scikit-learn", "bm25s"))


if __name__ == "__main__":
    main()
