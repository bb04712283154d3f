"""What a profile notes of a step, its table, its trace, and the memory timeline."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tinyflow
import tinyflow.nn.functional as F
from tinyflow import nn, profiler
from tinyflow.autograd.grad_mode import mode
from tinyflow.kernels import launch, memory
from tinyflow.ops import define
from tinyflow.profiler import Ceilings, events, memory_timeline

RATES = Ceilings("a GPU", (9, 0), 132, {"float32": 1e12}, 1e12, "")


def model_and_step() -> tuple[nn.Module, Any, Callable[[], None]]:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = tinyflow.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = tinyflow.rand(5, 4), tinyflow.tensor([0, 1, 0, 1, 1])

    def step() -> None:
        optimizer.zero_grad()
        with profiler.record_function("forward"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return model, optimizer, step


@pytest.fixture(scope="module")
def taken() -> profiler.profile:
    model, optimizer, step = model_and_step()
    step()
    with tinyflow.profile(model, optimizer=optimizer, memory=True, ceilings=RATES) as found:
        step()
    return found


def test_every_launch_is_noted_with_its_cost() -> None:
    _, _, step = model_and_step()
    step()
    with tinyflow.profile() as p, tinyflow.count_launches() as records:
        step()
    found = [(k.name.split()[0], k.cost) for k in p.kernels]
    assert found == [(r.kernel, r.cost) for r in records] != []
    assert all(0 <= k.start <= k.stop <= p.seconds and k.seconds > 0 for k in p.kernels)
    assert repr(p).startswith(f"<profile of {len(records)} launches in ")


def test_events_nest(taken: profiler.profile) -> None:
    for event in taken.events:
        assert event.start <= event.stop
        if event.parent is not None:
            assert event.parent.start <= event.start and event.stop <= event.parent.stop
    first = next(k for k in taken.kernels if k.operation is not None and k.operation.name == "matmul")
    assert [e.kind for e in first.around()] == ["operation", "module", "module", "scope"]
    assert [e.name for e in first.around()] == ["matmul", "0", "", "forward"]
    assert first.module == "0" and not first.backward and first.family == "matmul" and first.dtype == "float32"
    assert ((5, 4), tinyflow.float32) in first.operands


def test_the_backward_pass_belongs_to_the_modules_of_the_forward_pass(taken: profiler.profile) -> None:
    nodes = {(e.name, e.module): e for e in taken.events if e.kind == "node"}
    assert {("MatmulBackward0", "0"), ("ReluBackward0", "1"), ("MatmulBackward0", "2")} <= set(nodes)
    relu = nodes["ReluBackward0", "1"]
    assert relu.forward is not None and (relu.forward.name, relu.forward.module) == ("relu", "1")
    inside = [k for k in taken.kernels if relu in k.around()]
    assert inside and all(k.backward and k.module == "1" for k in inside)
    update = [k for k in taken.kernels if k.family == "optimizer"]
    assert update and not any(k.backward or k.module is not None for k in update)


def test_nodes_that_no_operation_made_belong_to_modules_too() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Flatten())
    with tinyflow.profile(model) as p:
        model(tinyflow.ones(3, 2, 1).transpose(1, 2)).sum().backward()
    assert next(e.module for e in p.events if e.name == "ViewBackward0") == "1"


@pytest.mark.parametrize("group_by", ["operation", "kernel", "module"])
def test_rows_add_up(taken: profiler.profile, group_by: str) -> None:
    rows = taken.key_averages(group_by)
    assert len({(r.name, r.backward) for r in rows}) == len(rows)
    assert sum(r.launches for r in rows) == len(taken.kernels)
    assert sum(r.time for r in rows) == pytest.approx(sum(k.seconds for k in taken.kernels))
    assert sum(r.flops for r in rows) == sum(k.cost.flops for k in taken.kernels)
    assert sum(r.bytes for r in rows) == sum(k.cost.bytes for k in taken.kernels)
    for r in rows:
        assert r.least is not None and (not r.launches or r.roofline == pytest.approx(r.least / r.time))


def test_rows_say_what_was_called(taken: profiler.profile) -> None:
    operations = {(r.name, r.backward): r for r in taken.key_averages()}
    assert operations["matmul", False].calls == operations["matmul", False].launches == 2
    assert operations["matmul", False].host >= operations["matmul", False].time > 0
    modules = {(r.name, r.backward): r for r in taken.key_averages("module")}
    assert modules["0", False].calls == 1 and modules["(model)", False].calls == 1
    assert modules["0", True].launches and modules["(outside)", False].launches
    nodes = {r.name: r for r in taken.key_averages("node")}
    assert nodes["AccumulateGrad"].calls == 4 and nodes["MatmulBackward0"].calls == 2
    with pytest.raises(ValueError, match="expected group_by to be one of operation, kernel, module, node, got 'op'"):
        taken.key_averages("op")


def test_least_times() -> None:
    """Each launch takes the longer of its two times; where no rate of its dtype is known, that of its bytes."""
    x = tinyflow.ones(64, 64)
    with tinyflow.profile(ceilings=RATES) as p:
        x @ x
        x.double() @ x.double()
    single = next(k for k in p.kernels if k.family == "matmul" and k.dtype == "float32")
    double = next(k for k in p.kernels if k.family == "matmul" and k.dtype == "float64")
    assert single.cost.flops > single.cost.bytes
    assert profiler.averages.least_seconds(single, RATES) == single.cost.flops / 1e12
    assert profiler.averages.least_seconds(double, RATES) == double.cost.bytes / 1e12


def test_table(taken: profiler.profile) -> None:
    lines = taken.table(sort_by="launches", row_limit=2, group_by="kernel").splitlines()
    assert (
        " ".join(lines[0].split()) == "kernel pass calls launches host time share FLOPs bytes FLOP/s B/s least roofline"
    )
    assert set(lines[1]) == {"-", " "} == set(lines[4])
    assert lines[5].split()[:2] == ["all", str(len(taken.kernels))]
    assert lines[6] == f"{len(taken.key_averages('kernel')) - 2} more rows"
    assert lines[7].startswith("the block took ")
    most = max(r.launches for r in taken.key_averages("kernel"))
    assert f"  {most}  " in lines[2]
    whole = taken.table(row_limit=-1, sort_by="name").splitlines()
    names = [line.split()[0] for line in whole[2:-3]]
    assert names == sorted(names) and len(names) == len(taken.key_averages())
    with pytest.raises(
        ValueError, match="expected sort_by to be one of time, host, calls, launches, flops, bytes, least, na"
    ):
        taken.table(sort_by="cpu_time_total")


def test_without_known_rates_there_is_no_roofline() -> None:
    with tinyflow.profile() as p:
        tinyflow.ones(2).sin()
    if profiler.interpreting():
        assert p.ceilings is None and "roofline" not in p.table()
        assert p.key_averages()[0].roofline is None


def test_nothing_is_noted_outside_and_nothing_stays() -> None:
    before = list(define.launch_observers), list(memory.allocation_hooks), list(mode.node_observers)
    model = nn.Linear(2, 2)
    p = tinyflow.profile(model, memory=True)
    with contextlib.suppress(ArithmeticError), p:
        tinyflow.ones(2).sin()
        raise ArithmeticError
    count = len(p.events)
    model(tinyflow.ones(1, 2)).sum().backward()
    with profiler.record_function("nobody looks"):
        pass
    assert len(p.events) == count > 0
    assert (list(define.launch_observers), list(memory.allocation_hooks), list(mode.node_observers)) == before
    assert not launch._state.observers and not model._forward_hooks
    with pytest.raises(RuntimeError, match="a profile notes one block; make another for the next one"), p:
        pass


def test_an_operation_that_raises_ends() -> None:
    with tinyflow.profile() as p:
        with pytest.raises(RuntimeError):
            tinyflow.ones(2, 3) @ tinyflow.ones(2, 3)
        assert p.current is None
        tinyflow.ones(2).sin()
    assert p.events[-1].operation is not None and p.events[-1].operation.parent is None


def test_profiles_nest_and_are_each_threads_own() -> None:
    def elsewhere() -> None:
        tinyflow.ones(2).exp()

    with tinyflow.profile() as outer:
        with tinyflow.profile() as inner, profiler.record_function("both"):
            tinyflow.ones(2).sin()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    names = [[e.name for e in p.events if e.kind in ("operation", "scope")] for p in (outer, inner)]
    assert names[0] == names[1] and names[0][0] == "both" and "sin" in names[0] and "exp" not in names[0]


def test_a_scope_decorates() -> None:
    @profiler.record_function("twice")
    def twice(depth: int = 1) -> None:
        if depth:
            twice(depth - 1)

    with tinyflow.profile() as p:
        twice()
    assert [e.name for e in p.events] == ["twice", "twice"] and p.events[1].parent is p.events[0]


def test_meta_is_counted_and_takes_no_time() -> None:
    with tinyflow.profile() as p:
        tinyflow.empty(3, 3, device="meta").sin()
    (kernel,) = p.kernels
    assert kernel.seconds == 0 and kernel.cost.bytes == 2 * 9 * 4
    assert p.key_averages()[0].roofline is None


# ---- the trace ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trace(taken: profiler.profile, tmp_path: Path) -> list[dict[str, Any]]:
    assert taken.chrome_trace(tmp_path / "trace.json") == tmp_path / "trace.json"
    found = json.loads((tmp_path / "trace.json").read_text())
    return found["traceEvents"]


def test_a_trace_has_all_events_on_tracks(taken: profiler.profile, trace: list[dict[str, Any]]) -> None:
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace if e["name"] == "thread_name"}
    spans = [e for e in trace if e["ph"] == "X"]
    assert all(type(e["name"]) is str and e["dur"] >= 0 and e["ts"] >= 0 for e in spans)
    on = {name: [e for e in spans if names[e["pid"], e["tid"]] == name] for name in set(names.values())}
    assert {"matmul", "model", "0"} <= {e["name"] for e in on["forward"]}
    assert {"MatmulBackward0", "AccumulateGrad"} <= {e["name"] for e in on["backward"]}
    assert [e["name"] for e in on["scopes"]] == ["forward"]
    assert len(on.get("launches", on["kernels"])) == len(taken.kernels)
    kernel = next(e for e in on["kernels"] if e["args"]["operation"] == "matmul")
    assert (
        kernel["args"]["module"] == "0"
        and kernel["args"]["FLOPs"] > 0
        and "float32[5, 4]" in kernel["args"]["operands"]
    )


def test_what_a_track_shows_nests(trace: list[dict[str, Any]]) -> None:
    """Trace viewers drop spans of one track that overlap and do not nest."""
    tracks: dict[Any, list[dict[str, Any]]] = {}
    for e in trace:
        if e["ph"] == "X":
            tracks.setdefault((e["pid"], e["tid"]), []).append(e)
    for spans in tracks.values():
        open_until: list[float] = []
        for e in sorted(spans, key=lambda e: (e["ts"], -e["dur"])):
            while open_until and open_until[-1] <= e["ts"] + 1e-3:
                open_until.pop()
            assert not open_until or e["ts"] + e["dur"] <= open_until[-1] + 2e-3
            open_until.append(e["ts"] + e["dur"])


def test_arrows_lead_from_forward_to_backward(trace: list[dict[str, Any]]) -> None:
    starts = {e["id"]: e for e in trace if e["ph"] == "s" and e["name"] == "backward"}
    stops = {e["id"]: e for e in trace if e["ph"] == "f" and e["name"] == "backward"}
    assert len(starts) >= 4 and starts.keys() == stops.keys()
    spans = {(e["tid"], e["ts"]): e["name"] for e in trace if e["ph"] == "X" and e["cat"] in ("operation", "node")}
    pairs = {(spans[s["tid"], s["ts"]], spans[stops[k]["tid"], stops[k]["ts"]]) for k, s in starts.items()}
    assert ("matmul", "MatmulBackward0") in pairs and ("relu", "ReluBackward0") in pairs


def test_the_trace_shows_memory(trace: list[dict[str, Any]]) -> None:
    counters = [e["args"] for e in trace if e["ph"] == "C"]
    assert counters and set(counters[0]) == set(memory_timeline.KINDS)


class Queued(memory.Moment):
    """A moment of a device whose queue is a millisecond behind, and where each kernel takes a microsecond."""

    count = 0

    @property
    def is_queued(self) -> bool:
        return True

    def __init__(self, device: memory.device) -> None:
        super().__init__(device)
        Queued.count += 1
        self.at = 1e-3 + 0.5e-6 * Queued.count

    def since(self, earlier: memory.Moment) -> float:
        assert isinstance(earlier, Queued)
        return self.at - earlier.at


def test_a_device_has_a_clock_and_tracks_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "Moment", Queued)
    monkeypatch.setattr(events, "Moment", Queued)
    x = tinyflow.ones(4)
    with tinyflow.profile() as p:
        x.sin().cos()
    starts = [k.device_start for k in p.kernels]
    assert len(starts) == 2 and None not in starts and starts[0] < starts[1]  # type: ignore[operator]
    assert all(0 < k.seconds < 1e-4 for k in p.kernels)
    found = json.loads(p.chrome_trace(tmp_path / "trace.json").read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in found if e["name"] == "process_name"}
    spans = [(processes[e["pid"]], names[e["pid"], e["tid"]], e["ts"]) for e in found if e["ph"] == "X"]
    assert [s[2] for s in spans if s[:2] == ("device", "kernels")] == [round(1e6 * s, 3) for s in starts]  # type: ignore[operator]
    assert len([s for s in spans if s[:2] == ("tinyflow", "launches")]) == 2
    assert sum(e["ph"] == "s" and e["name"] == "launch" for e in found) == 2


# ---- memory ------------------------------------------------------------------------------------------------------------


def test_memory_is_told_apart(taken: profiler.profile) -> None:
    parameters = (4 * 3 + 3 + 3 * 2 + 2) * 4
    timeline = taken.memory
    last = list(timeline.steps())[-1][1]
    assert last["parameter"] == last["optimizer state"] == last["gradient"] == parameters
    assert all(n >= 0 for _, live in timeline.steps() for n in live.values())
    relu = next(b for b in timeline.blocks if b.event is not None and b.event.path == "forward › relu in 1")
    assert relu.kind == "activation" and relu.bytes == 5 * 3 * 4
    assert relu.start is not None and relu.stop is not None and relu.start < relu.stop  # freed by the backward pass
    assert timeline.peak == sum(timeline.at_peak.values()) > 3 * parameters
    assert timeline.peak_at and timeline.peak_block is not None
    assert repr(timeline).endswith(f"at {timeline.peak_at}>")


def test_state_that_is_made_in_the_block_is_known_at_its_end() -> None:
    model, optimizer, step = model_and_step()
    with tinyflow.profile(model, optimizer=optimizer, memory=True) as p:
        step()
    last = list(p.memory.steps())[-1][1]
    assert last["optimizer state"] == last["parameter"] > 0


def test_views_keep_memory() -> None:
    with tinyflow.profile(memory=True) as p:
        x = tinyflow.zeros(256)
        y = x[:3]
        del x
        kept = p.memory.changes[-1][1]
        del y
    assert kept == 1 and [sign for _, sign, _ in p.memory.changes] == [1, -1]
    assert p.memory.peak == 1024 and list(p.memory.steps())[-1][1]["activation"] == 0


def test_without_gradients_memory_is_no_activation() -> None:
    with tinyflow.profile(memory=True) as p, tinyflow.no_grad():
        tinyflow.zeros(4)
    assert [b.kind for b in p.memory.blocks] == ["other"]


def test_meta_memory_is_that_of_a_device(tmp_path: Path) -> None:
    with tinyflow.profile(memory=True) as p:
        x = tinyflow.empty(1 << 20, 1 << 20, device="meta")
        del x
    assert p.memory.peak == 4 << 40 and p.memory.blocks[0].stop is not None
    assert "<!-- allocations and frees -->" in p.memory_timeline(tmp_path / "memory.svg").read_text()


def test_frees_after_the_block_are_not_noted() -> None:
    with tinyflow.profile(memory=True) as p:
        x = tinyflow.zeros(4)
    del x
    assert [sign for _, sign, _ in p.memory.changes] == [1]


def test_memory_has_to_be_asked_for() -> None:
    with tinyflow.profile() as p:
        pass
    with pytest.raises(RuntimeError, match="make the profile with memory=True"):
        _ = p.memory
    with tinyflow.profile(memory=True) as p:
        pass
    assert p.memory.peak == 0 and p.memory.peak_block is None and p.memory.peak_at == ""


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_timeline_is_drawn(taken: profiler.profile, tmp_path: Path, suffix: str) -> None:
    path = taken.memory_timeline(tmp_path / f"memory.{suffix}")
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    if suffix == "svg":
        text = picture.decode()
        assert all(f"<!-- {word} -->" in text for word in ("optimizer state", "gradient", "activation", "parameter"))


def test_an_empty_timeline_is_drawn(tmp_path: Path) -> None:
    with tinyflow.profile(memory=True) as p:
        pass
    assert p.memory_timeline(tmp_path / "memory.png").stat().st_size > 1000
