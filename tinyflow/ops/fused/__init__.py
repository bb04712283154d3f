"""A convolution, its batch normalisation, a residual and ReLU as one operation; with a network's pooling at either end.

``block`` is what residual blocks are made of, ``stem`` has a max-pooling behind and ``head`` the mean of whole maps;
``folded`` is all of that for inference, where batch normalisation is in the weights. ``batch`` and ``gradients`` are what
they share forwards and backwards. The derivative of gradients goes through the unfused operations.

Where such operations follow one another, a gradient may arrive at the lower one with its work done: the upper one's
input gradient has passed the lower one's ReLU, and brings the sums of its batch normalisation. Such a gradient is a
*delivery*. It counts only while it is the very tensor, unchanged, that arrives; passing the mask once more changes nothing,
so a sum of several gradients is right too. Nobody may look on: with a hook there, gradients stay as they are.
"""

from __future__ import annotations

from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.fused.convolution import Window as Window
from tinyflow.ops.fused.batch import Batch as Batch
from tinyflow.ops.fused.block import Branch as Branch
from tinyflow.ops.fused.block import conv_bn_act as conv_bn_act
from tinyflow.ops.fused.block import conv_bn_act_fork as conv_bn_act_fork
from tinyflow.ops.fused.block import conv_bn_joined as conv_bn_joined
from tinyflow.ops.fused.folded import Folded as Folded
from tinyflow.ops.fused.folded import conv_act as conv_act
from tinyflow.ops.fused.folded import conv_joined as conv_joined
from tinyflow.ops.fused.folded import conv_relu_pool as conv_relu_pool
from tinyflow.ops.fused.folded import few_means as few_means
from tinyflow.ops.fused.folded import mean_linear as mean_linear
from tinyflow.ops.fused.head import averages as averages
from tinyflow.ops.fused.head import conv_bn_act_mean as conv_bn_act_mean
from tinyflow.ops.fused.stem import conv_bn_relu_pool as conv_bn_relu_pool

METHODS: list[str] = []
__all__: list[str] = []


def saves_time() -> bool:
    """True where fused operations are the faster ones: on a GPU, be it a planned one."""
    return not interpreting()
