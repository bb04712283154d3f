"""Convolution, batch normalisation, residual and ReLU as one operation, for modules that stay as they are.

By default modules are fused on a GPU, where a pass over memory is what costs, and elsewhere where no gradient is followed
and weights fold; ``fused(True)`` and ``fused(False)`` decide otherwise for a block. A module of
another class, with hooks, or with a ``forward`` of its own is never fused.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import tinyflow
from tinyflow.autocast_mode import get_autocast_dtype, is_autocast_enabled
from tinyflow.autograd.grad_mode import carries_tangents, is_grad_enabled
from tinyflow.nn import functional as F
from tinyflow.nn.activation import ReLU
from tinyflow.nn.containers import Sequential
from tinyflow.nn.conv import Conv2d
from tinyflow.nn.linear import Linear
from tinyflow.nn.module import Module
from tinyflow.nn.norm import BatchNorm2d
from tinyflow.nn.pooling import AdaptiveAvgPool2d, MaxPool2d
from tinyflow.ops import fused as ops
from tinyflow.tensor import Tensor


class _Choice(threading.local):
    def __init__(self) -> None:
        self.value: bool | None = None


_choice = _Choice()
_folded: weakref.WeakKeyDictionary[Module, ops.Folded] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def fused(value: bool | None) -> Iterator[None]:
    """Fuses modules in a block, or does not; None leaves it to the device."""
    before, _choice.value = _choice.value, value
    try:
        yield
    finally:
        _choice.value = before


def is_plain(*modules: Module | None) -> bool:
    """True if modules may be fused here: wanted, of the library's own classes, without hooks or replaced methods."""
    wanted = ops.saves_time() or not is_grad_enabled() if _choice.value is None else _choice.value
    return wanted and all(map(_plain, modules))


def _plain(module: Module | None) -> bool:
    if type(module) not in (Conv2d, BatchNorm2d, ReLU, MaxPool2d, AdaptiveAvgPool2d, Linear):
        return False
    assert module is not None
    return not has_hooks(module) and getattr(module, "padding_mode", "zeros") == "zeros"


def has_hooks(module: Module) -> bool:
    """True if something stands between a call of ``module`` and its class's ``forward``.

    A forward hook that is ``blind`` only notes the call, and does not count: it may go without.
    """
    if module._backward_hooks or module._backward_pre_hooks or "forward" in vars(module):
        return True
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not getattr(hook.call, "blind", False) for hook in hooks)


def _fits(x: Tensor, conv: Any, bn: Any) -> bool:
    return is_plain(conv, bn) and x.dim() == 4 and not isinstance(conv.padding, str)


def _folds(conv: Conv2d, bn: BatchNorm2d, *tensors: Tensor | None) -> bool:
    """True if nothing follows the gradient, and the statistics are those of the past."""
    if bn.training or bn.running_mean is None:
        return False
    return not _followed(*tensors, conv.weight, conv.bias, bn.weight, bn.bias)


def _followed(*tensors: Tensor | None) -> bool:
    """True if a derivative with respect to one of the tensors may be wanted."""
    return carries_tangents() or (is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


def _fold(conv: Conv2d, bn: BatchNorm2d, dtype: tinyflow.dtype | None) -> Any:
    kept = _folded.get(conv)
    if kept is None:
        kept = _folded[conv] = ops.Folded()
    return kept.get((conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.weight, bn.bias), bn.eps, dtype)


def _half_precision(x: Tensor) -> tinyflow.dtype | None:
    """The dtype in which an autocast region wants a product with ``x``."""
    if x.dtype == tinyflow.float64 or not is_autocast_enabled(x.device.type):
        return None
    return get_autocast_dtype(x.device.type)


def _cast(x: Tensor, dtype: tinyflow.dtype | None) -> Tensor:
    return x if dtype is None else x.to(dtype)


def _window(conv: Conv2d) -> ops.Window:
    return ops.Window(conv.stride, conv.padding, conv.dilation, conv.groups)


def _arguments(conv: Conv2d, bn: BatchNorm2d) -> tuple[tuple[Any, ...], dict[str, Any]]:
    running_mean, running_var, num_batches, training, momentum = bn.next_batch()
    tensors = (conv.weight, bn.weight, bn.bias, running_mean, running_var)
    settings = {"window": _window(conv), "training": training, "momentum": momentum, "eps": bn.eps}
    return tensors, {**settings, "num_batches": num_batches}


def _check_act(act: str) -> None:
    if act not in ("relu", "none"):
        raise ValueError(f"conv_bn_act: expected act 'relu' or 'none', got {act!r}")


def conv_bn_act(x: Tensor, conv: Module, bn: Module, residual: Tensor | None = None, act: str = "relu") -> Tensor:
    """``act(bn(conv(x)) + residual)``, in as few passes over memory as it takes where the modules may be fused.

    In evaluation, where no gradient is followed, ``bn`` is folded into the convolution's weights, which are kept until
    something that they come from changes.

    Args:
        x: (N, C, H, W).
        conv, bn: a ``Conv2d`` and a ``BatchNorm2d``, or any two modules, which are then called one after the other.
        residual: the result's shape, or None.
        act: 'relu' or 'none'.

    Raises:
        ValueError: for another ``act``; else what the modules raise.
    """
    _check_act(act)
    for name, module in (("conv", conv), ("bn", bn)):
        if not callable(module):
            raise TypeError(f"conv_bn_act: expected {name} to be a module, got {type(module).__name__}")
    if _fits(x, conv, bn):
        if _folds(conv, bn, x, residual):  # type: ignore[arg-type]
            half = _half_precision(x)
            residual = None if residual is None else _cast(residual, half)
            folded = _fold(conv, bn, half)  # type: ignore[arg-type]
            return ops.conv_act(_cast(x, half), folded, _window(conv), residual, act)  # type: ignore[arg-type]
        if conv.bias is None:
            tensors, settings = _arguments(conv, bn)  # type: ignore[arg-type]
            return ops.conv_bn_act(x, *tensors, residual=residual, act=act, **settings)
    y = bn(conv(x))
    y = y if residual is None else y + residual
    return F.relu(y, inplace=True) if act == "relu" else y


def conv_bn_relu_fork(x: Tensor, conv: Module, bn: Module) -> tuple[Tensor, Tensor]:
    """``relu(bn(conv(x)))``, and ``x`` for a shortcut around it: two gradients then meet where the first is made."""
    fits = _fits(x, conv, bn) and conv.bias is None
    if not fits or _folds(conv, bn, x):  # type: ignore[arg-type]
        return conv_bn_act(x, conv, bn), x
    tensors, settings = _arguments(conv, bn)  # type: ignore[arg-type]
    return ops.conv_bn_act_fork(x, *tensors, **settings)


def conv_bn_joined(x: Tensor, conv: Module, bn: Module, shortcut: Tensor, downsample: Module) -> Tensor:
    """``relu(bn(conv(x)) + downsample(shortcut))``; fused where ``downsample`` is a convolution and its normalisation."""
    if type(downsample) is Sequential and len(downsample) == 2 and not has_hooks(downsample):
        conv_short, bn_short = downsample
        if _fits(x, conv, bn) and _fits(shortcut, conv_short, bn_short):
            folds = {_folds(conv, bn, x), _folds(conv_short, bn_short, shortcut)}  # type: ignore[arg-type]
            if folds == {True}:
                return ops.conv_joined(*_folded_branch(x, conv, bn), *_folded_branch(shortcut, conv_short, bn_short))
            if folds == {False} and conv.bias is conv_short.bias is None:
                return ops.conv_bn_joined(_branch(x, conv, bn), _branch(shortcut, conv_short, bn_short))
        return conv_bn_act(x, conv, bn, conv_bn_act(shortcut, conv_short, bn_short, act="none"))
    return conv_bn_act(x, conv, bn, downsample(shortcut))


def _branch(x: Tensor, conv: Any, bn: Any) -> ops.Branch:
    (conv_weight, weight, bias, running_mean, running_var), settings = _arguments(conv, bn)
    num_batches = settings.pop("num_batches")
    return ops.Branch(x, conv_weight, weight, bias, running_mean, running_var, ops.Batch(**settings), num_batches)


def _folded_branch(x: Tensor, conv: Any, bn: Any) -> tuple[Tensor, Any, ops.Window]:
    half = _half_precision(x)
    return _cast(x, half), _fold(conv, bn, half), _window(conv)


def conv_bn_relu_pool(x: Tensor, conv: Module, bn: Module, pool: Module) -> Tensor:
    """``pool(relu(bn(conv(x))))``; fused where ``pool`` is a 3×3 maximum of stride 2 and padding 1."""
    if _fits(x, conv, bn) and is_plain(pool) and _pool_settings(pool) == (3, 2, 1, 1, False, False):
        if _folds(conv, bn, x):  # type: ignore[arg-type]
            half = _half_precision(x)
            return ops.conv_relu_pool(_cast(x, half), _fold(conv, bn, half), _window(conv))  # type: ignore[arg-type]
        if conv.bias is None:
            tensors, settings = _arguments(conv, bn)  # type: ignore[arg-type]
            return ops.conv_bn_relu_pool(x, *tensors, **settings)
    return pool(conv_bn_act(x, conv, bn))


def conv_bn_relu_mean(x: Tensor, conv: Module, bn: Module, residual: Tensor, pool: Module) -> Tensor:
    """``pool(relu(bn(conv(x)) + residual))``; fused where ``pool`` takes the mean of whole maps and weights do not fold.

    Nobody else gets to see the maps, so they are not written.
    """
    if _fits(x, conv, bn) and conv.bias is None and takes_mean(pool) and ops.averages(*residual.shape[2:]):
        if not _folds(conv, bn, x, residual):  # type: ignore[arg-type]
            tensors, settings = _arguments(conv, bn)  # type: ignore[arg-type]
            return ops.conv_bn_act_mean(x, *tensors, residual=residual, **settings)
    return pool(conv_bn_act(x, conv, bn, residual))


def mean_linear(x: Tensor, pool: Module, linear: Module) -> Tensor:
    """``linear(pool(x).flatten(1))``; one launch for a few images where no gradient is followed."""
    if x.dim() == 4 and takes_mean(pool) and type(linear) is Linear and is_plain(linear) and _half_precision(x) is None:
        weight, bias = linear.weight, linear.bias
        one_dtype = x.dtype.is_floating_point and all(t is None or t.dtype == x.dtype for t in (weight, bias))
        fits = one_dtype and x.shape[1] == linear.weight.shape[1] and ops.few_means(x)
        if fits and not _followed(x, weight, bias):
            return ops.mean_linear(x, weight, bias)
    return linear(pool(x).flatten(1))


def takes_mean(pool: Module) -> bool:
    """True if ``pool`` may be fused and takes the mean of whole maps."""
    return type(pool) is AdaptiveAvgPool2d and is_plain(pool) and pool.output_size in (1, (1, 1))


def _pool_settings(pool: Any) -> tuple[Any, ...]:
    return pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.return_indices, pool.ceil_mode
