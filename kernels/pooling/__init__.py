"""Maxima and means over windows of an image, and their gradients.

A window is where a kernel of ``kernel_size`` lands (stride, padding, dilation, as in a convolution), or, in adaptive
pooling, rows ``⌊o·size/out⌋`` to ``⌈(o+1)·size/out⌉`` for output row ``o``, and columns likewise. A kernel serves both.

Max-pooling notes which *tap* of each window won, as ``row_in_window · KERNEL_W + column_in_window``, in one byte where
that suffices: the first of equal values wins, and a NaN wins over everything, as in torch. The gradient of an input
pixel gathers from the few windows that hold it, so nothing is scattered, no atomic is needed and results are
deterministic. Max-pooling's gradient is linear and its own derivative gathers at the taps; a mean's gradient is its
transpose.

Tiles are (pixels, channels) with channels innermost: channels-last memory is the fast path, any strides are honoured.
"""

from __future__ import annotations

from tinyflow.kernels.pooling.average import adaptive_avg_pool2d as adaptive_avg_pool2d
from tinyflow.kernels.pooling.average import avg_pool2d as avg_pool2d
from tinyflow.kernels.pooling.average import avg_pool2d_configs as avg_pool2d_configs
from tinyflow.kernels.pooling.divisor import GIVEN as GIVEN
from tinyflow.kernels.pooling.divisor import INSIDE as INSIDE
from tinyflow.kernels.pooling.divisor import WITH_PADDING as WITH_PADDING
from tinyflow.kernels.pooling.input_grad import adaptive_avg_pool2d_input_grad as adaptive_avg_pool2d_input_grad
from tinyflow.kernels.pooling.input_grad import adaptive_max_pool2d_input_grad as adaptive_max_pool2d_input_grad
from tinyflow.kernels.pooling.input_grad import avg_pool2d_input_grad as avg_pool2d_input_grad
from tinyflow.kernels.pooling.input_grad import max_pool2d_input_grad as max_pool2d_input_grad
from tinyflow.kernels.pooling.input_grad import pool2d_input_grad_configs as pool2d_input_grad_configs
from tinyflow.kernels.pooling.maximum import adaptive_max_pool2d as adaptive_max_pool2d
from tinyflow.kernels.pooling.maximum import max_pool2d as max_pool2d
from tinyflow.kernels.pooling.maximum import max_pool2d_configs as max_pool2d_configs
from tinyflow.kernels.pooling.windows import IntPair as IntPair
from tinyflow.kernels.pooling.windows import OutputSize as OutputSize
from tinyflow.kernels.pooling.winners import adaptive_max_pool2d_indices as adaptive_max_pool2d_indices
from tinyflow.kernels.pooling.winners import adaptive_max_pool2d_select as adaptive_max_pool2d_select
from tinyflow.kernels.pooling.winners import max_pool2d_indices as max_pool2d_indices
from tinyflow.kernels.pooling.winners import max_pool2d_select as max_pool2d_select
from tinyflow.kernels.pooling.winners import max_pool2d_select_configs as max_pool2d_select_configs
