"""Pack what a GPU machine without network lacks: python benchmarks/gpu_bundle.py

The machine is taken to have Python with PyTorch for CUDA and common packages (PRESENT). What is
missing travels as one archive of at most 48 MiB: the trainers at our versions, bitsandbytes with
the one CUDA binary that fits PyTorch's CUDA, what runs notebooks and what the recipes use, the
recipes with the lab model and the CPU's figures, and this repository's packages and benchmarks.
The archive is unpacked again and everything in it imported by a bare Python, with nothing else on
the path than PRESENT; then three tiny steps are measured and one recipe is run. On the machine:

    mkdir -p /tmp/gpu && python3 -m tarfile --filter data -e gpu-bundle.tar.xz /tmp/gpu
    sh /tmp/gpu/recipes.sh RECIPES.jsonl --minutes 4
    sh /tmp/gpu/measure.sh ROWS.jsonl --budget 270
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "gpu-bundle"
LIMIT = 48 * 2**20  # with the working tree beside it, under the 64 MiB that travel at once
# At the versions of this environment, so that the figures are those of the simulator's libraries.
TRAVELS = (
    "bitsandbytes", "transformers", "peft", "trl", "accelerate", "datasets", "dill",
    "multiprocess", "huggingface_hub", "httpx2", "httpcore2", "truststore", "tokenizers",
    "safetensors",
)  # fmt: skip
LIGER = "liger-kernel==0.8.5"
RECIPES = (
    # runs a notebook
    "papermill", "entrypoints", "tenacity", "nbclient", "nbformat", "fastjsonschema",
    "jsonschema", "jsonschema-specifications", "referencing", "rpds-py", "jupyter-client",
    "jupyter-core", "platformdirs", "traitlets", "pyzmq", "tornado", "ipykernel", "comm",
    "nest-asyncio2", "ipython", "ipython-pygments-lexers", "matplotlib-inline", "stack-data",
    "executing", "asttokens", "pure-eval", "pexpect", "ptyprocess", "prompt-toolkit", "wcwidth",
    # what the recipes use
    "langchain-core", "langchain-protocol", "langchain-text-splitters", "langsmith", "jsonpatch",
    "jsonpointer", "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "orjson",
    "requests-toolbelt", "uuid-utils", "websockets", "distro", "sniffio", "faiss-cpu", "pypdf",
    "python-docx", "rouge-score", "nltk", "defusedxml", "rensa", "ftfy",
    "gepa",
)  # fmt: skip
# Declared needs that nothing here imports: completion and debugging in notebooks, compression of
# traces that are never sent, questions asked at a terminal, time zones beside the system's, forms
# for people in notebooks, SQL in one standard form.
LEFT_OUT = (
    "jedi", "parso", "debugpy", "zstandard", "questionary", "tzdata", "ipywidgets",
    "jupyterlab-widgets", "widgetsnbextension", "sqlglot",
)  # fmt: skip
FROM_SOURCE = ("rouge-score",)  # its project publishes no wheel; it has no compiled part
PRESENT = (
    "torch", "triton", "numpy", "pandas", "pyarrow", "requests", "urllib3", "charset-normalizer",
    "tqdm", "packaging", "regex", "psutil", "fsspec", "xxhash", "filelock", "jinja2", "markupsafe",
    "httpx", "httpcore", "h11", "anyio", "idna", "certifi", "pyyaml", "typer", "click",
    "shellingham", "rich", "markdown-it-py", "mdurl", "pygments", "annotated-doc", "hf-xet",
    "sympy", "mpmath", "networkx", "typing-extensions", "python-dateutil", "six", "aiohttp",
    "aiosignal", "aiohappyeyeballs", "attrs", "frozenlist", "multidict", "propcache", "yarl",
    "setuptools", "scipy", "scikit-learn", "joblib", "threadpoolctl", "narwhals", "lxml",
    "sacrebleu", "cloudpickle", "portalocker", "tabulate", "colorama", "absl-py",
)  # fmt: skip
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64"
]
START = """#!/bin/sh
# sh {name}.sh ROWS.jsonl [options of {script}]
here=$(cd "$(dirname "$0")" && pwd)
rows=$1; shift
export PYTHONPATH="$here/site:$here/app${{PYTHONPATH:+:$PYTHONPATH}}"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
exec "${{PYTHON:-python3}}" "$here/app/benchmarks/{script}" --append "$rows" "$@"
"""
STARTS = {"measure": "gpu_memory.py", "recipes": "gpu_recipes.py"}


def wanted() -> list[str]:
    """Requirements with the versions of this environment."""
    found = []
    for name in (*TRAVELS, *RECIPES):
        try:
            found.append(f"{name}=={distribution(name).version}")
        except PackageNotFoundError:
            print(f"{name} is not installed here: left out", file=sys.stderr)
    return [*found, LIGER]


def download(requirements: list[str], python: str, folder: Path) -> list[Path]:
    """The wheels for that Python on Linux x86-64; pure ones without a wheel are built here."""
    built = [each for each in requirements if each.partition("==")[0] in FROM_SOURCE]
    ready = [each for each in requirements if each not in built]
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    command = [
        *pip, "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--python-version", python, "--implementation", "cp", "--dest", str(folder),
        *(word for each in PLATFORMS for word in ("--platform", each)),
    ]  # fmt: skip
    if ready:
        subprocess.run([*command, *ready], check=True)
    if built:
        command = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
        subprocess.run([*command, *built], check=True)
    chosen = {project(*each.split("==")) for each in requirements}
    return [w for w in sorted(folder.glob("*.whl")) if project(*w.name.split("-")[:2]) in chosen]


def project(name: str, version: str) -> str:
    """The same words for a requirement and for its wheel."""
    return f"{re.sub(r'[-_.]+', '-', name).lower()} {version}"


def unneeded(name: str, cuda: str) -> bool:
    """Whether a file of a wheel stays here: other binaries of bitsandbytes, tests, caches."""
    binary = re.search(r"libbitsandbytes_(\w+)\.so$", name)
    if binary:
        return binary[1] not in (f"cuda{cuda}", "cpu")
    unused = ".data/" in name.split("/")[0] + "/"  # scripts and shared files, see unpack
    return unused or "/tests/" in name or name.endswith((".pyc", ".pdb", ".dll"))


def unpack(wheels: list[Path], site: Path, cuda: str) -> None:
    """All wheels into one folder.

    Raises:
        SystemExit: bitsandbytes has no binary for that CUDA, or a wheel holds modules elsewhere.
    """
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            if any(re.match(r"[^/]+[.]data/(pure|plat)lib/", name) for name in names):
                raise SystemExit(f"{wheel.name}: modules in its .data folder would be lost")
            archive.extractall(site, [n for n in names if not unneeded(n, cuda)])
    if not (site / "bitsandbytes" / f"libbitsandbytes_cuda{cuda}.so").exists():
        raise SystemExit(f"bitsandbytes has no binary for CUDA {cuda}; see --cuda")


def copy_repository(app: Path) -> None:
    """The packages with the lab model, the recipes, the CPU's figures, the benchmark scripts."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in ("advisor", "cookbook"):
        shutil.copytree(ROOT / package, app / package, ignore=skip)
    (app / "benchmarks").mkdir()
    for script in (*STARTS.values(), "results.py"):
        shutil.copy(ROOT / "benchmarks" / script, app / "benchmarks")
    (app / "nbs" / "recipes").mkdir(parents=True)
    for notebook in (ROOT / "nbs" / "recipes").glob("*.ipynb"):
        shutil.copy(notebook, app / "nbs" / "recipes")
    for metrics in (ROOT / "build" / "recipes").glob("*/metrics.json"):
        folder = app / "build" / "recipes" / metrics.parent.name
        folder.mkdir(parents=True)
        for path in (metrics, metrics.with_name("manifest.json")):
            if path.exists():
                shutil.copy(path, folder)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack(folder: Path, archive: Path) -> None:
    """A compressed archive that is the same for the same files."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:xz", preset=6) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=anonymous)


def link_present(folder: Path, site_packages: str) -> list[str]:
    """Links to the installed packages that the machine is taken to have; returns who is missing."""
    missing = []
    for name in PRESENT:
        found = next(iter(Distribution.discover(name=name, path=[site_packages])), None)
        if found is None:
            missing.append(name)
            continue
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            link, source = folder / top, Path(str(found.locate_file(top)))
            if source.exists() and not link.exists():
                link.symlink_to(source)
    return missing


CHECK = """
import sys, importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
import bitsandbytes, peft, transformers, trl, trl.trainer.utils, trl.kernels.chunked_logprob
from trl import DPOConfig, SFTConfig
import docx, faiss, ipykernel.ipkernel, jsonschema, lxml.html, papermill, psutil, pypdf
import langchain_core.vectorstores, langchain_text_splitters, sacrebleu, scipy.stats
import rouge_score.rouge_scorer, sklearn.linear_model
from cookbook.measured_step import measured
from advisor.training_run import TrainingRun, resolved, to_dict
config = {"model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160,
          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
from cookbook.recipes import list_recipes, recipe_folder
assert list_recipes(recipe_folder())
for values in ({"method": "qlora"}, {"method": "dpo"}):
    run = resolved(TrainingRun(seq_len=16, batch=2, **values))[0]
    job = {"config": config, "run": to_dict(run), "device": "cpu", "steps": 1}
    found = measured(job, lambda stage: None)
    assert found["status"] == "ok", found
files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
outside = [f for f in files if "site-packages" in f and "/present/" not in f and "/site/" not in f]
assert not outside, outside[:5]
print(transformers.__version__, transformers.__file__)
"""


def ask(python: str, code: str) -> str:
    """What a Python prints."""
    done = subprocess.run([python, "-c", code], check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.strip()


def foreign(wheel: str, python: str) -> bool:
    """Whether a wheel has compiled modules that this Python (such as 3.12) cannot load."""
    minor = int(python.split(".")[1])
    found = re.search(r"-cp3(\d+)-(cp3|abi3)", wheel)
    if found is None:
        return False
    made_for = int(found[1])
    return made_for > minor if found[2] == "abi3" else made_for != minor


def overlay(site: Path, manifest: dict[str, Any], python: str) -> list[str]:
    """For a check by another Python: its modules of the same versions, over those that travel.

    Returns the wheels whose compiled modules are then not checked.
    """
    wrong = [wheel for wheel in manifest["wheels"] if foreign(wheel, python)]
    names = {project(*wheel.split("-")[:2]) for wheel in wrong}
    same = [each for each in manifest["requirements"] if project(*each.split("==")) in names]
    for wheel in download(same, python, ROOT / "build" / "gpu-wheels" / python) if same else []:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return wrong


WHERE = (
    "import sys, sysconfig; print(sysconfig.get_path('purelib'), '%d.%d' % sys.version_info[:2])"
)


def verify(archive: Path, manifest: dict[str, Any], python: str, recipes: list[str]) -> Any:
    """Unpack the archive somewhere else and import and run what is in it, with that Python.

    A bare environment has no packages of its own: it and the kernels it starts see the archive
    and PRESENT, nothing else.

    Raises:
        subprocess.CalledProcessError: something is missing in it.
        SystemExit: it runs, but not with what is in it.
    """
    site_packages, version = ask(python, WHERE).rsplit(" ", 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        replaced = overlay(folder / "site", manifest, version)
        (folder / "present").mkdir()
        missing = link_present(folder / "present", site_packages)
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
        bare = str(folder / "bare" / "bin" / "python")
        modules = sorted(p.stem for p in (folder / "app" / "advisor").glob("[a-z]*.py"))
        names = [f"advisor.{m}" for m in modules if m not in ("ask", "dialogue")]
        path = os.pathsep.join(str(folder / each) for each in ("site", "app", "present"))
        env = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [bare, "-c", CHECK, *names], check=True, text=True, cwd=folder,
            stdout=subprocess.PIPE, env=env,
        )  # fmt: skip
        env |= {"PYTHONPATH": str(folder / "present"), "PYTHON": bare}
        words = ["--device", "cpu", "--tiny", "--rows", "3"]
        measured = started(folder, "measure", words, env)
        words = [word for each in recipes for word in ("--only", each)]
        ran = started(folder, "recipes", ["--device", "cpu", *words], env)
    said = done.stdout.strip().splitlines()[-1]
    if "/site/" not in said or len(measured) != 3 or len(ran) != len(recipes):
        raise SystemExit(f"the archive does not run: {said}, {len(measured)} rows, {ran}")
    return {
        "python": version, "imports": len(names), "taken as present, not here": missing,
        "replaced for the check": replaced,
        "recipes": {row["recipe"]: row["seconds"] for row in ran},
    }  # fmt: skip


def started(folder: Path, name: str, words: list[str], env: dict[str, str]) -> list[dict[str, Any]]:
    """The rows that one of the two scripts writes."""
    rows = folder / f"{name}.jsonl"
    command = ["sh", str(folder / f"{name}.sh"), str(rows), *words]
    done = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, env=env, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}.sh ended with code {done.returncode}:\n{done.stdout}")
    return [json.loads(row) for row in rows.read_text(encoding="utf-8").splitlines()]


def build(options: argparse.Namespace, archive: Path) -> dict[str, Any]:
    """Write the archive; what is in it."""
    requirements = wanted()
    wheels = download(requirements, options.python, Path(options.wheels) / options.python)
    manifest = {
        "python": options.python, "cuda": options.cuda, "requirements": requirements,
        "wheels": {wheel.name: sha256(wheel) for wheel in wheels},
        "taken as present": list(PRESENT), "left out": list(LEFT_OUT),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(wheels, folder / "site", options.cuda)
        copy_repository(folder / "app")
        for start, script in STARTS.items():
            text = START.format(name=start, script=script)
            (folder / f"{start}.sh").write_text(text, encoding="utf-8")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        pack(folder, archive)
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="Python of the machine")
    parser.add_argument("--cuda", default="130", help="CUDA of its PyTorch, as 130 for 13.0")
    parser.add_argument("--wheels", default=str(ROOT / "build" / "gpu-wheels"), help="kept here")
    parser.add_argument("--check-with", default=sys.executable, metavar="PYTHON",
                        help="an environment with PRESENT, best of that version")  # fmt: skip
    parser.add_argument("--check", action="append", metavar="RECIPE", help="run in the check")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    archive = OUT / "gpu-bundle.tar.xz"
    manifest = build(options, archive)
    size = archive.stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{archive}: {size / 2**20:.1f} MiB are more than {LIMIT / 2**20:.0f}")
    verified = verify(archive, manifest, options.check_with, options.check or ["prompt"])
    manifest |= {"bytes": size, "sha256": sha256(archive), "verified": verified}
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{archive.relative_to(ROOT)}: {size / 2**20:.1f} MiB, verified by {verified['python']}")


if __name__ == "__main__":
    main()
