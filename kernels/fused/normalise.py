"""Batch normalisation by given statistics, residual and ReLU in one pass, and the way back in two.

    y = act((x − mean) · invstd · weight + bias + residual)        act: ReLU, or none

With ``m`` the ReLU's mask and h = m·g, the gradient of ``residual`` is h and

    grad_bias = Σ h      grad_weight = Σ h·x̂      grad_x = weight · invstd · (h − (grad_bias + x̂ · grad_weight) / n)

(Ioffe & Szegedy 2015, section 3). A reduction pass makes the two sums of h as it is rounded. Without a residual the mask
is recomputed from ``x``, in the same arithmetic and rounding as forward, so that neither ``y`` is read nor h written; with
one the mask comes from ``y``, and h is written once, for the residual and for the second pass.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.batch_norm import channel_values, finish_gradient_sums, pixel_splits
from tinyflow.kernels.elementwise import channels_last, contiguous
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    cdiv,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.memory import Buffer

RELU, NO_ACT = "relu", "none"

#: Where the backward pass finds the ReLU's mask: the gradient has passed it already, or it is recomputed, or read.
UNMASKED, FROM_X, FROM_Y = 0, 1, 2


@triton.jit
def relu(z):
    return tl.where(z < 0, 0.0, z)  # a NaN passes, as in torch


@triton.jit
def norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE: tl.constexpr):
    """Mean, invstd · weight and bias of channels; 0, 1 and 0 where there are none."""
    scale = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    scale = scale * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
    mean = channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
    return mean, scale, channel_values(bias_ptr, c, channels, 0.0, COMPUTE)


@triton.jit
def normalised(x, mean, scale, bias):
    return (x - mean[None, :]) * scale[None, :] + bias[None, :]


@triton.jit
def _normalise_act_kernel(
    y_ptr,  # y[pixel, channel], as the others
    x_ptr,
    residual_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    residual_mean_ptr,  # with these the residual is normalised too
    residual_invstd_ptr,
    residual_weight_ptr,
    residual_bias_ptr,
    pixels,
    channels,
    ACT: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    at = (p * channels)[:, None] + c[None, :]
    y = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    if mean_ptr is not None:
        y = normalised(y, mean, scale, bias)
    elif bias_ptr is not None:
        y = y + bias[None, :]
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + at, mask=mask, other=0).to(COMPUTE)
        if residual_mean_ptr is not None:
            mean, scale, bias = norm_values(
                residual_mean_ptr, residual_invstd_ptr, residual_weight_ptr, residual_bias_ptr, c, channels, COMPUTE
            )
            residual = normalised(residual, mean, scale, bias)
        y = y + residual
    if ACT:
        y = relu(y)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _masked_gradient(
    g_ptr, x, y_ptr, at, mask, mean, scale, bias, MASK: tl.constexpr, COMPUTE: tl.constexpr, DTYPE: tl.constexpr
):
    """h: the gradient where the forward pass, rounded to DTYPE as it was, did not end below or at zero."""
    g = tl.load(g_ptr + at, mask=mask, other=0).to(COMPUTE)
    if MASK == 1:
        y = normalised(x, mean, scale, bias).to(DTYPE).to(COMPUTE)
        g = tl.where(y <= 0, 0.0, g)
    elif MASK == 2:
        y = tl.load(y_ptr + at, mask=mask, other=0).to(COMPUTE)
        g = tl.where(y <= 0, 0.0, g)
    return g


@triton.jit
def _normalise_act_gradient_sums_kernel(
    h_ptr,  # None where nobody needs h
    g_ptr,
    x_ptr,
    y_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    partial_ptr,  # [2, splits, channels]: Σ h, Σ h·(x − mean)
    pixels,
    channels,
    split_pixels,
    MASK: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    split = tl.program_id(0).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    first = split * split_pixels
    last = tl.minimum(first + split_pixels, pixels)
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    lane_h = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    lane_hx = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for start in range(first, last, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P).to(INDEX)
        mask = (p < last)[:, None] & (c < channels)[None, :]
        at = (p * channels)[:, None] + c[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
        h = _masked_gradient(g_ptr, x, y_ptr, at, mask, mean, scale, bias, MASK, COMPUTE, x_ptr.dtype.element_ty)
        if h_ptr is not None:
            tl.store(h_ptr + at, h.to(h_ptr.dtype.element_ty), mask=mask)
        lane_h += h
        lane_hx += h * (x - mean[None, :])
    out = split * channels + c
    tl.store(partial_ptr + out, tl.sum(lane_h, axis=0), mask=c < channels)
    tl.store(partial_ptr + tl.num_programs(0).to(INDEX) * channels + out, tl.sum(lane_hx, axis=0), mask=c < channels)


@triton.jit
def input_gradient(h, x, mean, invstd, scale, grad_weight, grad_bias, pixels):
    """grad_x in training, where every statistic follows x; ``scale`` is invstd · weight."""
    total = tl.cast(pixels, h.dtype)
    slope = grad_weight * invstd / total
    shifted = h - (grad_bias / total)[None, :] - (x - mean[None, :]) * slope[None, :]
    return shifted * scale[None, :]


@triton.jit
def _normalise_act_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    x_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    pixels,
    channels,
    MASK: tl.constexpr,
    TRAINING: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    at = (p * channels)[:, None] + c[None, :]
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
    h = _masked_gradient(g_ptr, x, None, at, mask, mean, scale, bias, MASK, COMPUTE, x_ptr.dtype.element_ty)
    if TRAINING:
        grad_weight = channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE)
        grad_bias = channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE)
        grad_x = input_gradient(h, x, mean, invstd, scale, grad_weight, grad_bias, pixels)
    else:
        grad_x = h * scale[None, :]
    tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_as_affine_kernel(
    out_ptr,  # [3, channels]
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    pixels,
    channels,
    COMPUTE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = c < channels
    invstd = channel_values(invstd_ptr, c, channels, 0.0, COMPUTE)
    scale = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
    total = tl.cast(pixels, COMPUTE)
    by_x = -scale * invstd * channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE) / total
    constant = -scale * channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE) / total
    constant -= by_x * channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
    tl.store(out_ptr + c, scale, mask=mask)
    tl.store(out_ptr + channels + c, by_x, mask=mask)
    tl.store(out_ptr + 2 * channels + c, constant, mask=mask)


_NARROW = Config({"BLOCK_P": 64, "BLOCK_C": 64})
_WIDE = Config({"BLOCK_P": 32, "BLOCK_C": 128})


def _choose(pixels: int, channels: int) -> Config:
    return _WIDE if channels > 64 else _NARROW


def _interpreter(pixels: int, channels: int) -> Config:
    block_c = block(channels)
    return Config({"BLOCK_P": block(pixels, MAX_BLOCK // block_c), "BLOCK_C": block_c})


_SHIPPED = (_NARROW, _WIDE)
normalise_configs = Configs("_normalise_act_kernel", _SHIPPED, _choose, _interpreter)
gradient_sums_configs = Configs("_normalise_act_gradient_sums_kernel", _SHIPPED, _choose, _interpreter)
input_grad_configs = Configs("_normalise_act_input_grad_kernel", _SHIPPED, _choose, _interpreter)


_VECTOR = Config({"BLOCK_C": 128})
affine_configs = Configs(
    "_gradient_as_affine_kernel",
    (_VECTOR,),
    lambda channels: _VECTOR,
    lambda channels: Config({"BLOCK_C": block(channels)}),
)


def _has_relu(op: str, act: str) -> bool:
    if act not in (RELU, NO_ACT):
        raise ValueError(f"{op}: expected act 'relu' or 'none', got {act!r}")
    return act == RELU


def check_images(op: str, x: Buffer, *like_x: Buffer | None, **channels: Buffer | None) -> tuple[int, int]:
    """Pixels and channels of ``x``, once shapes, dtypes and devices are found to fit.

    Raises:
        ValueError, RuntimeError, TypeError: where they do not.
    """
    if x.dim() != 4:
        raise ValueError(f"{op}: expected x of shape (N, C, H, W), got {tuple(x.shape)}")
    dtypes.check_floating(op, x=x)
    given = {name: v for name, v in channels.items() if v is not None}
    for other in like_x:
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype):
            raise RuntimeError(
                f"{op}: expected {tuple(x.shape)} {x.dtype} as x, got {tuple(other.shape)} {other.dtype}"
            )
    for name, value in given.items():
        if tuple(value.shape) != (x.shape[1],):
            raise RuntimeError(f"{op}: expected {name} of shape ({x.shape[1]},), got {tuple(value.shape)}")
    check_same_device(op, x=x, **given, **{f"operand {k}": v for k, v in enumerate(like_x)})
    return x.shape[0] * x.shape[2] * x.shape[3], x.shape[1]


def dense(value: Buffer | None) -> Buffer | None:
    """A vector of channels that steps by one."""
    return None if value is None else contiguous(value)


def image(shape: tuple[int, ...] | memory.Size, like: Buffer) -> Buffer:
    """New channels-last memory of ``like``'s dtype."""
    return memory.empty(shape, like.dtype, like.device, strides.channels_last_strides(shape))


#: Mean, invstd, weight and bias of a normalisation, (C,) each; weight and bias may be None.
Norm = tuple[Buffer, Buffer, "Buffer | None", "Buffer | None"]


def normalise_act(
    x: Buffer, norm: Norm, residual: Buffer | None = None, act: str = RELU, residual_norm: Norm | None = None
) -> Buffer:
    """``y = act((x − mean) · invstd · weight + bias + residual)`` for each channel.

    Args:
        x: (N, C, H, W), floating point; computed in float32 (float64 for float64).
        norm: mean, invstd, weight, bias.
        residual: the shape and dtype of ``x``, or None.
        act: 'relu' or 'none'.
        residual_norm: with it the residual is normalised by statistics of its own before it is added.

    Anything but channels-last memory is copied first. Returns the shape and dtype of ``x``, rounded once, channels-last.

    Raises:
        ValueError, RuntimeError, TypeError: if shapes, dtypes, devices or ``act`` do not fit.

    FLOPs: 3 an element, 4 with ReLU; 1 for the residual and 3 for its normalisation. Bytes: each operand once.
    """
    return _normalise(x, norm, residual, act, residual_norm)


def bias_act(x: Buffer, bias: Buffer | None, residual: Buffer | None = None, act: str = RELU) -> Buffer:
    """``y = act(x + bias + residual)``: what is left of :func:`normalise_act` once weights are folded."""
    return _normalise(x, (None, None, None, bias), residual, act, None)


def _normalise(x: Buffer, norm: tuple, residual: Buffer | None, act: str, residual_norm: Norm | None) -> Buffer:
    op = "normalise_act"
    with_relu = _has_relu(op, act)
    vectors = [*norm, *(residual_norm or (None,) * 4)]
    pixels, channels = check_images(op, x, residual, **{f"vector {k}": v for k, v in enumerate(vectors)})
    y = image(x.shape, x)
    if y.numel() == 0:
        return y
    x = channels_last(x)
    residual = None if residual is None else channels_last(residual)
    vectors = [dense(v) for v in vectors]
    flops = 3 * (norm[0] is not None) + with_relu + (residual is not None) + 3 * (residual_norm is not None)
    config = normalise_configs(pixels=pixels, channels=channels)
    launch(
        _normalise_act_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        y,
        x,
        residual,
        *vectors,
        pixels,
        channels,
        config=config,
        cost=Cost(flops * x.numel(), nbytes(x, y, residual, *vectors)),
        device=x.device,
        ACT=with_relu,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return y


def normalise_act_grad(
    grad: Buffer,
    x: Buffer,
    y: Buffer | None,
    norm: Norm,
    act: str = RELU,
    training: bool = True,
    has_residual: bool = False,
    sums: tuple[Buffer, Buffer] | None = None,
    need_x: bool = True,
) -> tuple[Buffer | None, Buffer, Buffer, Buffer | None]:
    """The gradients of :func:`normalise_act` (without ``residual_norm``).

    Args:
        grad: the gradient of y.
        x: the input.
        y: the result; needed with a residual under ReLU, where the mask cannot be recomputed.
        norm: mean, invstd, weight, bias as given.
        training: whether mean and invstd are those of ``x``; if not, they are constants.
        has_residual: whether to return the residual's gradient.
        sums: grad_weight and grad_bias, where they are known already; then ``grad`` has passed the mask.
        need_x: whether to return grad_x.

    Returns grad_x (or None) in the dtype of ``x``, grad_weight and grad_bias in that of the arithmetic, and the residual's
    gradient (or None): ``grad`` itself where it needs no mask. Images are channels-last.

    FLOPs: 7 an element and 5 for grad_x. Bytes: ``grad`` and ``x`` once for the sums and once for grad_x, grad_x once; with
    a residual under ReLU ``y`` and the residual's gradient once more.
    """
    op = "normalise_act_grad"
    masks = UNMASKED
    if _has_relu(op, act) and sums is None:
        masks = FROM_Y if has_residual else FROM_X
        if has_residual and y is None:
            raise ValueError(f"{op}: expected y, from which the mask is read where there is a residual")
    _, channels = check_images(op, x, grad, y if masks == FROM_Y else None)
    mean, invstd, weight, bias = (dense(v) for v in norm)
    assert mean is not None and invstd is not None
    norm = (mean, invstd, weight, bias)
    grad, x = channels_last(grad), channels_last(x)
    residual_grad = grad if has_residual else None
    if sums is None:
        if masks == FROM_Y:
            residual_grad = image(x.shape, x)
        statistic = dtypes.accumulate_dtype(x.dtype)
        sums = (memory.empty((channels,), statistic, x.device), memory.empty((channels,), statistic, x.device))
        written = residual_grad if masks == FROM_Y else None
        read_y = channels_last(y) if masks == FROM_Y and y is not None else None
        _gradient_sums(written, grad, x, read_y, norm, masks, sums)
        if written is not None:
            grad, masks = written, UNMASKED
    grad_x = _input_grad(grad, x, norm, masks, sums, training) if need_x else None
    return grad_x, *sums, residual_grad


def _gradient_sums(
    h: Buffer | None, grad: Buffer, x: Buffer, y: Buffer | None, norm: Norm, masks: int, sums: tuple[Buffer, Buffer]
) -> None:
    """Fills ``sums`` and ``h``; a batch of no pixels gives zeros."""
    channels = x.shape[1]
    if channels == 0:
        return
    pixels = x.numel() // channels
    config = gradient_sums_configs(pixels=pixels, channels=channels)
    splits, split_pixels = pixel_splits(config, pixels, channels) if pixels else (0, 0)
    partial = memory.empty((2, splits, channels), sums[0].dtype, x.device)
    launch(
        _normalise_act_gradient_sums_kernel,
        (splits, cdiv(channels, config.blocks["BLOCK_C"])),
        h,
        grad,
        x,
        y,
        *norm,
        partial,
        pixels,
        channels,
        split_pixels,
        config=config,
        cost=Cost((7 if masks == FROM_X else 5) * x.numel(), nbytes(h, grad, x, y, *norm, partial)),
        device=x.device,
        MASK=masks,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    finish_gradient_sums(partial, norm[1], *sums)


def _input_grad(grad: Buffer, x: Buffer, norm: Norm, masks: int, sums: tuple[Buffer, Buffer], training: bool) -> Buffer:
    grad_x = image(x.shape, x)
    if grad_x.numel() == 0:
        return grad_x
    channels = x.shape[1]
    pixels = x.numel() // channels
    config = input_grad_configs(pixels=pixels, channels=channels)
    launch(
        _normalise_act_input_grad_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        grad_x,
        grad,
        x,
        *norm,
        *sums,
        pixels,
        channels,
        config=config,
        cost=Cost((5 if training else 1) * x.numel(), nbytes(grad_x, grad, x, *norm, *sums)),
        device=x.device,
        MASK=masks,
        TRAINING=training,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return grad_x


def gradient_as_affine(norm: Norm, sums: tuple[Buffer, Buffer], pixels: int) -> Buffer:
    """(3, C): a, b, c with ``grad_x = a·h + b·x + c``, the gradient of a normalisation by the batch's statistics.

    ``sums`` are grad_weight and grad_bias over ``pixels``. FLOPs: 8 a channel. Bytes: all vectors once.
    """
    mean, invstd, weight, _ = (dense(v) for v in norm)
    grad_weight, grad_bias = sums
    (channels,) = grad_weight.shape
    out = memory.empty((3, channels), grad_weight.dtype, grad_weight.device)
    config = affine_configs(channels=channels)
    launch(
        _gradient_as_affine_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        out,
        mean,
        invstd,
        weight,
        grad_weight,
        grad_bias,
        pixels,
        channels,
        config=config,
        cost=Cost(8 * channels, nbytes(out, mean, invstd, weight, grad_weight, grad_bias)),
        device=out.device,
        COMPUTE=dtypes.triton_dtype(out.dtype),
    )
    return out
