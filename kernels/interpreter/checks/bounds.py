"""Every access lies on the elements of the tensor that its pointer was derived from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter.checks.access import READS, Access
from tinyflow.kernels.interpreter.checks.tensors import Tensor

CHECK = "out-of-bounds"


def inside(access: Access, tensors: Sequence[Tensor]) -> np.ndarray:
    """Which lanes are in bounds; a pointer that came from no argument is not judged."""
    if access.tag is not None:
        return _inside(access.addresses, access.tag, access.size, tensors)
    ok = np.ones(access.addresses.shape, np.bool_)
    for tag in np.unique(access.tags):
        chosen = access.tags == tag
        ok[chosen] = _inside(access.addresses[chosen], int(tag), access.size, tensors)
    return ok


def _inside(addresses: np.ndarray, tag: int, size: int, tensors: Sequence[Tensor]) -> np.ndarray:
    if tag == 0:
        return np.ones(addresses.shape, np.bool_)
    if tag > len(tensors):
        return np.zeros(addresses.shape, np.bool_)
    tensor = tensors[tag - 1]
    return tensor.holds(addresses - tensor.low, size)


def explain(access: Access, ok: np.ndarray, tensors: Sequence[Tensor]) -> dict[str, Any]:
    """Headline, notes and help of the report on an access with lanes out of bounds."""
    bad = np.flatnonzero(~ok)
    k, tag = int(bad[0]), int(access.tags[bad[0]])
    lanes = f"{len(bad)} of {len(ok)} active lanes {'is' if len(bad) == 1 else 'are'} out of bounds"
    if tag > len(tensors):
        return {
            "headline": f"this {access.kind} {READS[access.kind]} through a pointer that points into no tensor",
            "notes": [f"{access.lane(k)}; {lanes}"],
            "help": "an offset of this size is no index: look for an overflow or for garbage in the index arithmetic",
        }
    tensor = tensors[tag - 1]
    where = tensor.where(int(access.addresses[k]) - tensor.low)
    neighbour = _owner(int(access.addresses[k]), tensor, tensors)
    notes = [f"{access.lane(k)}; {lanes}", tensor.describe()]
    if neighbour is not None:
        notes.append(f"the address belongs to '{neighbour.name}', which a GPU would silently {READS[access.kind][:-1]}")
    return {
        "headline": f"this {access.kind} {READS[access.kind]} {where}",
        "notes": notes,
        "help": "check the index before this access" if access.is_scalar else "mask the lanes outside the tensor",
    }


def _owner(address: int, tensor: Tensor, tensors: Sequence[Tensor]) -> Tensor | None:
    for other in tensors:
        if other is not tensor and other.low <= address < other.high:
            return other
    return None
