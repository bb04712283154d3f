"""New tensors: from data, filled, counted, or sharing memory with numpy and torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.kernels import dtypes, elementwise, memory, strides
from tinyflow.kernels import sequence as kernels
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.memory import Buffer
from tinyflow.tensor import Tensor

__all__ = [
    "tensor",
    "as_tensor",
    "from_numpy",
    "from_torch",
    "from_dlpack",
    "full",
    "zeros",
    "ones",
    "empty",
    "empty_strided",
    "full_like",
    "zeros_like",
    "ones_like",
    "empty_like",
    "arange",
    "linspace",
    "eye",
]  # fmt: skip

Device = str | memory.device | int | None


def size_of(op: str, size: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape in ``f(2, 3)`` and ``f((2, 3))`` alike.

    Raises:
        TypeError: if a size is no integer.
        RuntimeError: if it is negative.
    """
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    try:
        shape = tuple(operator.index(n) for n in size)
    except TypeError:
        raise TypeError(f"{op}(): expected integers as the size, got {size}") from None
    if any(n < 0 for n in shape):
        raise RuntimeError(f"{op}(): sizes must not be negative, got {shape}")
    return shape


def _finish(data: Buffer, requires_grad: bool) -> Tensor:
    tensor = Tensor(data)
    tensor._fresh = True
    return tensor.requires_grad_() if requires_grad else tensor


def _to(data: Buffer, dtype: memory.dtype | None, device: Device) -> Buffer:
    if device is not None or data.device != memory.get_default_device():
        data = memory.to_device(data, memory.as_device(device))
    return data if dtype is None or data.dtype == dtype else elementwise.copy(data, dtype)


def _array(data: Any) -> np.ndarray:
    """Python data as an array of the dtype that torch would infer."""
    data = _plain(data)
    try:
        array = np.array(data)
    except ValueError as error:
        raise ValueError(f"tensor(): expected a sequence of equal length at every level: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"tensor(): could not make numbers of {type(data).__name__} data (numpy read it as {array.dtype})"
        )
    if isinstance(data, (np.ndarray, np.generic)):
        return array
    if array.dtype.kind == "f":
        wide = memory.get_default_dtype() == memory.float64
        return array if wide else array.astype(np.float32)
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 8:
        raise RuntimeError("tensor(): an integer in the data does not fit int64")
    if array.size == 0 and not isinstance(data, (bool, int)):
        return array.astype(np.float32)
    return array.astype(np.int64)


def _plain(data: Any) -> Any:
    """Nested sequences with Tensors as the numbers that they hold."""
    if isinstance(data, Tensor):
        return data.tolist()
    if isinstance(data, (list, tuple)) and any(isinstance(v, (Tensor, list, tuple)) for v in data):
        return [_plain(v) for v in data]
    return data


def tensor(
    data: Any,
    *,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A new tensor with a copy of ``data``: a number, nested sequences, a numpy array, or a tensor.

    The dtype is inferred as in torch: bool, int64, or the default floating-point dtype; an array or tensor keeps its own.

    Raises:
        ValueError: for ragged nesting. TypeError: for what holds no numbers.
        RuntimeError: if ``requires_grad`` is asked of an integer dtype.
    """
    if isinstance(data, Tensor):
        copied = elementwise.copy(data._data, dtype)
        return _finish(_to(copied, None, data.device if device is None else device), requires_grad)
    if isinstance(data, Buffer):
        raise TypeError("tensor(): got a torch.Tensor; use tinyflow.from_torch(t) to share its memory")
    array = _exact(data, dtype)
    dtypes.triton_dtype(memory.from_numpy(np.empty(0, array.dtype)).dtype)
    host = memory.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    if pin_memory and memory.gpu_available():
        pinned = memory.empty_pinned(host.shape, host.dtype)
        memory.copy_bytes(pinned, host)
        host = pinned
    return _finish(_to(host, dtype, device), requires_grad)


def _exact(data: Any, dtype: memory.dtype | None) -> np.ndarray:
    """The data as an array, in float64 or int64 where the asked dtype holds more than the inferred one."""
    if isinstance(data, (np.ndarray, np.generic)):
        return np.array(data)
    array = _array(data)
    if dtype is not None and array.dtype == np.float32 and array.size:
        narrow = dtype.is_floating_point and dtype != memory.float64
        return np.array(_plain(data), dtype=np.float32 if narrow else np.float64)
    return array


def as_tensor(data: Any, dtype: memory.dtype | None = None, device: Device = None) -> Tensor:
    """``data`` as a tensor, sharing memory with an array or tensor where dtype and device allow."""
    if isinstance(data, Tensor):
        result = data if device is None else data.to(device)
        return result if dtype is None else result.to(dtype)
    if isinstance(data, np.ndarray):
        return Tensor(_to(memory.hand_out(memory.from_numpy(data)), dtype, device))
    return tensor(data, dtype=dtype, device=device)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor on the CPU that shares the array's memory.

    Raises:
        TypeError: if it is no array, or of a dtype that tinyflow lacks.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy(): expected np.ndarray (got {type(array).__name__})")
    data = memory.hand_out(memory.from_numpy(array))
    dtypes.triton_dtype(data.dtype)
    return Tensor(data)


def from_torch(buffer: Buffer) -> Tensor:
    """A tensor that shares memory with a ``torch.Tensor``; torch's own history stays behind.

    Raises:
        TypeError: if it is no dense torch tensor of a dtype that tinyflow has.
    """
    if not isinstance(buffer, Buffer):
        raise TypeError(f"from_torch(): expected a torch.Tensor, got {type(buffer).__name__}")
    if not memory.is_strided(buffer):
        raise TypeError(f"from_torch(): expected a dense tensor, got layout {buffer.layout}")
    dtypes.triton_dtype(buffer.dtype)
    return Tensor(memory.hand_out(memory.detach(buffer)))  # torch may write to it where no version counts


def from_dlpack(source: Any) -> Tensor:
    """A tensor that shares memory with any object that speaks DLPack."""
    return from_torch(memory.from_dlpack(source))


def full(
    size: Sequence[int],
    fill_value: Scalar,
    *,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of one value; its dtype is inferred from the value."""
    dtype = dtypes.scalar_dtype(fill_value) if dtype is None else dtype
    shape = size_of("full", tuple(size) if isinstance(size, (tuple, list)) else (size,))
    return _finish(elementwise.full(shape, fill_value, dtype, memory.as_device(device)), requires_grad)


def zeros(*size: Any, dtype: memory.dtype | None = None, device: Device = None, requires_grad: bool = False) -> Tensor:
    """Zeros."""
    return full(
        size_of("zeros", size), 0, dtype=dtype or memory.get_default_dtype(), device=device, requires_grad=requires_grad
    )


def ones(*size: Any, dtype: memory.dtype | None = None, device: Device = None, requires_grad: bool = False) -> Tensor:
    """Ones."""
    return full(
        size_of("ones", size), 1, dtype=dtype or memory.get_default_dtype(), device=device, requires_grad=requires_grad
    )


def empty(*size: Any, dtype: memory.dtype | None = None, device: Device = None, requires_grad: bool = False) -> Tensor:
    """Memory that is not initialised."""
    shape = size_of("empty", size)
    dtype = dtype or memory.get_default_dtype()
    dtypes.triton_dtype(dtype)
    return _finish(memory.empty(shape, dtype, memory.as_device(device)), requires_grad)


def empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """Memory that is not initialised, with explicit strides."""
    data = memory.empty(size, dtype or memory.get_default_dtype(), memory.as_device(device), stride)
    return _finish(data, requires_grad)


def full_like(
    input: Tensor,
    fill_value: Scalar,
    *,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value in the shape, dtype, device and memory order of ``input``."""
    result = empty_like(input, dtype=dtype, device=device)
    elementwise.fill(result._data, fill_value)
    return result.requires_grad_() if requires_grad else result


def zeros_like(
    input: Tensor, *, dtype: memory.dtype | None = None, device: Device = None, requires_grad: bool = False
) -> Tensor:
    """Zeros in the shape, dtype, device and memory order of ``input``."""
    return full_like(input, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones_like(
    input: Tensor, *, dtype: memory.dtype | None = None, device: Device = None, requires_grad: bool = False
) -> Tensor:
    """Ones in the shape, dtype, device and memory order of ``input``."""
    return full_like(input, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty_like(
    input: Tensor, *, dtype: memory.dtype | None = None, device: Device = None, requires_grad: bool = False
) -> Tensor:
    """Memory that is not initialised, in the shape, dtype, device and memory order of ``input``."""
    place = input.device if device is None else memory.as_device(device)
    return _finish(memory.empty(input.shape, dtype or input.dtype, place, strides.like(input._data)), requires_grad)


def _check_numbers(op: str, **values: Any) -> None:
    for name, value in values.items():
        if not hasattr(value, "__float__"):
            raise TypeError(f"{op}(): expected {name} to be a number, got {value!r}")


def arange(
    start: Scalar,
    end: Scalar | None = None,
    step: Scalar = 1,
    *,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """``start, start + step, …`` below ``end``; ``arange(n)`` counts from 0. int64 if all three are integers.

    An integer ``dtype`` counts in whole numbers.

    Raises:
        RuntimeError: if ``step`` is 0 or leads away from ``end``, or a bound is not finite.
    """
    if end is None:
        start, end = 0, start
    _check_numbers("arange", start=start, end=end, step=step)
    if not all(math.isfinite(v) for v in (start, end, step)):
        raise RuntimeError(f"arange(): unsupported range: {start} -> {end} in steps of {step}")
    if dtype is not None and not dtype.is_floating_point:
        start, end, step = int(start), end if dtype != memory.int64 else int(end), int(step)
    if step == 0:
        raise RuntimeError("arange(): step must be nonzero")
    if (end - start) / step < 0:
        raise RuntimeError(
            f"arange(): upper bound and lower bound inconsistent with step sign (got {start}, {end}, {step})"
        )
    if dtype is None:
        whole = all(isinstance(v, int) for v in (start, end, step))
        dtype = memory.int64 if whole else memory.get_default_dtype()
    exact = all(isinstance(v, int) for v in (start, end, step))
    n = -((start - end) // step) if exact else math.ceil((end - start) / step)
    data = kernels.sequence(int(n), start, step, start + (n - 1) * step, dtype, memory.as_device(device))
    return _finish(data, requires_grad)


def linspace(
    start: Scalar,
    end: Scalar,
    steps: int,
    *,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """``steps`` evenly spaced numbers from ``start`` to ``end``, both included."""
    _check_numbers("linspace", start=start, end=end)
    steps = operator.index(steps)
    if steps < 0:
        raise RuntimeError(f"linspace(): number of steps must be non-negative, got {steps}")
    if dtype is not None and not dtype.is_floating_point:
        start, end = int(start), int(end)
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    last = end if steps > 1 else start
    data = kernels.sequence(steps, start, step, last, dtype or memory.get_default_dtype(), memory.as_device(device))
    return _finish(data, requires_grad)


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal, zeros elsewhere."""
    result = zeros(n, n if m is None else m, dtype=dtype, device=device)
    rows = min(result.shape)
    elementwise.fill(memory.as_strided(result._data, (rows,), (result.shape[1] + 1,)), 1)
    return result.requires_grad_() if requires_grad else result
