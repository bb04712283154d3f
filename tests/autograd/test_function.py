"""Function: operations that users define, with every promise of torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
from tinyflow import autograd

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def leaf(*values: float, m: Any = tinyflow) -> Any:
    return m.tensor(list(values), dtype=m.float64, requires_grad=True)


@BOTH
def test_value_gradient_and_second_derivative(m: Any) -> None:
    class Cube(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            assert not m.is_grad_enabled()
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return 3 * x * x * g

    x = leaf(2.0, -1.0, m=m)
    y = Cube.apply(x)
    assert y.grad_fn.name() == "CubeBackward" and y.grad_fn.next_functions[0][0].variable is x
    (g,) = m.autograd.grad(y.sum(), x, create_graph=True)
    (h,) = m.autograd.grad(g.sum(), x)
    assert g.tolist() == [12.0, 3.0] and h.tolist() == [12.0, -6.0]


@BOTH
def test_setup_context(m: Any) -> None:
    class Scale(m.autograd.Function):
        @staticmethod
        def forward(x: Any, factor: float) -> Any:
            return x * factor

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.factor = inputs[1]

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.factor, None

    x = leaf(1.0, 2.0, m=m)
    Scale.apply(x, 5.0).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0]


@BOTH
def test_keyword_arguments_and_defaults(m: Any) -> None:
    class Scale(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, factor: Any = 2.0) -> Any:
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return (g * ctx.factor, None) if len(ctx.needs_input_grad) == 2 else g * ctx.factor

    class Separate(m.autograd.Function):
        @staticmethod
        def forward(x: Any, factor: Any = 2.0) -> Any:
            return x * factor

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            _, ctx.factor = inputs

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.factor, None

    for function in (Scale, Separate):
        x = leaf(1.0, m=m)
        (function.apply(x) + function.apply(x, factor=3.0) + function.apply(x, 4.0)).sum().backward()
        assert x.grad.item() == 9.0
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        Separate.apply(leaf(1.0, m=m), other=1)


@BOTH
def test_several_outputs_and_materialized_gradients(m: Any) -> None:
    seen: list[Any] = []

    class Split(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, keep: bool) -> Any:
            ctx.set_materialize_grads(keep)
            return x * 2, x * 3, "a word"

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any, word: Any) -> Any:
            seen.append((a, b, word))
            return (a if b is None else 2 * a + 3 * b), None

    x = leaf(1.0, 2.0, m=m)
    first, second, word = Split.apply(x, True)
    assert word == "a word" and first.grad_fn is second.grad_fn and (first.output_nr, second.output_nr) == (0, 1)
    first.sum().backward()
    assert seen[0][1].tolist() == [0.0, 0.0] and seen[0][2] is None and x.grad.tolist() == [2.0, 2.0]
    Split.apply(x, False)[0].sum().backward()
    assert seen[1][1] is None


@BOTH
def test_outputs_without_gradients(m: Any) -> None:
    class SortOf(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            constant, indices = x * 0, m.arange(2)
            ctx.mark_non_differentiable(constant, indices)
            return x * 2, constant, indices

        @staticmethod
        def backward(ctx: Any, g: Any, unused: Any, indices: Any) -> Any:
            return g * 2

    x = leaf(1.0, 2.0, m=m)
    y, constant, indices = SortOf.apply(x)
    assert y.requires_grad and not constant.requires_grad and not indices.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


@BOTH
def test_saved_output(m: Any) -> None:
    class Exp(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            y = x.exp()
            ctx.save_for_backward(y, None)
            return y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            y, nothing = ctx.saved_tensors
            assert nothing is None
            return g * y

    x = leaf(1.0, m=m)
    y = Exp.apply(x)
    (g,) = m.autograd.grad(y, x, create_graph=True)
    (h,) = m.autograd.grad(g, x)
    np.testing.assert_allclose([g.item(), h.item()], [np.e, np.e])
    y = Exp.apply(x)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@BOTH
def test_saved_tensors_are_freed(m: Any) -> None:
    class Keep(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.saved_tensors[0]

    y = Keep.apply(leaf(2.0, m=m))
    y.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()


@BOTH
def test_returned_input_is_another_tensor(m: Any) -> None:
    class Same(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 10

    x = leaf(1.0, m=m)
    y = Same.apply(x)
    assert y is not x and x.is_leaf and y.data_ptr() == x.data_ptr()
    y.backward()
    assert x.grad.item() == 10.0
    with pytest.raises(RuntimeError, match="leaf Variable|is a view and is being modified inplace"):
        y.mul_(2)


@BOTH
def test_changed_input(m: Any) -> None:
    class Double_(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.mark_dirty(x)
            with m.no_grad():
                x.mul_(2)
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2

    a = leaf(3.0, m=m)
    x = a * 1
    before = x._version
    y = Double_.apply(x)
    assert y is x and x._version > before and x.grad_fn.name() == "Double_Backward"
    (y * y).backward()
    assert a.grad.item() == 24.0
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        Double_.apply(a)


@BOTH
def test_wrong_gradients_are_refused(m: Any) -> None:
    def make(result: Any) -> Any:
        class Wrong(m.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any, y: Any) -> Any:
                return x * y

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return result(g)

        return Wrong

    def run(result: Any) -> Any:
        x = leaf(1.0, 2.0, m=m)
        make(result).apply(x, leaf(1.0, 2.0, m=m)).sum().backward()
        return x.grad

    for wrong in (lambda g: g, lambda g: (g, g, g)):
        with pytest.raises(RuntimeError, match="returned an incorrect number of gradients"):
            run(wrong)
    with pytest.raises((TypeError, RuntimeError), match="expected (Variable|a Tensor) or None"):
        run(lambda g: (1.0, None))
    with pytest.raises(
        RuntimeError, match="invalid gradient at index 0 - got \\[3\\] but expected shape compatible with \\[2\\]"
    ):
        run(lambda g: (m.ones(3, dtype=m.float64), None))
    assert run(lambda g: (g, g, None)).tolist() == [1.0, 1.0], "a trailing None too many is forgiven"
    assert run(lambda g: (m.ones(5, 2, dtype=m.float64), None)).tolist() == [5.0, 5.0], "a broadcast gradient is summed"
    assert run(lambda g: (m.ones(2, dtype=m.float32), None)).dtype == m.float64, "and cast"


@BOTH
def test_needs_input_grad(m: Any) -> None:
    needs: list[Any] = []

    class Ask(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any, z: Any) -> Any:
            return x * y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            needs.append(ctx.needs_input_grad)
            return None, g, None

    Ask.apply(m.ones(1, dtype=m.float64), leaf(1.0, m=m), 3).backward()
    assert needs == [(False, True, False)]


def test_nothing_is_recorded_where_nothing_requires() -> None:
    class Same(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

    assert not Same.apply(tinyflow.ones(1)).requires_grad
    with tinyflow.no_grad():
        assert not Same.apply(leaf(1.0)).requires_grad
    with pytest.raises(NotImplementedError, match="backward method"):
        Same.apply(leaf(1.0)).backward()


@BOTH
def test_once_differentiable(m: Any) -> None:
    from torch.autograd.function import once_differentiable as torchs

    from tinyflow.autograd.function import once_differentiable as ours

    once = ours if m is tinyflow else torchs

    class Once(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once
        def backward(ctx: Any, g: Any) -> Any:
            assert not m.is_grad_enabled()
            return 2 * ctx.saved_tensors[0] * g

    x = leaf(3.0, m=m)
    Once.apply(x).backward()
    assert x.grad.item() == 6.0
    (g,) = m.autograd.grad(Once.apply(x * 1) * x, x, create_graph=True)
    assert g.item() == 27.0
    with pytest.raises(RuntimeError, match="differentiate twice"):
        g.backward()


def test_misuse() -> None:
    class Saves(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(3)
            return x

    with pytest.raises(TypeError, match="can only save tensors, but argument 0 is of type int"):
        Saves.apply(leaf(1.0))
    with pytest.raises(RuntimeError, match="not to be instantiated"):
        Saves()

    class Lies(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.mark_dirty(x)
            return x * 2

    with pytest.raises(RuntimeError, match="marked dirty must be among the outputs"):
        Lies.apply(leaf(1.0) * 1)


def test_ctx_keeps_what_it_is_given() -> None:
    class Scale(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, name: str) -> Any:
            setattr(ctx, name, 3)
            return x * 3

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.function, None

    x = leaf(1.0)
    Scale.apply(x, "function").backward()
    assert x.grad.item() == 3.0
    with pytest.raises(AttributeError, match="ScaleBackward: ctx.outputs is the graph's own"):
        Scale.apply(x, "outputs")


def test_backward_inside_backward() -> None:
    class Inner(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            with tinyflow.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                (slope,) = autograd.grad((x * x).sum(), x)
            return slope * g

    x = leaf(4.0)
    Inner.apply(x * 2).backward()
    assert x.grad.item() == 32.0
