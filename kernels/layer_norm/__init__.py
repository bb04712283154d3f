"""Normalisation of rows: layer, group, instance and root-mean-square norm are one kernel, forward and backward.

    y = (x − mean) · invstd · weight + bias        invstd = 1 / √(var + eps)

A *row* is a position in the first ``lead`` dimensions; mean and variance are those of its elements, its *columns*. A
root-mean-square norm (Zhang & Sennrich 2019) leaves the mean out: 0 stands in its place. Weight and bias broadcast to
``x``, so that they may follow rows, columns or both: the walk through memory gives them strides like any operand.

A row that fits one tile is read once, its variance taken from deviations. In a longer one every lane of the tile follows
its own columns (Welford 1962) and the lanes are merged at the end (Chan, Golub & LeVeque 1983), so a large mean costs no
precision. With u = g · weight, x̂ = (x − mean) · invstd and ⟨·⟩ the mean over a row (Ba, Kiros & Hinton 2016):

    grad_x = invstd · (u − ⟨u⟩ − x̂⟨u x̂⟩)      grad_weight = Σ g x̂      grad_bias = Σ g      (without ⟨u⟩ if not centred)
"""

from tinyflow.kernels.layer_norm.forward import layer_norm as layer_norm
from tinyflow.kernels.layer_norm.forward import layer_norm_configs as layer_norm_configs
from tinyflow.kernels.layer_norm.input_grad import layer_norm_input_grad as layer_norm_input_grad
from tinyflow.kernels.layer_norm.input_grad import layer_norm_input_grad_configs as layer_norm_input_grad_configs
from tinyflow.kernels.layer_norm.parameter_grad import layer_norm_parameter_grad as layer_norm_parameter_grad
from tinyflow.kernels.layer_norm.parameter_grad import (
    layer_norm_parameter_grad_configs as layer_norm_parameter_grad_configs,
)
