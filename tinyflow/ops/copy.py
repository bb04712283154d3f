"""Copies and casts: clone, contiguous, to, and the in-place copy_, fill_, zero_."""

from __future__ import annotations

from typing import Any

from tinyflow.kernels import dtypes, elementwise, memory, strides
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.memory import Buffer
from tinyflow.operands import described
from tinyflow.ops.define import define
from tinyflow.tensor import Tensor

METHODS = ["clone", "contiguous", "to", "cpu", "cuda", "type_as", "pin_memory", "copy_", "fill_", "zero_"]
__all__ = ["clone"]

# ---- out of place --------------------------------------------------------------------------------------------------

_copy = define(elementwise.copy, name="clone", x=lambda g: g)
_cast = define(elementwise.copy, name="to_copy", x=lambda g, x_dtype: g.to(x_dtype))
_cast.node_type.only_casts = True


def _move(x: Buffer, device: memory.device, non_blocking: bool = False) -> Buffer:
    dense = x if memory.is_dense(x) else elementwise.copy(x)
    return memory.to_device(dense, device, non_blocking)


_move_op = define(
    lambda x, device, source, non_blocking=False: _move(x, device, non_blocking),
    name="to_copy",
    x=lambda g, source: g.to(source),
)


def _layout(x: Tensor, memory_format: memory.memory_format) -> tuple[int, ...]:
    """Strides of a dense copy of ``x`` in a memory format."""
    if memory_format == memory.contiguous_format:
        return strides.contiguous_strides(x.shape)
    if memory_format == memory.channels_last:
        if x.dim() != 4:
            raise RuntimeError(f"required rank 4 tensor to use channels_last format, got shape {tuple(x.shape)}")
        return strides.channels_last_strides(x.shape)
    if memory_format == memory.preserve_format:
        return strides.like(x._data)
    raise RuntimeError(
        f"expected memory_format contiguous_format, channels_last or preserve_format, got {memory_format}"
    )


def clone(
    input: Tensor, *, memory_format: memory.memory_format = memory.preserve_format, layout_of: Tensor | None = None
) -> Tensor:
    """A copy with memory of its own; ``layout_of``: in the memory order of another tensor of the same shape."""
    like = _layout(input, memory_format) if layout_of is None else strides.like(layout_of._data)
    return _copy(input, None, like)


def contiguous(input: Tensor, memory_format: memory.memory_format = memory.contiguous_format) -> Tensor:
    """``input`` itself if it lies in that order, else a copy that does."""
    if input.is_contiguous(memory_format):
        return input
    return _copy(input, None, _layout(input, memory_format))


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    other = kwargs.pop("other", None)
    rest = list(args)
    if rest and isinstance(rest[0], Tensor):
        other = rest.pop(0)
    for value in rest[:2]:
        if isinstance(value, memory.dtype):
            dtype = value
        elif isinstance(value, (str, int, memory.device)) and not isinstance(value, bool):
            device = value
    if other is not None:
        device, dtype = other.device, other.dtype
    known = [v for v in rest if isinstance(v, (memory.dtype, str, int, memory.device, bool, type(None)))]
    if len(known) != len(rest) or len(rest) > 4:
        given = ", ".join(described(v) for v in args)
        raise TypeError(f"to(): expected a dtype, a device or a Tensor, got {given}")
    for position, flag in enumerate([v for v in rest if isinstance(v, bool)]):
        kwargs.setdefault(("non_blocking", "copy")[position], flag)
    return device, dtype


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``to(dtype)``, ``to(device, dtype)``, ``to(other)``: the tensor with that dtype on that device; itself if it has them.

    Keywords: ``device``, ``dtype``, ``non_blocking``, ``copy``, ``memory_format``.
    """
    device, dtype = _parse_to(args, kwargs)
    non_blocking, copy = kwargs.pop("non_blocking", False), kwargs.pop("copy", False)
    memory_format = kwargs.pop("memory_format", memory.preserve_format)
    if kwargs:
        raise TypeError(f"to(): got unexpected keyword arguments {sorted(kwargs)}")
    result = self
    if dtype is not None and dtype != self.dtype:
        dtypes.triton_dtype(dtype)
        if self.device.type == "cuda" or device is None or not memory.gpu_available():
            result, dtype = _cast(result, dtype), None
    if device is not None:
        place = memory.as_device(device)
        if place != result.device:
            result = _move_op(result, place, result.device, non_blocking)
    if dtype is not None and dtype != result.dtype:
        result = _cast(result, dtype)
    if memory_format != memory.preserve_format and not result.is_contiguous(memory_format):
        result = contiguous(result, memory_format)
    return clone(self) if copy and result is self else result


def cpu(self: Tensor) -> Tensor:
    """The tensor in host memory."""
    return to(self, "cpu")


def cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """The tensor on a GPU."""
    return to(
        self,
        "cuda" if device is None else memory.device("cuda", device) if isinstance(device, int) else device,
        non_blocking=non_blocking,
    )


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor with the dtype of ``other``."""
    return to(self, other.dtype)


def pin_memory(self: Tensor) -> Tensor:
    """A copy in page-locked host memory, where there is a GPU."""
    if not memory.gpu_available():
        return self
    pinned = memory.empty_pinned(self.shape, self.dtype)
    memory.copy_bytes(pinned, elementwise.contiguous(self._data) if self.device.type != "cpu" else self._data)
    return Tensor(pinned)


def _converter(name: str, dtype: memory.dtype) -> Any:
    def convert(self: Tensor) -> Tensor:
        return to(self, dtype)

    convert.__name__ = name
    convert.__doc__ = f"The tensor as {dtype}."
    return convert


CONVERTERS = {
    name: _converter(name, dtype)
    for name, dtype in {
        "float": memory.float32,
        "double": memory.float64,
        "half": memory.float16,
        "bfloat16": memory.bfloat16,
        "int": memory.int32,
        "long": memory.int64,
        "short": memory.int16,
        "char": memory.int8,
        "byte": memory.uint8,
        "bool": memory.bool_,
    }.items()
}

# ---- in place ------------------------------------------------------------------------------------------------------


def _no_slope(g: Tensor) -> Tensor:
    return Tensor._zeros(g.shape, g.dtype, g.device)


def _copy_launcher(self: Buffer, source: Buffer, place: memory.device, *, out: Buffer | None = None) -> Buffer:
    assert out is not None
    if source.device == out.device:
        return elementwise.copy_into(out, source)
    if source.device.type == "cuda" and out.device.type == "cpu":  # kernels run on the GPU; what arrives is bytes
        staged = memory.empty(out.shape, out.dtype, source.device, strides.like(out))
        memory.copy_bytes(out, elementwise.copy_into(staged, source))
        return out
    return elementwise.copy_into(out, _move(source, out.device))


_copy_op = define(
    _copy_launcher,
    name="copy",
    self=lambda g: _no_slope(g),
    source=lambda g, source_shape, place: g if g.device == place else g.sum_to_size(source_shape).to(place),
)


def copy_(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Writes ``src``, broadcast and cast, over this tensor.

    Raises:
        RuntimeError: if ``src`` does not broadcast to this shape, or this is a leaf that requires grad.
    """
    if src is self:
        return self
    return _copy_op.inplace(self, src, src.device)


_fill_op = define(
    lambda self, value, *, out=None: elementwise.fill(out, value), name="fill", self=lambda g: _no_slope(g)
)


def fill_(self: Tensor, value: Scalar | Tensor) -> Tensor:
    """Writes one value over the whole tensor."""
    if isinstance(value, Tensor):
        if value.dim() != 0:
            raise RuntimeError(
                f"fill_ only supports 0-dimension value tensor but got tensor with {value.dim()} dimensions."
            )
        return copy_(self, value)
    return _fill_op.inplace(self, value)


def zero_(self: Tensor) -> Tensor:
    """Writes zeros over the whole tensor."""
    return _fill_op.inplace(self, 0)
