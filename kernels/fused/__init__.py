"""What follows a convolution in a residual network, in as few passes over memory as it takes.

``normalise`` applies batch normalisation, residual and ReLU in one pass and takes the gradient back in two, or in one where
only the mean of each map is wanted; ``stem`` does so with a 3×3 max-pooling behind; ``pooled_stem`` is a network's stem
in one kernel, for inference, and ``head`` its mean and linear layer; ``folding`` turns batch normalisation by running
statistics into weights and a bias.
``convolution`` chooses for a convolution between passes of their own and the epilogue of one that takes boxes.

All of them see channels-last memory as a matrix of pixels by channels.
"""

from __future__ import annotations

from tinyflow.kernels.fused.folding import fold_batch_norm as fold_batch_norm
from tinyflow.kernels.fused.normalise import bias_act as bias_act
from tinyflow.kernels.fused.normalise import fits_mean as fits_mean
from tinyflow.kernels.fused.normalise import normalise_act as normalise_act
from tinyflow.kernels.fused.normalise import normalise_act_grad as normalise_act_grad
from tinyflow.kernels.fused.normalise import normalise_mean as normalise_mean
from tinyflow.kernels.fused.normalise import normalise_mean_grad as normalise_mean_grad
from tinyflow.kernels.fused.stem import normalise_pool as normalise_pool
from tinyflow.kernels.fused.stem import normalise_pool_grad as normalise_pool_grad
