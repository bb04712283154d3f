"""A convolution and the batch normalisation behind it: their settings, and the statistics to normalise by."""

from __future__ import annotations

from typing import NamedTuple

from tinyflow.kernels import arithmetic, conv2d, dtypes, elementwise
from tinyflow.kernels.fused import convolution
from tinyflow.kernels.fused.convolution import Statistics, Window
from tinyflow.kernels.memory import Buffer
from tinyflow.tensor import Tensor


class Batch(NamedTuple):
    """How a convolution and the batch normalisation behind it are set."""

    window: Window
    training: bool
    momentum: float
    eps: float


def statistics(
    x: Buffer,
    conv_weight: Buffer,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    num_batches: Buffer | None,
    batch: Batch,
    rounds: bool = False,
) -> Statistics:
    """The convolution's result, and the mean and invstd to normalise it by; ``rounds`` as in ``conv2d_statistics``."""
    window, training, momentum, eps = batch
    if training:
        running = (running_mean, running_var)
        return convolution.conv2d_statistics(x, conv_weight, window, *running, momentum, eps, num_batches, rounds)
    z = conv2d.conv2d(x, conv_weight, None, *window)
    wide = dtypes.accumulate_dtype(z.dtype)
    assert running_mean is not None and running_var is not None
    mean, var = (v if v.dtype == wide else elementwise.copy(v, wide) for v in (running_mean, running_var))
    return Statistics(z, mean, arithmetic.rsqrt(arithmetic.add(var, eps)), None)


def check_running(training: bool, running_mean: Tensor | None, running_var: Tensor | None) -> None:
    if not training and (running_mean is None or running_var is None):
        raise RuntimeError("conv_bn_act: expected running_mean and running_var when training=False")


def record_batch(training: bool, *running: Tensor | None) -> None:
    """Notes that a training batch changed what it updates in place."""
    for statistic in running:
        if training and statistic is not None:
            statistic._bump_version()
