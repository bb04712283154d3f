"""Parameter: a tensor that a module owns and training changes."""

from __future__ import annotations

import tinyflow
from tinyflow.operands import described
from tinyflow.tensor import Tensor


class Parameter(Tensor):
    """A leaf that a module registers when it is assigned as an attribute, and that optimisers learn.

    Args:
        data: its values, whose memory the parameter shares; none make an empty parameter.
        requires_grad: whether gradients flow to it.

    Raises:
        RuntimeError: for integers or bools that should require gradients.
    """

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        values = tinyflow.empty((0,)) if data is None else data
        if not isinstance(values, Tensor):
            raise TypeError(f"Parameter: expected a Tensor, got {described(values)}")
        super().__init__(values._data, _counter=values._counter)
        if requires_grad:
            self.requires_grad_()
