"""``tinyflow info``: where tinyflow computes, with what, what a model consists of, and what it costs."""

from __future__ import annotations

import functools
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import tinyflow
from tinyflow import nn, profiler
from tinyflow.models.catalogue import build
from tinyflow.models.config import Info
from tinyflow.models.errors import InputError, check_positive, one_line
from tinyflow.nn import fusion
from tinyflow.optim import SGD
from tinyflow.profiler import Ceilings, Layer

_PACKAGES = ("torch", "triton", "numpy", "safetensors")


def info(config: Info) -> int:
    """Runs the program; returns its exit code.

    Raises:
        InputError: if there is no such model, or it does not take such images.
    """
    check_positive(config, "image_size", "batch_size", "classes")
    gpu = _ceilings(config)
    layers = count(config)
    if config.json:
        rows = [asdict(row) for row in _rows(layers, gpu, config.dtype)]
        counts = {"model": config.model, "layers": rows, "floor": _floor(layers, gpu, config)}
        print(json.dumps({**environment(), **counts}))
        return 0
    console = Console(highlight=False)
    console.print(_environment_table(environment()))
    console.print(_layer_table(layers, gpu, config))
    console.print(_floor_line(layers, gpu, config), soft_wrap=True)
    return 0


def environment() -> dict[str, str]:
    """Device, mode and versions."""
    device = tinyflow.get_default_device()
    name = profiler.device_name(device)
    return {
        "device": str(device) if name == device.type else f"{device} ({name})",
        "mode": "Triton's interpreter on the CPU" if profiler.interpreting() else "kernels compiled for the GPU",
        "tinyflow": tinyflow.__version__,
        **{name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
    }


def count(config: Info) -> list[Layer]:
    """The layers of the model with their launches, on the ``meta`` device: nothing is computed, no memory taken.

    Raises:
        InputError: if the model does not take such images.
    """
    before = tinyflow.get_default_device()
    tinyflow.set_default_device("meta")
    try:
        with fusion.fused(config.fused), _ceilings(config).assumed():
            return _count(config)
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        size = f"{config.batch_size} images of {config.image_size}×{config.image_size}"
        raise InputError(f"{config.model} does not take {size}: {one_line(error)}") from None
    finally:
        tinyflow.set_default_device(before)


def _count(config: Info) -> list[Layer]:
    dtype = getattr(tinyflow, config.dtype)
    model = build(config.model, config.classes).to(dtype).train(config.train)
    images = tinyflow.empty((config.batch_size, 3, config.image_size, config.image_size), dtype=dtype)
    watched = functools.partial(_stands_alone, train=config.train) if config.fused else lambda module: True
    if not config.train:
        return profiler.summarise(model, images, watched=watched)
    labels = tinyflow.empty((config.batch_size,), dtype=tinyflow.int64)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    return profiler.summarise(model, images, lambda y: nn.functional.cross_entropy(y, labels), optimizer, watched)


def _stands_alone(module: nn.Module, train: bool) -> bool:
    """True for what is not fused with its neighbours."""
    fused: list[type[nn.Module]] = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    fused += [nn.AdaptiveAvgPool2d] if train else []
    return not isinstance(module, (*fused, nn.Sequential))


@dataclass(frozen=True)
class Row:
    """What is shown of a layer; a multiplication and an addition are two FLOPs, ``bytes`` the least that it must move.

    Times in ms are the least that a GPU takes; for bytes alone where its rate of products is not known.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    flops: int
    bytes: int
    backward_flops: int
    backward_bytes: int
    floor: float


def _rows(layers: Sequence[Layer], gpu: Ceilings, dtype: str) -> list[Row]:
    rows = []
    for layer in layers:
        forward, backward = profiler.total(layer.forward), profiler.total(layer.backward)
        counts = layer.parameters, forward.flops, forward.bytes, backward.flops, backward.bytes
        rows.append(Row(layer.name, layer.kind, layer.output, *counts, _milliseconds([layer], gpu, dtype)))
    return rows


def _ceilings(config: Info) -> Ceilings:
    known = profiler.known_ceilings()
    name = config.gpu or "h100"
    if name not in known:
        raise InputError(f"--gpu: no rates of {name!r} were measured; expected one of {', '.join(known)}")
    return known[name]


def _milliseconds(layers: Sequence[Layer], gpu: Ceilings, dtype: str) -> float:
    """The least time of all launches; by their bytes alone where no rate of the dtype's products was measured."""
    records = [record for layer in layers for record in layer.forward + layer.backward]
    if dtype not in gpu.flops:
        return profiler.total(records).bytes / gpu.bandwidth * 1e3
    return gpu.floor(records, dtype) * 1e3


def _floor(layers: Sequence[Layer], gpu: Ceilings, config: Info) -> dict[str, Any]:
    """The least time of all launches, and the rates that it comes from."""
    time = _milliseconds(layers, gpu, config.dtype)
    return {
        "device": gpu.device,
        "ms": time,
        "images_per_second": config.batch_size / time * 1e3,
        "flops_per_second": gpu.flops.get(config.dtype),
        "bytes_per_second": gpu.bandwidth,
        "source": gpu.source,
    }


def _floor_line(layers: Sequence[Layer], gpu: Ceilings, config: Info) -> str:
    time, rate = _milliseconds(layers, gpu, config.dtype), gpu.flops.get(config.dtype)
    products = f"no rate of {config.dtype} products" if rate is None else f"{rate / 1e12:.0f} TFLOP/s"
    rates = f"{products}, {gpu.bandwidth / 1e12:.1f} TB/s"
    return f"least time on {gpu.device} ({rates}): {time:.2f} ms, {config.batch_size / time * 1e3:,.0f} images/s"


def _environment_table(facts: dict[str, str]) -> Table:
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _layer_table(layers: Sequence[Layer], gpu: Ceilings, config: Info) -> Table:
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    what = ("fused " if config.fused else "") + ("training step" if config.train else "forward pass")
    title = f"\n{config.model}, {what}, {config.dtype}, input {_times(shape)}"
    table = Table(title=title, title_justify="left", show_footer=True, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.pad_edge = False
    rows = _rows(layers, gpu, config.dtype)
    for name, footer in (("layer", "all"), ("kind", ""), ("output", "")):
        # the numbers of a training step leave less room: then it is the words that give way
        table.add_column(name, footer=footer, no_wrap=not config.train or name == "layer", overflow="ellipsis")
    columns = {"params": "parameters", "FLOPs": "flops", "bytes": "bytes"}
    if config.train:
        columns |= {"FLOPs back": "backward_flops", "bytes back": "backward_bytes"}
    for heading, field in columns.items():
        total = sum(getattr(row, field) for row in rows)
        table.add_column(heading, short(total), justify="right", no_wrap=True)
    table.add_column("ms", f"{sum(row.floor for row in rows):.2f}", justify="right", no_wrap=True)
    for row in rows:
        numbers = [short(n) if n else "" for n in (getattr(row, field) for field in columns.values())]
        table.add_row(row.name, row.kind, _times(row.output), *numbers, f"{row.floor:.3f}")
    return table


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def short(number: int) -> str:
    """A count in four digits and a thousand's letter."""
    value, letter = float(number), ""
    for letter in ("", "k", "M", "G", "T"):
        if value < 999.5 or letter == "T":
            break
        value /= 1000
    return f"{value:.4g}{letter}" if letter else str(number)
