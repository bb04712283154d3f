"""Random kernels leave the same bytes under both interpreters: a short run here, a long one by command:

python -m tests.interpreter.fuzz --kernels 10000          # the long run, which notes its result in a file
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.interpreter import fuzz
from tinyflow.kernels.interpreter import arithmetic, expressions, forms

_KERNELS = 40


def test_random_kernels_agree() -> None:
    outcome = fuzz.compare(_KERNELS, seed=1)
    assert outcome.different == []
    assert outcome.kernels == _KERNELS
    assert outcome.both_raise <= outcome.kernels // 10, "kernels that raise test little"


def test_random_kernels_agree_where_tiles_are_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of any size are noted and computed later, in blocks, as else only large ones are."""
    monkeypatch.setattr(arithmetic, "LEAST_SIZE", 16)
    monkeypatch.setattr(expressions, "BLOCK_SIZE", 64)
    outcome = fuzz.compare(_KERNELS, seed=2)
    assert outcome.different == []
    assert outcome.kernels == _KERNELS


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding index expressions goes wrong by one where both vary along the same axis."""
    right = forms.add

    def wrong(a: Any, b: Any, scale: int = 1) -> Any:
        total = right(a, b, scale)
        total.constant += len(a.varying()) == 2
        return total

    monkeypatch.setattr(forms, "add", wrong)
    assert fuzz.compare(_KERNELS, seed=1).different


def test_a_kernel_depends_on_its_seed_alone() -> None:
    assert fuzz.write_module(3, 5) == fuzz.write_module(3, 5)
    assert fuzz.write_module(3, 5) != fuzz.write_module(3, 6)
    assert fuzz.write_module(4, 5).startswith(fuzz.write_module(3, 5))
