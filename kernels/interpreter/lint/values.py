"""Types and shapes of a kernel's values as far as its source tells them; whatever is not certain is unknown.

A small forward analysis: each expression gets a dtype, a shape and a least value, each of which may be ``None``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from tinyflow.kernels.interpreter.lint.source import Constant, Kernel, literal

#: A dimension: a number, or the text of the expression that gives it; None where unknown.
Dim = int | str | None
Shape = tuple[Dim, ...]

_FLOATS = {"float8": 8, "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}
_INTEGERS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32, 64)}
_SAME_AS_FIRST = frozenset(
    [
        "abs",
        "exp",
        "exp2",
        "log",
        "log2",
        "sqrt",
        "sqrt_rn",
        "rsqrt",
        "sin",
        "cos",
        "erf",
        "floor",
        "ceil",
        "sigmoid",
        "cumsum",
        "cumprod",
        "sort",
        "flip",
        "softmax",
        "multiple_of",
        "max_contiguous",
        "max_constancy",
        "zeros_like",
        "debug_barrier",
    ]
)


@dataclass(frozen=True)
class Value:
    """What is known of one value."""

    dtype: str | None = None
    shape: Shape | None = None
    #: a plain number, which takes the dtype of what it meets
    weak: bool = False
    constant: Constant | None = None
    #: some lane of some program surely has this value or one below it
    least: int | None = None
    #: surely more than one element, even where the shape is unknown
    many: bool = False

    @property
    def is_block(self) -> bool:
        """True if the value surely has more than one element."""
        return self.many or any(isinstance(d, str) or (d is not None and d != 1) for d in self.shape or ())


UNKNOWN = Value()


def number(value: Constant) -> Value:
    """The value of a literal or of a known ``constexpr``."""
    if isinstance(value, bool):
        return Value("int1", (), constant=value, least=int(value))
    if isinstance(value, int):
        dtype = "int32" if -(2**31) <= value < 2**31 else "int64"
        return Value(dtype, (), weak=True, constant=value, least=value)
    if isinstance(value, float):
        return Value("float32", (), weak=True, constant=value)
    return Value(constant=value)


def bits(dtype: str | None) -> int | None:
    """Width of a dtype, None if unknown."""
    if dtype == "int1":
        return 1
    return None if dtype is None else _FLOATS.get(dtype, _INTEGERS.get(dtype))


def is_float(dtype: str | None) -> bool:
    return dtype in _FLOATS


def promote(a: Value, b: Value, division: bool = False) -> str | None:
    """The dtype of arithmetic between two values."""
    if a.dtype is None or b.dtype is None:
        return None
    if a.weak != b.weak:
        weak, strong = (a, b) if a.weak else (b, a)
        if is_float(strong.dtype) or not is_float(weak.dtype):
            result = strong.dtype
        else:
            result = "float32"
    elif a.dtype == b.dtype:
        result = a.dtype
    elif is_float(a.dtype) or is_float(b.dtype):
        floats = [d for d in (a.dtype, b.dtype) if is_float(d)]
        widest = max(floats, key=lambda d: _FLOATS[d or ""])
        result = "float32" if len(floats) == 2 and _FLOATS[widest or ""] < 32 else widest
    else:
        wide = max((a.dtype, b.dtype), key=lambda d: (bits(d) or 0, d.startswith("u")))
        result = wide
    return "float32" if division and not is_float(result) else result


def broadcast(a: Shape | None, b: Shape | None) -> Shape | None:
    """The common shape of two operands; None unless both are known."""
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    if a == () or b == ():
        return a or b
    if len(a) != len(b):
        return (None,) * rank
    return tuple(y if x == 1 else x if y == 1 or x == y else None for x, y in zip(a, b))


def differs(before: Value, after: Value) -> str | None:
    """How the type of a variable surely changed, in words; None if it may not have."""
    if before.dtype and after.dtype and before.dtype != after.dtype:
        return f"{before.dtype} to {after.dtype}"
    if before.shape is None or after.shape is None:
        return None
    numbers = [(x, y) for x, y in zip(before.shape, after.shape) if isinstance(x, int) and isinstance(y, int)]
    if len(before.shape) != len(after.shape) or any(x != y for x, y in numbers):
        return f"{_words(before.shape)} to {_words(after.shape)}"
    return None


def _words(shape: Shape) -> str:
    if shape == ():
        return "a scalar"
    return (
        "a block of shape (" + ", ".join("?" if d is None else str(d) for d in shape) + ("," * (len(shape) == 1)) + ")"
    )


class Inference:
    """Values of expressions, given the variables in :attr:`env`."""

    def __init__(self, kernel: Kernel, constants: Mapping[str, Constant]) -> None:
        self.kernel = kernel
        self.constants = constants
        self.env: dict[str, Value] = {}

    def of(self, node: ast.expr) -> Value:
        """What is known of an expression."""
        method: Callable[[ast.expr], Value] | None = getattr(self, f"_{type(node).__name__}", None)
        return UNKNOWN if method is None else method(node)

    def _Constant(self, node: ast.Constant) -> Value:
        value = literal(node)
        return UNKNOWN if value is None else number(value)

    def _Name(self, node: ast.Name) -> Value:
        if node.id in self.env:
            return self.env[node.id]
        if node.id in self.constants:
            return number(self.constants[node.id])
        return UNKNOWN

    def _UnaryOp(self, node: ast.UnaryOp) -> Value:
        operand = self.of(node.operand)
        if isinstance(node.op, ast.Not):
            return Value("int1", operand.shape, many=operand.is_block)
        negative = isinstance(node.op, ast.USub) and isinstance(operand.constant, (int, float))
        if negative and not isinstance(operand.constant, (str, bool)) and operand.constant is not None:
            return number(-operand.constant)
        return replace(operand, least=None, constant=None)

    def _BinOp(self, node: ast.BinOp) -> Value:
        a, b = self.of(node.left), self.of(node.right)
        folded = _fold(node.op, a.constant, b.constant)
        if folded is not None:
            return number(folded)
        dtype = promote(a, b, division=isinstance(node.op, ast.Div))
        many = a.is_block or b.is_block
        return Value(dtype, broadcast(a.shape, b.shape), a.weak and b.weak, least=_least(node.op, a, b), many=many)

    def _Compare(self, node: ast.Compare) -> Value:
        return self._truth([node.left, *node.comparators])

    def _BoolOp(self, node: ast.BoolOp) -> Value:
        return self._truth(node.values)

    def _truth(self, nodes: Iterable[ast.expr]) -> Value:
        shape: Shape | None = ()
        values = [self.of(node) for node in nodes]
        for value in values:
            shape = broadcast(shape, value.shape)
        return Value("int1", shape, many=any(value.is_block for value in values))

    def _IfExp(self, node: ast.IfExp) -> Value:
        return join(self.of(node.body), self.of(node.orelse))

    def _Subscript(self, node: ast.Subscript) -> Value:
        base = self.of(node.value)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if base.shape is None or not all(_is_new_axis(i) or _is_full_slice(i) for i in items):
            return UNKNOWN
        left = list(base.shape)
        if sum(map(_is_full_slice, items)) > len(left):
            return UNKNOWN
        shape = [1 if _is_new_axis(item) else left.pop(0) for item in items]
        return replace(base, shape=tuple(shape + left), constant=None)

    def _Call(self, node: ast.Call) -> Value:
        name = self.kernel.names.language(node.func)
        if name is not None:
            return self._language_call(name, node)
        if isinstance(node.func, ast.Attribute):
            base = self.of(node.func.value)
            if node.func.attr == "to":
                return self._cast(base, node)
            if node.func.attr in ("sum", "max", "min"):
                return self._reduce(base, argument(node, 0, "axis"), node)
        return UNKNOWN

    def _language_call(self, name: str, node: ast.Call) -> Value:
        operands = [self.of(a) for a in node.args if not isinstance(a, ast.Starred)]
        if name == "arange":
            return self._arange(node)
        if name in ("program_id", "num_programs"):
            return Value("int32", (), least=0 if name == "program_id" else 1)
        if name in ("zeros", "full"):
            dtype = argument(node, 2 if name == "full" else 1, "dtype")
            return Value(self.dtype(dtype), self.shape(argument(node, 0, "shape")))
        if name == "cast" and operands:
            return self._cast(operands[0], node, position=1)
        if name == "load" and operands:
            return Value(None, self._pointer_shape(node.args[0]))
        if name == "dot":
            return self._dot(node)
        if name in ("sum", "max", "min") and operands:
            return self._reduce(operands[0], argument(node, 1, "axis"), node)
        if name in ("maximum", "minimum") and len(operands) > 1:
            a, b = operands[:2]
            return Value(promote(a, b), broadcast(a.shape, b.shape))
        if name == "where" and len(operands) == 3:
            c, a, b = operands
            return Value(promote(a, b), broadcast(c.shape, broadcast(a.shape, b.shape)))
        if name in ("broadcast_to", "reshape", "view"):
            return Value(operands[0].dtype if operands else None, self.shape(argument(node, 1, "shape")))
        if name.split(".")[-1] in _SAME_AS_FIRST and operands:
            return replace(operands[0], constant=None, least=None)
        return UNKNOWN

    def _arange(self, node: ast.Call) -> Value:
        start, end = (argument(node, i, k) for i, k in enumerate(("start", "end")))
        if start is None or end is None:
            return UNKNOWN
        first, last = self.of(start).constant, self.of(end).constant
        if not isinstance(first, int):
            return Value("int32", (None,))
        size: Dim = last - first if isinstance(last, int) else ast.unparse(end) if first == 0 else None
        return Value("int32", (size,), least=first)

    def _cast(self, base: Value, node: ast.Call, position: int = 0) -> Value:
        dtype = self.dtype(argument(node, position, "dtype"))
        return Value(dtype, base.shape, least=base.least if dtype and not is_float(dtype) else None)

    def _reduce(self, base: Value, axis: ast.expr | None, node: ast.Call) -> Value:
        narrow = (bits(base.dtype) or 0) < 32
        dtype = None if narrow or argument(node, 99, "dtype") is not None else base.dtype
        if argument(node, 99, "keep_dims") is not None or argument(node, 99, "return_indices") is not None:
            return UNKNOWN
        if axis is None or (literal(axis) is None and isinstance(axis, ast.Constant)):
            return Value(dtype, ())
        at = literal(axis)
        if base.shape is None or not isinstance(at, int) or not -len(base.shape) <= at < len(base.shape):
            return Value(dtype)
        at %= len(base.shape)
        return Value(dtype, base.shape[:at] + base.shape[at + 1 :])

    def _dot(self, node: ast.Call) -> Value:
        if len(node.args) < 2:
            return UNKNOWN
        a, b = self.of(node.args[0]), self.of(node.args[1])
        accumulator = argument(node, 2, "acc")
        shape = None
        if a.shape is not None and b.shape is not None and len(a.shape) == len(b.shape) == 2:
            shape = (a.shape[0], b.shape[1])
        if accumulator is not None and literal(accumulator) is None and not _is_none(accumulator):
            known = self.of(accumulator)
            return Value(known.dtype, known.shape if known.shape is not None else shape)
        out = argument(node, 6, "out_dtype")
        if out is not None:
            return Value(self.dtype(out), shape)
        return Value("float32" if a.dtype in ("float16", "bfloat16", "float32") else None, shape)

    def _pointer_shape(self, node: ast.expr) -> Shape | None:
        """The shape of a pointer expression; a parameter by itself is taken for a scalar pointer."""
        if isinstance(node, ast.Name) and node.id in self.kernel.parameters and node.id not in self.env:
            return ()
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            return broadcast(self._pointer_shape(node.left), self.of(node.right).shape)
        return self.of(node).shape

    def pointer_least(self, node: ast.expr, definitions: Mapping[str, ast.expr]) -> int | None:
        """A least offset, as :attr:`Value.least`, of a pointer expression from the parameter it starts at."""
        if isinstance(node, ast.Name):
            if node.id in definitions:
                return self.pointer_least(definitions[node.id], without(definitions, node.id))
            return 0 if node.id in self.kernel.parameters and node.id not in self.env else self.of(node).least
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            left = Value(least=self.pointer_least(node.left, definitions))
            return _least(node.op, left, self.of(node.right))
        return None

    def dtype(self, node: ast.expr | None) -> str | None:
        """The dtype that an expression such as ``tl.float16`` names."""
        name = self.kernel.names.language(node) if node is not None else None
        return name if name in _FLOATS or name in _INTEGERS or name == "int1" else None

    def shape(self, node: ast.expr | None) -> Shape | None:
        """The shape that a tuple or list of dimensions spells out."""
        if not isinstance(node, (ast.Tuple, ast.List)):
            return None
        dims: list[Dim] = []
        for item in node.elts:
            known = self.of(item).constant
            dims.append(known if isinstance(known, int) else ast.unparse(item))
        return tuple(dims)


def argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """A call's argument by position or keyword; None if it is not given."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    return call.args[position] if position < len(call.args) else None


def without(definitions: Mapping[str, ast.expr], name: str) -> dict[str, ast.expr]:
    """The definitions but one, so that following them ends where they form a circle."""
    return {other: value for other, value in definitions.items() if other != name}


def join(a: Value, b: Value) -> Value:
    """What holds of a value that is one or the other."""
    return Value(
        a.dtype if a.dtype == b.dtype else None,
        a.shape if a.shape == b.shape else None,
        weak=a.weak and b.weak,
        constant=a.constant if a.constant == b.constant else None,
        least=a.least if a.least == b.least else None,
        many=a.many and b.many,
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_new_axis(node: ast.expr) -> bool:
    return _is_none(node)


def _is_full_slice(node: ast.expr) -> bool:
    return isinstance(node, ast.Slice) and node.lower is None and node.upper is None and node.step is None


def _fold(op: ast.operator, a: Constant | None, b: Constant | None) -> Constant | None:
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return None
    if isinstance(op, ast.Add):
        return a + b
    if isinstance(op, ast.Sub):
        return a - b
    if isinstance(op, ast.Mult):
        return a * b
    if isinstance(op, ast.FloorDiv) and b != 0:
        return a // b
    return None


def _least(op: ast.operator, a: Value, b: Value) -> int | None:
    if isinstance(op, ast.Mult) and 0 in (a.least, b.least):
        return 0
    if a.least is None:
        return None
    if isinstance(op, ast.Sub):
        return a.least - b.constant if type(b.constant) is int else None
    if b.least is None:
        return None
    if isinstance(op, ast.Add):
        return a.least + b.least
    if isinstance(op, ast.Mult) and (
        b.constant == b.least > 0 or a.constant == a.least > 0 or min(a.least, b.least) > 0
    ):
        return a.least * b.least
    return None
