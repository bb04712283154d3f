"""Changing tensors in place: histories are rebased through views as torch does it, and a lost value is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tinyflow

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def leaf(shape: tuple[int, ...], m: Any, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape)
    return m.tensor(values, dtype=m.float64, requires_grad=True)


def compare(program: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
    """A program gives torch's value and torch's gradients; it takes the module and one leaf of each shape."""
    results = []
    for m in (tinyflow, torch):
        leaves = [leaf(shape, m, k) for k, shape in enumerate(shapes)]
        y = program(m, *leaves)
        weights = m.tensor(np.random.default_rng(9).standard_normal(tuple(y.shape)), dtype=m.float64)
        y.backward(weights)
        results.append([y.detach().numpy(), *(np.zeros(1) if x.grad is None else x.grad.numpy() for x in leaves)])
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


# ---- versions ------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("change", ["itself", "view", "detach", "view of view"])
def test_changed_input_is_an_error(m: Any, change: str) -> None:
    a = leaf((2, 3), m)
    x = a * 1
    y = x * x
    {"itself": x, "view": x[0], "detach": x.detach(), "view of view": x.T[1:][0]}[change].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@BOTH
@pytest.mark.parametrize("op", ["exp", "sigmoid", "tanh", "sqrt"])
def test_changed_output_is_an_error(m: Any, op: str) -> None:
    y = getattr(leaf((3,), m) ** 2 + 1, op)()
    z = y * 1
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (z.sum() + y.sum()).backward()


@BOTH
def test_changed_but_not_needed(m: Any) -> None:
    a = leaf((3,), m)
    x = a * 2
    y = x + 1
    x.add_(5)
    y.sum().backward()
    assert a.grad.tolist() == [2.0, 2.0, 2.0]


@BOTH
def test_versions_count(m: Any) -> None:
    x = m.ones(2, 3)
    view, detached, apart, data = x[0], x.detach(), x.clone(), x.data
    assert x._version == 0
    view.mul_(2)
    detached.add_(1)
    x[1, 2] = 4.0
    x.zero_()
    assert x._version == view._version == detached._version == 4
    assert apart._version == 0 and data._version == 0
    data.add_(1)
    assert x._version == 4 and x[0, 0].item() == 1.0, "data shares memory and not the counter"


def test_error_says_what_and_which_versions() -> None:
    x = leaf((2,), tinyflow) * 1
    y = x * x
    x.zero_()
    with pytest.raises(RuntimeError, match=r"MulBackward0.*shape \(2,\).*version 1; expected version 0"):
        y.sum().backward()


@BOTH
@pytest.mark.parametrize("other", ["itself", "first row", "detached"])
def test_operand_in_the_memory_that_is_written(m: Any, other: str) -> None:
    """The old value is needed and overwritten: the right gradient or an error, never a wrong one."""
    a = leaf((2, 2), m)
    x = a * 1
    value = {"itself": lambda: x, "first row": lambda: x[0], "detached": lambda: x.detach()}[other]()
    try:
        x.mul_(value)
        x.sum().backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error) or "refer to a single memory location" in str(error)
        assert m is torch or other == "detached", "a copy of the old value is cheap"
        return
    v = np.random.default_rng(0).standard_normal((2, 2))
    expected = {
        "itself": 2 * v,
        "first row": np.stack([2 * v[0] + v[1], v[0]]),
        "detached": v,
    }[other]
    np.testing.assert_allclose(a.grad.numpy(), expected)


# ---- what may not be changed ---------------------------------------------------------------------------------------


@BOTH
def test_leaves_may_not_be_changed(m: Any) -> None:
    x = leaf((2, 3), m)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place operation"):
        x.add_(1)
    with pytest.raises(
        RuntimeError, match="a view of a leaf Variable that requires grad is being used in an in-place operation"
    ):
        x[0].add_(1)
    with pytest.raises(
        RuntimeError, match="a view of a leaf Variable that requires grad is being used in an in-place operation"
    ):
        x[:, 1] = 0
    with m.no_grad():
        x.add_(1)
        x[0] = 7
    assert x[0].tolist() == [7.0] * 3 and x.is_leaf and x.requires_grad and x._version == 2


@BOTH
def test_view_made_without_recording(m: Any) -> None:
    base = leaf((2, 2), m) * 1
    with m.no_grad():
        view = base[0]
    with pytest.raises(RuntimeError, match="view was created in no_grad mode"):
        view.mul_(leaf((2,), m))
    with pytest.raises(RuntimeError, match="view was created in no_grad mode"):
        view.mul_(2)  # which would change the base behind its history
    with m.inference_mode():
        view = base[0]
    with pytest.raises(RuntimeError, match="view was created in"):
        view.mul_(2)
    with m.no_grad():
        base[0].mul_(2)
        plain = m.ones(2)[:1]
    assert plain.mul_(2).tolist() == [2.0]


@BOTH
def test_base_changed_under_a_view_made_without_recording(m: Any) -> None:
    """Whether the change is part of the view's history is not known, so that to use it is an error."""

    class First(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x[0]

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return m.stack([g, g * 0])

    base = leaf((2, 2), m) * 1
    with m.no_grad():
        view = base[0]
    custom, ordinary = First.apply(base), base[0]
    base.mul_(2)
    for x in (view, custom):
        with pytest.raises(RuntimeError, match="and its base or another view of its base has been modified inplace"):
            x * 2
        assert "grad_fn=<Invalid>" in repr(x)
    with m.no_grad():
        assert (view * 2).tolist() == (ordinary * 2).tolist()


@BOTH
def test_expanded_memory_may_not_be_written(m: Any) -> None:
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        m.zeros(1).expand(3).add_(1)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        m.zeros(2, 1).expand(2, 3).copy_(m.ones(2, 3))


@BOTH
def test_result_must_fit(m: Any) -> None:
    with pytest.raises(RuntimeError, match="can't be cast to the desired output type"):
        m.ones(2, dtype=m.int64).add_(0.5)
    with pytest.raises(RuntimeError):
        m.ones(3).add_(m.ones(2, 3))
    half = m.ones(2, dtype=m.float16)
    half.add_(m.ones(2, dtype=m.float32))
    assert half.dtype == m.float16 and half.tolist() == [2.0, 2.0]


# ---- histories -----------------------------------------------------------------------------------------------------

INPLACE: dict[str, Callable[..., Any]] = {
    "add_": lambda x, w: x.add_(w),
    "sub_ alpha": lambda x, w: x.sub_(w, alpha=3),
    "mul_": lambda x, w: x.mul_(w),
    "div_": lambda x, w: x.div_(w * w + 1),
    "pow_": lambda x, w: x.pow_(3),
    "exp_": lambda x, w: x.exp_(),
    "tanh_": lambda x, w: x.tanh_(),
    "sigmoid_": lambda x, w: x.sigmoid_(),
    "relu_": lambda x, w: x.relu_(),
    "clamp_": lambda x, w: x.clamp_(-0.5, 0.5),
    "neg_": lambda x, w: x.neg_(),
    "abs_": lambda x, w: x.abs_(),
    "copy_": lambda x, w: x.copy_(w),
    "fill_": lambda x, w: x.fill_(2.0),
    "zero_": lambda x, w: x.zero_(),
    "addcmul_": lambda x, w: x.addcmul_(w, w, value=0.5),
    "operators": lambda x, w: x.__iadd__(w).__imul__(w).__isub__(1).__itruediv__(2),
}


@pytest.mark.parametrize("op", INPLACE)
def test_each_operation_alone(op: str) -> None:
    def program(m: Any, a: Any, w: Any) -> Any:
        x = a * 2
        returned = INPLACE[op](x, w)
        assert returned is x
        return x * x

    compare(program, (3, 2), (3, 2))


@pytest.mark.parametrize("op", INPLACE)
def test_each_operation_on_a_view(op: str) -> None:
    def program(m: Any, a: Any, w: Any) -> Any:
        x = a * 2
        INPLACE[op](x.T[1], w)
        return x * x + x.T[1].sum()

    compare(program, (3, 2), (3,))


VIEWS: dict[str, Callable[[Any], Any]] = {
    "select": lambda x: x[1],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "step": lambda x: x[:, ::2],
    "permute": lambda x: x.permute(2, 0, 1),
    "reshape": lambda x: x.reshape(12, 2),
    "diagonal": lambda x: x.diagonal(0, 0, 1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "flatten": lambda x: x.flatten(),
    "new axis": lambda x: x[None, ..., 1],
    "permute reshape": lambda x: x.permute(0, 1, 2).reshape(3, 8)[1:],
    "diagonal select": lambda x: x.diagonal(1, 1, 2)[1:, 0],
    "twice transposed": lambda x: x.transpose(0, 2)[1].T[0:2],
    # torch refuses to write into one of several views; ours are views as any other
    "split": lambda x: x.split(2, 1)[1] if isinstance(x, tinyflow.Tensor) else x[:, 2:],
    "unbind": lambda x: x.unbind(2)[1] if isinstance(x, tinyflow.Tensor) else x.select(2, 1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_write_through_a_view(view: str) -> None:
    """The view, the base and a second view made before the write all see the new history."""

    def program(m: Any, a: Any) -> Any:
        x = a * 1
        before = x[2]
        v = VIEWS[view](x)
        v.mul_(v.detach().clone() * 3)
        v.add_(1)
        assert v.grad_fn is not None and x.grad_fn.name().endswith("CopySlices")
        return (x * x).sum() + (before * 5).sum() + (v * 7).sum()

    compare(program, (3, 4, 2))


def test_several_writes_through_overlapping_views() -> None:
    def program(m: Any, a: Any, b: Any) -> Any:
        x = a * 1
        rows, columns = x[1:], x[:, :2]
        rows.mul_(2)
        columns[2] = b
        x.mul_(3)
        rows[0].pow_(2)
        columns.T.add_(b[0])
        return x * rows.sum() + columns.sum()

    compare(program, (3, 4), (2,))


def test_base_without_gradients_gets_a_history() -> None:
    def program(m: Any, a: Any) -> Any:
        x = m.zeros(3, 2, dtype=m.float64)
        view = x[1]
        view.copy_(a)
        assert x.requires_grad and not x.is_leaf
        x[0] = a * a
        x[2, 1] = a[0]
        return x * 2

    compare(program, (2,))


def test_write_through_a_view_of_channels_last_memory() -> None:
    """Only memory in that order of dimensions can be viewed so, in the backward pass as well."""

    def program(m: Any, a: Any) -> Any:
        x = (a * 1).contiguous(memory_format=m.channels_last)
        x.permute(0, 2, 3, 1).view(-1, 3).mul_(2)
        return x * x

    compare(program, (2, 3, 4, 5))


def test_write_through_explicit_strides() -> None:
    def program(m: Any, a: Any) -> Any:
        x = a * 1
        x.as_strided((2, 2), (4, 1), 1).mul_(3)
        return x.sum()  # the gradient that arrives is an expanded scalar

    compare(program, (3, 4))
    with pytest.raises(RuntimeError, match="repeats elements"):
        (leaf((4,), tinyflow) * 1).as_strided((2, 2), (1, 1))
    with pytest.raises(RuntimeError, match="only a contiguous tensor at the start"):
        tinyflow.from_torch(torch.zeros(4, dtype=torch.float64)[1:]).as_strided((2,), (1,)).add_(leaf((2,), tinyflow))


def test_write_through_explicit_strides_of_a_view() -> None:
    def program(m: Any, a: Any) -> Any:
        x = m.zeros(6, dtype=m.float64)
        x[1:].as_strided((2,), (2,), 3).add_(a)
        return x * x + 1

    compare(program, (2,))


def test_write_into_an_expanded_part() -> None:
    """The base is written where the expansion selects it once."""

    def program(m: Any, a: Any) -> Any:
        x = a * 1
        x.expand(3, 2)[0].mul_(4)
        return x * x

    compare(program, (1, 2))


def test_second_derivative_through_a_write() -> None:
    for m in (tinyflow, torch):
        a = leaf((3,), m)
        x = a * a
        x[1:].mul_(a[:2])
        (g,) = m.autograd.grad(x.sum(), a, create_graph=True)
        (h,) = m.autograd.grad((g * g).sum(), a)
        v = np.random.default_rng(0).standard_normal(3)
        gradient = np.array([2 * v[0] + v[1] ** 2, 2 * v[1] * v[0] + v[2] ** 2, 2 * v[2] * v[1]])
        hessian = np.array([[2, 2 * v[1], 0], [2 * v[1], 2 * v[0], 2 * v[2]], [0, 2 * v[2], 2 * v[1]]])
        np.testing.assert_allclose(h.numpy(), 2 * hessian @ gradient)


@BOTH
def test_view_keeps_its_history_when_looked_at_without_recording(m: Any) -> None:
    x = leaf((2, 2), m)
    view = x[0]
    with m.no_grad():
        x.add_(1)
        assert view.requires_grad
    view.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


@BOTH
def test_view_learns_of_a_write_though_first_looked_at_without_recording(m: Any) -> None:
    a = leaf((2, 2), m)
    x = a * 1
    view = x[0]
    x.mul_(3)
    with m.no_grad():
        assert view.requires_grad
    view.sum().backward()
    assert a.grad.tolist() == [[3.0, 3.0], [0.0, 0.0]]


@BOTH
def test_gradient_of_what_was_overwritten_is_zero_even_where_infinite(m: Any) -> None:
    a = leaf((2,), m)
    x = a * 1
    x.zero_()
    (x * m.tensor([float("inf"), 1.0], dtype=m.float64)).backward(m.ones(2, dtype=m.float64))
    assert a.grad.tolist() == [0.0, 0.0]


def test_setitem() -> None:
    def program(m: Any, a: Any, b: Any) -> Any:
        x = a * 2
        x[0] = 1.5
        x[1, 1:3] = b[:2]
        x[..., -1] = b.sum()
        x[2:, None, 0] = b[:1]
        return x * x

    compare(program, (4, 5), (3,))


def test_setitem_with_tensors_and_masks() -> None:
    def program(m: Any, a: Any, b: Any) -> Any:
        x = a * 2
        x[m.tensor([0, 2])] = b
        x[x.detach() > 1] = -1.0
        x[m.tensor([3, 1]), m.tensor([0, 4])] = b[0, :2]
        x[:, m.tensor([3])] = b[0, 0]
        return x * x

    compare(program, (4, 5), (2, 5))


def test_overlapping_copy_reads_before_it_writes() -> None:
    for shift in (1, -1):
        x, y = tinyflow.arange(6.0), np.arange(6.0)
        (x[1:].copy_(x[:-1]) if shift > 0 else x[:-1].copy_(x[1:]))
        expected = y.copy()
        (np.copyto(expected[1:], y[:-1]) if shift > 0 else np.copyto(expected[:-1], y[1:]))
        assert x.tolist() == expected.tolist()
    square = tinyflow.arange(9.0).reshape(3, 3)
    square.add_(square.T)
    assert square.tolist() == (np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T).tolist()


# ---- any chain of views and writes ---------------------------------------------------------------------------------

STEPS = ["first", "tail", "transpose", "step", "flat", "axis"]


def _step(x: Any, step: str) -> Any:
    if step == "axis" or x.dim() == 0:
        return x.unsqueeze(0)
    if step == "first":
        return x[0]
    if step == "tail":
        return x[1:] if x.shape[0] > 1 else x
    if step == "step":
        return x[..., ::2]
    if step == "transpose":
        return x.transpose(0, -1)
    return x.reshape(-1) if x.is_contiguous() else x


@given(
    writes=st.lists(
        st.tuples(st.lists(st.sampled_from(STEPS), max_size=3), st.sampled_from(["mul", "add", "square", "copy"])),
        min_size=1,
        max_size=3,
    )
)
def test_any_views_and_writes(writes: list[tuple[list[str], str]]) -> None:
    def program(m: Any, a: Any, b: Any) -> Any:
        x = a * 0.5
        views = []
        for steps, op in writes:
            v = x
            for step in steps:
                v = _step(v, step)
            views.append(v)
            if op == "square":
                v.pow_(2)
            elif op == "copy":
                v.copy_(b.reshape(-1)[0])
            else:
                (v.mul_ if op == "mul" else v.add_)(b.reshape(-1)[1])
        total = (x * x).sum()
        for v in views:
            total = total + (v * 3).sum()
        return total

    compare(program, (2, 3, 4), (2,))
