"""Writes the type stub of Tensor's methods: ``python -m tinyflow.ops.stubs``.

Operations are bound to Tensor when ``tinyflow.ops`` is imported, which editors and type checkers cannot see. The stub says
what is bound, from the operations' own signatures; a test holds it up to date.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from tinyflow.ops.define import Op
from tinyflow.tensor import Tensor

PATH = Path(__file__).resolve().parent.parent / "_tensor_methods.pyi"

_HEAD = '''"""The operations that are bound to Tensor as methods. Written by ``python -m tinyflow.ops.stubs``."""

import builtins
from collections.abc import Sequence
from typing import Any

from tinyflow.tensor import Tensor

class TensorMethods:
'''

_COMPARES_OBJECTS = ("__eq__", "__ne__")
_SIMPLE = {"Tensor", "Scalar", "int", "float", "bool", "str", "None", "Any"}


def _annotation(text: Any) -> str:
    """An annotation in the stub's own few names; Any for others."""
    if text is inspect.Parameter.empty:
        return "Any"
    text = text if isinstance(text, str) else getattr(text, "__name__", str(text))
    text = text.replace("Buffer", "Tensor").replace("Scalar", "float")
    names = set(re.findall(r"[A-Za-z_][A-Za-z_.]*", text))
    if not names <= _SIMPLE | {"Sequence", "tuple", "list", "dict"}:
        return "Any"
    return re.sub(r"\b(int|float|bool)\b", r"builtins.\1", text)  # the class has methods of these names


def _default(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else "..."


def _parameter(p: inspect.Parameter) -> str:
    prefix = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
    annotation = "Any" if prefix else _annotation(p.annotation)
    return f"{prefix}{p.name}: {annotation}" + ("" if p.default is p.empty else f" = {_default(p.default)}")


def _method(name: str, function: Any) -> str:
    operation = inspect.unwrap(function)
    signature = inspect.signature(operation)
    parameters = list(signature.parameters.values())[1:]
    written = ["self"]
    starred = False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not starred:
            written.append("*")
            starred = True
        starred |= p.kind is p.VAR_POSITIONAL
        written.append("other: Any" if name in _COMPARES_OBJECTS else _parameter(p))
    result = _annotation(signature.return_annotation)
    result = "Tensor" if isinstance(operation, Op) and len(operation.outputs) == 1 or name.startswith("__") else result
    result = "None" if name == "__setitem__" else result
    ignore = "  # type: ignore[override]" if name in _COMPARES_OBJECTS else ""
    return f"    def {name}({', '.join(written)}) -> {result}: ...{ignore}\n"


def render() -> str:
    """The stub's text."""
    own = _own_names()
    lines = [_HEAD]
    for name, value in sorted(vars(Tensor).items()):
        if name in own or (name.startswith("_") and not name.startswith("__")):
            continue
        if isinstance(value, property):
            lines.append(f"    @property\n    def {name}(self) -> Tensor: ...\n")
        elif callable(value):
            lines.append(_method(name, value))
    return "".join(lines)


def _own_names() -> set[str]:
    """What the class itself defines in its source."""
    source = Path(inspect.getfile(Tensor)).read_text()
    body = source[source.index("class Tensor") :]
    defined = set(re.findall(r"^    def (\w+)", body, re.MULTILINE)) | set(
        re.findall(r"^    (\w+) =", body, re.MULTILINE)
    )
    return (
        defined
        | set(vars(object)) - {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"}
        | {
            "__module__",
            "__slots__",
            "__annotations__",
            "__static_attributes__",
            "__firstlineno__",
            "__weakref__",
            *Tensor.__slots__,
        }
    )


if __name__ == "__main__":
    PATH.write_text(render())
