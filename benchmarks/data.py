"""Duplicates and contamination: one million rows on two cores, with the planted truth beside.

    python benchmarks/data.py [--rows 1000000] [--peer-rows 100000] [--record]

Rows of 60 words from a Zipf vocabulary of 50,000; a tenth are exact copies of earlier rows, a tenth
copies with one to three words replaced, whose true similarity (computed here from plain Python
sets, not by the code under test) is at least 0.7. Reading, exact and near duplicates and
contamination against 2,000 evaluation rows run in a process of their own; wall and CPU time, peak
memory and what was found are told. Then leaks of four kinds are planted in generated English.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS, VOCABULARY, SIMILARITY, EVALUATION = 60, 50_000, 0.7, 2_000
SHARE = 0.1  # of exact copies, and of near copies
PACKAGES = ("rensa", "xxhash", "datasketch", "datatrove", "numpy")
NOT_RUN = {
    "semhash": "its encoder is downloaded from a hub, which cannot be reached here",
    "text-dedup": "by its author's word a set of scripts, not a library to call",
}
LIMITS = {"seconds": 90, "gib": 2, "exact": 1.0, "near": 0.97, "false": 0.001}
KINDS = ("verbatim", "reformatted", "truncated", "paraphrased")


def shingle_set(text: str) -> set[tuple[str, ...]]:
    """Runs of three words, the plain way."""
    words = text.split()
    return {tuple(words[at : at + 3]) for at in range(len(words) - 2)}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two texts by their runs of three words."""
    first, second = shingle_set(one), shingle_set(other)
    return len(first & second) / len(first | second)


def vocabulary(rng: random.Random) -> list[str]:
    """Different words of 3 to 9 letters."""
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        words["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9)))] = None
    return list(words)


def plain_texts(rows: int, seed: int) -> Iterator[str]:
    """Texts of `WORDS` words, the n-th most frequent word with weight 1/n."""
    import numpy as np

    words = np.array(vocabulary(random.Random(1)), dtype=object)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    draw = np.random.default_rng(seed)
    for start in range(0, rows, 10_000):
        size = (min(10_000, rows - start), WORDS)
        for numbers in draw.choice(VOCABULARY, size=size, p=weights / weights.sum()):
            yield " ".join(words[numbers])


def nearly(text: str, rng: random.Random) -> str:
    """The text with one to three words replaced, at least SIMILARITY alike."""
    while True:
        words = text.split()
        for place in rng.sample(range(WORDS), rng.randint(1, 3)):
            words[place] = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=10))
        changed = " ".join(words)
        if similarity(text, changed) >= SIMILARITY:
            return changed


def make(folder: Path, rows: int) -> dict[str, Any]:
    """Write train.jsonl and evaluation.jsonl; the truth: line -> line it was copied from."""
    rng = random.Random(0)
    exact: dict[int, int] = {}
    near: dict[int, int] = {}
    fresh = plain_texts(rows, 2)
    kept: list[tuple[int, str]] = []  # a sample of originals that are copied
    with (folder / "train.jsonl").open("w", encoding="utf-8") as out:
        for line in range(1, rows + 1):
            turn = rng.random()
            if kept and turn < SHARE:
                of, text = rng.choice(kept)
                exact[line] = of
            elif kept and turn < 2 * SHARE:
                of, text = rng.choice(kept)
                near[line], text = of, nearly(text, rng)
            else:
                text = next(fresh)
                if len(kept) < 200_000:
                    kept.append((line, text))
            out.write(json.dumps({"text": text}) + "\n")
    with (folder / "evaluation.jsonl").open("w", encoding="utf-8") as out:
        for text in plain_texts(EVALUATION, 3):
            out.write(json.dumps({"text": text}) + "\n")
    return {"exact": exact, "near": near}


def ours(folder: Path) -> dict[str, Any]:
    """One pass of reading and three checks; what each found."""
    from cookbook.data.contamination import Contamination
    from cookbook.data.duplicates import ExactDuplicates, NearDuplicates
    from cookbook.data.stream import batches, stream

    exact, near = ExactDuplicates(), NearDuplicates(SIMILARITY)
    leaks = Contamination(stream(folder / "evaluation.jsonl", broken=None))
    for batch in batches(stream(folder / "train.jsonl", broken=None)):
        for check in (exact, near, leaks):
            check.see(batch)
    read = time.perf_counter()
    found = {
        "exact": [line for each in exact.findings() for line in each.lines],
        "near": [line for each in near.findings() for line in each.lines],
    }
    groups = near.groups
    return found | {"groups": groups, "leaks": len(leaks.leaks), "read_until": read}


def datasketch(folder: Path) -> dict[str, Any]:
    """The same rows by datasketch: exact copies by digest, near ones by MinHashLSH."""
    from datasketch import MinHash, MinHashLSH
    from xxhash import xxh3_64_intdigest, xxh3_128_digest

    seen: dict[bytes, int] = {}
    index = MinHashLSH(num_perm=64, params=(16, 4))
    exact, near = [], []
    groups: dict[int, int] = {}
    with (folder / "train.jsonl").open(encoding="utf-8") as source:
        for line, row in enumerate(source, start=1):
            text = json.loads(row)["text"]
            if seen.setdefault(xxh3_128_digest(text.encode()), line) != line:
                exact.append(line)
                continue
            sketch = MinHash(num_perm=64, hashfunc=lambda b: xxh3_64_intdigest(b) & 0xFFFFFFFF)
            sketch.update_batch([" ".join(one).encode() for one in shingle_set(text)])
            alike = [k for k in index.query(sketch) if kept_alike(index_texts, k, text)]
            if alike:
                near.append(line)
                groups[line] = groups.setdefault(min(alike), min(alike))
            index.insert(line, sketch)
            index_texts[line] = text
    return {
        "exact": exact,
        "near": near,
        "groups": groups,
        "leaks": 0,
        "read_until": time.perf_counter(),
    }


def datatrove(folder: Path) -> dict[str, Any]:
    """The same rows by datatrove's MinHash steps: the same length of runs and the same banding.

    Its pairs are those that share a band; it does not compare the texts afterwards. Its words are
    split at spaces here, as ours are: its default, spaCy, is slower and needs a further package.
    """
    import struct
    from types import SimpleNamespace
    from unittest import mock

    from datatrove.data import Document
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupSignature,
    )
    from xxhash import xxh3_128_digest, xxh64_intdigest

    seen: set[bytes] = set()
    exact: list[int] = []
    lines: list[int] = []  # of the documents that datatrove sees

    def documents() -> Iterator[Document]:
        with (folder / "train.jsonl").open(encoding="utf-8") as source:
            for line, row in enumerate(source, start=1):
                text = json.loads(row)["text"]
                digest = xxh3_128_digest(text.encode())
                if digest in seen:
                    exact.append(line)
                    continue
                seen.add(digest)
                lines.append(line)
                yield Document(text=text, id=str(line))

    places = [str(folder / f"datatrove-{name}") for name in ("signatures", "buckets", "removed")]
    config = MinhashConfig(n_grams=3, num_buckets=16, hashes_per_bucket=4)
    words = SimpleNamespace(word_tokenize=str.split)
    tokenizer = "datatrove.pipeline.dedup.minhash.load_word_tokenizer"
    with mock.patch(tokenizer, return_value=words):
        signatures = MinhashDedupSignature(places[0], config=config)
    # datatrove 0.10.1 hands text to xxhash, which wants bytes since its version 4.
    signatures._hash_func = lambda text: xxh64_intdigest(text.encode())
    signatures.run(documents(), 0, 1)
    for bucket in range(16):
        MinhashDedupBuckets(places[0], places[1], config=config).run(None, bucket, 16)
    MinhashDedupCluster(places[1], places[2], config=config, save_cluster_id=True).run(None, 0, 1)
    removed = (Path(places[2]) / "000000.remove").read_bytes()
    near = [lines[place] for (place,) in struct.iter_unpack("<I", removed)]
    clusters = (Path(places[2]) / "000000.clusters").read_bytes()
    first: dict[int, int] = {}
    pairs = ((lines[place], name) for place, name in struct.iter_unpack("<II", clusters))
    groups = {line: first.setdefault(name, line) for line, name in pairs}
    done = {"exact": exact, "near": near, "groups": groups, "leaks": 0}
    return done | {"read_until": time.perf_counter()}


index_texts: dict[int, str] = {}


def kept_alike(texts: dict[int, str], line: int, text: str) -> bool:
    """Whether the text of a line is really that similar."""
    return similarity(texts[line], text) >= SIMILARITY


RUNS = {"ours": ours, "datasketch": datasketch, "datatrove": datatrove}


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Run in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--child", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return found


def child(name: str, folder: Path) -> None:
    """Measure one and leave the figures in the folder."""
    start = time.perf_counter()
    found = RUNS[name](folder)
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    found |= {
        "wall_s": round(wall, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
        "reading_s": round(found.pop("read_until") - start, 1),
    }
    (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")


def marked(truth: dict[str, Any], found: dict[str, Any], rows: int) -> dict[str, Any]:
    """Shares of planted copies that were found, and of rows that were wrongly joined."""
    origin = truth["exact"] | truth["near"]
    groups = {int(line): first for line, first in found["groups"].items()}
    exact, near = set(found["exact"]), set(found["near"]) | set(found["exact"])
    wrong = sum(origin.get(line, line) != origin.get(of, of) for line, of in groups.items())
    return {
        "rows": rows,
        "exact_found": round(len(exact & truth["exact"].keys()) / len(truth["exact"]), 5),
        "exact_wrong": len(exact - truth["exact"].keys() - truth["near"].keys()),
        "near_found": round(len(near & truth["near"].keys()) / len(truth["near"]), 5),
        "false_merges": round(wrong / rows, 6),
        "false_leaks": found["leaks"],
        **{key: found[key] for key in ("wall_s", "cpu_s", "reading_s", "peak_gib")},
    }


# Each sentence twice: the second says the same in other words.
FRAMES = (
    ("In {y} the {a} of {c} was rebuilt by {p} after the great fire, and it took {n} months.",
     "{p} put up the {a} again when flames had ruined it; {c} waited {n} months for it in {y}."),
    ("The {a} holds {n} people and is open every day except on the first Monday of the month.",
     "On most days up to {n} visitors may enter the {a}, though never on a month's first Monday."),
    ("{p} was born in {c} as the youngest of five children of a baker and learned to play the {i}.",
     "A baker's fifth child, {p} came from {c}; early on there were lessons on the {i}."),
    ("A ticket for the evening costs {n} crowns in {c}, but students with a card pay only half.",
     "Half price is what {c}'s students are charged of an evening's usual {n} crowns."),
)  # fmt: skip
SLOTS = {
    "a": ("theatre", "library", "town hall", "old bridge", "concert hall", "castle", "museum"),
    "c": ("Riga", "Porto", "Turin", "Lund", "Graz", "Bergen", "Ghent", "Split", "Cork", "Tartu"),
    "p": ("Anna Berg", "Jon Silva", "Mara Rossi", "Ole Lind", "Eva Novak", "Piet Maes", "Ida Kask"),
    "i": ("cello", "piano", "organ", "flute", "harp", "viola", "guitar", "trumpet"),
}


def story(rng: random.Random) -> tuple[str, str]:
    """Three sentences, and the same in other words."""
    pairs = []
    for frame in rng.sample(FRAMES, 3):
        slots = {key: rng.choice(values) for key, values in SLOTS.items()}
        slots |= {"y": str(rng.randint(1500, 1990)), "n": str(rng.randint(3, 900))}
        pairs.append([said.format(**slots) for said in frame])
    return " ".join(one for one, _ in pairs), " ".join(other for _, other in pairs)


def leak(kind: str, text: str, other: str) -> str:
    """The text as a leak of that kind."""
    if kind == "verbatim":
        return text
    if kind == "reformatted":
        return "## Note\n\n* " + text.upper().replace(". ", "!\n* ").replace(",", " --")
    return text[: len(text) // 2] if kind == "truncated" else other


def leaks(each: int = 200, clean: int = 5_000, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Recall of each kind, and false alarms among clean rows of the same sentence frames."""
    from cookbook.data.contamination import Contamination
    from cookbook.data.examples import Example

    rng = random.Random(seed)
    evaluation = [story(rng) for _ in range(1_000)]
    check = Contamination(Example(n, "", one, {}) for n, (one, _) in enumerate(evaluation, 1))
    rows, truth = [], []
    for kind in KINDS:
        rows += [leak(kind, *evaluation[n]) for n in rng.sample(range(len(evaluation)), each)]
        truth += [kind] * each
    rows += [story(rng)[0] for _ in range(clean)]
    truth += ["clean"] * clean
    check.see(tuple(Example(n, "", text, {}) for n, text in enumerate(rows)))
    table: dict[str, dict[str, Any]] = {}
    for kind in (*KINDS, "clean"):
        how = Counter(found.how for found in check.leaks if truth[found.line] == kind)
        total = truth.count(kind)
        table[kind] = {"rows": total, "found": round(how.total() / total, 4), "by": dict(how)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=100_000, help="0: no comparison")
    parser.add_argument("--record", action="store_true", help="append to results/data.json")
    parser.add_argument("--child", choices=tuple(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder)
        return
    figures: dict[str, Any] = {"cores": os.cpu_count(), "limits": LIMITS, "leaks": leaks()}
    for kind, row in figures["leaks"].items():
        print(f"{kind:<12}{row['rows']:>6} rows  found {row['found']:>7.1%}  {row['by']}")
    sizes = sorted({size for size in (options.peer_rows, options.rows) if size})
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            truth = make(Path(name), size)
            for run in RUNS if size == options.peer_rows else ("ours",):
                if importlib.util.find_spec(run) is None and run != "ours":
                    print(f"{run}: skipped, it is not installed here")
                    continue
                load = os.getloadavg()[0]
                found = marked(truth, measured(run, Path(name)), size) | {"load": round(load, 1)}
                figures[f"{run}-{size}"] = found
                print(f"{run:<12}{size:>9,}", json.dumps(found))
                if run != "ours":
                    times = found["cpu_s"] / figures[f"ours-{size}"]["cpu_s"]
                    found["times_our_cpu"] = round(times, 2)
                    print(f"  {run} takes {times:.1f} times our CPU time; near copies found "
                          f"{found['near_found']:.4f}, ours "
                          f"{figures[f'ours-{size}']['near_found']:.4f}; false merges "
                          f"{found['false_merges']:.6f}, ours "
                          f"{figures[f'ours-{size}']['false_merges']:.6f}")  # fmt: skip
    for name, why in NOT_RUN.items():
        print(f"{name}: not run: {why}")
    if len(sizes) == 2:
        ratio = figures[f"ours-{sizes[1]}"]["cpu_s"] / figures[f"ours-{sizes[0]}"]["cpu_s"]
        figures["growth"] = round(ratio / (sizes[1] / sizes[0]), 3)
        print(f"CPU time for {sizes[1] // sizes[0]} times the rows: {ratio:.1f} times")
    if options.record:
        from results import append

        print(f"saved to {append('data', figures, PACKAGES)}")


if __name__ == "__main__":
    main()
