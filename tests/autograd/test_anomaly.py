"""Anomaly mode: errors of the backward pass that say where the forward pass was, and NaN."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch

import tinyflow
from tinyflow import autograd

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


class Fails(autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        raise ZeroDivisionError("inside")


def called_from_here(x: Any) -> Any:
    return Fails.apply(x)


def notes_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_error_names_the_call_of_the_forward_pass() -> None:
    x = tinyflow.ones(2, requires_grad=True)
    with autograd.detect_anomaly():
        y = called_from_here(x)
        with pytest.raises(ZeroDivisionError) as caught:
            y.sum().backward()
    assert "Error detected in FailsBackward" in notes_of(caught.value)
    assert "called_from_here" in notes_of(caught.value)
    y = called_from_here(x)
    with pytest.raises(ZeroDivisionError) as caught, autograd.detect_anomaly():
        y.sum().backward()
    assert "No forward pass information available" in notes_of(caught.value)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_error_in_a_second_derivative_names_both_calls() -> None:
    """The failing node was recorded by a backward pass, which another call of the forward pass led to."""

    class Once(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return called_from_here(g * ctx.saved_tensors[0])

    x = tinyflow.ones(1, requires_grad=True)
    with autograd.detect_anomaly():
        (g,) = autograd.grad(Once.apply(x), x, create_graph=True)
        with pytest.raises(ZeroDivisionError) as caught:
            g.backward()
    notes = notes_of(caught.value)
    assert "called_from_here" in notes
    assert notes.index("FailsBackward") < notes.index("induced by the following one") < notes.index("in OnceBackward")


@BOTH
@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in SqrtBackward0")
def test_nan_is_an_error_that_names_the_operation(m: Any) -> None:
    x = m.zeros(2, requires_grad=True)

    def nan() -> Any:
        return (m.sqrt(x * 1) * 0).sum()

    nan().backward()
    assert x.grad.isnan().all()
    message = "Function 'SqrtBackward0' returned nan values in its 0th output"
    with m.autograd.detect_anomaly(), pytest.raises(RuntimeError, match=message):
        nan().backward()
    with m.autograd.detect_anomaly(check_nan=False):
        nan().backward()


@BOTH
def test_the_switch(m: Any) -> None:
    with m.autograd.set_detect_anomaly(True, check_nan=False):
        assert m.is_anomaly_enabled() and not m.is_anomaly_check_nan_enabled()
    assert not m.is_anomaly_enabled()


def test_the_mode_is_a_threads_own_and_warns_of_its_cost() -> None:
    seen: list[bool] = []
    with pytest.warns(UserWarning, match="should only be enabled for debugging"):
        mode = autograd.detect_anomaly()
    with mode:
        thread = threading.Thread(target=lambda: seen.append(autograd.is_anomaly_enabled()))
        thread.start()
        thread.join()
        assert autograd.is_anomaly_enabled() and autograd.is_anomaly_check_nan_enabled()
    assert seen == [False]


def test_nothing_is_noted_outside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with autograd.detect_anomaly():
            pass
    node = (tinyflow.ones(1, requires_grad=True) * 2).grad_fn
    assert node.metadata == {}
