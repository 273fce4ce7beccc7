"""cookbook list, show, new and run: what is printed and written, and every way a run can end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from click.testing import CliRunner, Result
from nbclient import NotebookClient

from advisor.errors import AdvisorError
from cookbook import recipes
from cookbook.cli import main
from cookbook.kernel import CellStep, execute
from cookbook.record import read_run
from cookbook.runner import run_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPES = Path(__file__).parent / "data" / "recipes"
COIN, BROKEN, SLEEPY = (RECIPES / f"{n}.ipynb" for n in ("10_coin", "11_broken", "12_sleepy"))
COOKBOOK = str(Path(sys.executable).with_name("cookbook"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and the tests' own recipes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "recipe_folder", lambda: RECIPES)
    monkeypatch.setattr("cookbook.runner.recipe_folder", lambda: RECIPES)
    return tmp_path


def call(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(words), prog_name="cookbook")
    assert result.exit_code == code, result.output
    return result


def read(path: str | Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return data


# ---- list, show, help


def test_list_names_the_recipes_in_order() -> None:
    text = call("list").stdout
    assert text.splitlines()[0] == "coin  How fair is a coin?"
    assert "    smoke: 1 second on one CPU core" in text
    rows = json.loads(call("list", "--json").stdout)["recipes"]
    assert [row["name"] for row in rows] == ["coin", "broken", "sleepy"]
    assert rows[0]["minutes"] == {"smoke": 0.02, "full": 0.03}


def test_list_without_recipes_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "recipe_folder", lambda: None)
    assert json.loads(call("list", "--json").stdout) == {"schema": 1, "recipes": []}
    plain = call("list")
    assert plain.stdout == ""
    assert plain.stderr == "This installation has no recipes.\n"


def test_show_prints_what_the_notebook_declares() -> None:
    text = call("show", "coin").stdout
    assert '    rule: str = "plain" (plain | twice)\n' in text
    for title in ("What you learn", "When not to use this", "Hardware and time", "Next"):
        assert f"\n{title}\n" in text
    shown = json.loads(call("show", str(COIN), "--json").stdout)
    assert shown["parameters"][2] == {
        "name": "seed", "type": "int", "default": 0, "help": "of the flips", "choices": [],
    }  # fmt: skip
    assert "Did you mean 'coin'?" in call("show", "cion", code=2).stderr


def test_parameters_agree_with_papermill() -> None:
    import papermill

    theirs = papermill.inspect_notebook(str(COIN))
    ours = json.loads(call("show", "coin", "--json").stdout)["parameters"]
    assert [p["name"] for p in ours] == list(theirs)
    for mine in ours:
        other = theirs[mine["name"]]
        assert (mine["type"], mine["help"]) == (other["inferred_type_name"], other["help"])


@pytest.mark.parametrize("name", ["list", "show", "new", "run"])
def test_help_has_examples_and_fits_eighty_columns(name: str) -> None:
    text = call(name, "--help").stdout
    assert "Examples:\n" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in call("--help").stdout.split("Commands:")[1].split("Exit codes")[0]


def test_examples_of_the_help_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "recipes"
    folder.mkdir()
    text = COIN.read_text(encoding="utf-8").replace('\\"coin\\"', '\\"rag\\"')
    text = text.replace("rule: str = \\\"plain\\\"  # plain | twice: how", "top_k: int = 3  # how")
    note = 'record.note(\\"before_after\\", [\\"heads\\", \\"heads\\"])\\n'
    text = text.replace("record.save()", note + "record.save()")
    (folder / "20_rag.ipynb").write_text(text, encoding="utf-8")
    gate = {"measure": "heads", "stop_when": "heads is 0.1 or more", "threshold": 0.1}
    plan = {"schema": 1, "stages": [{"path": "rag", "recipe": "rag", "gate": gate}]}
    (here / "plan.yaml").write_text(json.dumps(plan))
    monkeypatch.setattr(recipes, "recipe_folder", lambda: folder)
    monkeypatch.setattr("cookbook.runner.recipe_folder", lambda: folder)
    for name in ("list", "show", "new", "run"):
        lines = call(name, "--help").stdout.split("Examples:\n")[1].split("\n\n")[0].splitlines()
        assert lines
        for line in lines:
            assert line.strip().startswith(f"cookbook {name}")
            call(*line.split()[1:])


def test_light_commands_load_nothing_heavy() -> None:
    for words in (["--help"], ["run", "--help"], ["list"], ["show", str(COIN)]):
        code = (
            f"import sys; from cookbook.cli import main\n"
            f"try: main({words!r})\nexcept SystemExit: pass\n"
            "heavy = ('torch', 'transformers', 'numpy', 'papermill', 'nbformat', 'psutil')\n"
            "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stderr.strip().endswith("[]"), words


# ---- parameters


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "sed=1"], "'sed' is no parameter of this recipe. Did you mean 'seed'?"),
        (["--set", "sed=1"], "This recipe has: mode, model, seed, device, bias, sides, rule."),
        (["--set", "seed=1.5"], "seed: '1.5' is not a whole number (int)"),
        (["--mode", "ful"], "mode: 'ful' is not one of smoke | full. Did you mean 'full'?"),
        (["--set", "rule=x"], "'x' is not one of plain | twice"),
        (["--set", "bias=nan"], "bias: 'nan' is not a number"),
        (["--set", "seed"], "--set seed: no value."),
        (["--seed", "1", "--set", "seed=2"], "seed is given twice."),
        (["--set", "output=x"], "Use --output DIR."),
        (["--resume"], "--resume needs --output DIR"),
        (["--resume", "--restart", "--output", "x"], "--resume and --restart exclude each other."),
    ],
)
def test_wrong_parameters_run_nothing(here: Path, words: list[str], said: str) -> None:
    result = call("run", "coin", *words, code=2)
    assert said in result.stderr
    assert result.stdout == ""
    assert list(here.iterdir()) == []


def test_a_flag_for_a_parameter_that_the_recipe_lacks_is_an_error() -> None:
    assert "'device' is no parameter" in call("run", "broken", "--device", "cpu", code=2).stderr


# ---- a run that ends well


def test_run_prints_figures_and_writes_the_folder(here: Path) -> None:
    result = call("run", "coin", "--seed", "3", "--set", "sides=[up, down]", "--output", "out")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["figure", "value", "95", "%", "interval", "n"]
    assert lines[1].startswith("up ")
    assert lines[2:] == ["run: out"]
    assert len(result.stderr.splitlines()) == 4, "a line for each code cell"
    names = {path.name for path in (here / "out").iterdir()}
    assert names == {"executed.ipynb", "metrics.json", "items.jsonl", "manifest.json"}
    nbformat.validate(nbformat.read(here / "out" / "executed.ipynb", as_version=4))
    manifest = read(here / "out" / "manifest.json")
    assert manifest["status"] == "done"
    assert (manifest["seed"], manifest["mode"], manifest["model"]) == (3, "smoke", "lab")
    assert manifest["parameters"]["sides"] == ["up", "down"]
    assert manifest["model_sha256"] == "0" * 64
    assert manifest["data"] == {"flips": "1" * 64}
    assert manifest["versions"]["papermill"]
    assert manifest["hardware"]["cpu_cores"] >= 1
    assert manifest["peak_rss_bytes"] > 2**24
    assert manifest["peak_gpu_bytes"] is None
    assert manifest["seconds"] > 0
    digest = subprocess.run(["sha256sum", COIN], capture_output=True, text=True, check=True)
    assert manifest["notebook_sha256"] == digest.stdout.split()[0]
    assert read_run(here / "out").manifest == manifest


def test_run_without_output_gets_a_folder_of_its_own() -> None:
    found = json.loads(call("run", "coin", "--json").stdout)
    assert Path(found["folder"]).parent == Path("runs")
    assert found["status"] == "done"
    assert set(found["figures"]["heads"]) == {
        "value", "low", "high", "n", "unit", "better", "group",
    }  # fmt: skip


def test_same_seed_same_figures_another_seed_others() -> None:
    values = [run_recipe(COIN, {"seed": s}).figures["heads"].value for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_a_file_that_a_parameter_names_is_hashed(here: Path) -> None:
    (here / "heads").write_text("abc", encoding="utf-8")
    manifest = run_recipe(COIN, {}).manifest
    assert manifest["data"]["heads"].startswith("ba7816bf")  # FIPS 180-2, B.1


def test_the_current_folder_is_the_users(here: Path) -> None:
    notebook = here / "where.ipynb"
    cell = nbformat.v4.new_code_cell("import os, sys; print(os.getcwd(), sys.executable)")
    first = nbformat.v4.new_code_cell("x: int = 1", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[first, cell]), notebook)
    result = run_recipe(notebook, {}, here / "out")
    executed = nbformat.read(here / "out" / "executed.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.split() == [str(here), sys.executable]
    assert result.figures == {}
    said = call("run", str(notebook))
    assert "recorded no figures" in said.stderr


def test_a_rogue_kernel_of_the_user_is_not_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = here / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    start = here / "ipython" / "profile_default" / "startup"
    start.mkdir(parents=True)
    (start / "00.py").write_text("raise SystemExit('start-up file')", encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(here / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(here / "ipython"))
    assert run_recipe(COIN).status == "done"


# ---- a run that fails


def test_a_failed_cell_is_shown_with_its_source(here: Path) -> None:
    result = call("run", "broken", "--output", "out", code=3)
    assert result.stdout == ""
    assert 'error: cell 5 (under "Fail") failed: ValueError: invalid literal' in result.stderr
    assert '  >  13 | int("forty-two")\n' in result.stderr
    assert "Executed notebook: out/executed.ipynb" in result.stderr
    assert "Traceback" not in result.stderr
    executed = nbformat.read(here / "out" / "executed.ipynb", as_version=4)
    nbformat.validate(executed)
    assert executed.cells[4].outputs[-1].ename == "ValueError", "the number that was named"
    assert executed.cells[5].outputs == []
    assert read(here / "out" / "manifest.json")["status"] == "failed"
    assert "Traceback" in call("--debug", "run", "broken", code=3).stderr


def test_our_own_errors_keep_message_hint_and_code() -> None:
    said = call("run", "broken", "--set", "how=ours", code=3).stderr
    assert said.endswith("error: the hub can't be reached.\n  Use the lab model.\n")
    assert "Traceback" not in said


def test_a_gate_is_an_honest_no_with_figures() -> None:
    result = call("run", "coin", "--set", "bias=0.1", code=1)
    assert result.stdout.startswith("figure")
    assert "the gate in cell 8 says no: too few heads" in result.stderr
    assert "failed: AssertionError" in call("run", "broken", "--set", "how=assert", code=3).stderr


def test_a_kernel_that_dies_and_a_cell_that_takes_too_long(here: Path) -> None:
    said = call("run", "broken", "--set", "how=died", "--output", "out", code=3).stderr
    assert "failed: the kernel's process died" in said
    nbformat.validate(nbformat.read(here / "out" / "executed.ipynb", as_version=4))
    said = call("run", "sleepy", "--cell-timeout", "2", "--output", "slow", code=3).stderr
    assert "it ran longer than 2 seconds" in said
    assert_gone(here / "slow")


def test_errors_as_json() -> None:
    result = call("run", "broken", "--json", code=3)
    assert result.stdout == ""
    error = json.loads(result.stderr[result.stderr.index("{") :])["error"]
    assert error["exit_code"] == 3


def test_broken_metrics_are_no_result(here: Path) -> None:
    notebook = here / "bad.ipynb"
    code = 'open(output + "/metrics.json", "w").write("{")'
    first = nbformat.v4.new_code_cell('output: str = ""', metadata={"tags": ["parameters"]})
    cells = [first, nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    result = run_recipe(notebook)
    assert (result.status, result.exit_code) == ("failed", 3)
    assert "metrics.json" in result.failure.message


# ---- folders


def test_a_folder_with_something_else_is_refused(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    assert "holds no run" in call("run", "coin", "--output", "mine", code=2).stderr
    assert "holds no run" in call("run", "coin", "--output", "mine", "--restart", code=2).stderr
    call("run", "coin", "--output", "mine", "--force")
    assert (here / "mine" / "thesis.txt").read_text(encoding="utf-8") == "x"
    said = call("run", "broken", "--output", "mine", code=2).stderr
    assert "it holds a run of 'coin'" in said


def test_a_finished_run_is_not_overwritten_by_accident(here: Path) -> None:
    call("run", "coin", "--output", "out", "--seed", "5")
    before = (here / "out" / "metrics.json").read_bytes()
    said = call("run", "coin", "--output", "out", code=2).stderr
    assert "that is done" in said
    assert "--resume" in said
    again = call("run", "coin", "--output", "out", "--resume")
    assert "done already; nothing was run." in again.stderr
    assert again.stdout.startswith("figure")
    assert (here / "out" / "metrics.json").read_bytes() == before
    call("run", "coin", "--output", "out", "--restart")
    assert read(here / "out" / "manifest.json")["seed"] == 0


def test_resume_of_a_failed_run_keeps_parameters_and_cache(here: Path) -> None:
    call("run", "coin", "--output", "out", "--set", "bias=0.1", "--seed", "7", code=1)
    (here / "out" / "cache").mkdir()
    (here / "out" / "cache" / "abc").write_text("took long", encoding="utf-8")
    call("run", "coin", "--output", "out", "--resume", "--set", "bias=0.6")
    manifest = read(here / "out" / "manifest.json")
    assert (manifest["seed"], manifest["parameters"]["bias"]) == (7, 0.6)
    assert (here / "out" / "cache" / "abc").exists()
    call("run", "coin", "--output", "out", "--restart")
    assert not (here / "out" / "cache").exists()


# ---- signals and kills


def sleeping(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A run of the sleepy recipe that has reached its sleep."""
    command = [COOKBOOK, "run", str(SLEEPY), "--output", str(folder), *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (folder / "asleep").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def assert_gone(folder: Path, *processes: psutil.Process, within_seconds: float = 5) -> None:
    """The kernel's own child, and these processes, no longer run."""
    worker = int((folder / "worker.pid").read_text(encoding="utf-8"))
    deadline = time.monotonic() + within_seconds

    def left() -> list[Any]:
        found = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
            return [*found, worker]
        return found

    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_readable_partial_run(here: Path, number: signal.Signals) -> None:
    folder = here / "out"
    process = sleeping(folder)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2, "the kernel and its worker"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "error: interrupted." in err
    assert "Traceback" not in err
    assert_gone(folder, *children)
    assert (folder / "heard").exists(), "the cell could clean up"
    executed = nbformat.read(folder / "executed.ipynb", as_version=4)
    nbformat.validate(executed)
    assert read(folder / "manifest.json")["status"] == "interrupted"
    resumed = run_recipe(SLEEPY, {"seconds": 0.1}, folder, existing="resume")
    assert resumed.notes["reused"] is True


@pytest.mark.parametrize("twice", [True, False])
def test_a_cell_that_ignores_interrupts_is_killed(here: Path, twice: bool) -> None:
    process = sleeping(here / "out", "--set", "stubborn=true")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    if twice:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert_gone(here / "out", *children)
    assert read(here / "out" / "manifest.json")["status"] == "interrupted"


def test_an_early_signal_ends_it_too(here: Path) -> None:
    """While the kernel starts: no cell runs, nothing is left."""
    for delay in (0.8, 1.4):
        folder = here / f"out{delay}"
        command = [COOKBOOK, "run", str(COIN), "--output", str(folder)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(delay)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode in (0, 130, -signal.SIGINT), err
        assert not [child for child in children if child.is_running()]


def test_a_killed_run_is_recognised_and_begun_again(here: Path) -> None:
    folder = here / "out"
    process = sleeping(folder)
    busy = call("run", str(SLEEPY), "--output", str(folder), "--restart", code=2)
    assert f"process {process.pid} is writing a run there" in busy.stderr
    tree = psutil.Process(process.pid).children(recursive=True)
    for victim in [psutil.Process(process.pid), *tree]:
        victim.kill()
    process.communicate()
    nbformat.validate(nbformat.read(folder / "executed.ipynb", as_version=4))
    said = call("run", str(SLEEPY), "--output", str(folder), code=2).stderr
    assert f"that was killed (process {process.pid} is gone)" in said
    assert "--resume" in said
    assert "--restart" in said
    resumed = run_recipe(SLEEPY, {"seconds": 0.1}, folder, existing="resume")
    assert resumed.notes["reused"] is True
    restarted = run_recipe(SLEEPY, {"seconds": 0.2}, folder, existing="restart")
    assert restarted.notes["reused"] is False


def test_the_kernel_ends_when_the_runner_alone_is_killed(here: Path) -> None:
    process = sleeping(here / "out")
    kernel = psutil.Process(process.pid).children()[0]
    worker = kernel.children()
    try:
        process.kill()
        process.communicate()
        psutil.wait_procs([kernel], timeout=10)
        assert not kernel.is_running()
    finally:  # the kernel's own children can't be reached any more: their parent is gone
        for orphan in worker:
            orphan.kill()


# ---- copies


def test_a_copy_runs_and_runs_all_in_jupyter(here: Path) -> None:
    done = call("new", "coin", "mine", "--set", "bias=0.7", "--set", "sides=[up, down]")
    assert done.stdout == "mine/coin.ipynb\n"
    copy = here / "mine" / "coin.ipynb"
    rows = json.loads(call("show", str(copy), "--json").stdout)["parameters"]
    shown = {p["name"]: p for p in rows}
    assert (shown["bias"]["default"], shown["sides"]["default"]) == (0.7, ["up", "down"])
    assert shown["bias"]["help"] == "chance of heads", "comments stay"
    notebook = nbformat.read(copy, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert notebook.cells[4].outputs[0].data["text/plain"].startswith("'up ")
    renamed = copy.rename(here / "mine" / "renamed.ipynb")
    assert json.loads(call("run", str(renamed), "--json").stdout)["recipe"] == "coin"


def test_a_copy_is_not_overwritten() -> None:
    call("new", "coin", "mine")
    assert "exists already" in call("new", "coin", "mine", code=2).stderr
    call("new", "coin", "mine", "--force")
    assert "is no parameter" in call("new", "coin", "other", "--set", "x=1", code=2).stderr


def test_a_copy_takes_its_values_from_a_plan(here: Path) -> None:
    stages = [
        {"path": "prompt", "recipe": None, "parameters": {}},
        {"path": "rag", "recipe": "10_coin", "parameters": {"mode": "full", "seed": 4}},
    ]
    (here / "plan.json").write_text(json.dumps({"plan": stages}), encoding="utf-8")
    call("new", "coin", "mine", "--plan", "plan.json", "--seed", "9")
    shown = json.loads(call("show", "mine/coin.ipynb", "--json").stdout)["parameters"]
    values = {p["name"]: p["default"] for p in shown}
    assert (values["mode"], values["seed"]) == ("full", 9), "what is typed goes before the plan"
    said = call("new", "broken", "mine", "--plan", "plan.json", code=2).stderr
    assert "the plan has no stage for broken" in said
    assert "It names: 10_coin." in said


# ---- the function underneath


def test_run_recipe_reports_steps_and_refuses_by_raising(here: Path) -> None:
    steps: list[CellStep] = []
    result = run_recipe("coin", {"seed": 1}, here / "out", steps.append)
    assert (result.status, result.exit_code) == ("done", 0)
    assert [s.state for s in steps] == ["start", "done"] * 4
    assert steps[-1].title == "Gate"
    with pytest.raises(AdvisorError, match="Did you mean 'seed'"):
        run_recipe("coin", {"sed": 1})
    with pytest.raises(AdvisorError, match="whole number"):
        run_recipe("coin", {"seed": "1"})


def test_a_full_disk_ends_the_run_and_its_kernel(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise AdvisorError("the disk is full; nothing was changed.")

    monkeypatch.setattr("cookbook.kernel.write_text", full)
    with pytest.raises(AdvisorError, match="disk is full"):
        execute(COIN, here / "executed.ipynb")
    kernels = [p for p in psutil.Process().children() if "ipykernel_launcher" in p.cmdline()]
    assert kernels == []


def test_it_works_outside_the_main_thread() -> None:
    import threading

    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(run_recipe(COIN).status))
    thread.start()
    thread.join()
    assert found == ["done"]


@pytest.mark.skipif(shutil.which("script") is None, reason="no script(1) to make a terminal")
def test_a_terminal_gets_a_bar_and_stdout_stays_clean(here: Path) -> None:
    import pexpect

    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    line = f"{COOKBOOK} run {COIN} --output out > table.txt"
    child = pexpect.spawn("/bin/bash", ["-c", line], env=env, encoding="utf-8", timeout=60)
    shown = child.read()
    child.close()
    assert child.exitstatus == 0
    assert "4/4" in shown
    assert (here / "table.txt").read_text(encoding="utf-8").startswith("figure")
