"""Switches of what a GPU may do, under torch's names: ``tinyflow.backends.cuda.matmul.allow_tf32 = True``."""

from __future__ import annotations

from tinyflow.kernels.precision import TF32, tf32

_PRECISIONS = ("highest", "high", "medium")


class TF32Switch:
    """``allow_tf32``: whether a GPU may round float32 factors to TF32's 10 bits of mantissa; sums stay float32."""

    __slots__ = ("_field",)

    def __init__(self, field: str) -> None:
        assert field in TF32.__dataclass_fields__
        self._field = field

    @property
    def allow_tf32(self) -> bool:
        value: bool = getattr(tf32, self._field)
        return value

    @allow_tf32.setter
    def allow_tf32(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"allow_tf32: expected True or False, got {value!r}")
        setattr(tf32, self._field, value)


class cuda:
    """Matrix products on a GPU."""

    __slots__ = ()
    matmul = TF32Switch("matmul")


#: Convolutions on a GPU; the name is the one that torch's users set it by.
cudnn = TF32Switch("convolution")


def set_float32_matmul_precision(precision: str) -> None:
    """How exact products of float32 matrices are on a GPU: "highest" is float32, "high" and "medium" allow TF32.

    Raises:
        ValueError: for another word.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"set_float32_matmul_precision: expected one of {_PRECISIONS}, got {precision!r}")
    tf32.matmul = precision != "highest"


def get_float32_matmul_precision() -> str:
    """``"highest"`` or ``"high"``; "medium" allows what "high" does and is not told apart."""
    return "high" if tf32.matmul else "highest"
