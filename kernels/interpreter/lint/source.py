"""Finds the Triton kernels in a Python source and what is known of their compile-time constants."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Constant = int | float | bool | str

_MOST_CONFIGS = 256


@dataclass
class Names:
    """What a module's imports and top-level assignments call things."""

    #: local name -> dotted name, such as ``tl`` -> ``triton.language``
    imports: dict[str, str] = field(default_factory=dict)
    #: names assigned ``tl.constexpr(value)`` at the top level
    constants: dict[str, Constant] = field(default_factory=dict)
    #: names assigned a plain number or string at the top level, with the line of the assignment
    plain: dict[str, int] = field(default_factory=dict)

    def dotted(self, node: ast.AST) -> str | None:
        """The full dotted name of an expression such as ``tl.math.exp``; None if it is no such thing."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imports:
            return None
        return ".".join([self.imports[node.id], *reversed(parts)])

    def language(self, node: ast.AST) -> str | None:
        """The name within ``triton.language`` (``load``, ``math.exp``) that an expression denotes."""
        name = self.dotted(node)
        for prefix in ("triton.language.core.", "triton.language."):
            if name is not None and name.startswith(prefix):
                return name[len(prefix) :]
        return None


@dataclass
class Kernel:
    """One function under ``@triton.jit``, with every set of constants its decorators and defaults show."""

    node: ast.FunctionDef
    names: Names
    constexprs: frozenset[str]
    defaults: dict[str, Constant]
    configs: list[dict[str, Constant]]

    @property
    def parameters(self) -> list[str]:
        a = self.node.args
        return [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]

    def constant_sets(self) -> Iterator[Mapping[str, Constant]]:
        """Known values of names, one mapping for each configuration that the source shows."""
        for config in itertools.islice(self.configs or [{}], _MOST_CONFIGS):
            yield {**self.names.constants, **self.defaults, **config}


def literal(node: ast.AST | None) -> Constant | None:
    """The number, bool or string that an expression spells out, through ``-`` and ``tl.constexpr(…)``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = literal(node.operand)
        return -value if isinstance(value, (int, float)) else None
    if isinstance(node, ast.Call) and len(node.args) == 1 and _last_name(node.func) == "constexpr":
        return literal(node.args[0])
    return None


def find_kernels(tree: ast.Module) -> list[Kernel]:
    """Every function of a module, at any depth, that ``triton.jit`` decorates."""
    names = _collect_names(tree)
    return [
        _kernel(node, names)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(_is_jit(d, names) for d in node.decorator_list)
    ]


def _collect_names(tree: ast.Module) -> Names:
    names = Names()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names.imports[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for statement in tree.body:
        for name, value in _assignments(statement):
            known = literal(value)
            if known is None:
                continue
            if isinstance(value, ast.Call):
                names.constants[name] = known
            else:
                names.plain[name] = statement.lineno
    return names


def _assignments(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value and isinstance(statement.target, ast.Name):
        yield statement.target.id, statement.value


def _is_jit(decorator: ast.expr, names: Names) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return names.dotted(called) in ("triton.jit", "triton.runtime.jit.jit", "triton.runtime.jit")


def _kernel(node: ast.FunctionDef, names: Names) -> Kernel:
    a = node.args
    positional = [*a.posonlyargs, *a.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = list(zip(positional[::-1], a.defaults[::-1]))
    pairs += list(zip(a.kwonlyargs, a.kw_defaults))
    constexprs = {x.arg for x in (*positional, *a.kwonlyargs) if _annotated_constexpr(x)}
    values = {argument.arg: literal(default) for argument, default in pairs if argument.arg in constexprs}
    defaults = {name: value for name, value in values.items() if value is not None}
    return Kernel(node, names, frozenset(constexprs), defaults, _autotune_configs(node, names))


def _annotated_constexpr(argument: ast.arg) -> bool:
    annotation = argument.annotation
    if isinstance(annotation, ast.Constant):
        return isinstance(annotation.value, str) and annotation.value.split(".")[-1] == "constexpr"
    return annotation is not None and _last_name(annotation) == "constexpr"


def _last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _autotune_configs(node: ast.FunctionDef, names: Names) -> list[dict[str, Constant]]:
    configs: list[dict[str, Constant]] = []
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call) or (names.dotted(decorator.func) or "") != "triton.autotune":
            continue
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and names.dotted(call.func) == "triton.Config" and call.args:
                configs.append(_literal_dict(call.args[0]))
    return configs


def _literal_dict(node: ast.expr) -> dict[str, Constant]:
    if not isinstance(node, ast.Dict):
        return {}
    found: dict[str, Constant] = {}
    for key, value in zip(node.keys, node.values):
        name, known = literal(key), literal(value)
        if isinstance(name, str) and known is not None:
            found[name] = known
    return found
