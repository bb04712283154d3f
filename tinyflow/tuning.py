"""Which kernel configurations a model's step asks for, and which of them are fastest on a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyflow.kernels import memory, tuned
from tinyflow.kernels.configs import Configs
from tinyflow.kernels.tuning import Call, Problem, Trial, problems, search
from tinyflow.ops import define


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Collects the launchers that operations call in a block, with their arguments, those that do the same once."""
    calls: dict[str, Call] = {}

    def observe(op: define.Op, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        call = Call(op.launcher, tuple(args), dict(named))
        calls.setdefault(call.label, call)

    found: list[Call] = []
    define.launch_observers.append(observe)
    try:
        yield found
    finally:
        define.launch_observers.remove(observe)
        found.extend(calls.values())


def table_of(device: str | memory.device | None) -> Path:
    """Where the table lies that ships for a device."""
    return tuned.FOLDER / tuned.file_name(memory.device_name(memory.as_device(device)))


def read(path: Path, device: str) -> Mapping[str, Mapping[str, Any]]:
    """The table at ``path`` by kernel and problem; empty where there is none.

    Raises:
        ValueError: if the table is another device's, or no table.
    """
    return tuned.read(path, device)


def write(path: Path, device: str, versions: Mapping[str, str], problem: Problem, best: Trial) -> None:
    """Puts the winner of a problem into the table at ``path``, for this process too.

    Raises:
        ValueError: if the table is another device's, or no table.
    """
    assert best.seconds is not None
    entry = {
        "blocks": dict(best.config.blocks),
        "num_warps": best.config.num_warps,
        "num_stages": best.config.num_stages,
        "us": round(best.seconds * 1e6, 3),
    }
    tuned.write(path, device, versions, {problem.configs.kernel: {problem.problem: entry}})
    problem.configs.forget_tables()


__all__ = ["Call", "Configs", "Problem", "Trial", "problems", "read", "recorded", "search", "table_of", "write"]
