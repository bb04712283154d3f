"""What ``benchmarks/on_gpu`` runs: every end that a task can have, and that each call goes on where the last one ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import journal, summary
from benchmarks.gpu.__main__ import do, parse
from benchmarks.gpu.scheduler import DEVICE_LOST, State, Task, run
from benchmarks.gpu.tasks import Settings, tasks

ROOT = Path(__file__).resolve().parents[2]


def task(name, program, *arguments, phase="phase", **settings):
    """A task of a few lines of Python."""
    return Task(phase, name, lambda left: [sys.executable, "-S", "-c", program, *map(str, arguments)], **settings)


def outcome(folder, found, seconds=60.0, width=1):
    """What became of tasks in one call, and whether all was done."""
    state = State(folder)
    done = run(found, state, time.monotonic() + seconds, {"phase": width}, lambda text: None)
    return done, {name: record["status"] for name, record in State(folder).tasks.items()}


def count(text):
    """A program that adds a line to the file which it is given, and goes on with ``text``, which knows the lines as n."""
    return (
        f"import sys, time, os; f = open(sys.argv[1], 'a+'); f.write('x\\n'); f.seek(0); n = len(f.read()) // 2\n{text}"
    )


def test_every_end_of_a_task_is_noted_and_the_next_one_runs(tmp_path):
    found = [
        task("well", "print('here')"),
        task("failing", "raise SystemExit(1)"),
        task("crashing", "import os; os.abort()"),
        task("hanging", "import time; time.sleep(60)", stall_s=0.5),
        task("last", ""),
    ]
    done, status = outcome(tmp_path, found)
    assert done
    assert status == {
        "well": "done",
        "failing": "done, with failures",
        "crashing": "crashed",
        "hanging": "hung",
        "last": "done",
    }
    state = State(tmp_path)
    assert state.tasks["crashing"]["starts"] == 2
    assert state.tasks["crashing"]["why"] == "exit code -6"
    assert state.tasks["hanging"]["why"] == "no sign of life for 0 s"
    assert state.log(found[0]).read_text() == "here\n"
    assert "| hanging | hung | " in summary.text(state)


def test_what_is_done_is_not_done_again(tmp_path):
    found = [task("a", count(""), tmp_path / "a"), task("b", count("sys.exit(3 if n == 1 else 0)"), tmp_path / "b")]
    assert outcome(tmp_path / "state", found) == (False, {"a": "done", "b": "to go on"})
    assert outcome(tmp_path / "state", found) == (True, {"a": "done", "b": "done"})
    assert [(tmp_path / name).read_text().count("x") for name in "ab"] == [1, 2]


def test_time_ends_a_task_and_all_that_it_started(tmp_path):
    program = count(
        "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, file=open(sys.argv[2], 'w'), flush=True)\n"
        "time.sleep(0 if n == 2 else 60)"
    )
    cut = []
    found = [
        task("long", program, tmp_path / "n", tmp_path / "pid", least_s=0.0, on_cut=lambda: cut.append(1)),
        task("later", "", phase="later"),
    ]
    done, status = outcome(tmp_path / "state", found, seconds=1.5)
    assert (done, status) == (False, {"long": "to go on"})
    assert cut == [1]
    started = int((tmp_path / "pid").read_text())
    assert any(_is_gone(started) or time.sleep(0.1) for _ in range(50))
    done, status = outcome(tmp_path / "state", found)
    assert (done, status) == (True, {"long": "done", "later": "done"})


def _is_gone(process):
    """True for one that has ended, if only as a zombie that nobody has asked about."""
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_crash_after_progress_is_tried_again(tmp_path):
    file = tmp_path / "progress"
    found = [task("lossy", count(f"sys.exit({DEVICE_LOST} if n < 5 else 0)"), file, progress=(file,))]
    assert outcome(tmp_path / "state", found) == (True, {"lossy": "done"})
    assert State(tmp_path / "state").tasks["lossy"]["starts"] == 5


def test_tasks_of_a_phase_run_side_by_side(tmp_path):
    waits = "import pathlib, sys, time\nmine, other = map(pathlib.Path, sys.argv[1:])\nmine.touch()\n"
    waits += "while not other.exists(): time.sleep(0.01)"
    a, b = tmp_path / "a", tmp_path / "b"
    found = [task("a", waits, a, b, stall_s=20), task("b", waits, b, a, stall_s=20)]
    assert outcome(tmp_path / "state", found, width=2) == (True, {"a": "done", "b": "done"})


def test_a_task_is_not_begun_without_time_for_it(tmp_path):
    done, status = outcome(tmp_path, [task("a", "", least_s=100.0)], seconds=50)
    assert (done, status) == (False, {"a": "waiting"})


def test_a_call_says_what_is_left_and_collects_what_it_wrote(tmp_path, capsys):
    found = [task("a", count("sys.exit(3 if n == 1 else 0)"), tmp_path / "a")]
    state, out = tmp_path / "state", tmp_path / "out"
    options = parse(["--output", str(out), "--seconds", "50"])
    assert do(found, state, options, time.monotonic()) == 3
    assert "There is more to do: call again." in capsys.readouterr().out
    assert json.loads((out / "state.json").read_text())["tasks"]["a"]["status"] == "to go on"
    assert do(found, state, options, time.monotonic()) == 0
    assert "| a | done |" in (out / "summary.md").read_text()
    assert (out / "logs" / "a.log").exists()
    assert do([*found, task("b", "raise SystemExit(1)")], state, options, time.monotonic()) == 1


def test_the_tasks_of_a_gpu_machine(tmp_path):
    found = tasks(Settings(tmp_path, jobs=3))
    assert list(dict.fromkeys(t.phase for t in found)) == [
        "check",
        "tests",
        "tuning",
        "benchmarks",
        "profile",
        "report",
    ]
    assert len({t.name for t in found}) == len(found)
    assert all(t.environment["TRITON_INTERPRET"] == "0" for t in found)
    commands = {t.name: t.command(400.0) for t in found}
    assert all(command[0] in (sys.executable, "env") for command in commands.values())
    assert "--part 2/3" in " ".join(commands["tests 2 of 3"])
    assert "resume=True, seconds=310.0" in commands["tune resnet18"][-1]
    assert not any("TINYFLOW_TUNED" in word for word in commands["benchmarks resnet18"])
    (tmp_path / "tuned.json").touch()
    later = {t.name: t.command(400.0) for t in found}
    assert f"TINYFLOW_TUNED={tmp_path / 'tuned.json'}" in later["benchmarks resnet18"]


# ---- the journal of tests ------------------------------------------------------------------------------------------

TESTS = """
import os, pathlib, pytest

@pytest.mark.parametrize("k", range(3))
def test_well(k): pass

def test_badly(): assert 1 == 2

def test_crashes(): os._exit(13)

def test_skipped(): pytest.skip("not here")

def test_last(): pass
"""


def pytest_with_journal(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.gpu.journal", *options]
    command += ["--journal", str(folder / "j.jsonl"), "-c", os.devnull, "--rootdir", str(folder), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_tests_go_on_after_a_crash(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    assert pytest_with_journal(tmp_path).returncode == 13
    second = pytest_with_journal(tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr  # what is left passes: the bad one has its outcome
    found = {test.rpartition("::")[2]: o["outcome"] for test, o in journal.outcomes(tmp_path / "j.jsonl").items()}
    assert found == {
        "test_well[0]": "passed",
        "test_well[1]": "passed",
        "test_well[2]": "passed",
        "test_badly": "failed",
        "test_crashes": "crashed",
        "test_skipped": "skipped",
        "test_last": "passed",
    }


def test_a_test_that_was_cut_off_is_run_again_but_not_for_ever(tmp_path):
    file = tmp_path / "j.jsonl"
    begun = json.dumps({"begun": "test_a"}) + "\n"
    file.write_text(begun)
    assert journal.outcomes(file)["test_a"]["outcome"] == "crashed"
    journal.note_cut(file)
    assert journal.outcomes(file) == {}
    with open(file, "a") as f:
        f.write(begun)
    journal.note_cut(file)
    assert journal.outcomes(file)["test_a"]["outcome"] == "too long"
    with open(file, "a") as f:
        f.write('{"test": "test_b", "outcome": "pas')  # the process was killed in the middle of a line
    assert set(journal.outcomes(file)) == {"test_a"}


def test_the_summary_names_what_failed(tmp_path):
    state = State(tmp_path)
    (tmp_path / "tests").mkdir()
    lines = [
        {"test": "t::a", "outcome": "passed"},
        {"test": "t::b", "outcome": "failed", "why": "x\nE  AssertionError"},
    ]
    (tmp_path / "tests" / "1-of-1.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    text = summary.text(state)
    assert "1 failed, 1 passed" in text
    assert "- `t::b`: failed, E  AssertionError" in text


BARE = """
import sys
for name in ("hypothesis", "PIL"):
    sys.modules[name] = None
"""

NEEDING = """
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

shapes = st.lists(st.integers(0, 3)).map(tuple) | st.just(())

@pytest.mark.parametrize("k", [1, 2])
@settings(max_examples=3)
@given(st.integers(), x=shapes)
def test_property(n, k, x): assert False

def test_plain(): pass
"""


def test_where_packages_are_absent_the_other_tests_run(tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "absent.py").write_text(BARE)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "test_needing.py").write_text(NEEDING)
    (tmp_path / "t" / "test_pictures.py").write_text("from PIL import Image\ndef test_picture(): pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "absent",
        "-p",
        "benchmarks.gpu.journal",
        "--journal",
        "j.jsonl",
    ]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), "t"]
    path = os.pathsep.join((str(tmp_path / "bare"), str(ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = {Path(test).name: o["outcome"] for test, o in journal.outcomes(tmp_path / "j.jsonl").items()}
    assert found == {"test_needing.py::test_plain": "passed", "test_pictures.py": "not collected"}
