"""An installed wheel has the recipes that a checkout has."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")


def test_a_wheel_carries_the_recipes(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("advisor", "cookbook", "nbs/recipes"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=SKIPPED)
    words = ["wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", "out"]
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    recipes = {path.name for path in (ROOT / "nbs" / "recipes").glob("[!._]*.ipynb")}
    assert recipes
    assert {f"cookbook/recipe_notebooks/{name}" for name in recipes} <= inside
    assert not [name for name in inside if ".ipynb" in name and "recipe_notebooks" not in name]
