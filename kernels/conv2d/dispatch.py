"""Which form a convolution takes, for each of its three directions.

===============  =====================================================================================================
box              pixels in boxes of the tensor memory accelerator (``box_forward``, ``box_input_grad``)
                 or, 3×3 of few channels, by rows (``row_forward``, ``row_input_grad``)
nine taps        weight gradient by boxes, all taps of 3×3 in one program (``box_weight_grad``)
stream-K         weight gradient over output positions, in equal shares (``stream_weight_grad``)
stem             few channels and a stride of 2, first folded into a 16-channel image of half the size (``box_stem``)
general          addresses for every element: any size, dtype and device (``correlation``, ``weight_gradient``)
===============  =====================================================================================================
"""

from __future__ import annotations

from tinyflow.kernels import hardware, memory
from tinyflow.kernels.conv2d.box_stem import is_stem
from tinyflow.kernels.conv2d.boxes import ALIGNMENT
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.conv2d.stream_weight_grad import taps_steps

BOX, NINE_TAPS, STREAM_K, STEM, GENERAL = "box", "nine taps", "stream-K", "stem", "general"

#: The major compute capabilities for which every form was compiled, and the compiler's output read: Hopper, and Blackwell
#: in data centers. The shared memory of 12, of 99 KiB, does not hold the boxes.
_CAPABILITIES = (9, 10)

#: Those for which a weight gradient can make the gradient that it takes. On 10 Triton 3.6 fails to order a loop of products
#: that share a transposed factor from registers; 3.7 and later compile it.
_GRADIENT_MADE = (9,)

#: The channels of a weight tile, which every shipped box has; the two columns of a stride of 2 lie side by side
#: in a box's channels, so there tiles must not pass the last channel.
_WHOLE_CHANNELS = 64

#: Channels of an accumulator of the nine-tap kernel; nine of them fill the registers.
_NINE_TAPS_CHANNELS = 64

#: Fewer images than this leave most of a stream-K box empty.
_STREAM_IMAGES = 16


def _boxable(found: Geometry, dtype: memory.dtype, device: memory.device) -> bool:
    if hardware.capability(device)[0] not in _CAPABILITIES or dtype not in (memory.float16, memory.bfloat16):
        return False
    nonzero = min(*found.x_shape, *found.weight_shape, *found.out_shape) > 0
    return nonzero and found.groups == 1 and found.dilation == (1, 1) and found.stride in ((1, 1), (2, 2))


def _aligned(*channels: int) -> bool:
    """Whether rows of so many half-precision channels start where a descriptor may."""
    return all(2 * c % ALIGNMENT == 0 for c in channels)


def _by_boxes(found: Geometry, dtype: memory.dtype, device: memory.device) -> bool:
    (k, c), (h, w) = found.weight_shape[:2], found.x_shape[2:]
    if not _boxable(found, dtype, device) or not _aligned(c, k):
        return False
    return found.stride == (1, 1) or (h % 2 == 0 and w % 2 == 0 and c % _WHOLE_CHANNELS == 0)


def _is_stem(found: Geometry, dtype: memory.dtype, device: memory.device) -> bool:
    return _boxable(found, dtype, device) and _aligned(found.weight_shape[0]) and is_stem(found)


def forward(found: Geometry, dtype: memory.dtype, device: memory.device) -> str:
    """How :func:`conv2d` computes: box, stem or general."""
    if _is_stem(found, dtype, device):
        return STEM
    return BOX if _by_boxes(found, dtype, device) else GENERAL


def input_grad(found: Geometry, dtype: memory.dtype, device: memory.device) -> str:
    """How :func:`conv2d_input_grad` computes: box or general."""
    return BOX if _by_boxes(found, dtype, device) else GENERAL


def weight_grad(found: Geometry, dtype: memory.dtype, device: memory.device) -> str:
    """How :func:`conv2d_weight_grad` computes: nine taps, stream-K, stem or general."""
    if _is_stem(found, dtype, device):
        return STEM
    k, c = found.weight_shape[:2]
    if not _boxable(found, dtype, device) or not _aligned(c, k):
        return GENERAL
    if found.kernel == (3, 3) and found.stride == (1, 1) and max(k, c) <= _NINE_TAPS_CHANNELS:
        return NINE_TAPS
    return STREAM_K if found.x_shape[0] >= _STREAM_IMAGES and min(taps_steps(found)) > 0 else GENERAL


def makes_gradient(device: memory.device) -> bool:
    """Whether the nine-tap and the stem's weight gradient may make the gradient of the convolution's result as they go."""
    return hardware.capability(device)[0] in _GRADIENT_MADE
