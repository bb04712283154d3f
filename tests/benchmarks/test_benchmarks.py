"""The benchmark programs, on problems small enough for a test."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch

import tinyflow
from benchmarks import (
    ceilings,
    compile_report,
    figures,
    goals,
    measure,
    pictures,
    prediction,
    profile,
    quotes,
    report,
    run,
)
from benchmarks.case import ON_GPU, OURS, QUICK, QUICK_ON_GPU, STOCK, TORCH, Case, Input, case, relative_error, selected
from benchmarks.cases import table, training
from benchmarks.peak_memory import MemoryCase
from benchmarks.results import FOLDER, Results, files, read
from benchmarks.timer import QUICK_EFFORT, Contender, Effort, HostTimer
from tinyflow import profiler

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
    drawn = re.findall(r"\]\(([^)]*\.png)\)", text)
    assert len(drawn) == len(FAMILIES)  # and the roofline; the launcher's one figure needs none
    for picture in drawn:
        assert (measured / picture).read_bytes().startswith(b"\x89PNG")
    share = figures.share(record)
    assert share is not None and figures.percent(share) in row


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
    assert (
        "".join(order) == "aabb" + "aaabbb" * 3
    )  # tried twice, then in turns of a call that is not timed and two samples
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
    record = MemoryCase("resnet18", "memory", "resnet18", batch=2, image=32).measure()
    parameters = 11_689_512 * 4
    for contender in (OURS, TORCH):
        assert record["contenders"][contender]["added"] > 3 * parameters  # values, gradients, momentum


def test_cases_have_names_of_their_own():
    keys = [c.key for c in table(QUICK)]
    assert len(set(keys)) == len(keys)
    assert {c.key for c in selected(table(QUICK), ["matmul"])} == {k for k in keys if k.startswith("matmul/")}
    assert all({OURS, TORCH} <= set(c.contenders) for c in table(QUICK) if isinstance(c, Case))


@pytest.mark.parametrize("scale", [QUICK, ON_GPU], ids=["cpu", "gpu"])
def test_the_cases_of_every_scale_can_be_listed(scale):
    cases = table(scale)
    assert {c.family for c in cases} >= {"matmul", "attention", "optimizer", "resnet18", "resnet50", "throughput"}
    assert all(c.sizes for c in cases)


#: Of the cases that only a GPU has: one of each kind, on a few small images.
HALF = (
    "matmul/16 cubed",
    "attention/causal",
    "batch_norm/gradients",
    "pooling/maximum 3×3/2, gradient",
    "convolution/layer2 1×1/2, weight gradient",
    "resnet18/inference",
)


@pytest.mark.parametrize("key", HALF)
def test_cases_of_a_gpu_work_in_half_precision(key):
    (found,) = [c for c in table(QUICK_ON_GPU) if c.key == key]
    device = tinyflow.get_default_device()
    known = {"bytes_per_s": 1e9, "flops_per_s": {"bfloat16": 1e10}}
    record = measure.record(found, device, QUICK_EFFORT, stock=False, known=known)
    assert "error" not in record
    assert record["products"] == "bfloat16"
    assert record["not_measured"] == {}
    assert record["floor_s"] > 0
    assert figures.throughput(record, OURS) is None or figures.throughput(record, OURS) > 0


def test_a_recorded_step_in_half_precision_is_torchs():
    device = tinyflow.get_default_device()
    images, labels = torch.randn(2, 3, 32, 32, device=device), torch.tensor([3, 7], device=device)
    ours = training.TrainingStep(images, labels, half=True, captured=True)()
    theirs = training.TorchTrainingStep(images, labels, torch.channels_last, half=True)()
    assert relative_error(ours, theirs) < 0.05


def test_what_torch_cannot_do_is_not_measured():
    def refuses(x):
        raise RuntimeError("no\ncompiler")

    def fails(x):
        return lambda: 1 / 0

    ours = case("x", "y", lambda x: x, lambda x: x, Input((4,)))
    both = Case("x", "y", {**ours.contenders, TORCH: refuses, "torch compiled": fails}, ours.inputs)
    record = measure.record(both, torch.device("cpu"), QUICK_EFFORT, stock=False)
    assert record["not_measured"] == {
        TORCH: "RuntimeError: no compiler",
        "torch compiled": "ZeroDivisionError: division by zero",
    }
    assert figures.best_torch(record) is None and figures.ratio(record) is None
    assert "torch not measured" in figures.line(record)
    text = report.markdown({"machine": MACHINE, "cases": {"x/y": record}}, None, "x")
    assert "| not measured |" in text
    assert "- y: torch not measured: RuntimeError: no compiler" in text


def test_a_case_that_ends_its_process_is_left_out_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ceilings, "measure", lambda *_: {"bytes_per_s": 1.0, "flops_per_s": {}})
    arguments = ["--quick", "--output", str(tmp_path), "--family", "launcher", "--resume"]

    def dies(*rest, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "record", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run.main(arguments)
    assert run.main(arguments) == 1
    content = read(only_file(tmp_path, "*.json"))
    assert content["cases"]["launcher/one store"]["error"].startswith("not measured: each process that began it")
    assert "begun" not in content


def test_ceilings_bound_what_launches_take():
    known = ceilings.measure(torch.device("cpu"), QUICK_ON_GPU, QUICK_EFFORT)
    assert set(known["flops_per_s"]) == {"float32", "bfloat16"}
    costs = [profiler.Cost(2000, 10), profiler.Cost(1, 50)]
    known = {"bytes_per_s": 10.0, "flops_per_s": {"float32": 100.0}}
    assert ceilings.floor(known, costs, "float32") == 20 + 5
    assert ceilings.floor(known, costs, "int8") is None
    assert ceilings.floor({}, costs, "float32") is None


def made_up(key, ours, theirs=2e-3, flops=10**9, images=0):
    """A record as a GPU's file has it."""
    family, _, name = key.partition("/")
    contenders = {OURS: {"median_s": ours, "samples": 3}, TORCH: {"median_s": theirs, "samples": 3}}
    about = {"family": family, "name": name, "sizes": "4", "date": "2026-01-01", "load_before": 0.5, "unit": "second"}
    counts = {"flops": flops, "bytes": 10**6, "images": images, "floor_s": 1e-3, "parts": 1}
    return {**about, **counts, "statistic": "median_s", "contenders": contenders, "not_measured": {}}


def gpu_cases():
    keys = [f"convolution/layer1 3×3, {way}" for way in ("forward", "input gradient", "weight gradient")]
    cases = {key: made_up(key, 1e-3 * (k + 1)) for k, key in enumerate(keys)}
    for key, images in (("resnet18/training step", 256), ("throughput/training, batch of 8", 8)):
        cases[key] = made_up(key, 8e-3, images=images)
    return cases


def test_goals_are_not_measured_until_a_gpu_has():
    text = goals.markdown({})
    assert text.count("| not measured |") == len(goals.goals())
    text = goals.markdown({"a GPU": gpu_cases()})
    assert "| ResNet18 training step, images/s | 28,000 or more | 32,000, reached |" in text
    assert "| ResNet18 training step over torch eager | 1 or less | 4.00×, missed |" in text
    assert "over cuDNN, forward | 1 or less | 0.500× (layer1 3×3), reached |" in text
    assert "over cuDNN, weight gradient | 1 or less | 1.50× (layer1 3×3), missed |" in text
    assert "| ResNet18 inference, images/s | 130,000 or more | not measured |" in text
    failed = {"resnet18/training step": {**gpu_cases()["resnet18/training step"], "error": "it broke"}}
    assert goals.markdown({"a GPU": failed}).count("| not measured |") == len(goals.goals())


def test_a_gpus_results_are_drawn(tmp_path):
    known = {"date": "", "elements": 1, "side": 1, "bytes_per_s": 1e12, "flops_per_s": {"bfloat16": 1e14}}
    profiled = {
        "format": 1,
        "machine": {**MACHINE, "kind": "cuda"},
        "date": "2026-01-01",
        "problem": "a step",
        "steps": 1,
        "framework_s": 1e-3,
        "one_launch_s": 1e-6,
        "phases": {"forward": 1.0, "backward": 2.0, "update": 0.1},
        "kernels": [
            {
                "phase": "backward",
                "kernel": "k",
                "family": "conv2d",
                "launches": 2,
                "seconds": 1.5,
                "flops": 1,
                "bytes": 1,
            }
        ],
        "families": [{"family": "conv2d", "tinyflow_s": 1.5, "torch_s": 1.0}],
    }
    content = {"format": 1, "machine": profiled["machine"], "ceilings": known, "cases": gpu_cases()}
    (tmp_path / "gpu.json").write_text(json.dumps(content))
    (tmp_path / "gpu-profile.json").write_text(json.dumps(profiled))
    text = report.write(tmp_path / "gpu.json").read_text()
    drawn = re.findall(r"\]\(gpu/([^)]*)\.png\)", text)
    assert drawn == ["roofline", "convolution", "convolution-layers", "throughput-by-batch", "step"]
    assert all((tmp_path / "gpu" / f"{name}.png").exists() for name in drawn)
    assert list(pictures._steps(profiled)) == [
        ("forward", "between kernels", 1.0),
        ("backward", "conv2d", 1.5),
        ("backward", "between kernels", 0.5),
        ("update", "between kernels", 0.1),
    ]


def test_quotations_are_written_anew():
    cases = {"a/b": made_up("a/b", 1e-3)}
    profiled = {"phases": {"forward": 4.0}, "families": [{"family": "conv2d", "tinyflow_s": 1.0}]}
    text = "<!--= a/b: ratio -->9×<!--/--> and <!--= profile: share conv2d --><!--/-->."
    assert quotes.renewed(text, {"cases": cases}, profiled) == (
        "<!--= a/b: ratio -->0.500×<!--/--> and <!--= profile: share conv2d -->25.0 %<!--/-->."
    )
    with pytest.raises(ValueError, match="a text quotes a/c: ratio, and there is no such figure"):
        quotes.renewed("<!--= a/c: ratio -->1<!--/-->", {"cases": cases}, None)


def test_pages_quote_what_was_measured():
    """After a new run ``python -m benchmarks.report`` writes the figures; the words beside them are to be read again."""
    found = quotes.measured_here(FOLDER)
    assert found is not None
    for page in quotes.PAGES:
        text = page.read_text()
        assert quotes.renewed(text, *found) == text, "run python -m benchmarks.report"
    notes = re.sub(r"<!--=.*?<!--/-->", "", quotes.PAGES[0].read_text())
    notes = re.sub(
        r"^#+ (?:A prediction: |Predicted ).*?(?=^##|\Z)", "", notes, flags=re.MULTILINE | re.DOTALL
    )  # not measured, and says so
    assert re.findall(r"\d[\d.,]*\s?(?:ms|µs|s|[kMG]B|[MGT]FLOP/s|[MGT]B/s|×|%)(?![\w/])", notes) == []  # typed by hand


def test_reports_are_up_to_date():
    for path in files(FOLDER):
        results = read(path)
        profiled = report.profile_beside(path, results)
        expected = report.markdown(results, profiled, path.stem)
        assert path.with_suffix(".md").read_text() == expected, "run python -m benchmarks.report"
    for path in FOLDER.glob("compile_*.json"):
        expected = compile_report.markdown(json.loads(path.read_text()))
        assert path.with_suffix(".md").read_text() == expected, "run python -m benchmarks.report"
    for path in FOLDER.glob("step_*.json"):
        expected = prediction.markdown(json.loads(path.read_text()))
        assert path.with_suffix(".md").read_text() == expected, "run python -m benchmarks.report"
    found = [read(path) for path in files(FOLDER)]
    devices = {r["machine"]["device"]: r["cases"] for r in found if r["machine"]["kind"] == "cuda"}
    assert (FOLDER / "gpu.md").read_text() == goals.markdown(devices), "run python -m benchmarks.report"


def test_a_prediction_takes_the_longest_of_its_times():
    counts = {"instructions": 100, "bytes_loaded": 0, "bytes_stored": 0, "product_flops": 0, "LDG": 0}
    row = {
        "kernel": "_k",
        "operands": [[8]],
        "grid": [1320],
        "blocks": {},
        "num_warps": 4,
        "registers": 32,
        "shared": 0,
    }
    by = prediction.Assumed()
    predict = functools.partial(prediction.predicted, multiprocessors=132, flops=1e12, bandwidth=1e12, by=by)
    moved = predict({**row, "flops": 0, "bytes": 10**9, "boxed": 0, "all": counts})
    assert (moved.bound, moved.programs, moved.total) == ("memory", 16, 1e-3 + by.start)
    busy = predict({**row, "flops": 0, "bytes": 0, "boxed": 0, "all": {**counts, "instructions": 10**6}})
    assert busy.bound == "issue"
    assert busy.issue == pytest.approx(10 * 4 * 1e6 / (3.2 * by.clock))
    # a thousand rounds of one wave's loops: each waits for its loads
    loop = {**counts, "instructions": 10, "bytes_loaded": 16, "LDG": 1}
    waits = predict(
        {**row, "grid": [132], "flops": 0, "bytes": 132 * 128 * 16 * 1000, "boxed": 0, "all": counts, "loop": loop}
    )
    assert waits.bound == "chain"
    assert waits.chain == pytest.approx(1000 * by.latency)


def test_pytest_benchmark_measures_both_contenders(tmp_path):
    pytest.importorskip("pytest_benchmark")
    written = tmp_path / "written.json"
    options = ["--benchmark-only", f"--benchmark-json={written}", "-k", "launcher", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "benchmarks", *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")} | {"PYTEST_ADDOPTS": ""}
    ran = subprocess.run(command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = {b["params"]["contender"]: b for b in json.loads(written.read_text())["benchmarks"]}
    assert set(found) == {"tinyflow", "torch"}
    for measured in found.values():
        assert measured["group"] == "launcher/one store"
        assert measured["stats"]["rounds"] == 10 and measured["stats"]["median"] > 0
