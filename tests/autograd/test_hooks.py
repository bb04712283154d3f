"""Hooks: on tensors, leaves and nodes, before and after; and retain_grad."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tinyflow

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def leaf(*values: float, m: Any) -> Any:
    return m.tensor(list(values), dtype=m.float64, requires_grad=True)


@BOTH
def test_tensor_hook_sees_and_replaces(m: Any) -> None:
    x = leaf(1.0, m=m)
    y = x * 2
    seen: list[float] = []
    y.register_hook(lambda g: seen.append(g.item()))
    handle = y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: seen.append(g.item()))
    (y * 3 + y * 4).backward(retain_graph=True)
    assert seen == [7.0, 70.0] and x.grad.item() == 140.0
    handle.remove()
    (y * 1).backward()
    assert seen[2:] == [1.0, 1.0] and x.grad.item() == 142.0


@BOTH
def test_leaf_hook(m: Any) -> None:
    """It runs once for all that arrives, before it is added, in autograd.grad too; also when registered after removal."""
    x = leaf(1.0, m=m)
    handle = x.register_hook(lambda g: g * 1000)
    handle.remove()
    y = x * 2 + x * 3
    x.register_hook(lambda g: g * 10)
    y.backward()
    assert x.grad.item() == 50.0
    assert m.autograd.grad(x * 2, x)[0].item() == 20.0
    with x.register_hook(lambda g: g + 1):
        (x * 1).backward()
    assert x.grad.item() == 61.0


@BOTH
def test_kept_gradient_is_the_hooks_own(m: Any) -> None:
    x = leaf(1.0, m=m)
    kept: list[Any] = []
    x.register_hook(lambda g: kept.append(g))
    (x * 2).backward()
    x.grad.zero_()
    assert kept[0].item() == 2.0


@BOTH
def test_hook_belongs_to_the_value_it_was_put_on(m: Any) -> None:
    x = leaf(1.0, m=m)
    y = x * 2
    seen: list[float] = []
    y.register_hook(lambda g: seen.append(g.item()))
    y.mul_(5)
    y.backward()
    assert seen == [5.0]


@BOTH
@pytest.mark.parametrize("kept", ["data", "the gradient"])
def test_hook_may_write_where_no_version_counts(m: Any, kept: str) -> None:
    """A loss whose gradient is made beside it must see that it does not start from one any more."""

    def double(g: Any) -> None:
        (g.data if kept == "data" else g).mul_(2)

    logits = leaf(1.0, 2.0, 3.0, m=m)
    expected = [2 * p for p in (0.09003057, 0.24472847 - 1, 0.66524096)]
    for _ in range(2):
        logits.grad = None
        loss = m.nn.functional.cross_entropy(logits, m.tensor(1))
        loss.register_hook(double)
        loss.backward()
        assert logits.grad.tolist() == pytest.approx(expected, rel=1e-6)


@BOTH
def test_hooks_need_a_gradient(m: Any) -> None:
    with pytest.raises(RuntimeError, match="cannot register a hook on a tensor that doesn't require grad"):
        m.ones(1).register_hook(print)
    with pytest.raises(RuntimeError, match="post accumulate grad hooks cannot be registered on non-leaf"):
        (leaf(1.0, m=m) * 2).register_post_accumulate_grad_hook(print)
    with pytest.raises(RuntimeError, match="can't retain_grad on Tensor that has requires_grad=False"):
        m.ones(1).retain_grad()


@BOTH
def test_hook_may_not_change_the_shape(m: Any) -> None:
    x = leaf(1.0, m=m)
    x.register_hook(lambda g: m.ones(3, dtype=m.float64))
    with pytest.raises(RuntimeError, match="changed the (gradient|size)"):
        (x * 2).backward()


@BOTH
def test_node_hooks(m: Any) -> None:
    x, w = leaf(2.0, m=m), leaf(5.0, m=m)
    y = x * w
    calls: list[Any] = []

    def pre(grads: Any) -> Any:
        calls.append([g.item() for g in grads])
        return (grads[0] * 2,)

    def post(inputs: Any, outputs: Any) -> Any:
        calls.append(([g.item() for g in inputs], [g.item() for g in outputs]))
        return inputs[0] + 1, inputs[1]

    y.grad_fn.register_prehook(pre)
    y.grad_fn.register_hook(post)
    y.backward()
    assert calls == [[1.0], ([10.0, 4.0], [2.0])]
    assert x.grad.item() == 11.0 and w.grad.item() == 4.0


@BOTH
def test_accumulator_hooks(m: Any) -> None:
    x = leaf(2.0, m=m)
    y = x * 3
    accumulate = y.grad_fn.next_functions[0][0]
    seen: list[Any] = []
    accumulate.register_prehook(lambda grads: (grads[0] * 10,))
    accumulate.register_hook(lambda inputs, outputs: seen.append((len(inputs), outputs[0].item(), x.grad.item())))
    y.backward()
    assert x.grad.item() == 30.0 and seen == [(0, 30.0, 30.0)]


@BOTH
def test_post_accumulate_hook(m: Any) -> None:
    """The optimiser in the backward pass: the gradient is there, may be used and dropped."""
    x = leaf(2.0, m=m)

    def step(p: Any) -> None:
        assert p is x
        with m.no_grad():
            p.sub_(p.grad)
        p.grad = None

    handle = x.register_post_accumulate_grad_hook(step)
    (x * 3).backward()
    assert x.item() == -1.0 and x.grad is None
    handle.remove()
    (x * 3).backward()
    assert x.grad.item() == 3.0


@BOTH
def test_retain_grad(m: Any) -> None:
    x = leaf(1.0, m=m)
    y = x * 2
    assert not y.retains_grad
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    y.retain_grad()
    z = y * y
    z.backward()
    assert y.retains_grad and y.grad.item() == 40.0, "what hooks made of it, whenever they were registered"
    x.retain_grad()
    assert not x.retains_grad, "a leaf keeps its gradient anyway"


@BOTH
def test_retained_gradient_is_of_the_value_after_a_write(m: Any) -> None:
    x = leaf(1.0, m=m)
    y = x * 2
    y.retain_grad()
    y.mul_(5)
    (y * 7).backward()
    assert y.grad.item() == 7.0


@BOTH
def test_retained_gradient_accumulates_and_owns_its_memory(m: Any) -> None:
    x = leaf(1.0, m=m)
    y = x + 0
    y.retain_grad()
    y.backward(retain_graph=True)
    y.grad.zero_()
    assert x.grad.item() == 1.0
    y.backward()
    assert y.grad.item() == 1.0 and x.grad.item() == 2.0


def test_hook_result_must_be_a_tensor() -> None:
    x = leaf(1.0, m=tinyflow)
    x.register_hook(lambda g: 3)
    with pytest.raises(TypeError, match="expected a hook to return a Tensor or None, got int"):
        (x * 2).backward()


def test_hooks_record_under_create_graph() -> None:
    x = leaf(3.0, m=tinyflow)
    x.register_hook(lambda g: g * x)
    (g,) = tinyflow.autograd.grad(x * x, x, create_graph=True)
    (h,) = tinyflow.autograd.grad(g, x)
    assert g.item() == 18.0 and h.item() == 36.0, "d/dx 2x·x is 4x, and the hook multiplies by x again"
