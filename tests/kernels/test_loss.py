"""Cross entropy and negative log-likelihood with their gradients: against float64 torch, option by option."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tinyflow.kernels import launch, memory
from tinyflow.kernels import loss as kernels

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
REDUCTIONS = ["mean", "sum", "none"]

#: Logits, with what the shape is for.
SHAPES = {"rows": (5, 7), "one row": (7,), "sequences": (3, 5, 4), "images": (2, 3, 4, 3), "one class": (4, 1)}


@contextlib.contextmanager
def every_kernel_at(config: launch.Config) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for configs in (
            kernels.cross_entropy_configs,
            kernels.cross_entropy_input_grad_configs,
            kernels.nll_loss_input_grad_configs,
        ):
            stack.enter_context(configs.forced(config))
        yield


def on_device(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.to(DEVICE)


def indices(shape: tuple[int, ...]) -> torch.Tensor:
    """A class for each row, class 2 among them where there is one."""
    classes = shape[1] if len(shape) > 1 else shape[0]
    target = torch.randint(0, classes, shape[:1] + shape[2:] if len(shape) > 1 else ())
    if target.dim() and classes > 2:
        target.view(-1)[1] = 2
    return target


def assert_cross_entropy(
    x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, **options: Any
) -> None:
    """Loss and gradient."""
    wide = x.double().clone().requires_grad_()
    wide_target = target.double() if target.is_floating_point() else target
    expected = F.cross_entropy(wide, wide_target, None if weight is None else weight.double(), **options)
    on = [on_device(t) for t in (x, target, weight)]
    loss, *saved = kernels.cross_entropy(*on, **options)
    assert loss.dtype == x.dtype
    if options.get("reduction") != "none":
        *same, made = kernels.cross_entropy_with_grad(*on, **options)
        one = on_device(torch.ones((), dtype=x.dtype))
        rest = {k: v for k, v in options.items() if k != "reduction"}
        later = kernels.cross_entropy_input_grad(one, *on, *saved, **rest)
        for a, b in zip([*same, made], [loss, *saved, later]):
            # NaN is equal to itself here; a total may be summed in another order on a GPU
            assert (a is b is None) or torch.allclose(a, b, rtol=1e-6, equal_nan=True)
        assert made.stride() == later.stride()
    length = x.numel()
    assert_close(loss, expected, length)
    grad = (torch.rand(expected.shape) + 0.5).to(x.dtype)
    expected.backward(grad.double())
    options.pop("reduction", None)
    found = kernels.cross_entropy_input_grad(on_device(grad), *on, *saved, **options)
    assert found.dtype == x.dtype
    assert_close(found, wide.grad, max(length, 16))


def assert_nll(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, **options: Any) -> None:
    wide = x.double().clone().requires_grad_()
    expected = F.nll_loss(wide, target, None if weight is None else weight.double(), **options)
    on = [on_device(t) for t in (x, target, weight)]
    loss, total = kernels.nll_loss(*on, **options)
    assert loss.dtype == x.dtype
    assert_close(loss, expected, x.numel())
    grad = (torch.rand(expected.shape) + 0.5).to(x.dtype)
    expected.backward(grad.double())
    options.pop("reduction", None)
    found = kernels.nll_loss_input_grad(on_device(grad), on[1], on[2], total, x.shape, **options)
    assert_close(found, wide.grad, 16)


OPTIONS = [
    {"reduction": reduction, "ignore_index": ignore_index, "weighted": weighted, "label_smoothing": smoothing}
    for reduction, (ignore_index, weighted, smoothing) in itertools.product(
        REDUCTIONS, [(-100, False, 0.0), (2, True, 0.0), (2, False, 0.1), (-100, True, 0.3)]
    )
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_class_indices_agree_with_float64(shape: str, options: dict[str, Any]) -> None:
    x, options = torch.randn(SHAPES[shape]) * 3, dict(options)
    weight = torch.rand(x.shape[min(x.dim() - 1, 1)]) + 0.1 if options.pop("weighted") else None
    assert_cross_entropy(x, indices(SHAPES[shape]), weight, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.2, True)])
def test_probabilities_agree_with_float64(shape: str, reduction: str, smoothing: float, weighted: bool) -> None:
    x, target = torch.randn(SHAPES[shape]) * 3, torch.rand(SHAPES[shape])
    weight = torch.rand(x.shape[min(x.dim() - 1, 1)]) + 0.1 if weighted else None
    assert_cross_entropy(x, target, weight, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("ignore_index", "weighted"), [(-100, False), (2, True)])
def test_nll_agrees_with_float64(shape: str, reduction: str, ignore_index: int, weighted: bool) -> None:
    x = -torch.rand(SHAPES[shape]) - 0.1
    weight = torch.rand(x.shape[min(x.dim() - 1, 1)]) + 0.1 if weighted else None
    assert_nll(x, indices(SHAPES[shape]), weight, reduction=reduction, ignore_index=ignore_index)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(5, 7).to(dtype)
    assert_cross_entropy(x, indices((5, 7)), torch.rand(7).to(dtype), label_smoothing=0.1)
    assert_cross_entropy(x, torch.rand(5, 7).to(dtype))
    assert_nll(-x.abs(), indices((5, 7)))
    assert_cross_entropy(
        x,
        indices((5, 7)).to(torch.int64),
        torch.rand(7, dtype=torch.promote_types(dtype, torch.float32)),
        reduction="sum",
    )


@pytest.mark.parametrize("config", kernels.cross_entropy_configs.declared, ids=lambda c: str(c.blocks))
def test_shipped_configurations(config: launch.Config) -> None:
    rows, classes = 2 * config.blocks["BLOCK_R"] + 1, config.blocks["BLOCK_N"] + 3  # ragged in both dimensions
    x, weight = torch.randn(rows, classes) * 3, torch.rand(classes) + 0.1
    target = indices((rows, classes))
    target[-1] = classes - 1
    with every_kernel_at(config):
        assert_cross_entropy(x, target, weight, ignore_index=2, label_smoothing=0.1)
        assert_cross_entropy(x, torch.rand(rows, classes), weight)
        assert_cross_entropy(x.t().contiguous().t(), target, reduction="none")
        assert_nll(-x.abs(), target, weight)


@pytest.mark.parametrize("configs", [kernels.nll_loss_configs, kernels.loss_total_configs], ids=lambda c: c.kernel)
def test_shipped_configurations_over_rows(configs: launch.Configs) -> None:
    for config in configs.shipped:
        rows = config.blocks["BLOCK_R"] + 5
        with configs.forced(config):
            assert_nll(-torch.rand(rows, 3) - 0.1, indices((rows, 3)), torch.rand(3) + 0.1)


def test_any_layout() -> None:
    x = torch.randn(6, 4, 5).permute(2, 1, 0)[::2]
    target = torch.randint(0, 4, (6, 3)).t()
    assert_cross_entropy(x, target)
    assert_cross_entropy(x, target, reduction="none")
    assert_cross_entropy(x, torch.rand(6, 3, 4).permute(1, 2, 0), torch.rand(8)[::2], label_smoothing=0.1)
    assert_nll(-x.abs(), target, torch.rand(8)[::2])
    assert_cross_entropy(torch.randn(4, 1, 1).expand(4, 3, 2), torch.zeros(1, 1, dtype=torch.int64).expand(4, 2))


def test_wide_offsets() -> None:
    with launch.wide_offsets():
        assert_cross_entropy(torch.randn(3, 5, 4), indices((3, 5, 4)), label_smoothing=0.1)
        assert_nll(torch.randn(3, 5, 4), indices((3, 5, 4)), reduction="none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_row_ignored(reduction: str, smoothing: float) -> None:
    target = torch.full((4,), -100)
    assert_cross_entropy(torch.randn(4, 3), target, reduction=reduction, label_smoothing=smoothing)
    assert_nll(torch.randn(4, 3), target, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_rows(reduction: str) -> None:
    x = torch.empty(0, 3, device=DEVICE)
    target = torch.empty(0, dtype=torch.int64, device=DEVICE)
    expected = F.cross_entropy(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), reduction=reduction)
    loss, *saved = kernels.cross_entropy(x, target, reduction=reduction)
    torch.testing.assert_close(loss.cpu(), expected, equal_nan=True)
    assert kernels.cross_entropy_input_grad(loss, x, target, None, *saved).shape == (0, 3)


def test_large_logits_keep_their_digits() -> None:
    x = torch.tensor([[2.0**20, 2.0**20 + 1, 0.0], [-(2.0**20), -(2.0**20) - 1, -(2.0**20)]])
    assert_cross_entropy(x, torch.tensor([0, 2]))
    assert_cross_entropy(x[:, :2], torch.tensor([0, 1]), label_smoothing=0.1)


def test_infinities_and_nan_as_in_torch() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[-inf, 0.0, 1.0], [0.0, -inf, 1.0], [inf, 0.0, 1.0], [nan, 0.0, 1.0], [-inf, -inf, -inf]])
    target = torch.tensor([1, 1, 1, 1, 1])
    loss, *_ = kernels.cross_entropy(x.to(DEVICE), target.to(DEVICE), reduction="none")
    torch.testing.assert_close(loss.cpu(), F.cross_entropy(x, target, reduction="none"), equal_nan=True)


def test_targets_out_of_range() -> None:
    x = torch.randn(3, 5, device=DEVICE)
    for wrong in (7, 5, -1):
        target = torch.tensor([0, wrong, 2], device=DEVICE)
        for function in (kernels.cross_entropy, kernels.nll_loss):
            if DEVICE.type == "cpu":
                with pytest.raises(IndexError, match=rf"Target {wrong} is out of bounds\."):
                    function(x, target)
            else:
                loss = function(x, target, reduction="none")[0]
                assert loss.isnan().tolist() == [False, True, False]


def test_two_runs_give_the_same_bits() -> None:
    x, target = torch.randn(300, 11, device=DEVICE), indices((300, 11)).to(DEVICE)
    first, second = (kernels.cross_entropy(x, target)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_total_of_many_rows(weighted) -> None:
    """Three ragged tiles of the configuration that ships; some rows are ignored."""
    (config,) = kernels.target_total_configs.shipped
    rows = 2 * config.blocks["BLOCK_R"] + 3
    x, target = torch.randn(rows, 3), torch.randint(0, 3, (rows,))
    target[::5] = 1
    weight = torch.rand(3) if weighted else None
    with kernels.target_total_configs.forced(config), kernels.loss_total_configs.forced(config):
        *_, total, grad = kernels.cross_entropy_with_grad(*map(on_device, (x, target, weight)), ignore_index=1)
    expected = (torch.ones(3) if weight is None else weight).double()[target[target != 1]].sum()
    assert_close(total, expected, rows)
    wide = x.double().requires_grad_()
    F.cross_entropy(wide, target, None if weight is None else weight.double(), ignore_index=1).backward()
    assert_close(grad, wide.grad, rows)


def test_errors() -> None:
    x, target = torch.randn(3, 5, device=DEVICE), torch.zeros(3, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="expected reduction 'mean' or 'sum', got 'none'"):
        kernels.cross_entropy_with_grad(x, target, reduction="none")
    with pytest.raises(ValueError, match=r"Expected input batch_size \(3\) to match target batch_size \(2\)"):
        kernels.cross_entropy(x, target[:2])
    with pytest.raises(RuntimeError, match=r"Expected target size \(3, 4\) for x of shape \(3, 5, 4\), got \(3, 2\)"):
        kernels.cross_entropy(x[:, :, None].expand(3, 5, 4), target[:, None].expand(3, 2))
    with pytest.raises(RuntimeError, match=r"expected target of class indices in torch\.int64, got torch\.int32"):
        kernels.cross_entropy(x, target.int())
    with pytest.raises(RuntimeError, match=r"expected class probabilities of the shape of x \(3, 5\), got \(3,\)"):
        kernels.cross_entropy(x, target.float())
    with pytest.raises(RuntimeError, match="ignore_index is not supported for floating point target, got 2"):
        kernels.cross_entropy(x, x, ignore_index=2)
    with pytest.raises(RuntimeError, match="weight tensor should be defined either for all 5 classes or no classes"):
        kernels.cross_entropy(x, target, x[0, :4])
    with pytest.raises(ValueError, match="median is not a valid value for reduction"):
        kernels.cross_entropy(x, target, reduction="median")
    with pytest.raises(RuntimeError, match=r"label_smoothing must be between 0.0 and 1.0. Got: 1.5"):
        kernels.cross_entropy(x, target, label_smoothing=1.5)
    with pytest.raises(RuntimeError, match=r"expected target of class indices in torch\.int64, got torch\.float32"):
        kernels.nll_loss(x, x)
