"""Parameters, their gradients and their states as flat memory, which an update walks element by element.

All buffers of a parameter need one dense layout for that: what has another is copied first, and written back at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tinyflow.kernels import memory, strides, tables
from tinyflow.kernels.elementwise import copy, copy_into
from tinyflow.kernels.memory import Buffer


@dataclass
class Group:
    """The parameters of one launch, which are of one dtype, device and size class (see ``tables``)."""

    dtype: memory.dtype
    device: memory.device
    places: list[int] = field(default_factory=list)  # among all parameters
    sizes: list[int] = field(default_factory=list)
    members: list[tuple[Buffer | None, ...]] = field(default_factory=list)  # the buffers of each; None: it has none


class Flat:
    """Buffers that are updated as flat memory: themselves, or dense copies that are written back."""

    def __init__(self) -> None:
        self._copied: list[tuple[Buffer, Buffer]] = []

    def groups(
        self, params: Sequence[Buffer], grads: Sequence[Buffer], written: Sequence[Sequence[Buffer | None]]
    ) -> list[Group]:
        """The parameters that have elements; a member is a parameter, its gradient, and what else is written for it."""
        found: dict[tuple[memory.dtype, memory.device, int], Group] = {}
        for k, p in enumerate(params):
            if p.numel():
                dense = self._write(p, p.stride() if memory.is_dense(p) else strides.like(p))
                layout = dense.stride()
                others = [None if (x := all_of[k]) is None else self._write(x, layout) for all_of in written]
                key = p.dtype, p.device, tables.size_class(p.numel())
                group = found.setdefault(key, Group(p.dtype, p.device))
                group.places.append(k)
                group.sizes.append(p.numel())
                group.members.append((dense, _read(grads[k], layout), *others))
        return list(found.values())

    def _write(self, x: Buffer, layout: Sequence[int]) -> Buffer:
        """``x`` with the strides ``layout``; :meth:`finish` brings changes back."""
        dense = _read(x, layout)
        if dense is not x:
            self._copied.append((x, dense))
        return dense

    def finish(self) -> None:
        """Writes changes back, after the launches."""
        for x, dense in self._copied:
            copy_into(x, dense)


def _read(x: Buffer, layout: Sequence[int]) -> Buffer:
    """``x`` with the strides ``layout``."""
    return x if _strides(x.shape, x.stride()) == _strides(x.shape, layout) else copy(x, layout=layout)


def _strides(shape: Sequence[int], layout: Sequence[int]) -> list[int]:
    """The strides that matter: those of dimensions with more than one element."""
    return [st for n, st in zip(shape, layout) if n != 1]


def check_like_parameters(op: str, name: str, params: Sequence[Buffer], others: Sequence[Buffer]) -> None:
    """Raises RuntimeError unless each of ``others`` has its parameter's shape, dtype and device."""
    for k, (p, x) in enumerate(zip(params, others)):
        if (x.shape, x.dtype, x.device) != (p.shape, p.dtype, p.device):
            raise RuntimeError(
                f"{op}: expected the {name} of parameter {k} to be {tuple(p.shape)} {p.dtype} on {p.device}, "
                f"got {tuple(x.shape)} {x.dtype} on {x.device}"
            )
