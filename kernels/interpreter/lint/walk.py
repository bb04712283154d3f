"""Walks a kernel's statements in order, keeping what is known of each variable, and asks the rules at each node."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tinyflow.kernels.interpreter.lint.rules import Context, Loop, Rule
from tinyflow.kernels.interpreter.lint.source import Constant, Kernel
from tinyflow.kernels.interpreter.lint.values import UNKNOWN, Inference, Value, argument, join, number

_LOOP_RULE = "loop-type"

#: rule, node, message
Named = Iterator[tuple[str, ast.AST, str]]


def check_kernel(kernel: Kernel, constants: Mapping[str, Constant], rules: Sequence[Rule]) -> Named:
    """All findings in one kernel for one set of known constants, in no order."""
    return _Walk(kernel, constants, rules).run()


class _Walk:
    def __init__(self, kernel: Kernel, constants: Mapping[str, Constant], rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.types = Inference(kernel, constants)
        stores = [n.id for n in ast.walk(kernel.node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        names = frozenset([*stores, *kernel.parameters])
        once = {name for name in stores if stores.count(name) == 1} - set(kernel.parameters)
        definitions = {target: value for target, value in _plain_assignments(kernel.node) if target in once}
        self.context = Context(kernel, self.types, [], definitions, names)

    def run(self) -> Named:
        yield from self._body(self.context.kernel.node.body)

    def _ask(self, node: ast.AST) -> Named:
        for rule in self.rules:
            if rule.name != _LOOP_RULE and isinstance(node, rule.kinds):
                yield from ((rule.name, at, message) for at, message in rule.check(node, self.context))

    def _expressions(self, *nodes: ast.AST | None) -> Named:
        for node in nodes:
            for inner in ast.walk(node) if node is not None else ():
                yield from self._ask(inner)

    def _body(self, statements: Iterable[ast.stmt]) -> Named:
        for statement in statements:
            if isinstance(statement, (ast.For, ast.While)):
                yield from self._loop(statement)
            elif isinstance(statement, ast.If):
                yield from self._if(statement)
            elif isinstance(statement, ast.With):
                yield from self._expressions(*statement.items)
                yield from self._body(statement.body)
            else:
                yield from self._expressions(statement)
                self._assign(statement)

    def _assign(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                self._bind(target, statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self._bind(statement.target, statement.value)
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            left = ast.copy_location(ast.Name(statement.target.id, ast.Load()), statement)
            combined = ast.copy_location(ast.BinOp(left, statement.op, statement.value), statement)
            self.types.env[statement.target.id] = self.types.of(combined)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.types.env[target.id] = self.types.of(value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
            values = (
                [self.types.of(v) for v in parts] if len(parts) == len(target.elts) else [UNKNOWN] * len(target.elts)
            )
            for name, known in zip(target.elts, values):
                if isinstance(name, ast.Name):
                    self.types.env[name.id] = known

    def _if(self, statement: ast.If) -> Named:
        yield from self._ask(statement)
        yield from self._expressions(statement.test)
        before = dict(self.types.env)
        yield from self._body(statement.body)
        taken, self.types.env = self.types.env, dict(before)
        yield from self._body(statement.orelse)
        other = self.types.env
        self.types.env = {name: join(taken.get(name, UNKNOWN), other.get(name, UNKNOWN)) for name in {*taken, *other}}

    def _loop(self, statement: ast.For | ast.While) -> Named:
        yield from self._ask(statement)
        yield from self._expressions(statement.iter if isinstance(statement, ast.For) else statement.test)
        loop = Loop(statement, isinstance(statement, ast.For) and self._is_unrolled(statement))
        loop.before = dict(self.types.env)
        self.context.loops.append(loop)
        if isinstance(statement, ast.For):
            self._loop_variable(statement)
        self._forget_constants(statement)
        yield from self._body(statement.body)
        carried = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        loop.before = {name: value for name, value in loop.before.items() if name in carried}
        loop.after = dict(self.types.env)
        for rule in self.rules:
            if rule.name == _LOOP_RULE:
                yield from ((rule.name, at, message) for at, message in rule.check(statement, self.context))
        self.context.loops.pop()
        for name in carried:
            self.types.env[name] = join(loop.before.get(name, UNKNOWN), self.types.env.get(name, UNKNOWN))
        yield from self._body(statement.orelse)

    def _is_unrolled(self, statement: ast.For) -> bool:
        called = statement.iter.func if isinstance(statement.iter, ast.Call) else None
        return called is not None and self.context.kernel.names.language(called) == "static_range"

    def _loop_variable(self, statement: ast.For) -> None:
        if not isinstance(statement.target, ast.Name) or not isinstance(statement.iter, ast.Call):
            return
        arguments = statement.iter.args
        start = number(0) if len(arguments) == 1 else self.types.of(arguments[0]) if arguments else UNKNOWN
        step = argument(statement.iter, 2, "step")
        upward = step is None or not isinstance(step, ast.UnaryOp)
        self.types.env[statement.target.id] = Value("int32", (), least=start.least if upward else None)

    def _forget_constants(self, statement: ast.For | ast.While) -> None:
        """A variable that the loop assigns has, in the body, its type from before but not its number."""
        target = statement.target if isinstance(statement, ast.For) else None
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node is not target:
                known = self.types.env.get(node.id)
                if known is not None:
                    self.types.env[node.id] = Value(known.dtype, known.shape, weak=False, least=known.least)


def _plain_assignments(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
