"""What ``benchmarks/on_gpu`` runs: every end that a task can have, and that each call goes on where the last one ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import tinyflow
from benchmarks import goals
from benchmarks.gpu import ahead, journal, keep, summary
from benchmarks.gpu.__main__ import do, main, parse
from benchmarks.gpu.scheduler import DEVICE_LOST, Busy, State, Task, alone, run
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
    assert sorted(path.name for path in out.iterdir()) == ["on_gpu.tar.gz", "state.json", "summary.md"]
    with tarfile.open(out / "on_gpu.tar.gz") as archive:
        assert "logs/a.log" in archive.getnames()
    assert do([*found, task("b", "raise SystemExit(1)")], state, options, time.monotonic()) == 1


def test_a_call_keeps_others_out_but_not_when_it_is_dead(tmp_path):
    with alone(tmp_path), pytest.raises(Busy, match="another call is at work in"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


KILLED = """
import sys, time
from pathlib import Path
from benchmarks.gpu.scheduler import State, Task, run
program = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(60)"
task = Task("phase", "long", lambda left: [sys.executable, "-S", "-c", program, sys.argv[2]], least_s=0.0)
run([task], State(Path(sys.argv[1])), time.monotonic() + 60, {}, print)
"""


def test_what_a_killed_call_had_begun_ends_with_it_and_goes_on_in_the_next(tmp_path):
    pid = tmp_path / "pid"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "state"), str(pid)]
    call = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert any(pid.exists() and pid.read_text().strip() or time.sleep(0.1) for _ in range(600))
    call.kill()
    call.wait()
    assert any(_is_gone(int(pid.read_text())) or time.sleep(0.1) for _ in range(50))
    assert State(tmp_path / "state").tasks["long"]["status"] == "running"
    cut = []
    found = [task("long", "", phase="phase", on_cut=lambda: cut.append(1))]
    assert outcome(tmp_path / "state", found) == (True, {"long": "done"})
    assert cut == [1]


@pytest.mark.skipif(tinyflow.gpu_available(), reason="there is a GPU")
def test_without_a_gpu_it_takes_a_trial(tmp_path, capsys):
    assert main(["--state", str(tmp_path / "state")]) == 2
    assert "torch finds no GPU here; --trial goes through all of it without one" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_the_tasks_of_a_gpu_machine(tmp_path):
    found = tasks(Settings(tmp_path, jobs=3))
    assert list(dict.fromkeys(t.phase for t in found)) == [
        "check",
        "compile",
        "first",
        "tests",
        "candidates",
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
    risky = [word for word in commands["risky tests 1 of 3"] if word.startswith("tests/")]
    assert risky and all((ROOT / file).is_file() for file in risky)
    assert {t.environment["OMP_NUM_THREADS"] for t in found if t.name.startswith("tests")} == {"1"}
    assert "--without torch.compile" in " ".join(commands["first figures"])
    caches = {(t.environment["TRITON_CACHE_DIR"], t.environment["TORCHINDUCTOR_CACHE_DIR"]) for t in found}
    assert len(caches) == 1
    assert "resume=True, seconds=310.0" in commands["tune resnet18"][-1]
    assert not any("TINYFLOW_TUNED" in word for word in commands["benchmarks resnet18"])
    assert not any("TINYFLOW_TUNED" in word for word in commands["first figures"])
    (tmp_path / "tuned.json").touch()
    later = {t.name: t.command(400.0) for t in found}
    assert f"TINYFLOW_TUNED={tmp_path / 'tuned.json'}" in later["benchmarks resnet18"]


# ---- compiling ahead, and keeping what came of a run -----------------------------------------------------------------


@pytest.mark.parametrize("what", [["--part", "1/60"], ["--part", "2/60", "--candidates"]], ids=["step", "candidates"])
def test_kernels_are_compiled_ahead(what, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu.ahead", *what, "--batch", "2", "--image", "64"]
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].endswith(" launches compiled for sm_90, 0 calls failed")
    assert list(tmp_path.rglob("*.cubin"))
    assert ahead.parse([]).batch == 256


def pretended(kind, milliseconds):
    """A result file of a device that is none, with one case for each of some times."""
    machine = {
        "device": "A pretended GPU",
        "kind": kind,
        "processor": "a processor",
        "cores": 1,
        "torch_threads": 1,
        "mode": "compiled",
        "versions": {},
        "platform": "a platform",
    }
    figures = {"unit": "second", "parts": 1, "images": 256, "products": "bfloat16", "statistic": "median_s"}
    figures |= {"launches": 1, "flops": 1, "bytes": 1, "floor_s": None, "not_measured": {}}
    figures |= {"date": "2000-01-01", "load_before": 0.0, "sizes": ""}

    def case(family, name, ours):
        times = {"tinyflow": ours * 1e-3, "torch": 10e-3}
        contenders = {who: {"minimum_s": t, "median_s": t, "samples": 3} for who, t in times.items()}
        return {**figures, "family": family, "name": name, "contenders": contenders}

    cases = {f"resnet18/{name}": case("resnet18", name, ours) for name, ours in milliseconds.items()}
    return {"format": 1, "machine": machine, "ceilings": {}, "begun": {"x": 1}, "cases": cases}


def test_what_was_collected_is_kept(tmp_path, capsys):
    state, out, target, tables = (tmp_path / name for name in ("state", "out", "target", "tables"))
    for kind, cases in (("untuned", {"training step": 8.0, "inference": 2.0}), ("results", {"training step": 4.0})):
        (state / kind).mkdir(parents=True)
        (state / kind / "a-pretended-gpu.json").write_text(json.dumps(pretended("cuda", cases)))
    (state / "results" / "a-cpu.json").write_text(json.dumps(pretended("cpu", {"inference": 1.0})))
    (state / "tuned.json").write_text(json.dumps({"device": "A pretended GPU", "kernels": {}}))
    summary.copy(state, out)
    assert keep.main(out, target, tables) == 0
    assert sorted(path.name for path in target.glob("*.*")) == ["a-pretended-gpu.json", "a-pretended-gpu.md"]
    assert [path.name for path in tables.iterdir()] == ["a-pretended-gpu.json"]
    kept = json.loads((target / "a-pretended-gpu.json").read_text())
    assert {k: r["contenders"]["tinyflow"]["median_s"] for k, r in kept["cases"].items()} == {
        "resnet18/training step": 4e-3,  # measured again, with the table
        "resnet18/inference": 2e-3,
    }
    assert "begun" not in kept
    page = goals.write(target).read_text()
    assert "| ResNet18 training step, images/s | 28,000 or more | 64,000, reached |" in page
    assert "| ResNet18 training step over torch eager | 1 or less | 0.4×, reached |" in page.replace("0.400×", "0.4×")
    assert "| large matrix product over cuBLAS | 1.05 or less | not measured |" in page
    capsys.readouterr()
    assert keep.main(tmp_path / "nowhere", target, tables) == 2
    assert "there is nothing that was measured on a GPU" in capsys.readouterr().err


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
