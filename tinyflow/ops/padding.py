"""Padding: a tensor in a larger one, with a value, mirror images, its edge or itself around it. Negative widths cut off."""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.kernels import padding as kernels
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.padding import CIRCULAR, CONSTANT, MODES, REFLECT
from tinyflow.ops import shape
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS: list[str] = []
FUNCTIONAL = ["pad"]
__all__ = ["constant_pad_nd"]


def _pad_rule(g: Tensor, x_shape: tuple[int, ...], starts: Sequence[int], mode: int) -> Tensor:
    if mode == CONSTANT:
        return _pad(g, x_shape, [-start for start in starts])
    return _pad_grad(g, x_shape, starts, mode)


_pad: Op = define(kernels.pad, x=_pad_rule)
_pad_grad: Op = define(kernels.pad_grad, grad=lambda g, grad_shape, starts, mode: _pad(g, grad_shape, starts, mode))


def _widths(pad: Sequence[int], ndim: int) -> list[tuple[int, int]]:
    """What is added before and after each dimension; ``pad`` begins with the last one."""
    if len(pad) % 2:
        raise RuntimeError(f"pad: Padding length must be divisible by 2, got {len(pad)} numbers")
    if len(pad) > 2 * ndim:
        raise RuntimeError(
            f"pad: Padding length should be less than or equal to two times the input dimension but got padding length "
            f"{len(pad)} and input of dimension {ndim}"
        )
    given = [(pad[2 * k], pad[2 * k + 1]) for k in range(len(pad) // 2)]
    return [(0, 0)] * (ndim - len(given)) + given[::-1]


def constant_pad_nd(input: Tensor, pad: Sequence[int], value: Scalar = 0) -> Tensor:
    """``input`` with ``value`` around it; ``pad`` is (left, right) of the last dimension, then of the one before, and so on.

    Raises:
        RuntimeError: for an odd number of widths, more than there are dimensions, or a result of negative size.
    """
    widths = _widths(pad, input.dim())
    sizes = [n + before + after for n, (before, after) in zip(input.shape, widths)]
    for d, n in enumerate(sizes):
        if n < 0:
            raise RuntimeError(
                f"constant_pad_nd: The input size {input.shape[d]}, plus negative padding {widths[d][0]} and "
                f"{widths[d][1]} resulted in a negative output size, which is invalid. Check dimension {d} of your input."
            )
    return _pad(input, sizes, [before for before, _ in widths], CONSTANT, value)


def _check_room(mode: str, input: Tensor, widths: Sequence[tuple[int, int]]) -> None:
    """Refuses what a mode cannot show."""
    for d, (n, (before, after)) in enumerate(zip(input.shape, widths)):
        if MODES[mode] == REFLECT and max(before, after) >= max(n, 1):
            raise RuntimeError(
                f"pad: Padding size should be less than the corresponding input dimension, but got: padding "
                f"({before}, {after}) at dimension {d} of input {list(input.shape)}"
            )
        if MODES[mode] == CIRCULAR and max(before, after) > n:
            raise RuntimeError(
                f"pad: Padding value causes wrapping around more than once: padding ({before}, {after}) at dimension {d} "
                f"of input {list(input.shape)}"
            )
        if (before or after) and n + before + after < 1:
            raise RuntimeError(
                f"pad: input of shape {tuple(input.shape)} is too small for padding ({before}, {after}) at dimension {d}"
            )


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Scalar | None = None) -> Tensor:
    """``input`` with something around it; ``pad`` is (left, right) of the last dimension, then of the one before, and so on.

    Args:
        mode: ``"constant"``: ``value`` (0), any dimensions; ``"reflect"``: mirror images, the edge not repeated;
            ``"replicate"``: the nearest element; ``"circular"``: the tensor again. The last three pad the last one, two or
            three dimensions of a tensor that has one or two more.

    Raises:
        NotImplementedError: for other dimensions with these modes, or another mode.
        RuntimeError: for widths that do not fit, or a ``value`` without ``"constant"``.
    """
    if mode == "constant":
        return constant_pad_nd(input, pad, 0 if value is None else value)
    if mode not in MODES:
        raise NotImplementedError(f"pad: expected mode {', '.join(map(repr, MODES))}, got {mode!r}")
    if value is not None and value != 0:
        raise RuntimeError(f'pad: Padding mode "{mode}" doesn\'t take in value argument')
    widths = _widths(pad, input.dim())
    padded = len(pad) // 2
    if padded not in (1, 2, 3) or input.dim() - padded not in (1, 2):
        raise NotImplementedError(
            f"pad: Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now: mode {mode!r} pads the last "
            f"1 to 3 dimensions of a tensor with one or two more, got {padded} for shape {tuple(input.shape)}"
        )
    if 0 in input.shape[-padded - 1 :]:
        raise RuntimeError(
            f"pad: Expected a tensor with possibly 0 batch size and other non-zero dimensions, got {list(input.shape)}"
        )
    _check_room(mode, input, widths)
    if MODES[mode] == CIRCULAR:  # what is cut off does not come round
        for d, (before, after) in enumerate(widths):
            if before < 0 or after < 0:
                first = max(-before, 0)
                input = shape.narrow(input, d, first, input.shape[d] - first - max(-after, 0))
        widths = [(max(before, 0), max(after, 0)) for before, after in widths]
    sizes = [n + before + after for n, (before, after) in zip(input.shape, widths)]
    return _pad(input, sizes, [before for before, _ in widths], MODES[mode])
