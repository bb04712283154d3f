"""One line of the table of operations: what to call, on which inputs, and torch's word for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import tinyflow
from tinyflow import ops

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

Input = Any  # a shape (random numbers), or a numpy array (as it is: indices, masks), or None


@dataclass(frozen=True)
class Case:
    """One operation on one set of inputs."""

    name: str
    inputs: tuple[Input, ...]
    torch: Callable[..., Any]
    params: dict[str, Any] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    spaced: bool = False
    dtypes: Sequence[torch.dtype] = FLOATING
    length: int = 1
    gradient: bool = True
    second: bool = True
    output: int | None = None
    label: str = ""

    @property
    def id(self) -> str:
        shapes = "-".join(
            "x".join(map(str, x)) if isinstance(x, tuple) else "data" for x in self.inputs if x is not None
        )
        return "-".join(p for p in (self.name, self.label, shapes) if p)

    def function(self) -> Callable[..., Any]:
        """Ours, by its name: exported by tinyflow, or an operation of a family."""
        found = getattr(tinyflow, self.name, None)
        for family in ops.FAMILIES:
            found = found or getattr(family, self.name, None)
        if found is None:
            raise LookupError(f"no operation is called {self.name}")
        return found

    def arrays(self, dtype: torch.dtype) -> list[torch.Tensor | None]:
        """The inputs as torch CPU tensors, random ones rounded to ``dtype``."""
        random = np.random.default_rng(sum(map(ord, self.id)))
        made: list[torch.Tensor | None] = []
        for position, x in enumerate(self.inputs):
            if x is None:
                made.append(None)
            elif isinstance(x, tuple):
                made.append(torch.from_numpy(self._draw(random, x, position)).to(dtype))
            else:
                value = torch.as_tensor(x)
                made.append(value.to(dtype) if value.is_floating_point() else value)
        return made

    def _draw(self, random: np.random.Generator, shape: tuple[int, ...], position: int) -> np.ndarray:
        if self.spaced:  # no two values within a finite difference of each other: for maxima and orderings
            n = int(np.prod(shape))
            return ((random.permutation(n) - n / 2 + position / 4) / 4).reshape(shape)
        if self.low is None and self.high is None:
            return random.standard_normal(shape)
        return random.uniform(-1.0 if self.low is None else self.low, 1.0 if self.high is None else self.high, shape)

    def pick(self, results: Any) -> Any:
        """The one output that is compared and differentiated."""
        return results if self.output is None else results[self.output]


def case(name: str, inputs: Sequence[Input], *, torch: Callable[..., Any], **options: Any) -> Case:
    """``case("add", ((2, 3), (3,)), torch=torch.add)``: options are those of :class:`Case`, the rest arguments of the op.

    Inputs are shapes (random values) or arrays (used as they are). ``low``/``high`` bound the random values, ``spaced``
    keeps them apart, ``length`` is the number of terms summed, ``second=False`` says that there is no second derivative to
    compare, ``output`` picks one of several results.
    """
    known = {
        k: options.pop(k)
        for k in list(options)
        if k in Case.__dataclass_fields__ and k not in ("name", "inputs", "torch", "params")
    }
    return Case(name, tuple(inputs), torch, options, **known)
