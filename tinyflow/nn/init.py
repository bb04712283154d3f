"""Initial values of parameters: the distributions of Glorot & Bengio 2010 (Xavier) and He et al. 2015 (Kaiming).

Every function writes into the given tensor without recording it in the graph, and returns it. ``fan_in`` is the number
of inputs that one output sums, ``fan_out`` the number of outputs that one input reaches.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import tinyflow
from tinyflow.autograd.grad_mode import no_grad
from tinyflow.operands import guard
from tinyflow.tensor import Tensor

#: Share of normal values inside the limits from which on drawing normal values is worth it.
_ACCEPTANCE = 0.2

_UNIT_GAIN = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
)


class _Random(threading.local):
    wanted = True


_random = _Random()


@contextlib.contextmanager
def without_random_values() -> Iterator[None]:
    """Leaves memory as it is where random values are asked for in the block; constants are written.

    For layers whose weights are loaded at once, or drawn from another distribution than the layer's own.
    """
    before, _random.wanted = _random.wanted, False
    try:
        yield
    finally:
        _random.wanted = before


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on the standard deviation that keeps a layer's variance through ``nonlinearity``.

    1 for linear layers and sigmoid, 5/3 for tanh, √2 for relu, √(2 / (1 + slope²)) for leaky_relu of slope ``param``
    (0.01 by default), 3/4 for selu.

    Raises:
        ValueError: for another nonlinearity, or a slope that is no number.
    """
    if nonlinearity in _UNIT_GAIN:
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, (int, float))):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """The fans of a weight of shape (out, in, *kernel).

    Raises:
        ValueError: for fewer than two dimensions.
    """
    if tensor.dim() < 2:
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, "
            f"got shape {tuple(tensor.shape)}"
        )
    receptive_field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive_field, tensor.shape[0] * receptive_field


def _fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return fan_in_and_fan_out(tensor)[mode == "fan_out"]


def _is_empty(tensor: Tensor) -> bool:
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return True
    return False


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Values from U(a, b)."""
    return tensor.uniform_(a, b, generator=generator) if _random.wanted else tensor


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Values from N(mean, std²)."""
    return tensor.normal_(mean, std, generator=generator) if _random.wanted else tensor


@no_grad()
def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Values from N(mean, std²) restricted to [a, b], by drawing again what falls outside.

    Where few normal values would fall inside, the proposals are uniform on [a, b], each accepted with a probability
    proportional to the density there.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=2,
        )
    if not _random.wanted:
        return tensor
    low, high = (math.erf((limit - mean) / (std * math.sqrt(2.0))) / 2 for limit in (a, b))
    mode = min(max(mean, a), b)

    def propose(out: Tensor) -> Tensor:
        """Fills ``out`` with proposals and says which are accepted."""
        if high - low > _ACCEPTANCE:
            out.normal_(mean, std, generator=generator)
            return (out >= a).logical_and(out <= b)
        out.uniform_(a, b, generator=generator)
        log_density = ((mode - mean) ** 2 - (out - mean) ** 2) / (2 * std**2)
        return tinyflow.rand_like(out, generator=generator) <= log_density.exp()

    accepted = propose(tensor)
    while not tensor.is_meta and not accepted.all():
        again = tinyflow.empty_like(tensor)
        good = propose(again)
        tensor.copy_(tinyflow.where(accepted, tensor, again))
        accepted = accepted.logical_or(good)
    return tensor


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every value ``val``."""
    return tensor.fill_(val)


@no_grad()
def ones_(tensor: Tensor) -> Tensor:
    """Every value 1."""
    return tensor.fill_(1.0)


@no_grad()
def zeros_(tensor: Tensor) -> Tensor:
    """Every value 0."""
    return tensor.zero_()


@no_grad()
def eye_(tensor: Tensor) -> Tensor:
    """The identity in a matrix: ones where the row is the column.

    Raises:
        ValueError: unless the tensor has two dimensions.
    """
    if tensor.dim() != 2:
        raise ValueError(f"Only tensors with 2 dimensions are supported, got shape {tuple(tensor.shape)}")
    tensor.zero_()
    tensor.diagonal().fill_(1.0)
    return tensor


@no_grad()
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight that passes its input channels through: one at the centre of channel c's own filter.

    Raises:
        ValueError: unless the tensor has 3 to 5 dimensions and ``groups`` divides its first.
    """
    if tensor.dim() not in (3, 4, 5):
        raise ValueError(f"Only tensors with 3, 4, or 5 dimensions are supported, got shape {tuple(tensor.shape)}")
    if tensor.shape[0] % groups != 0:
        raise ValueError(f"dim 0 must be divisible by groups, got {tensor.shape[0]} and groups={groups}")
    per_group = tensor.shape[0] // groups
    centre = tuple(size // 2 for size in tensor.shape[2:])
    tensor.zero_()
    for first in range(0, tensor.shape[0], per_group):
        group = (slice(first, first + per_group), slice(None), *centre)
        tensor[group].diagonal().fill_(1.0)
    return tensor


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Values from U(−a, a), a = gain · √(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / sum(fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Values from N(0, std²), std = gain · √(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fan_in_and_fan_out(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Values from U(−b, b), b = gain · √(3 / fan); ``a`` is leaky_relu's slope."""
    if _is_empty(tensor):
        return tensor
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Values from N(0, std²), std = gain / √fan; ``a`` is leaky_relu's slope."""
    if _is_empty(tensor):
        return tensor
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)), generator)


def reset_weight_and_bias(weight: Tensor, bias: Tensor | None) -> None:
    """What a new convolution or linear layer holds: both from U(−1/√fan_in, 1/√fan_in)."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = fan_in_and_fan_out(weight)
        if fan_in > 0:
            uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


guard(globals(), [name for name in globals() if not name.startswith("_")])
