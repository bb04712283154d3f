"""One load, store or atomic of one program as the checks see it: the addresses of the lanes that its mask leaves on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter.checks.report import Place, Program
from tinyflow.kernels.interpreter.checks.tensors import tags_of, untag

READS = {"load": "reads", "store": "writes", "atomic": "updates"}


@dataclass
class Access:
    """The active lanes of one memory operation."""

    kind: str
    #: addresses in bytes, one a lane
    addresses: np.ndarray
    #: the number of the tensor that each address came from; 0 if it came from none
    tags: np.ndarray
    #: bytes a lane
    size: int
    #: the block's shape, and the flat positions in it of the active lanes (None: all of them)
    shape: tuple[int, ...]
    active: np.ndarray | None
    place: Place | None
    program: Program
    number: int

    @property
    def tag(self) -> int | None:
        """The tensor that all addresses came from; None where they came from several, or none are left."""
        return int(self.tags[0]) if self.tags.size and self.tags.strides == (0,) else None

    @property
    def is_scalar(self) -> bool:
        return self.shape in ((), (1,))

    def lane(self, k: int) -> str:
        """The k-th active lane in words."""
        if self.is_scalar:
            return "a scalar access"
        flat = int(self.active[k]) if self.active is not None else k
        index = [int(i) for i in np.unravel_index(flat, self.shape)]
        return f"lane {index} of a block of shape {self.shape}"


def element_size(pointer: Any) -> int:
    """Bytes of what a pointer handle points to."""
    return max(1, pointer.get_element_ty().primitive_bitwidth // 8)


def lanes_on(pointer: Any, mask: Any | None) -> np.ndarray | None:
    """The mask of an access as booleans of the pointers' shape; None where every lane is on."""
    if mask is None:
        return None
    on = np.broadcast_to(np.asarray(mask.data, np.bool_), np.shape(pointer.data))
    return None if on.all() else on


def access_of(kind: str, pointer: Any, mask: Any | None, place: Place | None, program: Program, number: int) -> Access:
    """Reads an access off the handles of its pointers and its mask."""
    pointers = np.asarray(pointer.data)
    on = lanes_on(pointer, mask)
    active = None if on is None else np.flatnonzero(on)
    chosen = pointers.reshape(-1) if active is None else pointers.reshape(-1)[active]
    addresses = untag(chosen).view(np.int64)
    return Access(
        kind, addresses, tags_of(chosen), element_size(pointer), pointers.shape, active, place, program, number
    )
