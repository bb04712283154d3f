"""Operations that move elements without computing: ranges, splats, views, joins, and pointer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton.language as tl

from tinyflow.kernels.interpreter import forms
from tinyflow.kernels.interpreter.expressions import Deferred, Transposed
from tinyflow.kernels.interpreter.forms import INT32, Box, Separable, Shape, Splat, Vector
from tinyflow.kernels.interpreter.handles import Handle, form_of, numpy_dtype, operand, splat_of, symbolic
from tinyflow.kernels.interpreter.memory import Loaded, element_size


def from_scalar_pointer(pointer: Any, offset: Any) -> Separable | None:
    """The pointers at offsets from one address, or None where the offsets have no form."""
    base, form = form_of(pointer), form_of(offset)
    if type(base) is not Separable or type(form) is not Separable:
        return None
    size = element_size(pointer)
    terms = tuple([t * size if type(t) is int else t.scaled(size) for t in form.terms])
    return Separable(form.shape, base.range()[0] + form.constant * size, terms, base.dtype)


def from_broadcast_pointer(pointer: Any, offset: Any, shape: Shape) -> Separable | None:
    """Pointers and offsets of several dimensions over their common shape; None where one of them has no form."""
    a, b = form_of(pointer), form_of(offset)
    if type(a) is not Separable or type(b) is not Separable:
        return None
    return forms.add(forms.broadcast(a, shape), forms.broadcast(b, shape), element_size(pointer))


class ShapeOperations:
    """The shape operations of the builder."""

    grid_idx: tuple[int, int, int]
    grid_dim: tuple[int, int, int]

    def create_get_program_id(self, axis: int) -> Handle:
        return symbolic(forms.scalar(self.grid_idx[axis], INT32), tl.int32)

    def create_get_num_programs(self, axis: int) -> Handle:
        return symbolic(forms.scalar(self.grid_dim[axis], INT32), tl.int32)

    def create_make_range(self, ret_ty: Any, start: int, stop: int) -> Handle:
        return symbolic(Separable((stop - start,), start, (1,), INT32), tl.int32)

    def create_addptr(self, pointer: Any, offset: Any) -> Any:
        a, b = form_of(pointer), form_of(offset)
        if type(a) is Separable and type(b) is Separable and a.shape == b.shape:
            if len(b.shape) > 1 or type(b.terms[0]) is not Vector:
                return symbolic(forms.add(a, b, element_size(pointer)), pointer.dtype)
            if type(a.terms[0]) is int:
                size = element_size(pointer)
                moved = Separable(b.shape, b.constant * size, (b.terms[0].scaled(size),), a.dtype)
                return symbolic(forms.add(a, moved), pointer.dtype)
        return super().create_addptr(pointer, offset)  # type: ignore[misc]

    def create_expand_dims(self, arg: Any, axis: int) -> Any:
        form = form_of(arg) or splat_of(arg)
        if form is not None:
            return symbolic(forms.expand(form, axis), arg.dtype.scalar)
        return Handle(np.expand_dims(arg.data, axis), arg.dtype.scalar)

    def create_broadcast(self, arg: Any, shape: Sequence[Any]) -> Any:
        shape = tuple(int(n) for n in shape)
        splat = splat_of(arg)
        if splat is not None:
            return symbolic(Splat(shape, splat.value), arg.dtype.scalar)
        form = form_of(arg)
        if form is not None:
            return symbolic(forms.broadcast(form, shape), arg.dtype.scalar)
        return Handle(np.broadcast_to(arg.data, shape), arg.dtype.scalar)

    def create_splat(self, ret_ty: Any, arg: Any) -> Any:
        shape = tuple(int(n) for n in ret_ty.shape)
        form = form_of(arg)
        if type(form) is Separable and not form.varying():
            return symbolic(forms.constant(shape, form.range()[0], form.dtype), arg.dtype.scalar)
        if type(form) is Box:
            return symbolic(forms.uniform_box(shape, form.is_full()), arg.dtype.scalar)
        splat = splat_of(arg)
        value = (
            splat.value if splat is not None else arg.data.reshape(-1)[:1].astype(numpy_dtype(arg.dtype)).reshape(())
        )
        return symbolic(Splat(shape, value), arg.dtype.scalar)

    def create_reshape(self, arg: Any, shape: Sequence[Any], allow_reorder: bool) -> Any:
        shape = tuple(int(n) for n in shape)
        splat = splat_of(arg)
        if splat is not None:
            return symbolic(Splat(shape, splat.value), arg.dtype.scalar)
        form = form_of(arg)
        if type(form) is Separable and not form.varying():
            return symbolic(forms.constant(shape, form.range()[0], form.dtype), arg.dtype.scalar)
        return Handle(arg.data.reshape(shape), arg.dtype.scalar)

    def create_trans(self, arg: Any, order: Sequence[Any]) -> Any:
        order = tuple(int(k) for k in order)
        form = form_of(arg) or splat_of(arg)
        if form is not None:
            return symbolic(forms.permute(form, order), arg.dtype.scalar)
        source = operand(arg)
        if order == (1, 0) and isinstance(source, Deferred | Loaded):
            return symbolic(Transposed(source), arg.dtype.scalar)
        return Handle(np.transpose(arg.data, order), arg.dtype.scalar)
