"""tinyflow itself under the strict interpreter: a training step here, the whole suite on a schedule."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tinyflow
from tests.models.small_model import SmallNet
from tinyflow import nn, optim
from tinyflow.kernels import configs
from tinyflow.kernels.interpreter import checks

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["one program", "many programs"])
def tiles(request: pytest.FixtureRequest) -> Iterator[str]:
    """The CPU's tiles, one program a launch, and a GPU's, whose programs may meet."""
    with configs.planned_for_gpu() if request.param == "many programs" else contextlib.nullcontext():
        yield request.param


@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_step(tiles: str, seed: int) -> None:
    """Convolutions, batch normalisation, pooling, a linear layer, the loss, their gradients and the optimiser.

    9 images of 3x13x11: ragged in every dimension.
    """
    tinyflow.manual_seed(0)
    rng = np.random.default_rng(0)
    model = SmallNet(num_classes=5)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    x = tinyflow.tensor(rng.standard_normal((9, 3, 13, 11)).astype(np.float32))
    target = tinyflow.tensor(rng.integers(0, 5, 9))
    losses = []
    with checks.strict(seed):
        for _ in range(2):
            loss = nn.functional.cross_entropy(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        model(x)
    assert losses[1] < losses[0]


def _run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tinyflow.kernels.interpreter.pytest_plugin", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=_environment(), timeout=3000)


def _environment() -> dict[str, str]:
    left_out = ("TRITON_INTERPRET", "TINYFLOW_STRICT")
    clean = {k: v for k, v in os.environ.items() if k not in left_out and "PYTEST" not in k}
    return {**clean, "PYTHONPATH": str(_ROOT), "TINYFLOW_QUIET": "1"}


_USERS_TEST = """
import torch, triton, triton.language as tl

@triton.jit
def double(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0.0) * 2, mask=i < n + 1)

def run(n, size):
    both = torch.zeros(2 * size)
    double[(triton.cdiv(n, 16),)](both[:size], both[size:], n, BLOCK=16)

def test_sound():
    run(20, 21)

def test_faulty():
    run(20, 20)
"""


def test_the_pytest_option(tmp_path: Path) -> None:
    """A user's own tests and kernels, with no word of tinyflow in them."""
    (tmp_path / "test_kernels.py").write_text(_USERS_TEST)
    strict = _run_pytest(tmp_path, "--triton-strict", "--triton-strict-seed=3")
    assert "1 failed, 1 passed" in strict.stdout, strict.stdout + strict.stderr
    assert "out-of-bounds: this store writes 1 element past the last of 'out_ptr'" in strict.stdout
    assert f"{tmp_path / 'test_kernels.py'}:7 in double" in strict.stdout
    assert "2 passed" in _run_pytest(tmp_path).stdout


def test_the_environment_turns_it_on() -> None:
    code = "import tinyflow; from tinyflow.kernels.interpreter import checks; print(checks.enabled())"
    for value, expected in [("1", "True"), ("0", "False")]:
        environment = {**_environment(), "TINYFLOW_STRICT": value}
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
        assert result.stdout.strip() == expected


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TINYFLOW_SCHEDULED") != "1", reason="on a schedule: TINYFLOW_SCHEDULED=1 runs it")
@pytest.mark.skipif("config.getoption('--triton-strict', default=False)", reason="runs under it already")
def test_the_whole_suite() -> None:
    """Every other test, with every access of every kernel checked."""
    result = _run_pytest(_ROOT, "--triton-strict", "-m", "not slow", "tests", "--ignore=tests/interpreter")
    assert result.returncode == 0, result.stdout[-6000:]
