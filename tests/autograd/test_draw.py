"""Pictures of the graph: which boxes, which arrows, what is marked, and what is folded."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

import tinyflow
import tinyflow.nn.functional as F
from tinyflow import autograd, nn
from tinyflow.autograd import ModuleCalls, draw
from tinyflow.models import resnet18

BOX = re.compile(r'^ *(n\d+) \[label="(.*?)" fillcolor="[^"]*" class="(\w+)"(.*)\]$', re.MULTILINE)
ARROW = re.compile(r"^ *(n\d+) -> (n\d+)(?: \[(.*)\])?$", re.MULTILINE)
FRAME = re.compile(r'^ *label="(.*?)" labeljust', re.MULTILINE)
KEPT = "#e08a1e"


class Read:
    """A DOT text taken apart: boxes by label, arrows between labels."""

    def __init__(self, drawing: autograd.Drawing) -> None:
        found = BOX.findall(drawing.source)
        self.labels = {name: label.replace("\\n", " ") for name, label, _, _ in found}
        self.kinds = {label.replace("\\n", " "): kind for _, label, kind, _ in found}
        self.kept_boxes = {label.replace("\\n", " ") for _, label, _, rest in found if KEPT in rest}
        ends = ARROW.findall(drawing.source)
        self.arrows = [(self.labels[a], self.labels[b]) for a, b, _ in ends]
        self.kept_arrows = [(self.labels[a], self.labels[b]) for a, b, rest in ends if KEPT in rest]
        self.frames = FRAME.findall(drawing.source)


def test_a_formula() -> None:
    x = tinyflow.tensor([1.0, 2.0], requires_grad=True)
    w = nn.Parameter(tinyflow.tensor([3.0, 4.0], dtype=tinyflow.float64))
    y = ((x * tinyflow.ones(2)).sin() * w).sum()  # what requires no gradient is not part of the graph
    read = Read(draw(y, params={"x": x, "w": w}))
    assert read.kinds == {
        "x 2 float32": "leaf",
        "mul 2 float32": "operation",
        "sin 2 float32": "operation",
        "w 2 float64": "parameter",
        "mul 2 float64": "operation",
        "sum scalar float64": "operation",
        "output scalar float64": "output",
    }
    assert sorted(read.arrows) == [
        ("mul 2 float32", "sin 2 float32"),
        ("mul 2 float64", "sum scalar float64"),
        ("sin 2 float32", "mul 2 float64"),
        ("sum scalar float64", "output scalar float64"),
        ("w 2 float64", "mul 2 float64"),
        ("x 2 float32", "mul 2 float32"),
    ]
    assert not read.kept_arrows and not read.kept_boxes
    y.backward()  # nothing was used up
    assert x.grad is not None


def test_what_is_kept_is_marked() -> None:
    x = tinyflow.tensor([1.0, 2.0], requires_grad=True)
    constant = tinyflow.tensor([[3.0], [4.0]])
    y = x.exp() * constant
    read = Read(draw(y, params={"x": x}, show_saved=True))
    assert "exp 2 float32" in read.kept_boxes  # its own result
    assert ("x 2 float32", "exp 2 float32") not in read.kept_arrows
    assert read.kinds["other 2×1 float32"] == "saved"  # what does not flow
    assert ("other 2×1 float32", "mul 2×2 float32") in read.kept_arrows
    assert ("exp 2 float32", "mul 2×2 float32") not in read.kept_arrows  # the constant needs no gradient
    z = x.sin()
    flowing = Read(draw(z, params={"x": x}, show_saved=True))
    assert flowing.kept_arrows == [("x 2 float32", "sin 2 float32")]
    assert "saved" not in flowing.kinds.values() and len(flowing.labels) == 3


def test_memory_that_two_operations_keep_is_one_box() -> None:
    x, constant = tinyflow.ones(2, requires_grad=True), tinyflow.ones(2)
    drawing = draw((x * constant) * constant, show_saved=True)
    assert [kind for _, _, kind, _ in BOX.findall(drawing.source)].count("saved") == 1
    assert sum("dashed" in rest for _, _, rest in ARROW.findall(drawing.source)) == 2


def test_tensors_that_hooks_keep_are_shown_and_left_alone() -> None:
    x = tinyflow.ones(2, requires_grad=True)

    def unpack(kept: object) -> tinyflow.Tensor:
        raise AssertionError("drawing unpacks nothing")

    with autograd.graph.saved_tensors_hooks(lambda kept: None, unpack):
        y = x.sin()
    assert Read(draw(y, show_saved=True)).kinds["x kept by hooks"] == "saved"


def test_functions_several_outputs_and_edges() -> None:
    class Square(autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.op = "a user's own attribute"
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    x = tinyflow.ones(3, 2, requires_grad=True)
    values, _ = Square.apply(x).max(1)
    read = Read(draw([values, x.view(6)]))
    assert read.kinds["Square 3×2 float32"] == "operation"
    assert ("max_dim 3 float32", "output 0 3 float32") in read.arrows or (
        "max 3 float32",
        "output 0 3 float32",
    ) in read.arrows
    assert ("leaf 3×2 float32", "view 6 float32") in read.arrows
    first = autograd.graph.get_gradient_edge(values)
    assert Read(draw(first)).kinds["output 3 float32"] == "output"


def test_names_are_quoted() -> None:
    x = tinyflow.ones(2, requires_grad=True)
    assert 'label="a\\"b\\\\c\\n2 float32"' in draw(x.sin(), params={'a"b\\c': x}).source


def test_a_deep_graph() -> None:
    x = tinyflow.ones(1, requires_grad=True)
    y = x
    for _ in range(3000):
        y = y.view(1)
    assert draw(y).source.count(" -> ") == 3001


# ---- modules -----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(3, 3), nn.ReLU()

    def forward(self, x: tinyflow.Tensor) -> tinyflow.Tensor:
        return self.act(self.linear(self.act(x))) + x


def noted(model: nn.Module, x: tinyflow.Tensor) -> tuple[tinyflow.Tensor, ModuleCalls]:
    with nn.fusion.fused(False), ModuleCalls(model) as calls:
        return model(x).sum(), calls


def test_modules_are_frames() -> None:
    model = nn.Sequential(Block(), nn.Linear(3, 2))
    loss, calls = noted(model, tinyflow.ones(1, 3, requires_grad=True))
    read = Read(draw(loss, modules=calls, fold=False))
    # the activation is called twice: two frames
    assert read.frames == ["Sequential", "0 (Block)", "0.act (ReLU)", "0.linear (Linear)", "0.act (ReLU)", "1 (Linear)"]
    assert {"0.linear.weight 3×3 float32", "0.linear.bias 3 float32", "1.weight 2×3 float32"} <= set(read.kinds)


def test_modules_are_folded_at_a_depth() -> None:
    model = nn.Sequential(Block(), nn.Linear(3, 2))
    x = tinyflow.ones(1, 3, requires_grad=True)
    loss, calls = noted(model, x)
    read = Read(draw(loss, modules=calls, fold=1, params={"x": x}))
    assert read.arrows == [
        ("x 1×3 float32", "0 (Block) 1×3 12 parameters"),
        ("0 (Block) 1×3 12 parameters", "1 (Linear) 1×2 8 parameters"),
        ("1 (Linear) 1×2 8 parameters", "sum scalar float32"),
        ("sum scalar float32", "output scalar float32"),
    ]
    assert read.frames == ["Sequential"]
    leaves = Read(draw(loss, modules=calls, fold=True))
    assert [label for label in leaves.labels.values() if label.startswith("0.act")] == 2 * ["0.act (ReLU) 1×3"]
    assert "add 1×3 float32" in leaves.kinds and "0.linear (Linear) 1×3 12 parameters" in leaves.kinds
    kept = Read(draw(loss, modules=calls, fold=1, show_saved=True))
    assert any(re.fullmatch(r"1 \(Linear\) 1×2 8 parameters keeps \d+ B", label) for label in kept.kinds)


def test_a_weight_that_two_modules_share_stands_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    loss, calls = noted(model, tinyflow.ones(1, 3))
    read = Read(draw(loss, modules=calls, fold=1))
    assert [a for a, _ in read.arrows].count("0.weight 3×3 float32") == 2


def test_resnet18_is_folded_until_it_is_readable() -> None:
    tinyflow.set_default_device("meta")
    try:
        model = resnet18()
        with nn.fusion.fused(False), ModuleCalls(model) as calls:
            images, labels = tinyflow.empty(2, 3, 64, 64), tinyflow.empty(2, dtype=tinyflow.int64)
            loss = F.cross_entropy(model(images), labels)
    finally:
        tinyflow.set_default_device(None)
    read = Read(draw(loss, modules=calls, show_saved=True))
    assert len(read.labels) < 30
    assert {"ResNet", *(f"layer{k} (Sequential)" for k in (1, 2, 3, 4))} <= set(read.frames)
    blocks = [label for label in read.kinds if "(BasicBlock)" in label]
    assert len(blocks) == 8 and all(read.kinds[b] == "module" for b in blocks)
    everything = Read(draw(loss, modules=calls, fold=False))
    assert sum(kind == "parameter" for kind in everything.kinds.values()) == 62
    assert sum(label.startswith("conv2d ") for label in everything.labels.values()) == 20
    assert sum(label.startswith("add ") for label in everything.labels.values()) == 8


def test_calls_are_told_from_nodes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = tinyflow.ones(1, 2, requires_grad=True)
    before = x.sin()
    with nn.fusion.fused(False), ModuleCalls(model) as calls:
        y = model(before)
        z = y.sum()
    after = z.sin()
    relu, outside = calls.of(y.grad_fn), calls.of(z.grad_fn)
    assert relu is not None and relu.name == "1" and relu.kind == "ReLU"
    assert [c.name for c in relu.chain] == ["", "1"]
    assert relu.inputs == relu.output == (1, 2) and relu.output_bytes == 8
    assert outside is None and calls.of(before.grad_fn) is None and calls.of(after.grad_fn) is None
    assert [c.name for c in calls] == ["", "0", "1"]
    model(x)
    assert len(calls.calls) == 3  # the hooks are gone
    with pytest.raises(TypeError, match="expected an nn.Module to note the calls of, got int"):
        ModuleCalls(3)


def test_a_call_that_raises_ends() -> None:
    class Fails(nn.Module):
        def forward(self, x: tinyflow.Tensor) -> tinyflow.Tensor:
            raise ArithmeticError

    model = nn.Sequential(Fails())
    with ModuleCalls(model) as calls:
        with pytest.raises(ArithmeticError):
            model(tinyflow.ones(1))
        assert calls.current is None


def test_noting_calls_leaves_modules_fused() -> None:
    model = resnet18(num_classes=10)

    def kernels(fused: bool | None) -> list[str]:
        noting = ModuleCalls(model, fused=fused) if fused is not None else nn.fusion.fused(True)
        x = tinyflow.empty(2, 3, 32, 32, device="meta")
        with nn.fusion.fused(True), noting, tinyflow.count_launches() as launches:
            model(x)
        return [record.kernel for record in launches]

    model.to("meta")
    assert kernels(True) == kernels(None) != kernels(False)


# ---- errors and files --------------------------------------------------------------------------------------------------


def test_wrong_calls() -> None:
    x = tinyflow.ones(2, requires_grad=True)
    with pytest.raises(
        ValueError, match=r"computed from what requires grad, got a tensor of shape \(2,\) that requires no"
    ):
        draw([x.sin(), tinyflow.ones(2)])
    with pytest.raises(ValueError, match="at least one tensor, got an empty sequence"):
        draw([])
    with pytest.raises(ValueError, match="got int"):
        draw([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="expected fold to be 'auto', True, False or a depth of at least 1, got 0"):
        draw(x.sin(), fold=0)
    with pytest.raises(ValueError, match="expected rankdir"):
        draw(x.sin(), rankdir="up")
    with pytest.raises(TypeError, match="expected params to name Tensors, got int for 'x'"):
        draw(x.sin(), params={"x": 3})
    with pytest.raises(TypeError, match="a dictionary or an nn.Module, got list"):
        draw(x.sin(), params=[x])


def test_text_needs_no_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graphviz", None)
    x = tinyflow.ones(2, requires_grad=True)
    drawing = draw(x.sin(), tmp_path / "graph.dot")
    assert (tmp_path / "graph.dot").read_text() == drawing.source
    with pytest.raises(ImportError, match=re.escape("pip install 'tinyflow[draw]'")):
        draw(x.sin(), tmp_path / "graph.svg")
    assert not (tmp_path / "graph.svg").exists()
    assert drawing._repr_svg_() is None


def test_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", "")
    drawing = draw(tinyflow.ones(2, requires_grad=True).sin())
    with pytest.raises(RuntimeError, match="program dot, which is not on PATH: apt-get install graphviz"):
        drawing.render()
    with pytest.raises(ValueError, match="expected a format such as 'svg', 'png', 'pdf' or 'dot', got 'bmp3'"):
        drawing.render("bmp3")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program dot is not installed")
def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("graphviz")
    x = tinyflow.ones(2, requires_grad=True)
    loss, calls = noted(nn.Sequential(Block()), tinyflow.ones(1, 3))
    draw(loss, tmp_path / "graph.svg", modules=calls, show_saved=True)
    svg = (tmp_path / "graph.svg").read_text()
    assert "<svg" in svg and "0.linear.weight" in svg and "0 (Block)" in svg
    drawing = draw(x.sin(), tmp_path / "graph", format="png", rankdir="LR")
    assert (tmp_path / "graph").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (drawing._repr_svg_() or "")
