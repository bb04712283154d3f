"""Autocast chooses dtypes as torch does, keeps float32 gradients, and leaves nothing behind."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
import tinyflow.nn.functional as F
from tests.device import on_cpu
from tinyflow import autocast_mode, nn
from tinyflow.autograd import Function
from tinyflow.nn import fusion

BFLOAT16, FLOAT16, FLOAT32, FLOAT64 = tinyflow.bfloat16, tinyflow.float16, tinyflow.float32, tinyflow.float64
DEVICE = tinyflow.get_default_device()
KIND = DEVICE.type


def region(dtype: tinyflow.dtype = BFLOAT16, **settings: Any) -> tinyflow.autocast:
    """A region for the device under test."""
    return tinyflow.autocast(KIND, dtype=dtype, **settings)


def _both(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[tuple[torch.Tensor, tinyflow.Tensor]]:
    made = [torch.rand(s).to(dtype).to(KIND) for s in shapes]
    return [(x, tinyflow.from_torch(x)) for x in made]


#: An operation of both libraries, given the library, and the shapes that it takes.
OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "conv2d": (lambda m, x, w: m.nn.functional.conv2d(x, w), ((1, 2, 4, 4), (3, 2, 2, 2))),
    "linear": (lambda m, x, w, b: m.nn.functional.linear(x, w, b), ((2, 3), (4, 3), (4,))),
    "matmul": (lambda m, x, y: m.matmul(x, y), ((2, 3), (3, 4))),
    "mm": (lambda m, x, y: m.mm(x, y), ((2, 3), (3, 4))),
    "bmm": (lambda m, x, y: m.bmm(x, y), ((2, 2, 3), (2, 3, 4))),
    "vectors": (lambda m, x, y: m.matmul(x, y), ((3,), (3,))),
    "dot": (lambda m, x, y: m.dot(x, y), ((3,), (3,))),
    "addmm": (lambda m, a, x, y: m.addmm(a, x, y), ((2, 4), (2, 3), (3, 4))),
    "addmm, scaled": (lambda m, a, x, y: m.addmm(a, x, y, beta=0.5, alpha=2), ((2, 4), (2, 3), (3, 4))),
    "add": (lambda m, x, y: x + y, ((3,), (3,))),
    "exp": (lambda m, x: m.exp(x), ((3,),)),
    "pow": (lambda m, x: x**2.5, ((3,),)),
    "sum": (lambda m, x: x.sum(), ((3,),)),
    "prod": (lambda m, x: x.prod(), ((3,),)),
    "mean": (lambda m, x: x.mean(), ((3,),)),
    "relu": (lambda m, x: m.relu(x), ((3,),)),
    "softmax": (lambda m, x: m.softmax(x, 1), ((2, 3),)),
    "log_softmax": (lambda m, x: m.log_softmax(x, 1), ((2, 3),)),
    "mse_loss": (lambda m, x, y: m.nn.functional.mse_loss(x, y), ((2, 3), (2, 3))),
    "l1_loss": (lambda m, x, y: m.nn.functional.l1_loss(x, y), ((2, 3), (2, 3))),
    "cross_entropy": (lambda m, x: m.nn.functional.cross_entropy(x, m.tensor([1, 2], device=KIND)), ((2, 3),)),
    "nll_loss": (lambda m, x: m.nn.functional.nll_loss(x, m.tensor([1, 2], device=KIND)), ((2, 3),)),
    "cat": (lambda m, x, y: m.cat([x, m.mm(y, y)]), ((2, 2), (2, 2))),
    "max_pool2d": (lambda m, x: m.nn.functional.max_pool2d(x, 2), ((1, 1, 2, 2),)),
}


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_dtypes_are_torchs(name: str, given: torch.dtype) -> None:
    op, shapes = OPERATIONS[name]
    operands = _both(*shapes, dtype=given)
    with torch.autocast(KIND, dtype=torch.bfloat16):
        try:
            expected = op(torch, *(x for x, _ in operands))
        except RuntimeError:
            pytest.skip("torch refuses float64 here")
    with region():
        result = op(tinyflow, *(y for _, y in operands))
    assert result.dtype == expected.dtype
    precision = 0.02 if expected.dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(on_cpu(result).double(), expected.cpu().double(), rtol=precision, atol=precision)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (lambda x: x.exp(), FLOAT32),
        (lambda x: x.log(), FLOAT32),
        (lambda x: x**2, FLOAT32),
        (lambda x: x.square(), FLOAT32),
        (lambda x: x.rsqrt(), FLOAT32),
        (lambda x: x.reciprocal(), FLOAT32),
        (lambda x: x.sum(), FLOAT32),
        (lambda x: x.softmax(0), FLOAT32),
        (lambda x: x.log_softmax(0), FLOAT32),
        (lambda x: x.sqrt(), FLOAT16),
        (lambda x: x.mean(), FLOAT16),
        (lambda x: x.scatter_add(0, tinyflow.zeros(4, dtype=tinyflow.int64, device="meta"), x.float()), FLOAT32),
        (lambda x: x.float() @ x.float(), FLOAT16),
        (lambda x: x.float().dot(x), FLOAT32),
    ],
)
def test_a_gpu_has_the_longer_list(op: Callable[[tinyflow.Tensor], tinyflow.Tensor], expected: tinyflow.dtype) -> None:
    """torch's list for GPUs; meta stands for one, with float16 as its default."""
    x = tinyflow.empty(4, dtype=FLOAT16, device="meta")
    with tinyflow.autocast("meta"):
        assert op(x).dtype == expected


def _network(m: Any) -> Any:
    return m.nn.Sequential(
        m.nn.Conv2d(3, 8, 3, padding=1), m.nn.BatchNorm2d(8), m.nn.ReLU(), m.nn.AdaptiveAvgPool2d(1), m.nn.Flatten(),
        m.nn.Linear(8, 5),
    )  # fmt: skip


def test_a_training_step_agrees_with_torch() -> None:
    """Dtypes between layers, the loss, and float32 gradients as close as bfloat16 is."""
    theirs, ours = _network(torch).to(KIND), _network(tinyflow).to(DEVICE)
    ours.load_state_dict({k: tinyflow.from_torch(v) for k, v in theirs.state_dict().items()})
    x, labels = torch.randn(4, 3, 8, 8, device=KIND), torch.tensor([0, 1, 2, 3], device=KIND)
    found: dict[str, list[Any]] = {"theirs": [], "ours": []}
    for layer in theirs:
        layer.register_forward_hook(lambda module, inputs, y: found["theirs"].append(y.dtype))
    for layer in ours:
        layer.register_forward_hook(lambda module, inputs, y: found["ours"].append(y.dtype))
    with torch.autocast(KIND, dtype=torch.bfloat16):
        expected = torch.nn.functional.cross_entropy(theirs(x), labels)
    expected.backward()
    with region():
        loss = F.cross_entropy(ours(tinyflow.from_torch(x)), tinyflow.from_torch(labels))
    loss.backward()
    assert found["ours"] == found["theirs"]
    assert loss.dtype == expected.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert p.grad.dtype == p.dtype == FLOAT32
        assert (on_cpu(p.grad) - q.grad.cpu()).norm() <= 0.03 * q.grad.norm() + 1e-4


def test_the_backward_pass_runs_in_the_forward_pass_dtypes() -> None:
    """Inside a region too: the gradient of a float32 product stays float32 there."""
    a, b = tinyflow.rand(3, 3, requires_grad=True), tinyflow.rand(3, 3)
    product = a @ b
    (exact,) = tinyflow.autograd.grad(product.sum(), a, retain_graph=True)
    with region():
        assert tinyflow.autograd.grad(product.sum(), a)[0].tolist() == exact.tolist()
        half = a @ b
        (rounded,) = tinyflow.autograd.grad(half.sum(), a)
    assert half.dtype == BFLOAT16 and rounded.dtype == FLOAT32
    factors = on_cpu(b.bfloat16()).double()
    torch.testing.assert_close(on_cpu(rounded).double(), factors.sum(1).expand(3, 3), rtol=1e-6, atol=0)
    assert rounded.tolist() != exact.tolist()


def test_second_derivatives_pass_through_casts() -> None:
    w = tinyflow.tensor([[0.5, 0.25], [1.0, 2.0]], requires_grad=True)
    with region():
        y = ((w @ w) @ w).float().sum()
    (g,) = tinyflow.autograd.grad(y, w, create_graph=True)
    g.sum().backward()
    reference = torch.tensor(w.tolist(), dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad((reference @ reference @ reference).sum(), reference, create_graph=True)
    expected.sum().backward()
    assert w.grad.dtype == FLOAT32
    torch.testing.assert_close(on_cpu(w.grad).double(), reference.grad, rtol=0.03, atol=0.03)


# ---- the region ----------------------------------------------------------------------------------------------------


def test_regions_nest_and_end() -> None:
    x = tinyflow.rand(2, 2)
    with region():
        assert (x @ x).dtype == BFLOAT16
        with region(enabled=False):
            assert (x @ x).dtype == FLOAT32
            with region(dtype=FLOAT16):
                assert (x @ x).dtype == FLOAT16
        assert (x @ x).dtype == BFLOAT16
        assert tinyflow.is_autocast_enabled(KIND) and not tinyflow.is_autocast_enabled("meta")
    assert (x @ x).dtype == FLOAT32
    assert not tinyflow.is_autocast_enabled(KIND)


def test_an_error_ends_a_region() -> None:
    with pytest.raises(ZeroDivisionError), region(cache_enabled=False):
        raise ZeroDivisionError
    assert not autocast_mode.state.active and autocast_mode.state.depth == 0
    assert tinyflow.is_autocast_cache_enabled()


def test_decorator() -> None:
    @region()
    def power(x: tinyflow.Tensor, n: int) -> tinyflow.Tensor:
        """x to the n."""
        return x if n == 1 else power(x, n - 1) @ x

    assert power(tinyflow.rand(2, 2), 3).dtype == BFLOAT16
    assert power.__doc__ == "x to the n."
    assert not autocast_mode.state.active


def test_another_thread_is_not_in_the_region() -> None:
    found: list[tinyflow.dtype] = []
    x = tinyflow.rand(2, 2)
    with region():
        thread = threading.Thread(target=lambda: found.append((x @ x).dtype))
        thread.start()
        thread.join()
    assert found == [FLOAT32]


def test_results_written_elsewhere_are_not_cast() -> None:
    """In-place operations and out= keep the dtype of their target."""
    x = tinyflow.rand(3, dtype=BFLOAT16)
    with tinyflow.autocast("meta"):
        y = tinyflow.empty(3, dtype=BFLOAT16, device="meta")
        assert y.exp_().dtype == BFLOAT16
        assert tinyflow.exp(y, out=y).dtype == BFLOAT16
    with region():
        assert x.add_(1).dtype == BFLOAT16


def test_dtypes_can_be_asked_for_and_set() -> None:
    assert tinyflow.get_autocast_dtype("cpu") == BFLOAT16 and tinyflow.get_autocast_dtype("cuda") == FLOAT16
    default = tinyflow.get_autocast_dtype(KIND)
    for dtype in (FLOAT16, BFLOAT16):
        with region(dtype=dtype):
            assert tinyflow.get_autocast_dtype(KIND) == dtype
    assert tinyflow.get_autocast_dtype(KIND) == default
    tinyflow.set_autocast_dtype(KIND, FLOAT16)
    tinyflow.set_autocast_enabled(KIND, True)
    try:
        assert (tinyflow.rand(2, 2) @ tinyflow.rand(2, 2)).dtype == FLOAT16
    finally:
        tinyflow.set_autocast_dtype(KIND, default)
        tinyflow.set_autocast_enabled(KIND, False)
    assert tinyflow.amp.is_autocast_available("cpu") and not tinyflow.amp.is_autocast_available("abacus")


# ---- the cache -----------------------------------------------------------------------------------------------------


def _casts(run: Callable[[], Any]) -> int:
    """How many casts to half precision a block makes."""
    with tinyflow.kernels.launch.count() as records:
        run()
    return sum(r.cost.flops == 0 for r in records)


def test_a_parameter_is_cast_once_in_a_region() -> None:
    """As it is, and as the transpose that a linear layer takes."""
    layer, x = nn.Linear(4, 4, bias=False), tinyflow.rand(2, 4, dtype=BFLOAT16)
    with region():
        assert _casts(lambda: layer(x)) == 1
        assert _casts(lambda: layer(x)) == 0
        assert len(autocast_mode.state.cache) == 1
    assert not autocast_mode.state.cache
    with region(cache_enabled=False):
        layer(x)
        assert _casts(lambda: layer(x)) == 1


def test_a_changed_parameter_is_cast_again() -> None:
    w = nn.Parameter(tinyflow.ones(2, 2))
    x = tinyflow.ones(2, 2, dtype=BFLOAT16)
    with region():
        assert (x @ w).tolist() == [[2, 2], [2, 2]]
        with tinyflow.no_grad():
            w.mul_(3)
        assert (x @ w).tolist() == [[6, 6], [6, 6]]
        w.data = tinyflow.ones(2, 2) * 5
        assert (x @ w).tolist() == [[10, 10], [10, 10]]


def test_a_cast_made_without_gradients_does_not_serve_with_them() -> None:
    w = nn.Parameter(tinyflow.ones(2, 2))
    with region():
        with tinyflow.no_grad():
            w @ w
        (w @ w).sum().backward()
    assert w.grad.tolist() == [[4, 4], [4, 4]]


def test_what_is_no_parameter_is_not_kept() -> None:
    x = tinyflow.ones(2, 2)
    with region():
        x @ x
        assert not autocast_mode.state.cache


# ---- functions of the user -----------------------------------------------------------------------------------------


class _Product(Function):
    """Notes in which dtype it ran, forward and back."""

    seen: list[Any] = []  # noqa: RUF012

    @staticmethod
    @tinyflow.amp.custom_fwd(device_type=KIND)
    def forward(ctx: Any, x: tinyflow.Tensor, w: tinyflow.Tensor) -> tinyflow.Tensor:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    @tinyflow.amp.custom_bwd(device_type=KIND)
    def backward(ctx: Any, g: tinyflow.Tensor) -> Any:
        x, w = ctx.saved_tensors
        _Product.seen.append((tinyflow.is_autocast_enabled(KIND), (g @ w.T).dtype))
        return g @ w.T, x.T @ g


class _Exact(Function):
    @staticmethod
    @tinyflow.amp.custom_fwd(device_type=KIND, cast_inputs=FLOAT32)
    def forward(ctx: Any, x: tinyflow.Tensor, rest: tuple[tinyflow.Tensor, ...]) -> tinyflow.Tensor:
        return x @ rest[0]

    @staticmethod
    def backward(ctx: Any, g: tinyflow.Tensor) -> Any:
        return None, None


def test_custom_functions() -> None:
    x, w = tinyflow.rand(2, 3, requires_grad=True), tinyflow.rand(3, 2)
    with region():
        y = _Product.apply(x, w)
    assert y.dtype == BFLOAT16
    y.sum().backward()
    _Product.apply(x, w).sum().backward()
    assert _Product.seen == [(True, BFLOAT16), (False, FLOAT32)]
    half = tinyflow.rand(2, 2, dtype=BFLOAT16)
    with region():
        assert _Exact.apply(half, (half,)).dtype == FLOAT32
    assert _Exact.apply(half, (half,)).dtype == BFLOAT16


# ---- wrong calls ---------------------------------------------------------------------------------------------------


def test_errors_and_warnings() -> None:
    with pytest.raises(RuntimeError, match="unsupported autocast device_type 'abacus'; expected one of"):
        tinyflow.autocast("abacus")
    with pytest.raises(ValueError, match="expected device_type of type str, got dtype"):
        tinyflow.autocast(FLOAT16)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"expected dtype bfloat16 or float16, got torch.float32. Disabling"):
        region = tinyflow.autocast(KIND, dtype=FLOAT32)
    with region:
        assert (tinyflow.rand(2, 2) @ tinyflow.rand(2, 2)).dtype == FLOAT32
    if not tinyflow.gpu_available():
        with pytest.warns(UserWarning, match="no GPU is available"):
            tinyflow.autocast("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tinyflow.autocast("cuda", enabled=False)


def test_integers_and_float64_are_left_alone() -> None:
    with region():
        assert (tinyflow.rand(2, 2, dtype=FLOAT64) @ tinyflow.rand(2, 2, dtype=FLOAT64)).dtype == FLOAT64
        assert tinyflow.tensor([1, 2]).sum().dtype == tinyflow.int64
        assert np.asarray(tinyflow.tensor([2, 3]).prod()).item() == 6


@pytest.mark.parametrize("residual", [False, True])
def test_a_fused_block_runs_as_its_parts_do(residual: bool) -> None:
    """Products in half precision, the normalisation's parameters and gradients in float32."""
    x, shortcut = tinyflow.rand(2, 4, 5, 5), tinyflow.rand(2, 6, 5, 5) if residual else None
    found = []
    for fuse in (False, True):
        tinyflow.manual_seed(0)
        conv, bn = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        with fusion.fused(fuse), region():
            half = None if shortcut is None else shortcut.bfloat16()
            y = F.conv_bn_act(x, conv, bn, residual=half)
        y.float().square().sum().backward()
        assert y.dtype == BFLOAT16
        found.append([on_cpu(t).double() for t in (y, conv.weight.grad, bn.weight.grad, bn.bias.grad)])
        assert {p.grad.dtype for p in (conv.weight, bn.weight, bn.bias)} == {FLOAT32}
    for parts, fused in zip(*found):
        torch.testing.assert_close(fused, parts, rtol=0.03, atol=0.03 * parts.abs().max().item())
