"""Triton is changed in one place, and put back completely; the package says clearly where it cannot work."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter as stock
from triton.runtime.errors import InterpreterError

from tinyflow.kernels import interpreter
from tinyflow.kernels.interpreter import installation

WATCHED = (
    tl,
    tl.core,
    tl.math,
    tl.standard,
    tl.tensor,
    tl.dtype,
    tl.block_type,
    tl.core.tensor_descriptor_base,
    stock,
    stock.TensorHandle,
    stock.InterpreterBuilder,
    stock.InterpretedFunction,
    stock.GridExecutor,
    stock.ReduceOps,
    type(stock.interpreter_semantic).__mro__[-2],
)


@triton.jit
def double_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) * 2)


@triton.jit
def failing_kernel(out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.zeros((BLOCK,), tl.float32))
    tl.static_assert(BLOCK == 0, "this kernel always fails")


def state() -> list[dict[str, Any]]:
    names: list[dict[str, Any]] = [dict(vars(owner)) for owner in WATCHED]
    names.append({"builder": type(stock.interpreter_builder), "semantic": type(stock.interpreter_semantic)})
    return names


def test_uninstall_undoes_everything() -> None:
    with interpreter.stock():
        before = state()
        interpreter.install()
        assert interpreter.installed() and state() != before
        double_kernel[(1,)](torch.ones(16), torch.empty(16), 16)
        interpreter.uninstall()
        assert not interpreter.installed()
        for owner, was, now in zip(WATCHED, before, state()):
            changed = {name for name in was.keys() | now.keys() if was.get(name) is not now.get(name)}
            assert not changed, f"{owner}: {changed}"


def test_contexts_put_back_what_was() -> None:
    with interpreter.use():
        assert interpreter.installed()
        with interpreter.stock():
            assert not interpreter.installed()
            with interpreter.use():
                assert interpreter.installed()
            assert not interpreter.installed()
        assert interpreter.installed()
    with pytest.raises(KeyError, match="inside"), interpreter.use(), interpreter.stock():
        raise KeyError("inside")


def test_installing_twice_is_installing_once() -> None:
    with interpreter.stock():
        interpreter.install()
        interpreter.install()
        interpreter.uninstall()
        assert not interpreter.installed() and type(stock.interpreter_builder) is stock.InterpreterBuilder
        interpreter.uninstall()


def test_a_failing_kernel_leaves_the_interpreter_in_order() -> None:
    with interpreter.use():
        out = torch.ones(16)
        with pytest.raises(InterpreterError, match="this kernel always fails"):
            failing_kernel[(1,)](out, 16)
        double_kernel[(1,)](torch.ones(16), out, 16)
        assert (out == 2).all()


def test_compiled_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with interpreter.stock():
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET is not set, so Triton compiles kernels"):
            interpreter.install()
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def test_the_package_imports_without_triton() -> None:
    code = (
        "import sys, types; package = types.ModuleType('tinyflow'); package.__path__ = [sys.argv[1]]\n"
        "kernels = types.ModuleType('tinyflow.kernels'); kernels.__path__ = [sys.argv[1] + '/kernels']\n"
        "sys.modules['tinyflow'] = package; sys.modules['tinyflow.kernels'] = kernels\n"
        "import tinyflow.kernels.interpreter as i\n"
        "assert 'triton' not in sys.modules and not i.installed(); i.uninstall()\n"
        "try: i.install()\n"
        "except RuntimeError as error: print(error)\n"
        "assert 'triton' not in sys.modules\n"
    )
    import tinyflow

    folder = os.path.dirname(tinyflow.__file__)
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "TRITON_INTERPRET is not set" in done.stdout


def test_an_unknown_triton_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with interpreter.stock():
        before = state()
        monkeypatch.delattr(stock.InterpreterBuilder, "create_masked_load")
        expected = rf"supports Triton 3\.6 to 3\.9; Triton {triton.__version__} has no .*\.create_masked_load"
        with pytest.raises(RuntimeError, match=expected):
            installation.put_in()
        assert not interpreter.installed()
        monkeypatch.undo()
        assert [set(a) for a in state()] == [set(b) for b in before]


@pytest.mark.parametrize(("choice", "expected"), [(None, True), ("fast", True), ("stock", False)])
def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch, choice: str | None, expected: bool) -> None:
    monkeypatch.delenv("TINYFLOW_INTERPRETER", raising=False)
    if choice is not None:
        monkeypatch.setenv("TINYFLOW_INTERPRETER", choice)
    with interpreter.stock():
        assert interpreter.install_if_wanted() is expected
        assert interpreter.installed() is expected
        interpreter.uninstall()


def test_an_unknown_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYFLOW_INTERPRETER", "quick")
    with pytest.raises(ValueError, match="TINYFLOW_INTERPRETER must be 'fast' or 'stock', got 'quick'"):
        interpreter.install_if_wanted()


def test_scalars_become_python_numbers_with_every_numpy() -> None:
    """Triton 3.6's own interpreter fails here with numpy 2.4: only 0-dimensional arrays can be converted."""
    out = torch.zeros(8)
    with interpreter.use():
        loop_kernel[(1,)](torch.tensor([5]), out, 7)
    assert out.tolist() == [0, 1, 2, 3, 4, 0, 6, 0]


@triton.jit
def loop_kernel(count, out, n):
    for k in range(tl.load(count)):
        tl.store(out + k, k * 1.0)
    k = 0
    while k < n:
        if k == n - 1:
            tl.store(out + k, k * 1.0)
        k += 1
