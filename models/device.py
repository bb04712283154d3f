"""Which device a program computes on."""

from __future__ import annotations

import tinyflow
from tinyflow import profiler
from tinyflow.models.errors import InputError


def choose_device(name: str | None) -> tinyflow.device:
    """The device called ``name``; None is the GPU if there is one, else the CPU.

    Raises:
        InputError: if there is no such device, or kernels cannot run on it in this process.
    """
    try:
        device = tinyflow.get_default_device() if name is None else tinyflow.device(name)
        if device.type == "cpu" and not profiler.interpreting():
            raise InputError("to compute on the CPU of a machine with a GPU, start the program with TRITON_INTERPRET=1")
        tinyflow.zeros(1, device=device)
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(f"--device {name}: {error}") from None
    return device


def is_gpu(device: tinyflow.device) -> bool:
    """True where half precision and recorded steps make training faster."""
    return device.type == "cuda"
