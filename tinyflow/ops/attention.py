"""Scaled dot-product attention: a fused forward pass and gradient, whose own derivative is written in products."""

from __future__ import annotations

import math
from typing import Any

from tinyflow.autocast_mode import HALF
from tinyflow.kernels import attention as kernels
from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.random import Seed, dropout
from tinyflow.ops import arithmetic, reduction
from tinyflow.ops.creation import arange, ones
from tinyflow.ops.define import Op, define
from tinyflow.ops.matmul import matmul
from tinyflow.ops.softmax import softmax
from tinyflow.random import default_generator
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []
FUNCTIONAL = ["scaled_dot_product_attention"]

Shape = tuple[int, ...]


def _three_gradients(
    grad: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    mask: Buffer | None,
    y: Buffer,
    lse: Buffer,
    is_causal: bool,
    scale: float,
    dropout_p: float,
    seed: Seed,
    offset: int,
) -> tuple[Buffer, Buffer, Buffer]:
    return kernels.attention_grad(grad, query, key, value, mask, y, lse, is_causal, scale, dropout_p, seed, offset)[:3]


def _four_gradients(
    grad: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    mask: Buffer,
    y: Buffer,
    lse: Buffer,
    is_causal: bool,
    scale: float,
    dropout_p: float,
    seed: Seed,
    offset: int,
) -> tuple[Buffer, ...]:
    grads = kernels.attention_grad(
        grad, query, key, value, mask, y, lse, is_causal, scale, dropout_p, seed, offset, mask_grad=True
    )
    return grads  # type: ignore[return-value]  # the mask's is there, since it is asked for


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-2, -1)


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    """``softmax(scale · query keyᵀ + mask)``: (\\*batch, G, L, S), zeros where a query may look at nothing."""
    scores = matmul(query, _transposed(key.unsqueeze(-3))) * scale
    if is_causal:
        rows, columns = scores.shape[-2:]
        places = (arange(n, device=scores.device) for n in (rows, columns))
        visible = next(places).unsqueeze(1) >= next(places)
        scores = arithmetic.where(visible, scores, -math.inf)
    if mask is not None and mask.dtype == memory.bool_:
        scores = arithmetic.where(mask, scores, -math.inf)
    elif mask is not None:
        scores = scores + mask.to(scores.dtype)
    if scores.numel() == 0:
        return scores
    blind = reduction.amax(scores.detach(), -1, True) == -math.inf
    return arithmetic.where(blind, 0.0, softmax(arithmetic.where(blind, 0.0, scores), -1))


def _kept(like: Tensor, dropout_p: float, seed: Seed, offset: int) -> Tensor | float:
    """What dropout multiplies probabilities by: the kernels' own numbers."""
    if dropout_p == 0:
        return 1.0
    *lead, keys = like.shape
    filled = ones((*lead, -(-keys // 4) * 4), dtype=like.dtype, device=like.device)
    return Tensor(dropout(filled._data, dropout_p, seed, offset)).narrow(-1, 0, keys)


def composed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float = 1.0,
    dropout_p: float = 0.0,
    seed: Seed = 0,
    offset: int = 0,
) -> Tensor:
    """The same as the fused operation from its parts: for heads that no tile holds."""
    p = _probabilities(query, key, mask, is_causal, scale)
    return matmul(p * _kept(p, dropout_p, seed, offset), value.unsqueeze(-3))


def _second(
    g: Tensor,
    g_key: Tensor,
    g_value: Tensor,
    g_mask: Tensor | None,
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout_p: float,
    seed: Seed,
    offset: int,
) -> tuple[Any, ...]:
    """The derivative of the gradients.

    With D the kept probabilities' factors, dP = D · (grad valueᵀ) and dS = P · (dP − Σ P dP):

        grad_query = scale · dS key      grad_key = scale · dSᵀ query      grad_value = (D P)ᵀ grad      grad_mask = dS

    U is what they send to dS; P · (U − Σ P U) goes on to dP, and the rest to P and through the softmax to the scores.
    """
    dtype, mask_dtype = query.dtype, None if mask is None else mask.dtype
    wide = dtypes.accumulate_dtype(dtype)
    g, g_key, g_value, grad, query, key, value = (x.to(wide) for x in (g, g_key, g_value, grad, query, key, value))
    key, value, g_key, g_value = (x.unsqueeze(-3) for x in (key, value, g_key, g_value))

    def total(x: Tensor) -> Tensor:
        return reduction.sum(x, -1, True)

    p = _probabilities(query, key.squeeze(-3), mask, is_causal, scale)
    factor = _kept(p, dropout_p, seed, offset)
    grad_p = matmul(grad, _transposed(value)) * factor
    level = total(p * grad_p)
    u = (matmul(g, _transposed(key)) + matmul(query, _transposed(g_key))) * scale
    if g_mask is not None:
        u = u + g_mask.to(wide)
    average = total(p * u)
    to_grad_p = p * (u - average) * factor
    to_p = u * (grad_p - level) - grad_p * average + matmul(grad, _transposed(g_value)) * factor
    to_scores = p * (to_p - total(p * to_p))
    grad_s = p * (grad_p - level) * scale
    scaled = to_scores * scale
    found = (
        matmul(to_grad_p, value) + matmul(p * factor, g_value),
        matmul(scaled, key) + matmul(grad_s, g_key),
        reduction.sum(matmul(_transposed(scaled), query) + matmul(_transposed(grad_s), g), -3),
        reduction.sum(matmul(_transposed(to_grad_p), grad), -3),
    )
    to_mask = None if g_mask is None or mask_dtype is None else to_scores.to(mask_dtype)
    return (*(x.to(dtype) for x in found), to_mask)


_attention_grad: Op = define(
    _three_gradients,
    name="attention_grad",
    outputs=("grad_query", "grad_key", "grad_value"),
    joint={
        ("grad", "query", "key", "value"): lambda g, g_grad_key, g_grad_value, grad, query, key, value, mask, is_causal,
        scale, dropout_p, seed, offset: _second(
            g, g_grad_key, g_grad_value, None, grad, query, key, value, mask, is_causal, scale, dropout_p, seed, offset
        )[:4]
    },
    mask=None,
    y=None,
    lse=None,
)  # fmt: skip

_attention_mask_grad: Op = define(
    _four_gradients,
    name="attention_grad",
    outputs=("grad_query", "grad_key", "grad_value", "grad_mask"),
    joint={
        ("grad", "query", "key", "value", "mask"): lambda g, g_grad_key, g_grad_value, g_grad_mask, grad, query, key,
        value, mask, is_causal, scale, dropout_p, seed, offset: _second(
            g, g_grad_key, g_grad_value, g_grad_mask,
            grad, query, key, value, mask, is_causal, scale, dropout_p, seed, offset,
        )
    },
    y=None,
    lse=None,
)  # fmt: skip


def _gradient(
    g: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    y: Any,
    lse: Any,
    is_causal: bool,
    scale: float,
    dropout_p: float,
    seed: Seed,
    offset: int,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    how = (is_causal, scale, dropout_p, seed, offset)
    if needs[3]:
        return _attention_mask_grad(g, query, key, value, mask, y, lse, *how)
    return (*_attention_grad(g, query, key, value, mask, y, lse, *how), None)


_attention: Op = define(
    kernels.attention,
    outputs=("y", "lse"),
    autocast=HALF,
    joint={("query", "key", "value", "mask"): _gradient},
)


def _check(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
    op = "scaled_dot_product_attention"
    if attn_mask is not None and is_causal:
        raise RuntimeError(f"{op}: Explicit attn_mask should not be set when is_causal=True")
    named = {"query": query, "key": key, "value": value}
    for what, expected in (("dtype", "the same dtype"), ("device", "the same device type")):
        if len({getattr(x, what) for x in named.values()}) > 1:
            got = ", ".join(f"{name}.{what}: {getattr(x, what)}" for name, x in named.items())
            raise RuntimeError(f"{op}: Expected query, key, and value to have {expected}, but got {got}")
    if min(x.dim() for x in named.values()) < 2:
        got = ", ".join(f"{name}.dim: {x.dim()}" for name, x in named.items())
        raise RuntimeError(f"{op}: Expected query, key, and value to all be at least 2 dimensional, but got {got}")
    if attn_mask is not None and attn_mask.dtype not in (memory.bool_, memory.float32, query.dtype):
        raise RuntimeError(
            f"{op}: Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{attn_mask.dtype} and query.dtype: {query.dtype}"
        )
    if key.shape[-1] != query.shape[-1] or key.shape[-2] != value.shape[-2]:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in named.items())
        raise RuntimeError(
            f"{op}: expected query (*, L, E), key (*, S, E) and value (*, S, V) with one E and one S, got {shapes}"
        )


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, int]:
    """The query with the heads that share a key head as a dimension of their own, and how many they are."""
    op = "scaled_dot_product_attention"
    if min(x.dim() for x in (query, key, value)) < 3:
        raise IndexError(f"{op}: Dimension out of range: enable_gqa expects heads at dimension -3")
    heads, key_heads, value_heads = (x.shape[-3] for x in (query, key, value))
    if key_heads != value_heads or key_heads == 0 or heads % key_heads:
        raise RuntimeError(
            f"{op}: Number of heads in key and value must divide the number of heads in query, "
            f"got {heads} in query, {key_heads} in key and {value_heads} in value"
        )
    return query.unflatten(-3, (key_heads, heads // key_heads)), heads // key_heads


def _split_mask(mask: Tensor, shape: Shape, groups: int) -> Tensor:
    """A mask that broadcasts to (…, heads, L, S) as one that broadcasts to (…, key heads, groups, L, S).

    Raises:
        RuntimeError: if it does not broadcast to ``shape``.
    """
    op = "scaled_dot_product_attention"
    if strides.broadcast_shapes(op, shape, mask.shape) != shape:
        raise RuntimeError(f"{op}: expected attn_mask that broadcasts to {shape}, got {tuple(mask.shape)}")
    if mask.dim() < 3:
        return mask
    return mask.unsqueeze(-3) if groups == 1 or mask.shape[-3] == 1 else mask.unflatten(-3, (-1, groups))


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(scale · query keyᵀ + attn_mask) value``, without the matrix of scores in memory.

    Args:
        query: (\\*, L, E), usually (N, heads, L, E).
        key: (\\*, S, E).
        value: (\\*, S, V).
        attn_mask: broadcasts to (\\*, L, S): bool, True where a query may look at a key; or floating point, added to the
            scores and differentiable. A query that may look at nothing gets zeros.
        dropout_p: each probability becomes 0 with this probability, and the rest are divided by 1 − p. Applied whenever
            it is not 0, as in torch: pass 0 outside training.
        is_causal: query m looks at keys up to m only.
        scale: default 1/√E.
        enable_gqa: key and value have fewer heads (dimension −3), each shared by as many neighbouring heads of the query.

    Raises:
        RuntimeError, TypeError: if shapes, dtypes or devices do not fit, for a mask beside ``is_causal``, or if
            ``dropout_p`` is no probability.
    """
    op = "scaled_dot_product_attention"
    _check(query, key, value, attn_mask, is_causal)
    if not dropout_p <= 1 or math.isnan(dropout_p):
        raise RuntimeError(f"{op}: dropout probability has to be between 0 and 1, but got {dropout_p}")
    dropout_p = max(float(dropout_p), 0.0)
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1]) if query.shape[-1] else 1.0
    if enable_gqa:
        query, groups = _grouped(query, key, value)
    else:
        query, groups = query.unsqueeze(-3), 1
    batch = strides.broadcast_shapes(op, query.shape[:-3], key.shape[:-2], value.shape[:-2])
    query = query.expand((*batch, *query.shape[-3:]))
    key, value = (x.expand((*batch, *x.shape[-2:])) for x in (key, value))
    if attn_mask is not None:
        lead = (*batch[:-1], batch[-1] * groups) if enable_gqa else batch
        attn_mask = _split_mask(attn_mask, (*lead, query.shape[-2], key.shape[-2]), groups)
        if attn_mask.dtype == memory.float32 and query.dtype == memory.float64:
            attn_mask = attn_mask.to(query.dtype)
    how = (is_causal, float(scale), dropout_p)
    if dropout_p:
        rows = math.prod(query.shape[:-1])
        how = (*how, *default_generator.reserve(kernels.counters(rows, key.shape[-2])))  # type: ignore[assignment]
    if max(query.shape[-1], value.shape[-1]) > kernels.MAX_HEAD_DIM:
        result = composed_attention(query, key, value, attn_mask, *how)
    else:
        result = _attention(query, key, value, attn_mask, *how)[0]
    return result.flatten(-4, -3) if enable_gqa else result.squeeze(-3)
