"""What works on the parameters of modules: bounds on gradients, parametrisations, folding, one vector of all of them."""

from tinyflow.nn.utils import parametrizations as parametrizations
from tinyflow.nn.utils import parametrize as parametrize
from tinyflow.nn.utils import rnn as rnn
from tinyflow.nn.utils.clip_grad import clip_grad_norm_ as clip_grad_norm_
from tinyflow.nn.utils.clip_grad import clip_grad_value_ as clip_grad_value_
from tinyflow.nn.utils.clip_grad import clip_grads_with_norm_ as clip_grads_with_norm_
from tinyflow.nn.utils.clip_grad import get_total_norm as get_total_norm
from tinyflow.nn.utils.convert_parameters import parameters_to_vector as parameters_to_vector
from tinyflow.nn.utils.convert_parameters import vector_to_parameters as vector_to_parameters
from tinyflow.nn.utils.fusion import fuse_conv_bn_eval as fuse_conv_bn_eval
from tinyflow.nn.utils.fusion import fuse_conv_bn_weights as fuse_conv_bn_weights
from tinyflow.nn.utils.fusion import fuse_linear_bn_eval as fuse_linear_bn_eval
from tinyflow.nn.utils.fusion import fuse_linear_bn_weights as fuse_linear_bn_weights
