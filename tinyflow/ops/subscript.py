"""``x[...]`` and ``x[...] = v``: an index expression becomes a view, then a gather where tensors index.

Ints, slices with positive steps, None and Ellipsis only choose, and give a view. Integer and bool tensors, arrays and lists
gather: they broadcast together, and their dimensions stand where they stood if they were neighbours, else in front.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.kernels import memory
from tinyflow.ops import indexing
from tinyflow.ops.creation import as_tensor
from tinyflow.ops.views import Slice
from tinyflow.tensor import Tensor

Pick = int | tuple[int, int, int] | None


def _as_index(entry: Any, device: memory.device) -> Any:
    """Arrays, lists and bools as tensors; ints, slices, None and Ellipsis as they are."""
    if isinstance(entry, (bool, np.bool_)):
        return as_tensor(np.array(bool(entry)), device=device)
    if isinstance(entry, (list, np.ndarray)):
        index = as_tensor(np.asarray(entry) if len(entry) else np.zeros(0, np.int64), device=device)
    elif isinstance(entry, Tensor):
        if entry.dim() == 0 and entry.dtype != memory.bool_ and not entry.dtype.is_floating_point:
            return operator.index(entry)
        index = entry
    else:
        return entry
    if index.dtype.is_floating_point:
        raise IndexError(f"tensors used as indices must be long, int, byte or bool tensors, got {index.dtype}")
    return index


def _consumes(entry: Any) -> int:
    """How many dimensions of the tensor an entry stands for."""
    if entry is None:
        return 0
    if isinstance(entry, Tensor) and entry.dtype in (memory.bool_, memory.uint8):
        return entry.dim()
    return 1


def _normalise(x: Tensor, index: Any) -> list[Any]:
    """The entries, one or more for each dimension, with Ellipsis written out."""
    entries = [_as_index(e, x.device) for e in (index if isinstance(index, tuple) else (index,))]
    used = sum(_consumes(e) for e in entries if e is not Ellipsis)
    if used > x.dim():
        raise IndexError(f"too many indices for tensor of dimension {x.dim()}: got {used}")
    dots = [k for k, e in enumerate(entries) if e is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = dots[0] if dots else len(entries)
    return entries[:at] + [slice(None)] * (x.dim() - used) + entries[at + 1 :]


def _pick(entry: Any, n: int, dim: int) -> Pick:
    if isinstance(entry, slice):
        step = 1 if entry.step is None else operator.index(entry.step)
        if step <= 0:
            raise ValueError(f"step must be greater than zero, got {step}; use flip() to reverse")
        start, stop, step = entry.indices(n)
        return start, step, max(-(-(stop - start) // step), 0)
    try:
        index = operator.index(entry)
    except TypeError:
        raise TypeError(
            f"only integers, slices (`:`), ellipsis (`...`), None and long or byte tensors are valid indices "
            f"(got {type(entry).__name__})"
        ) from None
    if not -n <= index < n:
        raise IndexError(f"index {index} is out of bounds for dimension {dim} with size {n}")
    return index % n


def _split(x: Tensor, index: Any) -> tuple[Slice | None, list[Tensor | None]]:
    """The view that an index expression takes first, and the tensors that index each dimension of that view."""
    picks: list[Pick] = []
    gathers: list[Tensor | None] = []
    dim = 0
    for entry in _normalise(x, index):
        if entry is None:
            picks.append(None)
            gathers.append(None)
        elif isinstance(entry, Tensor):
            consumed = _consumes(entry)
            for k in range(consumed):
                if entry.dtype in (memory.bool_, memory.uint8) and entry.shape[k] != x.shape[dim + k]:
                    raise IndexError(
                        f"The shape of the mask {list(entry.shape)} at index {k} does not match the shape of the indexed "
                        f"tensor {list(x.shape)} at index {dim + k}"
                    )
                picks.append((0, 1, x.shape[dim + k]))
            if consumed == 0:  # x[True] is a new dimension of size 1, x[False] of size 0
                picks.append(None)
                entry = entry.reshape(1)
            gathers.extend([*indexing.mask_indices(entry)] if entry.dtype in (memory.bool_, memory.uint8) else [entry])
            dim += consumed
        else:
            pick = _pick(entry, x.shape[dim], dim)
            picks.append(pick)
            if not isinstance(pick, int):
                gathers.append(None)
            dim += 1
    plain = all(p == (0, 1, n) for p, n in zip(picks, x.shape)) and len(picks) == x.dim()
    return (None if plain and any(g is not None for g in gathers) else Slice(tuple(picks), label="slice")), gathers


def getitem(self: Tensor, index: Any) -> Tensor:
    """``self[index]``."""
    shown, gathers = _split(self, index)
    x = self if shown is None else shown.record(self)
    return x if all(g is None for g in gathers) else indexing.index(x, gathers)


def setitem(self: Tensor, index: Any, value: Any) -> None:
    """``self[index] = value``: value is broadcast and cast; the change is part of the graph."""
    shown, gathers = _split(self, index)
    source = value if isinstance(value, Tensor) else as_tensor(value, dtype=self.dtype, device=self.device)
    x = self if shown is None else shown.record(self)
    if all(g is None for g in gathers):
        x.copy_(_without_leading_ones(source, x.dim()))
    else:
        indexing.index_put_(x, gathers, source)


def _without_leading_ones(source: Tensor, ndim: int) -> Tensor:
    extra: Sequence[int] = range(max(source.dim() - ndim, 0))
    return source.squeeze(tuple(extra)) if len(extra) else source
