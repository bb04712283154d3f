"""tinyflow: a deep-learning framework whose every floating-point operation is a Triton kernel of its own."""

from __future__ import annotations

__version__ = "0.1.0"

from tinyflow import autograd as autograd  # first: it settles how kernels run, and defines the graph that Tensor is part of
from tinyflow.autograd import enable_grad as enable_grad
from tinyflow.autograd import inference_mode as inference_mode
from tinyflow.autograd import is_anomaly_check_nan_enabled as is_anomaly_check_nan_enabled
from tinyflow.autograd import is_anomaly_enabled as is_anomaly_enabled
from tinyflow.autograd import no_grad as no_grad
from tinyflow.autograd import set_grad_enabled as set_grad_enabled
from tinyflow.autograd.grad_mode import is_grad_enabled as is_grad_enabled
from tinyflow.autograd.grad_mode import is_inference_mode_enabled as is_inference_mode_enabled
from tinyflow.autocast_mode import autocast as autocast
from tinyflow.autocast_mode import clear_autocast_cache as clear_autocast_cache
from tinyflow.autocast_mode import get_autocast_dtype as get_autocast_dtype
from tinyflow.autocast_mode import is_autocast_cache_enabled as is_autocast_cache_enabled
from tinyflow.autocast_mode import is_autocast_enabled as is_autocast_enabled
from tinyflow.autocast_mode import set_autocast_cache_enabled as set_autocast_cache_enabled
from tinyflow.autocast_mode import set_autocast_dtype as set_autocast_dtype
from tinyflow.autocast_mode import set_autocast_enabled as set_autocast_enabled
from tinyflow.backends import get_float32_matmul_precision as get_float32_matmul_precision
from tinyflow.backends import set_float32_matmul_precision as set_float32_matmul_precision
from tinyflow.capture import capture as capture
from tinyflow.kernels.dtypes import can_cast as can_cast
from tinyflow.kernels.dtypes import promote_types as promote_types
from tinyflow.kernels.memory import bfloat16 as bfloat16
from tinyflow.kernels.memory import bool_ as bool  # noqa: F401
from tinyflow.kernels.memory import channels_last as channels_last
from tinyflow.kernels.memory import contiguous_format as contiguous_format
from tinyflow.kernels.memory import device as device
from tinyflow.kernels.memory import dtype as dtype
from tinyflow.kernels.memory import finfo as finfo
from tinyflow.kernels.memory import float16 as float16
from tinyflow.kernels.memory import float32 as float32
from tinyflow.kernels.memory import float64 as float64
from tinyflow.kernels.memory import get_default_device as get_default_device
from tinyflow.kernels.memory import get_default_dtype as get_default_dtype
from tinyflow.kernels.memory import gpu_available as gpu_available
from tinyflow.kernels.memory import iinfo as iinfo
from tinyflow.kernels.memory import int8 as int8
from tinyflow.kernels.memory import int16 as int16
from tinyflow.kernels.memory import int32 as int32
from tinyflow.kernels.memory import int64 as int64
from tinyflow.kernels.memory import memory_format as memory_format
from tinyflow.kernels.memory import preserve_format as preserve_format
from tinyflow.kernels.memory import set_default_device as set_default_device
from tinyflow.kernels.memory import set_default_dtype as set_default_dtype
from tinyflow.kernels.memory import synchronize as synchronize
from tinyflow.kernels.memory import uint8 as uint8
from tinyflow.ops.activation import *
from tinyflow.ops.arithmetic import *
from tinyflow.ops.arrange import *
from tinyflow.ops.contraction import *
from tinyflow.ops.conv2d import *
from tinyflow.ops.conv_nd import *
from tinyflow.ops.conv_transpose import *
from tinyflow.ops.copy import *
from tinyflow.ops.counting import *
from tinyflow.ops.creation import *
from tinyflow.ops.diagonals import *
from tinyflow.ops.distance import *
from tinyflow.ops.everyday import *
from tinyflow.ops.indexing import *
from tinyflow.ops.joining import *
from tinyflow.ops.matmul import *
from tinyflow.ops.normalization import *
from tinyflow.ops.padding import *
from tinyflow.ops.pixels import *
from tinyflow.ops.pooling_nd import *
from tinyflow.ops.random import *
from tinyflow.ops.reduction import *
from tinyflow.ops.rounding import *
from tinyflow.ops.scan import *
from tinyflow.ops.scatter import *
from tinyflow.ops.shape import *
from tinyflow.ops.similarity import *
from tinyflow.ops.softmax import *
from tinyflow.ops.sorting import *
from tinyflow.ops.special import *
from tinyflow.ops.strided import *
from tinyflow.ops.statistics import *
from tinyflow.profiler import count_launches as count_launches
from tinyflow.profiler import profile as profile
from tinyflow.random import Generator as Generator
from tinyflow.random import get_rng_state as get_rng_state
from tinyflow.random import initial_seed as initial_seed
from tinyflow.random import manual_seed as manual_seed
from tinyflow.random import seed as seed
from tinyflow.random import set_rng_state as set_rng_state
from tinyflow.serialization import load as load
from tinyflow.serialization import save as save
from tinyflow.summary import summary as summary
from tinyflow.tensor import Size as Size
from tinyflow.tensor import Tensor as Tensor

from tinyflow import nn as nn  # isort: skip
from tinyflow import optim as optim  # isort: skip
from tinyflow import amp as amp  # isort: skip
from tinyflow import backends as backends  # isort: skip
from tinyflow import interop as interop  # isort: skip
from tinyflow import linalg as linalg  # isort: skip
from tinyflow import func as func  # isort: skip
from tinyflow import utils as utils  # isort: skip

half, short, int, long, float, double = float16, int16, int32, int64, float32, float64
