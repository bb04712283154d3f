"""The builder of the interpreter: Triton's own, with this package's operations in front."""

from __future__ import annotations

from triton.runtime.interpreter import InterpreterBuilder

from tinyflow.kernels.interpreter import memo
from tinyflow.kernels.interpreter.arithmetic import ArithmeticOperations, CastOperations
from tinyflow.kernels.interpreter.memory import MemoryOperations
from tinyflow.kernels.interpreter.products import ProductOperations
from tinyflow.kernels.interpreter.reductions import ReductionOperations
from tinyflow.kernels.interpreter.shapes import ShapeOperations


class Builder(
    MemoryOperations,
    ArithmeticOperations,
    CastOperations,
    ShapeOperations,
    ProductOperations,
    ReductionOperations,
    InterpreterBuilder,
):
    """What is not overridden by one of the operation classes is Triton's."""

    def create_fp_trunc(self, src, dst_type):
        return self.cast_impl(src, dst_type)

    def create_print(self, *args):
        memo.note_effect()
        return super().create_print(*args)

    def create_assert(self, *args):
        memo.note_effect()
        return super().create_assert(*args)

    def get_bf16(self, value):
        """A bfloat16 constant; Triton 3.6 has none."""
        return self.cast_impl(self.get_fp32(value), self.get_bf16_ty())
