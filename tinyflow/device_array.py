"""An array on a device, without a graph: what its memory is, and its elements as Python numbers."""

from __future__ import annotations

from typing import Any

from tinyflow.kernels import memory, strides
from tinyflow.kernels.memory import Buffer


class DeviceArray:
    """What can be asked of a tensor that takes nothing but its memory to answer."""

    __slots__ = ("_data",)

    _data: Buffer

    @property
    def shape(self) -> memory.Size:
        return self._data.shape

    @property
    def dtype(self) -> memory.dtype:
        return self._data.dtype

    @property
    def device(self) -> memory.device:
        return self._data.device

    @property
    def ndim(self) -> int:
        return self._data.dim()

    @property
    def itemsize(self) -> int:
        return self._data.element_size()

    @property
    def nbytes(self) -> int:
        return self._data.element_size() * self._data.numel()

    @property
    def is_cuda(self) -> bool:
        return self._data.device.type == "cuda"

    @property
    def is_meta(self) -> bool:
        return self._data.device.type == "meta"

    def dim(self) -> int:
        """The number of dimensions."""
        return self._data.dim()

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self._data.shape if dim is None else self._data.size(dim)

    def stride(self, dim: int | None = None) -> Any:
        """The strides in elements, or that of one dimension."""
        return self._data.stride() if dim is None else self._data.stride(dim)

    def numel(self) -> int:
        """The number of elements."""
        return self._data.numel()

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self._data.element_size()

    def storage_offset(self) -> int:
        """Elements before the first one in its allocation."""
        return int(self._data.storage_offset())

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self._data.data_ptr()

    def is_contiguous(self, memory_format: memory.memory_format = memory.contiguous_format) -> bool:
        """True if the memory lies in that order without gaps."""
        if memory_format == memory.channels_last:
            return strides.is_channels_last(self._data)
        return strides.is_contiguous(self._data)

    def is_floating_point(self) -> bool:
        return self._data.dtype.is_floating_point

    def __len__(self) -> int:
        if self.dim() == 0:
            raise TypeError("len() of a 0-d tensor")
        return self._data.shape[0]

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def to_torch(self) -> Buffer:
        """The same memory as a ``torch.Tensor``, without history."""
        return memory.detach(self._data)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def item(self) -> Any:
        """The one element as a Python number.

        Raises:
            RuntimeError: if there is not exactly one.
        """
        if self.numel() != 1:
            raise RuntimeError(f"a Tensor with {self.numel()} elements cannot be converted to Scalar")
        return memory.item(self._data)

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return memory.to_list(self._data)

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise RuntimeError(
                "Boolean value of Tensor with no values is ambiguous"
                if self.numel() == 0
                else "Boolean value of Tensor with more than one value is ambiguous"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.is_floating_point or self.numel() != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())
