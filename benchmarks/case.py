"""What is measured: a case is one piece of work that several contenders do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: One call of it does the work once; its result is compared between contenders.
Call = Callable[[], Any]
#: Makes a contender's call from the case's inputs, outside the measured time.
Setup = Callable[..., Call]

OURS, TORCH, STOCK = "tinyflow", "torch", "stock interpreter"


@dataclass(frozen=True)
class Scale:
    """How large the problems are.

    Attributes:
        elements, side, batch, image, sequence, nodes: sizes of vectors, matrices, batches, images, sequences and graphs.
        batches: those that throughput is measured at.
        dtype: of what a model's layers work on.
        half: whether models train and infer as a GPU's user has them: in mixed precision, their steps recorded; and
            beside ``torch.compile`` too.
    """

    elements: int = 1 << 20
    side: int = 1024
    batch: int = 32
    image: int = 64
    sequence: int = 256
    nodes: int = 1000
    batches: tuple[int, ...] = (1, 4, 16, 64)
    dtype: torch.dtype = torch.float32
    half: bool = False

    @property
    def tolerance(self) -> float:
        """Of a result in ``dtype``, which both contenders round."""
        return 1e-3 if self.dtype == torch.float32 else 2e-2


FULL = Scale()
QUICK = Scale(elements=1 << 10, side=32, batch=2, image=32, sequence=16, nodes=20, batches=(1, 2))
ON_GPU = Scale(
    elements=1 << 27,
    side=8192,
    batch=256,
    image=224,
    sequence=4096,
    batches=(1, 8, 32, 64, 128, 256, 512),
    dtype=torch.bfloat16,
    half=True,
)
QUICK_ON_GPU = dataclasses.replace(QUICK, dtype=torch.bfloat16, half=True)


def scale_for(device: torch.device, quick: bool) -> Scale:
    """The scale of a device's results, or of a trial."""
    if device.type == "cuda":
        return QUICK_ON_GPU if quick else ON_GPU
    return QUICK if quick else FULL


@dataclass(frozen=True)
class Input:
    """A tensor of random values: standard normal, or integers below ``below``."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    below: int | None = None

    def make(self, device: torch.device) -> torch.Tensor:
        if self.below is not None:
            return torch.randint(self.below, self.shape, device=device).to(self.dtype)
        return torch.randn(self.shape, device=device).to(self.dtype).contiguous(memory_format=self.layout)

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape)) or "scalar"
        return size if self.dtype == torch.float32 else f"{size} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Case:
    """A piece of work.

    Attributes:
        contenders: setups by name; ``tinyflow`` and ``torch`` at least. Further torch variants are named ``torch …``. One
            of torch's that does not work here is not measured; ours has to.
        inputs: what every setup is given; all contenders share the tensors.
        problem: the sizes, as the tables show them; by default those of the inputs.
        parts: how many nodes or launches one call does; times are given for one of them.
        stock: whether Triton's own interpreter is measured too, on a CPU.
        images: how many a call works through, where that is what counts.
        dtype: of the products, whose rate is their ceiling; by default that of the first input.
        on_host: whether it is the host's time that counts, on a GPU too.
        tolerance: the largest relative error between the contenders' results, in the Euclidean norm; None compares not.
    """

    family: str
    name: str
    contenders: Mapping[str, Setup]
    inputs: tuple[Input, ...] = ()
    problem: str = ""
    parts: int = 1
    stock: bool = True
    images: int = 0
    dtype: torch.dtype | None = None
    on_host: bool = False
    tolerance: float | None = 1e-3

    @property
    def key(self) -> str:
        return f"{self.family}/{self.name}"

    @property
    def sizes(self) -> str:
        return self.problem or ", ".join(map(str, self.inputs))

    @property
    def products(self) -> str:
        """The name of the products' dtype."""
        first = self.inputs[0].dtype if self.inputs else torch.float32
        return str(self.dtype or first).removeprefix("torch.")

    def calls(self, device: torch.device) -> tuple[dict[str, Call], dict[str, str]]:
        """Every contender's call, on the same seeded inputs; and why the others have none."""
        torch.manual_seed(0)
        made = [x.make(device) for x in self.inputs]
        calls, missing = {}, {}
        for name, setup in self.contenders.items():
            try:
                calls[name] = setup(*made)
            except Exception as error:
                if name == OURS:
                    raise
                missing[name] = reason(error)
        return calls, missing


def reason(error: Exception) -> str:
    """An error in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}"


def bound(function: Callable[..., Any], *settings: Any, **named: Any) -> Setup:
    """The setup of a function that is called on the inputs and on settings after them."""
    return lambda *inputs: lambda: function(*inputs, *settings, **named)


def case(
    family: str, name: str, ours: Callable[..., Any], theirs: Callable[..., Any], *inputs: Input, **settings: Any
) -> Case:
    """A case of two functions of the inputs."""
    return Case(family, name, {OURS: bound(ours), TORCH: bound(theirs)}, inputs, **settings)


def first_tensor(result: Any) -> torch.Tensor | None:
    """The tensor that stands for a call's result."""
    if isinstance(result, (tuple, list)):
        return next((t for t in map(first_tensor, result) if t is not None), None)
    if isinstance(result, torch.Tensor):
        return result.detach()
    return result.to_torch().detach() if hasattr(result, "to_torch") else None


def relative_error(ours: Any, theirs: Any) -> float:
    """‖ours − theirs‖ / ‖theirs‖ of two results; infinite where shapes differ or there is nothing to compare."""
    a, b = first_tensor(ours), first_tensor(theirs)
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def selected(cases: Sequence[Any], families: Sequence[str]) -> list[Any]:
    """The cases of the families, all for none.

    Raises:
        ValueError: for a family that does not exist.
    """
    known = list(dict.fromkeys(c.family for c in cases))
    if unknown := [f for f in families if f not in known]:
        raise ValueError(f"there is no family {unknown[0]!r}; there are {', '.join(known)}")
    return [c for c in cases if not families or c.family in families]
