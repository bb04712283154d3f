"""Writes the table of operations, ``docs/operations.md``: ``python -m tinyflow.ops.table``.

The table is read off the declarations: a family's ``__all__``, ``METHODS`` and ``FUNCTIONAL``, each operation's launcher and
its gradient rules. A test holds it up to date.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tinyflow import ops
from tinyflow.kernels.elementwise import BOOL, FLOAT, Pointwise
from tinyflow.ops.define import Op
from tinyflow.tensor import Tensor

PATH = Path(__file__).resolve().parents[2] / "docs" / "operations.md"

_HEAD = """# Operations

Written by `python -m tinyflow.ops.table` from the code; what is not listed is not there.

- **method**: bound to Tensor, with an in-place form (`x.exp_()`) where *in place* says so.
- **takes → gives**: for elementwise operations, which dtypes it takes and what the result is: their promotion, that lifted
  to floating point, or bool. Others say it in their docstrings.
- **gradients**: how often it can be differentiated. Rules are made of operations, so one that has a rule can be
  differentiated any number of times, by as many as its rule's own operations can.
- **kernel**: the launcher that computes it; *composed* means that it calls other operations.
"""

#: What torch has and tinyflow does not; where the name exists here, it raises NotImplementedError.
_REFUSED = """
## What is refused, or absent

| of torch | here |
|---|---|
| complex, quantised, sparse and nested tensors, named dimensions | absent: no such dtype or layout |
| `linalg`'s factorisations and solvers (`svd`, `qr`, `inv`, `solve`, …) | `NotImplementedError`: only products and norms |
| `linalg.matrix_norm` of order `"nuc"` or ±2, negative powers of matrices | `NotImplementedError` for the same reason |
| `fft`, `stft`, windows | absent |
| `ctc_loss`, `AdaptiveLogSoftmaxWithLoss` | absent |
| `embedding(sparse=True)` | `NotImplementedError` |
| lazy modules, `SyncBatchNorm`, `torch.distributed` | absent |
| optimisers with `differentiable=True`; `LBFGS`, `SparseAdam` | `NotImplementedError`; absent |
| `out=` | where an operation's own signature has it |
"""


def _operation(family: ModuleType, name: str) -> Op | None:
    """The operation behind an exported name: itself, or the private one of that name, whose arguments a function checks."""
    for candidate in (name, f"_{name}"):
        found = getattr(family, candidate, None)
        if isinstance(found, Op):
            return found
    return None


def _dtypes(op: Op | None) -> str:
    if op is None or not isinstance(op.launcher, Pointwise):
        return "see its docstring"
    gives = {BOOL: "bool", FLOAT: "floating point"}.get(op.launcher.result, "promoted")
    return f"{'any' if op.launcher.takes_bool else 'numbers'} → {gives}"


def _gradients(op: Op | None) -> str:
    if op is None:
        return "those of its parts"
    return "any" if op.rules else "none"


def _kernel(op: Op | None) -> str:
    if op is None:
        return "composed"
    module = inspect.getmodule(op.launcher.fn.fn if isinstance(op.launcher, Pointwise) else inspect.unwrap(op.launcher))
    where = "" if module is None else module.__name__.removeprefix("tinyflow.").replace(".", "/") + ".py"
    return f"`{op.launcher.__name__}` in `{where}`" if where else f"`{op.launcher.__name__}`"


def _method(name: str) -> str:
    if not callable(getattr(Tensor, name, None)):
        return ""
    return "yes, in place" if hasattr(Tensor, f"{name}_") else "yes"


def _rows(family: ModuleType) -> Iterator[str]:
    for name in dict.fromkeys(n for names in ("__all__", "METHODS", "FUNCTIONAL") for n in getattr(family, names, ())):
        value: Any = getattr(family, name, None)
        if not callable(value) or name.endswith("_"):
            continue
        op = value if isinstance(value, Op) else _operation(family, name)
        yield f"| `{name}` | {_method(name)} | {_dtypes(op)} | {_gradients(op)} | {_kernel(op)} |\n"


def render() -> str:
    """The table's text."""
    parts = [_HEAD]
    for family in ops.FAMILIES:
        rows = list(_rows(family))
        if rows:
            title = family.__name__.rpartition(".")[2].replace("_", " ")
            parts.append(
                f"\n## {title}\n\n| name | method | takes → gives | gradients | kernel |\n|---|---|---|---|---|\n"
            )
            parts += rows
    parts.append(_REFUSED)
    return "".join(parts)


if __name__ == "__main__":
    PATH.write_text(render())
