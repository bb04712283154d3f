"""Launches a compiled kernel that a small key finds, past what Triton's own path does on every call.

``JITFunction.run`` binds arguments, specialises, formats its options and walks the globals that a kernel used each time.
Our kernels' globals do not change, so a key of the specialisation, the constexprs, the options and the device finds the
compiled kernel and the rest of its arguments in one dictionary. The first launch under a key goes Triton's way, which
compiles. ``TINYFLOW_LAUNCHER=triton`` sends every launch that way; so do versions of Triton that this file does not know,
and AMD GPUs, where Triton specialises on more than is looked at here.

In Triton 3.6 to 3.9 a compiled kernel takes ``run(grid_x, grid_y, grid_z, stream, function, packed_metadata,
launch_metadata, enter_hook, exit_hook, *arguments)``, where the arguments are all parameters in order, constexprs too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import triton
from triton.compiler import CompiledKernel

from tinyflow.kernels import environment
from tinyflow.kernels.configs import Config
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.mode import INTERPRETING

#: The first and the last version whose ``run`` is known.
_KNOWN = (3, 6), (3, 9)

#: Kernels that one JIT function may have here; shapes that never come again do not fill memory.
_MOST = 4096

#: What a launch was: looked up, or left to Triton.
LOOKED_UP, TRITON = "compiled", "triton"


class _Entry(NamedTuple):
    run: Any
    function: Any
    metadata: Any
    tail: tuple[Any, ...]  # the values of the constexprs, in the order of the parameters


class _Triton(NamedTuple):
    """What is used of Triton, once a driver is there."""

    specialize: Any
    backend: Any
    stream: Any
    hooks: Any


def is_known(version: str) -> bool:
    """True for a Triton version whose compiled kernels this file can call."""
    numbers = version.split(".")
    return numbers[1].isdigit() and _KNOWN[0] <= (int(numbers[0]), int(numbers[1])) <= _KNOWN[1]


_ours = environment.choice("TINYFLOW_LAUNCHER", ("tinyflow", "triton")) == "tinyflow"
_wanted = not INTERPRETING and is_known(triton.__version__) and _ours
_triton: _Triton | None = None
_cache: dict[int, tuple[Any, dict[Any, _Entry]]] = {}  # by the identity of a JIT function, which is kept alive


def _connect() -> _Triton | None:
    """What is needed of Triton; None where launches are left to it."""
    global _triton, _wanted
    from triton import knobs
    from triton._C.libtriton import native_specialize_impl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime import driver

    target: GPUTarget = driver.active.get_current_target()
    if target.backend != "cuda":
        _wanted = False
        return None
    stream = driver.active.get_current_stream
    _triton = _Triton(native_specialize_impl, make_backend(target), stream, knobs.runtime)
    return _triton


@contextlib.contextmanager
def through_triton() -> Iterator[None]:
    """Leaves all launches in a block to Triton, for tools that stand in ``JITFunction.run``."""
    global _wanted
    before, _wanted = _wanted, False
    try:
        yield
    finally:
        _wanted = before


def launch(
    kernel: Any, grid: tuple[int, ...], args: Sequence[Any], config: Config, constexprs: dict[str, Any], device: int
) -> str:
    """Launches ``kernel[grid](*args)`` on the current device, number ``device``, and its current stream.

    Args:
        args: the leading parameters, none a constexpr; tuples hold integers.
        constexprs: by name, all other parameters that ``config`` does not give.

    Returns:
        ``LOOKED_UP`` or ``TRITON``.
    """
    found = (_triton or _connect()) if _wanted else None
    if found is None:
        kernel[grid](*args, **config.blocks, **constexprs, **config.options)
        return TRITON
    specialize, backend, stream, hooks = found
    key = (
        device,
        config.key,
        tuple(constexprs),
        tuple(constexprs.values()),
        *map(type, constexprs.values()),  # True, 1 and 1.0 are equal, and compile to different kernels
        *[
            (x.dtype, not x.data_ptr() & 15) if type(x) is Buffer else specialize(backend, x, False, True, True)
            for x in args
        ],
    )
    kept = _cache.get(id(kernel))
    if kept is None:
        kept = _cache[id(kernel)] = kernel, {}
    entry = kept[1].get(key)
    if entry is None:
        compiled = kernel[grid](*args, **config.blocks, **constexprs, **config.options)
        _remember(kept[1], key, kernel, len(args), {**config.blocks, **constexprs}, compiled)
        return TRITON
    if _listens(hooks.launch_enter_hook) or _listens(hooks.launch_exit_hook):
        # Triton tells a profiler what it asks for
        kernel[grid](*args, **config.blocks, **constexprs, **config.options)
        return TRITON
    x, y, z = (*grid, 1, 1)[:3]
    run, function, metadata, tail = entry
    run(x, y, z, stream(device), function, metadata, None, None, None, *args, *tail)
    return LOOKED_UP


def _listens(hook: Any) -> bool:
    return hook is not None and bool(getattr(hook, "calls", True))


def _remember(
    entries: dict[Any, _Entry], key: Any, kernel: Any, leading: int, named: dict[str, Any], compiled: Any
) -> None:
    """Keeps a compiled kernel, if what follows the leading arguments is nothing but constexprs."""
    parameters = kernel.params
    if not isinstance(compiled, CompiledKernel) or kernel.pre_run_hooks:
        return
    if any(p.is_constexpr for p in parameters[:leading]) or not all(p.is_constexpr for p in parameters[leading:]):
        return
    if len(entries) >= _MOST:
        entries.clear()
    tail = tuple([named.get(p.name, p.default) for p in parameters[leading:]])
    entries[key] = _Entry(compiled.run, compiled.function, compiled.packed_metadata, tail)
