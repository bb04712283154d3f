"""The switch: no_grad, enable_grad, set_grad_enabled, inference_mode; one for each thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import tinyflow

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


@BOTH
def test_contexts_nest_and_restore(m: Any) -> None:
    assert m.is_grad_enabled()
    with m.no_grad():
        assert not m.is_grad_enabled()
        with m.enable_grad():
            assert m.is_grad_enabled()
        assert not m.is_grad_enabled()
        with m.set_grad_enabled(True):
            assert m.is_grad_enabled()
        assert not m.is_grad_enabled()
    with m.inference_mode():
        assert not m.is_grad_enabled()
    with m.inference_mode(False):
        assert m.is_grad_enabled()
    assert m.is_grad_enabled()


@BOTH
def test_restored_after_an_error(m: Any) -> None:
    with pytest.raises(ZeroDivisionError), m.no_grad():
        raise ZeroDivisionError
    assert m.is_grad_enabled()


@BOTH
def test_decorators(m: Any) -> None:
    @m.no_grad()
    def off(x: Any, *, k: int = 2) -> Any:
        """Doubles."""
        return x * k

    @m.set_grad_enabled(False)
    def also_off(x: Any) -> Any:
        return x * 2

    @m.inference_mode()
    def inference(x: Any) -> Any:
        return x * 2

    @m.enable_grad()
    def on(x: Any) -> Any:
        return x * 2

    assert m.is_grad_enabled(), "a decorator changes nothing where it is applied"
    x = m.ones(1, requires_grad=True)
    assert off.__name__ == "off" and off.__doc__ == "Doubles." and off(x, k=3).item() == 3.0
    assert not off(x).requires_grad and not also_off(x).requires_grad and not inference(x).requires_grad
    with m.no_grad():
        assert on(x).requires_grad
    assert off(x, k=1).item() == 1.0 and m.is_grad_enabled(), "again"


@BOTH
def test_decorator_without_parentheses(m: Any) -> None:
    @m.no_grad
    def off(x: Any) -> Any:
        return x * 2

    @m.inference_mode
    def inference(x: Any) -> Any:
        return x * 2

    x = m.ones(1, requires_grad=True)
    assert not off(x).requires_grad and not inference(x).requires_grad and m.is_grad_enabled()


@BOTH
def test_decorated_generator_runs_in_its_mode_and_its_caller_in_another(m: Any) -> None:
    @m.no_grad()
    def modes() -> Any:
        for _ in range(2):
            yield m.is_grad_enabled()

    for inside in modes():
        assert not inside and m.is_grad_enabled()


@BOTH
def test_set_grad_enabled_as_a_statement(m: Any) -> None:
    try:
        m.set_grad_enabled(False)
        assert not m.is_grad_enabled() and not (m.ones(1, requires_grad=True) * 2).requires_grad
    finally:
        m.set_grad_enabled(True)
    assert m.is_grad_enabled()


@BOTH
def test_each_thread_has_its_own(m: Any) -> None:
    seen: list[bool] = []
    with m.no_grad():
        thread = threading.Thread(target=lambda: seen.append(m.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_nothing_is_saved_without_recording() -> None:
    x = tinyflow.ones(1, requires_grad=True)
    with tinyflow.no_grad():
        y = (x * x).view(1)[0]
    assert y.grad_fn is None and y.is_leaf
    x.requires_grad = False
    assert (x * x).grad_fn is None
