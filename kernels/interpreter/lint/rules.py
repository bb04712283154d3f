"""The rules, each a small check of one kind of node in a kernel."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tinyflow.kernels.interpreter.lint.source import Kernel
from tinyflow.kernels.interpreter.lint.values import Inference, Value, argument, bits, differs, without

Findings = Iterator[tuple[ast.AST, str]]


@dataclass
class Loop:
    """A loop of a kernel; ``unrolled`` for ``tl.static_range``, which is no loop to the compiler."""

    node: ast.For | ast.While
    unrolled: bool
    before: Mapping[str, Value] = field(default_factory=dict)
    after: Mapping[str, Value] = field(default_factory=dict)


@dataclass
class Context:
    """What a rule may ask about the place where it looks."""

    kernel: Kernel
    types: Inference
    loops: list[Loop]
    #: names assigned once in the kernel, with what they are assigned
    definitions: Mapping[str, ast.expr]
    locals: frozenset[str]


@dataclass(frozen=True)
class Rule:
    """A named check of all nodes of some kinds."""

    name: str
    summary: str
    kinds: tuple[type, ...]
    check: Callable[[ast.AST, Context], Findings]


#: Every rule by name.
RULES: dict[str, Rule] = {}


def _rule(name: str, summary: str, *kinds: type) -> Callable[[Callable[..., Findings]], Callable[..., Findings]]:
    def register(check: Callable[..., Findings]) -> Callable[..., Findings]:
        RULES[name] = Rule(name, summary, kinds, check)
        return check

    return register


@_rule("loop-control", "continue, break or return inside a loop", ast.Continue, ast.Break, ast.Return)
def _loop_control(node: ast.AST, context: Context) -> Findings:
    word = type(node).__name__.lower()
    if not context.loops or (isinstance(node, ast.Return) and all(loop.unrolled for loop in context.loops)):
        return
    what = "guard the rest of the body with an if, or mask it" if word == "continue" else "put the condition in a while"
    yield node, f"the compiler refuses `{word}` inside a loop: {what}"


_UNSUPPORTED = {
    ast.Try: "try",
    ast.Lambda: "lambda",
    ast.Dict: "a dict display",
    ast.Set: "a set display",
    ast.DictComp: "a dict comprehension",
    ast.SetComp: "a set comprehension",
    ast.GeneratorExp: "a generator expression",
    ast.Yield: "yield",
    ast.YieldFrom: "yield from",
    ast.Await: "await",
    ast.Global: "global",
    ast.Nonlocal: "nonlocal",
    ast.Delete: "del",
    ast.Import: "import",
    ast.ImportFrom: "import",
    ast.ClassDef: "a class",
    ast.FunctionDef: "a nested function",
    ast.NamedExpr: "an assignment expression (`:=`)",
}


@_rule(
    "unsupported-syntax",
    "Python that the compiler does not know",
    *_UNSUPPORTED,
    ast.For,
    ast.While,
    ast.Compare,
    ast.BinOp,
)
def _unsupported_syntax(node: ast.AST, context: Context) -> Findings:
    said = _UNSUPPORTED.get(type(node))
    if isinstance(node, (ast.For, ast.While)):
        said = "`else` after a loop" if node.orelse else _wrong_iterable(node)
    elif isinstance(node, ast.Compare) and any(isinstance(op, (ast.In, ast.NotIn)) for op in node.ops):
        said = "`in`"
    elif isinstance(node, ast.BinOp):
        said = "`@` (use tl.dot)" if isinstance(node.op, ast.MatMult) else None
    if said is not None:
        yield (
            node,
            f"the compiler does not know {said} in a kernel: write it with tl operations, loops over range, and if",
        )


def _wrong_iterable(node: ast.For | ast.While) -> str | None:
    if isinstance(node, ast.While):
        return None
    if isinstance(node.iter, (ast.Tuple, ast.List)):
        return "a loop over a tuple or list (use tl.static_range and an index)"
    if (
        isinstance(node.iter, ast.Call)
        and isinstance(node.iter.func, ast.Name)
        and node.iter.func.id in ("enumerate", "zip")
    ):
        return f"`{node.iter.func.id}`"
    return None


@_rule("chained-comparison", "a < b < c", ast.Compare)
def _chained_comparison(node: ast.Compare, context: Context) -> Findings:
    if len(node.ops) > 1:
        yield (
            node,
            "Triton 3.6 refuses a chained comparison and its interpreter misreads it: write (a < b) & (b < c)",
        )


@_rule(
    "block-truth", "and, or, not, if, while on a block of values", ast.BoolOp, ast.UnaryOp, ast.If, ast.While, ast.IfExp
)
def _block_truth(node: ast.AST, context: Context) -> Findings:
    if isinstance(node, ast.BoolOp):
        if any(context.types.of(value).is_block for value in node.values):
            word, sign = ("and", "&") if isinstance(node.op, ast.And) else ("or", "|")
            yield (
                node,
                f"`{word}` on blocks means each lane when compiled, the whole block in the interpreter: use `{sign}`",
            )
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.Not) and context.types.of(node.operand).is_block:
            yield (
                node,
                "`not` on a block means each lane when compiled, the whole block in the interpreter: use `~` or == 0",
            )
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)) and context.types.of(node.test).is_block:
        yield node.test, "the compiler refuses a block as a condition: reduce it first, or use tl.where"


@_rule("global-constant", "a module's plain number read in a kernel", ast.Name)
def _global_constant(node: ast.Name, context: Context) -> Findings:
    known = context.kernel.names.plain
    if isinstance(node.ctx, ast.Load) and node.id in known and node.id not in context.locals:
        yield (
            node,
            (
                f"the compiler refuses the global `{node.id}` of line {known[node.id]}: define it as tl.constexpr(…) "
                "or pass it as a tl.constexpr argument"
            ),
        )


@_rule("masked-load", "a masked tl.load without other=", ast.Call)
def _masked_load(node: ast.Call, context: Context) -> Findings:
    if context.kernel.names.language(node.func) != "load":
        return
    mask = argument(node, 1, "mask")
    if mask is None or isinstance(mask, ast.Constant) or argument(node, 2, "other") is not None:
        return
    yield (
        node,
        "lanes that the mask leaves out are undefined on a GPU (the interpreter gives 0): name their value with other=",
    )


@_rule("small-dot", "a tl.dot with a side under 16", ast.Call)
def _small_dot(node: ast.Call, context: Context) -> Findings:
    if context.kernel.names.language(node.func) != "dot" or len(node.args) < 2:
        return
    a, b = (context.types.of(operand).shape or () for operand in node.args[:2])
    sizes = {"M": a[-2:-1], "K": a[-1:] if len(a) > 1 else b[-2:-1], "N": b[-1:] if len(b) > 1 else ()}
    small = [
        f"{side} = {size[0]}" for side, size in sizes.items() if size and isinstance(size[0], int) and size[0] < 16
    ]
    if small:
        yield (
            node,
            f"tl.dot needs sides of 16 or more to compile on every GPU, got {', '.join(small)}: "
            "use larger tiles, or multiply and tl.sum",
        )


@_rule("dot-precision", "a tl.dot that does not name input_precision", ast.Call)
def _dot_precision(node: ast.Call, context: Context) -> Findings:
    if context.kernel.names.language(node.func) != "dot" or len(node.args) < 2:
        return
    if argument(node, 3, "input_precision") is not None or argument(node, 4, "allow_tf32") is not None:
        return
    for operand in node.args[:2]:
        dtype = context.types.of(operand).dtype
        if dtype == "float64" or (bits(dtype) or 32) < 32:
            return
    yield (
        node,
        "float32 operands are rounded to TF32 on a GPU unless told otherwise, and exact here: name input_precision=",
    )


@_rule("loop-type", "a variable that changes type inside a loop", ast.For, ast.While)
def _loop_type(node: ast.AST, context: Context) -> Findings:
    loop = context.loops[-1]
    if loop.unrolled:
        return
    for name, before in loop.before.items():
        after = loop.after.get(name)
        change = differs(before, after) if after is not None else None
        if change is not None:
            yield (
                _assignment_in(node, name),
                f"the compiler refuses `{name}`, which changes from {change} inside the loop: "
                "give it its final type before the loop, or cast what is assigned",
            )


def _assignment_in(loop: ast.AST, name: str) -> ast.AST:
    for node in ast.walk(loop):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return node
    return loop


@_rule("negative-offset", "a masked access whose mask has only an upper bound, before its pointer", ast.Call)
def _negative_offset(node: ast.Call, context: Context) -> Findings:
    name = context.kernel.names.language(node.func)
    if name not in ("load", "store") or not node.args:
        return
    mask = argument(node, 1 if name == "load" else 2, "mask")
    if mask is None or isinstance(mask, ast.Constant) or not _only_upper_bounds(mask, context.definitions, context):
        return
    least = context.types.pointer_least(node.args[0], context.definitions)
    if least is not None and least < 0:
        yield (
            node,
            f"some lane lies {-least} before the tensor and the mask is no bound from below: add `& (offset >= 0)`",
        )


def _only_upper_bounds(mask: ast.expr, definitions: Mapping[str, ast.expr], context: Context) -> bool:
    """True if a mask is wholly made of comparisons that a negative offset passes."""
    if isinstance(mask, ast.Name):
        inner = without(definitions, mask.id)
        return mask.id in definitions and _only_upper_bounds(definitions[mask.id], inner, context)
    if isinstance(mask, ast.Subscript):
        return _only_upper_bounds(mask.value, definitions, context)
    if isinstance(mask, ast.BinOp) and isinstance(mask.op, (ast.BitAnd, ast.BitOr)):
        return all(_only_upper_bounds(side, definitions, context) for side in (mask.left, mask.right))
    if not isinstance(mask, ast.Compare) or len(mask.ops) > 1:
        return False
    smaller = mask.left
    if isinstance(mask.ops[0], (ast.Gt, ast.GtE)):
        smaller = mask.comparators[0]
    elif not isinstance(mask.ops[0], (ast.Lt, ast.LtE)):
        return False
    known = context.types.of(smaller)
    return known.least is not None and known.constant is None
