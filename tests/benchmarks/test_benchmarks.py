"""The benchmark programs, on problems small enough for a test."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch

import tinyflow
from benchmarks import figures, measure, profile, report, run
from benchmarks.case import OURS, QUICK, STOCK, TORCH, Case, Input, Scale, case, relative_error, selected
from benchmarks.cases import table
from benchmarks.peak_memory import MemoryCase
from benchmarks.results import FOLDER, Results, files, read
from benchmarks.timer import QUICK_EFFORT, Contender, Effort, HostTimer
from tinyflow import profiler

NOTES = Path(run.__file__).with_name("NOTES.md")
MACHINE = {
    "device": "a device",
    "kind": "cpu",
    "processor": "a processor",
    "cores": 1,
    "torch_threads": 1,
    "mode": "a mode",
    "versions": {},
    "platform": "a platform",
}
#: Families of which each case takes little.
FAMILIES = ("elementwise", "copies", "reductions", "batch_norm", "pooling", "engine", "launcher")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of a quick run over the quick families."""
    folder = tmp_path_factory.mktemp("results")
    families = [word for family in FAMILIES for word in ("--family", family)]
    assert run.main(["--quick", "--no-stock", "--output", str(folder), *families]) == 0
    return folder


def only_file(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def test_the_file_says_what_was_measured_on_what(measured):
    content = read(only_file(measured, "*.json"))
    machine = content["machine"]
    assert machine["cores"] >= 1
    assert machine["torch_threads"] == torch.get_num_threads()
    assert set(machine["versions"]) == {"python", "tinyflow", "torch", "triton", "numpy"}
    expected = [c.key for c in table(QUICK) if c.family in FAMILIES]
    assert list(content["cases"]) == expected
    for record in content["cases"].values():
        assert record["date"].startswith("20")
        for contender in record["contenders"].values():
            assert 0 < contender["minimum_s"] <= contender["median_s"] < 60
    add = content["cases"]["elementwise/add"]
    assert (add["launches"], add["flops"], add["bytes"]) == (1, 1024, 3 * 1024 * 4)
    assert content["cases"]["engine/backward"]["parts"] == QUICK.nodes


def test_the_report_is_made_from_the_file_alone(measured, capsys):
    assert report.main([str(measured)]) == 0
    path = only_file(measured, "*.md")
    assert capsys.readouterr().out == f"{path}\n"
    text = path.read_text()
    record = read(path.with_suffix(".json"))["cases"]["elementwise/add"]
    row = next(line for line in text.splitlines() if line.startswith("| add |"))
    for figure in (figures.quantity(figures.value(record, OURS), "second"), figures.times(figures.ratio(record))):
        assert figure in row
    pictures = re.findall(r"\]\(([^)]*\.png)\)", text)
    assert len(pictures) == len(FAMILIES)
    for picture in pictures:
        assert (measured / picture).read_bytes().startswith(b"\x89PNG")


def test_a_run_goes_on_where_it_was(measured, tmp_path, monkeypatch, capsys):
    path = tmp_path / only_file(measured, "*.json").name
    content = read(only_file(measured, "*.json"))
    before = content["cases"].pop("copies/fill")
    path.write_text(json.dumps(content))
    seen = []

    def recorded(case, *rest, **named):
        seen.append(case.key)
        return before

    monkeypatch.setattr(measure, "record", recorded)
    arguments = ["--quick", "--output", str(tmp_path), "--family", "copies"]
    assert run.main([*arguments, "--resume", "--seconds", "-1"]) == 3
    assert "time ran out before copies/fill; go on with --resume" in capsys.readouterr().err
    assert run.main([*arguments, "--resume"]) == 0
    assert seen == ["copies/fill"]
    assert run.main(arguments) == 0
    assert len(seen) == 1 + sum(c.family == "copies" for c in table(QUICK))
    assert len(read(path)["cases"]) == len(content["cases"]) + 1  # other families stay


def test_results_of_other_versions_are_not_mixed(tmp_path):
    path = tmp_path / "x.json"
    Results(path, {"versions": "old"}, ["a/b"]).add("a/b", {})
    assert Results(path, {"versions": "old"}, ["a/b"]).cases == {"a/b": {}}
    assert Results(path, {"versions": "new"}, ["a/b"]).cases == {}
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected a result file of format 1"):
        Results(path, {}, [])


def test_records_stand_in_the_order_of_the_table(tmp_path):
    path = tmp_path / "x.json"
    Results(path, {}, ["gone"]).add("gone", {})
    for key in ("second", "first"):
        Results(path, {}, ["first", "second"]).add(key, {})
    assert list(read(path)["cases"]) == ["first", "second"]


def test_a_family_that_is_none_is_refused(capsys):
    assert run.main(["--quick", "--family", "elementwse"]) == 2
    assert "there is no family 'elementwse'; there are elementwise, copies," in capsys.readouterr().err


def test_a_wrong_result_is_no_figure():
    wrong = case("x", "wrong", lambda x: x * 2, lambda x: x, Input((4,)))
    record = measure.record(wrong, torch.device("cpu"), QUICK_EFFORT, stock=False)
    assert record["error"] == "Disagreement: tinyflow and torch differ by 1, more than 0.001"
    assert "contenders" not in record
    text = report.markdown({"machine": MACHINE, "cases": {"x/wrong": record}}, None, "x")
    assert text.count("failed: Disagreement") == 1


@pytest.mark.parametrize(
    ("ours", "theirs", "error"),
    [
        (torch.ones(2), torch.tensor([1.0, 2.0]), 1 / 5**0.5),
        ((tinyflow.from_torch(torch.ones(2)), None), [torch.ones(2)], 0.0),
        (torch.ones(2), torch.ones(3), float("inf")),
        (None, torch.ones(3), float("inf")),
    ],
)
def test_results_are_compared(ours, theirs, error):
    assert relative_error(ours, theirs) == pytest.approx(error)


def test_nan_never_agrees():
    nan = case("x", "nan", lambda x: x / 0 * 0, lambda x: x, Input((4,)))
    assert "differ by nan" in measure.record(nan, torch.device("cpu"), QUICK_EFFORT, stock=False)["error"]


def test_contenders_take_turns():
    order = []
    contenders = {name: Contender(lambda name=name: order.append(name)) for name in "ab"}
    HostTimer().time(contenders, Effort(seconds=1, turns=3, most=2, sample_s=0, pause_s=0))
    assert "".join(order) == "aabb" + "aaabbb" * 3  # tried twice, then in turns of a call that is not timed and two samples
    assert [len(c.samples) for c in contenders.values()] == [6, 6]


def test_a_slow_contender_is_timed_once():
    contenders = {"slow": Contender(lambda: time.sleep(0.02), slow=True), "fast": Contender(lambda: None)}
    HostTimer().time(contenders, Effort(seconds=0.01, turns=2, most=1, slow=2))
    assert len(contenders["slow"].samples) == 1
    assert contenders["slow"].samples[0] >= 0.02 > contenders["fast"].summary()["minimum_s"]


@pytest.mark.skipif(not profiler.interpreting(), reason="Triton's interpreter does not run in compiled mode")
def test_the_stock_interpreter_is_measured_and_put_away():
    from tinyflow.kernels import interpreter

    (add,) = [c for c in table(QUICK) if c.key == "elementwise/add"]
    before = interpreter.installed()
    record = measure.record(add, torch.device("cpu"), QUICK_EFFORT, stock=True)
    assert interpreter.installed() == before
    assert record["contenders"][STOCK]["samples"] == 1
    assert figures.stock_ratio(record) > 0


def test_the_profile_accounts_for_the_whole_step(tmp_path):
    assert profile.main(["--quick", "--steps", "1", "--output", str(tmp_path)]) == 0
    found = read(only_file(tmp_path, "*-profile.json"))
    step = sum(found["phases"].values())
    assert sum(f["tinyflow_s"] for f in found["families"]) == pytest.approx(step)
    kernels = {(k["phase"], k["family"]) for k in found["kernels"]}
    assert {("forward", "conv2d"), ("backward", "conv2d"), ("update", "optimizer"), ("forward", "loss")} <= kernels
    assert 0 < sum(k["seconds"] for k in found["kernels"]) < step
    assert all(k["bytes"] >= 0 and k["launches"] > 0 for k in found["kernels"])
    assert 0 < found["framework_s"] < step
    assert 0 < found["one_launch_s"] < 1
    ours = next(f for f in found["families"] if f["family"] == "conv2d")
    assert ours["tinyflow_s"] > 0
    assert ours["torch_s"] > 0


def test_peak_memory_is_that_of_the_step():
    record = MemoryCase("resnet18", "memory", Scale(batch=2, image=32)).measure()
    parameters = 11_689_512 * 4
    for contender in (OURS, TORCH):
        assert record["contenders"][contender]["added"] > 3 * parameters  # values, gradients, momentum


def test_cases_have_names_of_their_own():
    keys = [c.key for c in table(QUICK)]
    assert len(set(keys)) == len(keys)
    assert {c.key for c in selected(table(QUICK), ["matmul"])} == {k for k in keys if k.startswith("matmul/")}
    assert all({OURS, TORCH} <= set(c.contenders) for c in table(QUICK) if isinstance(c, Case))


def test_the_notes_quote_only_figures_that_were_measured():
    """Every figure with a unit in the notes stands in a report; after a new run the notes are to be read again."""
    reports = "\n".join(p.read_text() for p in FOLDER.glob("*.md"))
    quoted = re.findall(r"\d[\d.,]*\s?(?:ms|µs|s|[kMG]B|[MGT]FLOP/s|[MGT]B/s|×|%)(?![\w/])", NOTES.read_text())
    assert [q for q in quoted if q not in reports] == []


def test_reports_are_up_to_date():
    for path in files(FOLDER):
        results = read(path)
        profiled = report.profile_beside(path, results)
        expected = report.markdown(results, profiled, path.stem)
        assert path.with_suffix(".md").read_text() == expected, "run python -m benchmarks.report"
