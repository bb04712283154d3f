"""The one place that changes Triton: ``install`` puts this package's interpreter in, ``uninstall`` takes it out again."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import types
from typing import Any

import triton
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import builder, launch, memo, operators, reductions, semantics

# Triton imports this at the first launch otherwise, while its language is patched, and on Python 3.10 fails there.
with contextlib.suppress(ImportError):
    importlib.import_module("triton.experimental.gluon")

_MISSING = object()

#: Internals of Triton's interpreter that this package builds on.
_NEEDED = {
    stock: (
        "TensorHandle InterpreterBuilder InterpretedFunction GridExecutor ReduceOps ScanOps TensorDescriptor _ir "
        "_interpreter _patch_lang _implicit_cvt interpreter_builder interpreter_semantic"
    ),
    stock.InterpreterBuilder: (
        "binary_op unary_op ternary_op cast_impl create_idiv create_fma create_fp_to_fp create_bitcast create_addptr "
        "create_expand_dims create_broadcast create_splat create_reshape create_trans create_dot create_load "
        "create_store create_masked_load create_masked_store create_atomic_rmw create_atomic_cas create_histogram "
        "create_descriptor_load create_descriptor_store create_make_range create_get_program_id set_grid_dim"
    ),
    stock.InterpretedFunction: "run rewrite __call__",
    TritonSemantic: "binary_op_type_checking_impl binary_op_sanitize_overflow_impl broadcast_impl_value to_tensor",
    tl.standard: "_sum_combine _elementwise_max _elementwise_min",
}


def check_supported() -> None:
    """Raises RuntimeError if this Triton lacks an internal that is built on."""
    missing = [
        f"{getattr(owner, '__name__', owner)}.{name}"
        for owner, names in _NEEDED.items()
        for name in names.split()
        if not hasattr(owner, name)
    ]
    if missing:
        raise RuntimeError(
            f"tinyflow.kernels.interpreter supports Triton 3.6 to 3.9; Triton {triton.__version__} has no "
            f"{', '.join(missing)}. Install one of those versions, or set TINYFLOW_INTERPRETER=stock to use Triton's own."
        )


class _Changes:
    """Attributes that were set, each with what it was before."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        before = vars(owner).get(name, _MISSING)
        self._before.append((owner, name, before))
        setattr(owner, name, value)

    def undo(self) -> None:
        while self._before:
            owner, name, before = self._before.pop()
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


_changes: _Changes | None = None


def is_installed() -> bool:
    return _changes is not None


def put_in() -> None:
    """Changes Triton; nothing is changed if that fails."""
    global _changes
    if _changes is not None:
        return
    check_supported()
    changes = _Changes()
    try:
        _patch_language(changes)
        changes.set(stock, "_patch_lang", launch.patch_lang)
        changes.set(stock.InterpretedFunction, "run", launch.run)
        changes.set(stock.InterpretedFunction, "__call__", launch.call)
        changes.set(tl.block_type, "__init__", semantics.block_type_init)
        changes.set(tl.tensor, "__init__", semantics.tensor_init)
        stock.interpreter_builder.__class__ = builder.Builder
        stock.interpreter_semantic.__class__ = semantics.Semantic
    except BaseException:
        changes.undo()
        _restore_classes()
        raise
    _changes = changes
    _keep_freed_memory()


def take_out() -> None:
    """Undoes every change."""
    global _changes
    if _changes is None:
        return
    _restore_classes()
    _changes.undo()
    _changes = None
    memo.forget()


def _restore_classes() -> None:
    stock.interpreter_builder.__class__ = stock.InterpreterBuilder
    stock.interpreter_semantic.__class__ = TritonSemantic


def _patch_language(changes: _Changes) -> None:
    """Makes the changes to ``triton.language`` that Triton makes for each launch, with quicker members."""
    scope = stock._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    try:
        patched: dict[tuple[int, str], tuple[Any, str, Any, Any]] = {}
        for owner, name, before in scope._changes:
            first = patched.get((id(owner), name))
            patched[id(owner), name] = (owner, name, first[2] if first else before, getattr(owner, name))
    finally:
        scope.restore()
    for owner, name, before, after in patched.values():
        changes.set(owner, name, _quick(before, after))
    changes.set(tl.dtype, "to_ir", _element_type)
    changes.set(tl.tensor, "__bool__", reductions.truth)
    changes.set(tl.tensor, "__index__", lambda self: int(self.handle.data.reshape(-1)[0]))
    for owner, name, put_in_front in operators.replacements():
        changes.set(owner, name, put_in_front(getattr(owner, name)))
    for module in (tl, tl.core):
        changes.set(module, "dot", semantics.quick_dot(module.dot))
        changes.set(module, "reduce", reductions.reduce)
        changes.set(module, "associative_scan", reductions.scan)
    changes.set(tl, "sort", reductions.sort)


def _element_type(self: Any, builder: Any) -> Any:
    """``tl.dtype.to_ir``: the interpreter's types are the language's own. Triton 3.6 knows not all 8-bit floats here."""
    return self


def _quick(before: Any, after: Any) -> Any:
    """A builtin bound to the interpreter's semantic layer; classes, and what Triton replaces, stay as it patched them."""
    if "member" not in (getattr(after, "__kwdefaults__", None) or ()) or isinstance(before, type):
        return after
    semantic = stock.interpreter_semantic
    inner = getattr(before, "__wrapped__", before) if before.__code__.co_name == "wrapper" else before

    @functools.wraps(before)
    def member(*args: Any, **kwargs: Any) -> Any:
        kwargs["_semantic"] = semantic
        return inner(*args, **kwargs)

    delattr(member, tl.core.TRITON_BUILTIN)
    return member


def _keep_freed_memory() -> None:
    """Asks the C library to keep large freed blocks: fresh pages cost more than the arithmetic on them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, 1 << 30)
