"""Batch normalisation by given statistics, residual and ReLU in one pass, and the way back in two.

    y = act((x − mean) · invstd · weight + bias + residual)        act: ReLU, or none

With ``m`` the ReLU's mask and h = m·g, the gradient of ``residual`` is h and

    grad_bias = Σ h      grad_weight = Σ h·x̂      grad_x = weight · invstd · (h − (grad_bias + x̂ · grad_weight) / n)

(Ioffe & Szegedy 2015, section 3). A reduction pass makes the two sums of h as it is rounded. Without a residual the mask
is recomputed from ``x``, in the same arithmetic and rounding as forward, so that neither ``y`` is read nor h written; with
one the mask comes from ``y``, and h is written once, for the residual and for the second pass.

``forward`` and ``gradients`` are the passes; ``mean`` is all of it where only the mean of each map is wanted; ``images`` is
what they share.
"""

from __future__ import annotations

from tinyflow.kernels.fused.normalise.forward import bias_act as bias_act
from tinyflow.kernels.fused.normalise.forward import normalise_act as normalise_act
from tinyflow.kernels.fused.normalise.forward import normalise_configs as normalise_configs
from tinyflow.kernels.fused.normalise.gradients import Sums as Sums
from tinyflow.kernels.fused.normalise.gradients import finished_sums as finished_sums
from tinyflow.kernels.fused.normalise.gradients import gradient_sums_configs as gradient_sums_configs
from tinyflow.kernels.fused.normalise.gradients import input_grad_configs as input_grad_configs
from tinyflow.kernels.fused.normalise.gradients import normalise_act_grad as normalise_act_grad
from tinyflow.kernels.fused.normalise.gradients import normalise_act_gradient_sums as normalise_act_gradient_sums
from tinyflow.kernels.fused.normalise.images import NO_ACT as NO_ACT
from tinyflow.kernels.fused.normalise.images import RELU as RELU
from tinyflow.kernels.fused.normalise.images import Norm as Norm
from tinyflow.kernels.fused.normalise.images import check_images as check_images
from tinyflow.kernels.fused.normalise.images import image as image
from tinyflow.kernels.fused.normalise.images import relu as relu
from tinyflow.kernels.fused.normalise.mean import fits_mean as fits_mean
from tinyflow.kernels.fused.normalise.mean import mean_configs as mean_configs
from tinyflow.kernels.fused.normalise.mean import mean_gradient_sums_configs as mean_gradient_sums_configs
from tinyflow.kernels.fused.normalise.mean import mean_input_grad_configs as mean_input_grad_configs
from tinyflow.kernels.fused.normalise.mean import normalise_mean as normalise_mean
from tinyflow.kernels.fused.normalise.mean import normalise_mean_grad as normalise_mean_grad
