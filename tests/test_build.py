"""The export driver, as a person runs it: in a small project of its own, through the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = ["#| default_exp mini.units", "# units\n\n> Bytes.", "#| export\nGIB = 2**30", "GIB"]
SHAPES = [
    "#| default_exp mini.shapes",
    "# shapes\n\n> Sizes.",
    "#| export\nfrom mini.units import GIB",
    "#| export\ndef gib(n: int) -> float:\n    return n / GIB",
]


def notebook(sources: list[str]) -> str:
    cells = []
    for number, source in enumerate(sources):
        code = not source.startswith("# ")
        cell = {"id": f"c{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
        cell["cell_type"] = "code" if code else "markdown"
        cells.append(cell | ({"execution_count": None, "outputs": []} if code else {}))
    data = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two modules and a front page, exported, in a folder with a space in its name."""
    root = tmp_path / "mini project"
    (root / "nbs" / "mini").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname="mini"\n[tool.nbdev]\nlib_path="mini"\n')
    (root / "settings.ini").write_text(
        "[packages]\nmini = nbs/mini\n[readme]\nnotebook = nbs/index.ipynb\ntarget = README.md\n"
    )
    (root / "nbs" / "index.ipynb").write_text(notebook(["# mini\n\n[units](mini/01_units.ipynb)"]))
    (root / "nbs" / "mini" / "01_units.ipynb").write_text(notebook(UNITS))
    (root / "nbs" / "mini" / "02_shapes.ipynb").write_text(notebook(SHAPES))
    assert build(root, "export").returncode == 0
    return root


def build(root: Path, action: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cookbook.build", action]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def snapshot(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_exported_modules_work_and_import_by_full_name(project: Path) -> None:
    code = "from mini.shapes import gib; print(gib(2**31))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2.0\n"
    assert "from mini.units import GIB" in (project / "mini" / "shapes.py").read_text()


def test_everything_in_step_is_exit_0_and_changes_nothing(project: Path) -> None:
    before = snapshot(project)
    done = build(project, "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "all in step\n", "")
    assert snapshot(project) == before


def test_result_does_not_depend_on_the_name_of_the_checkout(project: Path) -> None:
    moved = project.rename(project.parent / "mini")
    assert build(moved, "check").returncode == 0


def test_edited_module_is_named_with_its_cell_and_left_alone(project: Path) -> None:
    replace(project / "mini" / "shapes.py", "n / GIB", "n // GIB")
    before = snapshot(project)
    done = build(project, "check")
    assert done.returncode == 1
    assert done.stdout == (
        "mini/shapes.py: differs from its notebook, first at cell #c3. Run `make export`"
        " to keep the notebook, or `make sync` to keep the .py.\n"
    )
    assert snapshot(project) == before


def test_sync_carries_an_edit_of_the_module_home(project: Path) -> None:
    replace(project / "mini" / "shapes.py", "n / GIB", "n // GIB")
    done = build(project, "sync")
    assert done.stdout == "nbs/mini/02_shapes.ipynb, cell 4 (id c3): taken from mini/shapes.py\n"
    text = (project / "nbs" / "mini" / "02_shapes.ipynb").read_text()
    assert "n // GIB" in text
    assert "#| export" in text
    assert build(project, "check").returncode == 0


def test_sync_without_edits_touches_no_notebook(project: Path) -> None:
    before = snapshot(project)
    assert build(project, "sync").stdout == "nothing to sync: all in step\n"
    assert snapshot(project) == before


def test_sync_does_not_overwrite_a_notebook_that_was_saved_later(project: Path) -> None:
    replace(project / "nbs" / "mini" / "02_shapes.ipynb", "n / GIB", "n / 2**30")
    before = snapshot(project)
    done = build(project, "sync")
    assert done.returncode == 2
    assert done.stderr == (
        "nbs/mini/02_shapes.ipynb, cell 4 (id c3): saved after mini/shapes.py. Run `make export`"
        " to keep the notebook, or `touch mini/shapes.py` first to keep the .py.\n"
    )
    assert snapshot(project) == before


def test_sync_brings_a_new_name_into_all(project: Path) -> None:
    replace(project / "mini" / "units.py", "GIB = 2**30", "GIB = 2**30\nMIB = 2**20")
    build(project, "sync")
    assert "__all__ = ['GIB', 'MIB']" in (project / "mini" / "units.py").read_text()


def test_sync_reaches_a_module_named_init(project: Path) -> None:
    source = ["#| default_exp mini.__init__", "# mini\n\n> All.", '#| export\n__version__ = "1.0"']
    (project / "nbs" / "mini" / "00_init.ipynb").write_text(notebook(source))
    build(project, "export")
    replace(project / "mini" / "__init__.py", "1.0", "1.1")
    build(project, "sync")
    assert "1.1" in (project / "nbs" / "mini" / "00_init.ipynb").read_text()


def test_edited_notebook_makes_the_module_stale(project: Path) -> None:
    replace(project / "nbs" / "mini" / "01_units.ipynb", "2**30", "1024**3")
    done = build(project, "check")
    assert done.returncode == 1
    assert done.stdout.startswith("mini/units.py: differs from its notebook, first at cell #c2.")
    assert build(project, "export").stdout == "wrote mini/units.py\n"
    assert build(project, "check").returncode == 0


def test_module_of_a_removed_notebook_is_stale_and_export_removes_it(project: Path) -> None:
    (project / "nbs" / "mini" / "02_shapes.ipynb").unlink()
    done = build(project, "check")
    assert done.returncode == 1
    assert "mini/shapes.py: no notebook makes it." in done.stdout
    assert "removed mini/shapes.py: its notebook is gone" in build(project, "export").stdout
    assert not (project / "mini" / "shapes.py").exists()
    assert build(project, "check").returncode == 0


def test_module_written_by_hand_is_named_and_kept(project: Path) -> None:
    (project / "mini" / "extra.py").write_text("x = 1\n")
    assert "mini/extra.py: no notebook makes it." in build(project, "check").stdout
    assert "left mini/extra.py: no notebook makes it" in build(project, "export").stdout
    assert (project / "mini" / "extra.py").read_text() == "x = 1\n"


def test_front_page_out_of_date_is_stale(project: Path) -> None:
    assert "[units](nbs/mini/01_units.ipynb)" in (project / "README.md").read_text()
    (project / "README.md").write_text("# other\n")
    done = build(project, "check")
    assert (done.returncode, done.stdout) == (1, "README.md: out of date. Run `make export`.\n")
    assert build(project, "readme").stdout == "wrote README.md\n"
    assert build(project, "check").returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"execution_count": null', '"execution_count": 3', "cell 1: execution count"),
        ('"metadata": {},\n   "outputs"', '"metadata": {"x": 1},\n   "outputs"', "metadata x"),
    ],
)
def test_notebook_that_is_not_clean_is_named(project: Path, old: str, new: str, what: str) -> None:
    path = project / "nbs" / "mini" / "01_units.ipynb"
    path.write_text(path.read_text().replace(old, new, 1))
    done = build(project, "check")
    assert done.returncode == 1
    assert done.stdout.startswith("nbs/mini/01_units.ipynb: not clean (")
    assert what in done.stdout


BROKEN = [
    (3, "#| export\nx = 1\ny = = 2", "cell 4 (id c3), line 3: invalid syntax: y = = 2"),
    (3, "#| export\nfrom .units import GIB", "cell 4 (id c3), line 2: relative import."),
    (3, "#| export mini.other\nx = 1", "cell 4 (id c3): `#| export` takes no argument"),
    (0, "#| default_exp shapes", "cell 1 (id c0): `#| default_exp shapes` must be a full module"),
    (0, "#| default_exp ../mini/shapes", "must be a full module name inside mini"),
    (0, "x = 1", "cell 3 (id c2): `#| export` without `#| default_exp mini.NAME`"),
    (3, "#| default_exp mini.more", "cell 4 (id c3): a second `#| default_exp`"),
]


@pytest.mark.parametrize(
    ("action", "index", "source", "message"),
    [("export", *case) for case in BROKEN] + [("check", *BROKEN[0]), ("sync", *BROKEN[0])],
)
def test_cell_that_cannot_be_exported_is_named(
    project: Path, action: str, index: int, source: str, message: str
) -> None:
    sources = [*SHAPES]
    sources[index] = source
    (project / "nbs" / "mini" / "02_shapes.ipynb").write_text(notebook(sources))
    before = snapshot(project)
    done = build(project, action)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nbs/mini/02_shapes.ipynb, ")
    assert message in done.stderr
    assert snapshot(project) == before


def test_two_notebooks_for_one_module_name_both(project: Path) -> None:
    (project / "nbs" / "mini" / "03_more.ipynb").write_text(notebook(SHAPES))
    done = build(project, "export")
    assert done.returncode == 2
    assert done.stderr == (
        "nbs/mini/02_shapes.ipynb and nbs/mini/03_more.ipynb both make mini.shapes; rename one.\n"
    )


def test_file_that_is_no_notebook_is_named(project: Path) -> None:
    (project / "nbs" / "mini" / "03_more.ipynb").write_text('{"cells": [\n  oops\n]}')
    error = build(project, "check").stderr
    assert error.startswith("nbs/mini/03_more.ipynb, line 2: not valid JSON")


def test_outside_a_project_the_message_says_where_to_go(tmp_path: Path) -> None:
    done = build(tmp_path, "check")
    assert done.returncode == 2
    assert "settings.ini is missing. Run this from the root of the project." in done.stderr


def test_nbdevs_own_export_is_stopped_before_it_writes(project: Path) -> None:
    procs = '[tool.nbdev]\nexport_procs = ["cookbook.build:guard"]'
    replace(project / "pyproject.toml", "[tool.nbdev]", procs)
    before = snapshot(project)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Run: make export" in done.stderr
    assert snapshot(project) == before
