"""How a tensor prints: as torch prints it, so that a reader of one reads the other.

All numbers share one width and one notation, chosen from those that are shown: whole numbers with a point, four decimals,
or an exponent where magnitudes differ too much. Beyond a thousand elements only the edges are shown.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyflow.kernels import elementwise, memory

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor

_PREFIX = "tensor("
_LINE, _EDGE, _THRESHOLD, _DIGITS = 80, 3, 1000, 4


class _Format:
    """One width and one notation for the numbers of a tensor."""

    def __init__(self, values: np.ndarray) -> None:
        self.floating = values.dtype.kind == "f"
        self.exponent = False
        self.whole = True
        if not self.floating:
            self.width = max((len(str(v)) for v in values.reshape(-1).tolist()), default=1)
            return
        numbers = values[np.isfinite(values) & (values != 0)].astype(np.float64)
        if numbers.size:
            largest, smallest = np.abs(numbers).max(), np.abs(numbers).min()
            self.whole = bool(np.all(numbers == np.ceil(numbers)))
            self.exponent = bool(largest / smallest > 1000 or largest > 1e8 or (not self.whole and smallest < 1e-4))
        self.width = max((len(self._text(v)) for v in numbers.tolist()), default=1)

    def _text(self, value: Any) -> str:
        if not self.floating:
            return str(value)
        if self.exponent:
            return f"{value:.{_DIGITS}e}"
        if self.whole:
            return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"
        return f"{value:.{_DIGITS}f}"

    def __call__(self, value: Any) -> str:
        return self._text(value).rjust(self.width)


def _values(tensor: Tensor) -> np.ndarray:
    data = tensor._data
    if data.dtype == memory.bfloat16:
        data = elementwise.copy(data, memory.float32)
    return memory.to_numpy(memory.to_host(data))


def _edges(values: np.ndarray) -> np.ndarray:
    """What a summary shows: the first and last few along each dimension."""
    for axis, n in enumerate(values.shape):
        if n > 2 * _EDGE:
            values = np.take(values, [*range(_EDGE), *range(n - _EDGE, n)], axis=axis)
    return values


def _row(values: np.ndarray, indent: int, summarise: bool, show: _Format) -> str:
    if summarise and len(values) > 2 * _EDGE:
        words = [*map(show, values[:_EDGE].tolist()), " ...", *map(show, values[-_EDGE:].tolist())]
    else:
        words = [show(v) for v in values.tolist()]
    a_line = max(1, (_LINE - indent) // (show.width + 2))
    lines = [", ".join(words[k : k + a_line]) for k in range(0, len(words), a_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _block(values: np.ndarray, indent: int, summarise: bool, show: _Format) -> str:
    if values.ndim == 0:
        return show(values.item())
    if values.ndim == 1:
        return _row(values, indent, summarise, show)
    if summarise and len(values) > 2 * _EDGE:
        parts = [_block(v, indent + 1, summarise, show) for v in itertools.chain(values[:_EDGE], values[-_EDGE:])]
        parts.insert(_EDGE, "...")
    else:
        parts = [_block(v, indent + 1, summarise, show) for v in values]
    return "[" + ("," + "\n" * (values.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _numbers(values: np.ndarray) -> str:
    summarise = values.size > _THRESHOLD
    return _block(values, len(_PREFIX), summarise, _Format(_edges(values) if summarise else values))


def _with_remarks(body: str, remarks: list[str]) -> str:
    """The remarks after the numbers, on a new line where the last is full."""
    text = _PREFIX + body
    used = len(text) - text.rfind("\n") + 1
    for remark in remarks:
        if used + len(remark) + 2 > _LINE:
            text, used = text + ",\n" + " " * len(_PREFIX) + remark, len(_PREFIX) + len(remark)
        else:
            text, used = text + ", " + remark, used + len(remark) + 2
    return text + ")"


def tensor_repr(tensor: Tensor) -> str:
    """``tensor([1., 2.], requires_grad=True)``: the numbers, then device, dtype and history where they are not the usual."""
    usual = tensor.dtype in (memory.get_default_dtype(), memory.int64, memory.bool_)
    if tensor.device.type == "meta":
        body, remarks = "...", ["device='meta'", f"size={tuple(tensor.shape)}"]
        usual = tensor.dtype == memory.get_default_dtype()
    elif tensor.numel() == 0:
        body, remarks = "[]", [] if tensor.dim() == 1 else [f"size={tuple(tensor.shape)}"]
        usual = tensor.dtype == memory.get_default_dtype()
    else:
        body, remarks = _numbers(_values(tensor)), []
    if tensor.device.type == "cuda":
        remarks.insert(0, f"device='{tensor.device}'")
    if not usual:
        remarks.append(f"dtype={tensor.dtype}")
    try:
        if tensor.grad_fn is not None:
            remarks.append(f"grad_fn=<{tensor.grad_fn.name()}>")
        elif tensor.requires_grad:
            remarks.append("requires_grad=True")
    except RuntimeError:  # a view whose base was changed behind it
        remarks.append("grad_fn=<Invalid>")
    text = _with_remarks(body, remarks)
    kind = type(tensor).__name__
    return text if kind == "Tensor" else f"{kind} containing:\n{text}"
