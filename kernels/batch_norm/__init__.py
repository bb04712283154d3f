"""Batch normalisation over every dimension but the channels, with its gradient.

    y = (x − mean) · invstd · weight + bias        invstd = 1 / √(var + eps)

In training ``mean`` and ``var`` are those of the batch: a first kernel gives every split of the pixels its mean and its
sum of squared deviations (Welford 1962), a second merges the splits in fixed order (Chan, Golub & LeVeque 1983,
"Algorithms for computing the sample variance"), so that a large mean costs no precision and padded lanes never count.
The gradient (Ioffe & Szegedy 2015, section 3), with x̂ = (x − mean) · invstd over ``n`` pixels, needs one pass for its
two sums and one for the result:

    grad_bias = Σ g      grad_weight = Σ g·x̂      grad_x = weight · invstd · (g − (grad_bias + x̂ · grad_weight) / n)

In the interpreter, where a launch costs more than its work, a program whose one tile holds all pixels of its channels
goes on from its sums to the result, forward and backward.

A *pixel* is a position in all dimensions but the channels. Memory with the channels innermost is the fast path.

``statistics`` and ``finish_statistics`` are the two kernels of a batch's statistics, ``forward`` applies them or given
ones; ``gradient_sums`` and ``input_grad`` are the way back. They share ``tiles``, what a kernel does for the channels of
a tile, ``plans``, how pixels are shared out, and ``operands``, checks and the walk through memory.
"""

from __future__ import annotations

from tinyflow.kernels.batch_norm.forward import apply_configs as apply_configs
from tinyflow.kernels.batch_norm.forward import batch_norm as batch_norm
from tinyflow.kernels.batch_norm.forward import batch_norm_inference as batch_norm_inference
from tinyflow.kernels.batch_norm.gradient_sums import Affine as Affine
from tinyflow.kernels.batch_norm.gradient_sums import finish_gradient_sums as finish_gradient_sums
from tinyflow.kernels.batch_norm.gradient_sums import gradient_sums_configs as gradient_sums_configs
from tinyflow.kernels.batch_norm.input_grad import batch_norm_grad as batch_norm_grad
from tinyflow.kernels.batch_norm.input_grad import input_grad_configs as input_grad_configs
from tinyflow.kernels.batch_norm.plans import finish_config as finish_config
from tinyflow.kernels.batch_norm.plans import pixel_splits as pixel_splits
from tinyflow.kernels.batch_norm.statistics import batch_norm_statistics as batch_norm_statistics
from tinyflow.kernels.batch_norm.statistics import statistics_configs as statistics_configs
from tinyflow.kernels.batch_norm.tiles import channel_values as channel_values
