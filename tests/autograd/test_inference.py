"""Inference mode: tensors whose changes nobody counts, and what may be done with them outside."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import tinyflow

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


@BOTH
def test_new_tensors_are_inference_tensors(m: Any) -> None:
    w = m.ones(2, requires_grad=True)
    with m.inference_mode():
        x = m.ones(2)
        y = w * x
        assert m.is_inference_mode_enabled() and x.is_inference() and y.is_inference() and not y.requires_grad
        assert y[0].is_inference() and y.detach().is_inference() and y.view(2, 1).is_inference()
        assert not w[0].is_inference() and not w.is_inference(), "a view is what its base is"
        x.add_(1)
        x[0] = 5.0
    assert not m.is_inference_mode_enabled() and x.tolist() == [5.0, 2.0]
    assert y[0].is_inference() and not (y * 1).is_inference() and not y.clone().is_inference()
    with pytest.raises(RuntimeError, match="Inference tensors do not track version counter"):
        _ = y._version


@BOTH
def test_what_is_refused_outside(m: Any) -> None:
    w = m.ones(2, requires_grad=True)
    with m.inference_mode():
        x = m.ones(2)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        w * x
    assert (w + x).requires_grad, "an addition saves nothing"
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode is not allowed"):
        x.add_(1)
    with pytest.raises(RuntimeError, match="Setting requires_grad=True on inference tensor outside InferenceMode"):
        x.requires_grad_()
    y = (w * x.clone()).sum()
    y.backward()
    assert w.grad.tolist() == x.tolist()


@BOTH
def test_normal_tensors_inside(m: Any) -> None:
    x = m.ones(2)
    w = m.ones(2, requires_grad=True)
    with m.inference_mode():
        before = x._version
        x.add_(1)
        assert x._version == before + 1 and x.tolist() == [2.0, 2.0] and not x.is_inference()
        w.add_(1)
        with m.enable_grad():
            assert not (w * 2).requires_grad, "nothing is recorded in inference mode"
        with m.inference_mode(False):
            assert (w * 2).requires_grad and not m.ones(1).is_inference() and m.is_grad_enabled()
        with m.no_grad():
            assert m.is_inference_mode_enabled()
    assert w.requires_grad and w.is_leaf and w.tolist() == [2.0, 2.0]


def test_mode_is_a_threads_own() -> None:
    seen: list[bool] = []
    with tinyflow.inference_mode():
        thread = threading.Thread(target=lambda: seen.append(tinyflow.ones(1).is_inference()))
        thread.start()
        thread.join()
    assert seen == [False]


def test_a_module_runs_in_it_and_trains_afterwards() -> None:
    from tinyflow import nn

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    x = tinyflow.ones(5, 3)
    with tinyflow.inference_mode():
        assert model(x).is_inference()
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
