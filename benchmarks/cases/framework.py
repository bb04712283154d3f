"""What is neither arithmetic nor memory traffic: the engine's time for a node, the launcher's for a launch."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

import tinyflow
from benchmarks.case import OURS, TORCH, Call, Case, Input, Scale
from tinyflow.kernels.launch import Config, Cost, launch


def cases(scale: Scale) -> list[Case]:
    return [*_engine(scale), _launcher()]


def _engine(scale: Scale) -> list[Case]:
    """A chain of multiplications: on memory that holds nothing for us, of one number for torch."""

    def case(name: str, ours: Call, theirs: Call) -> Case:
        return Case(
            "engine",
            name,
            {OURS: lambda: ours, TORCH: lambda: theirs},
            problem=f"{scale.nodes} nodes",
            parts=scale.nodes,
            stock=False,
            on_host=True,
            tolerance=None,
        )

    leaf = tinyflow.empty((), device="meta", requires_grad=True)
    torch_leaf = torch.ones((), requires_grad=True)
    end, torch_end = _chain(leaf, scale.nodes), _chain(torch_leaf, scale.nodes)
    frozen, torch_frozen = leaf.detach(), torch_leaf.detach()
    return [
        case(
            "multiply, nothing recorded",
            lambda: _chain(frozen, scale.nodes),
            lambda: _chain(torch_frozen, scale.nodes),
        ),
        case("forward", lambda: _chain(leaf, scale.nodes), lambda: _chain(torch_leaf, scale.nodes)),
        case("backward", lambda: end.backward(retain_graph=True), lambda: torch_end.backward(retain_graph=True)),
    ]


def _chain(x: Any, length: int) -> Any:
    for _ in range(length):
        x = x * 0.5
    return x


@triton.jit
def one_store_kernel(out_ptr):  # type: ignore[no-untyped-def]  # typed at its launch
    tl.store(out_ptr, 1.0)


def launch_one_store(x: torch.Tensor) -> None:
    launch(one_store_kernel, (1,), x, config=Config({}, num_warps=1), cost=Cost(0, 4), device=x.device)


def _launcher() -> Case:
    """A kernel that stores one number, beside torch's smallest write."""
    launches = 20

    def ours(x: torch.Tensor) -> Call:
        def call() -> torch.Tensor:
            for _ in range(launches):
                launch_one_store(x)
            return x

        return call

    def theirs(x: torch.Tensor) -> Call:
        def call() -> torch.Tensor:
            for _ in range(launches):
                x.fill_(1.0)
            return x

        return call

    return Case(
        "launcher",
        "one store",
        {OURS: ours, TORCH: theirs},
        (Input((1,)),),
        problem=f"{launches} launches",
        parts=launches,
        on_host=True,
    )
