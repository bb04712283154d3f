"""Triton's CPU interpreter, made right and fast. Useful to any author of Triton kernels:

    import tinyflow.kernels.interpreter as interpreter    # before triton: settles TRITON_INTERPRET where there is no GPU
    interpreter.install()

From then on every kernel launch in the process goes through it, with the same results as Triton's own interpreter, bit
for bit, except where that one is wrong (see docs/interpreter.md). ``uninstall`` puts Triton back as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

from tinyflow.kernels import environment

_MODE = "TRITON_INTERPRET"


def _implementation() -> ModuleType:
    if os.environ.get(_MODE, "").lower() not in environment.YES:
        raise RuntimeError(
            f"tinyflow.kernels.interpreter.install: {_MODE} is not set, so Triton compiles kernels in this process. "
            f"Set {_MODE}=1 before triton is imported."
        )
    from tinyflow.kernels.interpreter import installation as implementation

    return implementation


def install() -> None:
    """Puts this interpreter in place of Triton's. RuntimeError in compiled mode and on a Triton that it does not know."""
    _implementation().put_in()


def uninstall() -> None:
    """Puts Triton's own interpreter back; does nothing if it is in place."""
    if installed():
        _implementation().take_out()


def installed() -> bool:
    """True while kernels run through this interpreter."""
    import sys

    implementation = sys.modules.get("tinyflow.kernels.interpreter.installation")
    return implementation is not None and implementation.is_installed()


@contextlib.contextmanager
def use() -> Iterator[None]:
    """A context in which this interpreter is installed; afterwards things are as before."""
    before = installed()
    install()
    try:
        yield
    finally:
        if not before:
            uninstall()


@contextlib.contextmanager
def stock() -> Iterator[None]:
    """A context in which Triton's own interpreter runs; afterwards things are as before."""
    before = installed()
    uninstall()
    try:
        yield
    finally:
        if before:
            install()


def install_if_wanted() -> bool:
    """What tinyflow does when it is imported: installs, unless TINYFLOW_INTERPRETER says ``stock``. True if it did."""
    choice = environment.choice("TINYFLOW_INTERPRETER", ("fast", "stock"))
    if choice == "fast":
        install()
    return choice == "fast"


def strict(seed: int | None = None) -> contextlib.AbstractContextManager[None]:
    """A context in which every access of every launch is checked, see docs/strict.md; ``seed`` shuffles the grid's order."""
    _implementation()
    from tinyflow.kernels.interpreter import checks

    return checks.strict(seed)
