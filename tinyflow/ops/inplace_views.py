"""In-place forms of views (``squeeze_``, ``transpose_`` …): the tensor itself gets another shape over the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import check_inplace
from tinyflow.autograd.view_history import become
from tinyflow.ops import arrange, shape, strided
from tinyflow.tensor import Tensor


def _in_place(view: Callable[..., Tensor]) -> Callable[..., Tensor]:
    name = view.__name__

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if mode.records or self._counter is None:
            check_inplace(name, self, self.requires_grad)
        if mode.dual_levels and mode.dual_levels[-1].has_tangents((self,)):
            raise NotImplementedError(f"{name}_: forward mode does not follow in-place views of dual tensors")
        become(self, lambda before: view(before, *args, **kwargs))
        return self

    method.__name__ = f"{name}_"
    method.__doc__ = f"In-place :func:`{name}`: this tensor itself changes its shape."
    method.__wrapped__ = view  # type: ignore[attr-defined]  # its signature
    return method


METHODS = ["squeeze_", "unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "as_strided_"]
__all__: list[str] = []

squeeze_ = _in_place(shape.squeeze)
unsqueeze_ = _in_place(shape.unsqueeze)
transpose_ = _in_place(shape.transpose)
t_ = _in_place(shape.t)
swapaxes_ = _in_place(arrange.swapaxes)
swapdims_ = _in_place(arrange.swapdims)
as_strided_ = _in_place(strided.as_strided)
