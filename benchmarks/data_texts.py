"""Public text collections that installed packages carry: what faults are planted into.

Nothing here was written for the benchmark. Four collections, each with its use:

    docstrings   numpy, pandas, scipy, scikit-learn (BSD): the rules were written on these
    aws          botocore (Apache-2.0): its misses were read before the rules were changed
    google       google-api-python-client (Apache-2.0): texts never read, figures seen on the way
    unseen       other services of the same package: measured once, after the last change

and answers that people have judged as refusals or not, from PyRIT (MIT). The packages that the
project does not need are installed beside it, without what they need in turn:

    pip install --no-deps --target build/texts botocore google-api-python-client pyrit
    PYTHONPATH=build/texts python benchmarks/data_faults.py --collection google
"""

from __future__ import annotations

import ast
import csv
import gzip
import html
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENTED = ("numpy", "pandas", "scipy", "sklearn")
AWS = ("ec2", "sagemaker", "iot", "rds", "glue", "quicksight")  # those with the most operations
GOOGLE = ("compute", "dialogflow", "aiplatform", "healthcare", "displayvideo", "youtube")
UNSEEN = ("dataproc", "container", "gmail", "classroom", "bigquery", "storage", "datafusion")
PACKAGES = {"docstrings": DOCUMENTED, "aws": ("botocore",), "google": ("googleapiclient",),
            "unseen": ("googleapiclient",)}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """What something is called, what it does, what else is said of it, and where it belongs."""

    name: str
    prose: str
    rest: str
    label: str


def folder_of(package: str) -> Path | None:
    """Where a package is installed; None if it is not."""
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or [""]
    return Path(places[0]) if places[0] else None


def documented(package: str) -> Iterator[Text]:
    """Functions and classes with their docstrings, read without importing the package."""
    place = folder_of(package)
    if place is None:
        return
    for path in sorted(place.rglob("*.py")):
        parts = (package, *path.relative_to(place).with_suffix("").parts)
        if "tests" in parts or any(part.startswith("_") for part in parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                prose, rest = pieces(str(ast.get_docstring(node)))
                yield Text(".".join((*parts, node.name)), prose, rest, package)


def pieces(text: str) -> tuple[str, str]:
    """The prose of a docstring before its first section, and the text of its Parameters."""
    head = re.split(r"\n[A-Z][\w ]+\n[-=]{3,}|\n\.\. |\n>>> ", text)[0]
    prose = "\n\n".join(" ".join(part.split()) for part in head.split("\n\n") if part.strip())
    return prose, " ".join(text[len(head) :].split())[:1500]


def plain(text: str) -> str:
    """HTML of a few tags as text: a paragraph a line, no tags."""
    parts = re.split(r"</?(?:p|ul|ol|li|note|important|dl|dd|dt|h\d|br)\b[^>]*>", text)
    bare = (html.unescape(re.sub(r"<[^>]+>", "", part)) for part in parts)
    return "\n\n".join(" ".join(part.split()) for part in bare if part.strip())


def aws() -> Iterator[Text]:
    """The operations and structures of six services, by their newest description."""
    place = folder_of("botocore")
    for service in AWS if place else ():
        newest = max((place / "data" / service).glob("*/service-2.json.gz"))  # type: ignore[operator]
        found = json.loads(gzip.decompress(newest.read_bytes()))
        for kind in ("operations", "shapes"):
            for name, each in found[kind].items():
                members = each.get("members", {}).values()
                if kind == "operations" and "input" in each:
                    members = found["shapes"][each["input"]["shape"]].get("members", {}).values()
                rest = " ".join(plain(member.get("documentation", "")) for member in members)
                prose = plain(each.get("documentation", ""))
                yield Text(f"{service}.{name}", prose, " ".join(rest.split())[:1500], service)


def google(services: Sequence[str]) -> Iterator[Text]:
    """The methods and schemas of some services, by their newest description."""
    place = folder_of("googleapiclient")
    for service in services if place else ():
        folder = place / "discovery_cache" / "documents"  # type: ignore[operator]
        found = json.loads(max(folder.glob(f"{service}.v[0-9].json")).read_text(encoding="utf-8"))
        for name, method in _methods(found):
            rest = " ".join(one.get("description", "") for one in
                            method.get("parameters", {}).values())  # fmt: skip
            yield Text(name, method.get("description", ""), rest[:1500], service)
        for name, schema in found["schemas"].items():
            rest = " ".join(one.get("description", "") for one in
                            schema.get("properties", {}).values())  # fmt: skip
            yield Text(f"{service}.{name}", schema.get("description", ""), rest[:1500], service)


def _methods(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for resource in found.get("resources", {}).values():
        for method in resource.get("methods", {}).values():
            yield method["id"], method
        yield from _methods(resource)


def texts_of(collection: str) -> list[Text]:
    """All texts of a collection with 60 to 3,000 characters of prose, each once.

    Raises:
        SystemExit: a package is not installed.
    """
    if collection == "docstrings":
        found = [text for name in DOCUMENTED for text in documented(name)]
    else:
        found = list(aws() if collection == "aws" else google(
            GOOGLE if collection == "google" else UNSEEN))  # fmt: skip
    seen: set[str] = set()
    kept = []
    for text in found:
        if text.prose not in seen and 60 <= len(text.prose) <= 3000:
            seen.add(text.prose)
            kept.append(text)
    if not kept:
        raise SystemExit(f"{collection}: its packages are not installed.\n{__doc__}")
    return kept


def refusals(part: str) -> list[tuple[str, bool]]:
    """Answers and whether people judged them a refusal. part: "read" or "unread"."""
    place = folder_of("pyrit")
    if place is None:
        return []
    name = {"read": "refusal.csv", "unread": "refusal_extra.csv"}[part]
    path = place / "datasets" / "scorer_evals" / "refusal_scorer" / name
    lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [(row["assistant_response"], float(row["human_score"]) > 0.5) for row in rows
            if row.get("data_type", "text") == "text"]  # fmt: skip
