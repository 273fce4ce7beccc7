"""Pack what a GPU machine without network lacks: python benchmarks/gpu_bundle.py

The machine is taken to have Python with PyTorch for CUDA and common packages (PRESENT). What is
missing travels as one archive of at most 60 MiB: the trainers at our versions, bitsandbytes with
the one CUDA binary that fits PyTorch's CUDA, and this repository's packages and benchmark.
The archive is unpacked again and everything in it imported, with nothing else on the path than
PRESENT, and one tiny step is measured. On the machine:

    mkdir -p /tmp/gpu && tar -xzf gpu-bundle.tar.gz -C /tmp/gpu && sh /tmp/gpu/measure.sh ROWS.jsonl
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
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "gpu-bundle"
LIMIT = 60 * 2**20
# At the versions of this environment, so that the figures are those of the simulator's libraries.
TRAVELS = (
    "bitsandbytes", "transformers", "peft", "trl", "accelerate", "datasets", "dill",
    "multiprocess", "huggingface_hub", "httpx2", "httpcore2", "truststore", "tokenizers",
    "safetensors",
)  # fmt: skip
LIGER = "liger-kernel==0.8.5"
PRESENT = (
    "torch", "triton", "numpy", "pandas", "pyarrow", "requests", "urllib3", "charset-normalizer",
    "tqdm", "packaging", "regex", "psutil", "fsspec", "xxhash", "filelock", "jinja2", "markupsafe",
    "httpx", "httpcore", "h11", "anyio", "idna", "certifi", "pyyaml", "typer", "click",
    "shellingham", "rich", "markdown-it-py", "mdurl", "pygments", "annotated-doc", "hf-xet",
    "sympy", "mpmath", "networkx", "typing-extensions", "python-dateutil", "six", "aiohttp",
    "aiosignal", "aiohappyeyeballs", "attrs", "frozenlist", "multidict", "propcache", "yarl",
    "setuptools",
)  # fmt: skip
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64"
]
MEASURE = """#!/bin/sh
# sh measure.sh ROWS.jsonl [options of gpu_memory.py]
here=$(cd "$(dirname "$0")" && pwd)
rows=$1; shift
PYTHONPATH="$here/site:$here/app" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 \\
    exec python3 "$here/app/benchmarks/gpu_memory.py" --append "$rows" "$@"
"""


def wanted() -> list[str]:
    """Requirements with the versions of this environment."""
    found = []
    for name in TRAVELS:
        try:
            found.append(f"{name}=={distribution(name).version}")
        except PackageNotFoundError:
            print(f"{name} is not installed here: left out", file=sys.stderr)
    return [*found, LIGER]


def download(requirements: list[str], python: str, folder: Path) -> list[Path]:
    """The wheels for that Python on Linux x86-64."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--python-version", python, "--implementation", "cp", "--dest", str(folder),
        *(word for each in PLATFORMS for word in ("--platform", each)), *requirements,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return sorted(folder.glob("*.whl"))


def unneeded(name: str, cuda: str) -> bool:
    """Whether a file of a wheel stays here: other binaries of bitsandbytes, tests, caches."""
    binary = re.search(r"libbitsandbytes_(\w+)\.so$", name)
    if binary:
        return binary[1] not in (f"cuda{cuda}", "cpu")
    return "/tests/" in name or name.endswith((".pyc", ".pdb", ".dll"))


def unpack(wheels: list[Path], site: Path, cuda: str) -> None:
    """All wheels into one folder.

    Raises:
        SystemExit: bitsandbytes has no binary for that CUDA.
    """
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(
                site, [n for n in archive.namelist() if not unneeded(n, cuda)]
            )
    if not (site / "bitsandbytes" / f"libbitsandbytes_cuda{cuda}.so").exists():
        raise SystemExit(f"bitsandbytes has no binary for CUDA {cuda}; see --cuda")


def copy_repository(app: Path) -> None:
    """The packages and the benchmark scripts."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in ("advisor", "cookbook"):
        shutil.copytree(ROOT / package, app / package, ignore=skip)
    (app / "benchmarks").mkdir()
    for script in ("gpu_memory.py", "results.py"):
        shutil.copy(ROOT / "benchmarks" / script, app / "benchmarks")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack(folder: Path, archive: Path) -> None:
    """A compressed archive that is the same for the same files."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:gz", compresslevel=9) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=plain)


def link_present(folder: Path) -> list[str]:
    """Links to the installed packages that the machine is taken to have; returns who is missing."""
    missing = []
    for name in PRESENT:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            missing.append(name)
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            link = folder / top
            source = Path(str(distribution(name).locate_file(top)))
            if source.exists() and not link.exists():
                link.symlink_to(source)
    return missing


CHECK = """
import sys, importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
import bitsandbytes, peft, transformers, trl, trl.trainer.utils, trl.kernels.chunked_logprob
from trl import DPOConfig, SFTConfig
from cookbook.measured_step import measured
from advisor.training_run import TrainingRun, resolved, to_dict
config = {"model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160,
          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
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


def verify(archive: Path) -> dict[str, object]:
    """Unpack the archive somewhere else and import and run what is in it.

    Raises:
        subprocess.CalledProcessError: something is missing in it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (folder / "present").mkdir()
        missing = link_present(folder / "present")
        modules = sorted(p.stem for p in (folder / "app" / "advisor").glob("[a-z]*.py"))
        names = [f"advisor.{m}" for m in modules if m not in ("ask", "dialogue")]
        path = os.pathsep.join(str(folder / each) for each in ("site", "app", "present"))
        # -S: no site-packages of this environment, only what is on PYTHONPATH
        done = subprocess.run(
            [sys.executable, "-S", "-c", CHECK, *names], check=True, text=True, cwd=folder,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        rows = str(folder / "rows.jsonl")
        script = str(folder / "app" / "benchmarks" / "gpu_memory.py")
        words = ["--device", "cpu", "--tiny", "--rows", "3", "--append", rows]
        subprocess.run(
            [sys.executable, "-S", script, *words], check=True, cwd=folder,
            stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        measured = len(Path(rows).read_text(encoding="utf-8").splitlines())
    said = done.stdout.strip().splitlines()[-1]
    if "/site/" not in said or measured != 3:
        raise SystemExit(f"the archive does not run: {said}, {measured} rows")
    return {"imports": len(names), "taken as present, not here": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="Python of the machine")
    parser.add_argument("--cuda", default="130", help="CUDA of its PyTorch, as 130 for 13.0")
    parser.add_argument("--wheels", default=str(ROOT / "build" / "gpu-wheels"), help="kept here")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    requirements = wanted()
    kept = Path(options.wheels) / f"{options.python}"
    kept.mkdir(parents=True, exist_ok=True)
    wheels = download(requirements, options.python, kept)
    archive = OUT / "gpu-bundle.tar.gz"
    manifest = {
        "python": options.python, "cuda": options.cuda, "requirements": requirements,
        "wheels": {wheel.name: sha256(wheel) for wheel in wheels},
        "taken as present": list(PRESENT),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(wheels, folder / "site", options.cuda)
        copy_repository(folder / "app")
        (folder / "measure.sh").write_text(MEASURE, encoding="utf-8")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        pack(folder, archive)
    size = archive.stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{archive}: {size / 2**20:.1f} MiB are more than 60 MiB")
    manifest |= {"bytes": size, "sha256": sha256(archive), "verified": verify(archive)}
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{archive.relative_to(ROOT)}: {size / 2**20:.1f} MiB, verified")


if __name__ == "__main__":
    main()
