"""Multi-head attention (Vaswani et al. 2017): projections around scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tinyflow.kernels import memory
from tinyflow.ops import arithmetic, reduction
from tinyflow.ops.attention import scaled_dot_product_attention
from tinyflow.ops.matmul import linear, matmul
from tinyflow.ops.random import dropout
from tinyflow.ops.shape import cat
from tinyflow.ops.softmax import softmax
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []
FUNCTIONAL = ["multi_head_attention_forward"]


class Projections(NamedTuple):
    """The weights of a multi-head attention; ``packed`` is query's, key's and value's one below the other."""

    packed: Tensor | None
    separate: tuple[Tensor | None, Tensor | None, Tensor | None]
    bias: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None


def _check_dims(
    query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
) -> None:
    n = query.dim()
    if n not in (2, 3):
        raise AssertionError(
            f"multi_head_attention: query should be unbatched 2D or batched 3D tensor but received {n}-D query tensor"
        )
    kind = "batched (3-D)" if n == 3 else "unbatched (2-D)"
    if key.dim() != n or value.dim() != n:
        raise AssertionError(
            f"multi_head_attention: For {kind} `query`, expected `key` and `value` to be {n}-D "
            f"but found {key.dim()}-D and {value.dim()}-D tensors respectively"
        )
    if key_padding_mask is not None and key_padding_mask.dim() != n - 1:
        raise AssertionError(
            f"multi_head_attention: For {kind} `query`, expected `key_padding_mask` to be `None` or {n - 1}-D "
            f"but found {key_padding_mask.dim()}-D tensor instead"
        )
    if attn_mask is not None and attn_mask.dim() not in (2, 3):
        raise AssertionError(
            f"multi_head_attention: For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D "
            f"but found {attn_mask.dim()}-D tensor instead"
        )


def _check_mask_dtype(name: str, mask: Tensor | None) -> None:
    if mask is not None and mask.dtype != memory.bool_ and not mask.dtype.is_floating_point:
        raise AssertionError(
            f"multi_head_attention: only bool and floating types of {name} are supported, got {mask.dtype}"
        )


def _project(query: Tensor, key: Tensor, value: Tensor, weights: Projections) -> tuple[Tensor, ...]:
    """Query, key and value times their weights, in as few products as they are different tensors."""
    packed, bias, size = weights.packed, weights.bias, query.shape[-1]
    if packed is None:
        biases: Any = (None, None, None) if bias is None else bias.chunk(3)
        return tuple(linear(x, w, b) for x, w, b in zip((query, key, value), weights.separate, biases))  # type: ignore[arg-type]
    if query is key and key is value:
        return linear(query, packed, bias).chunk(3, -1)

    def part(x: Tensor, start: int, count: int) -> Tensor:
        rows = packed.narrow(0, start * size, count * size)
        return linear(x, rows, None if bias is None else bias.narrow(0, start * size, count * size))

    if key is value:
        return (part(query, 0, 1), *part(key, 1, 2).chunk(2, -1))
    return part(query, 0, 1), part(key, 1, 1), part(value, 2, 1)


def _one_more(mask: Tensor) -> Tensor:
    """A mask that says nothing of one more key."""
    return cat([mask, Tensor._full((*mask.shape[:-1], 1), 0, mask.dtype, mask.device)], -1)


def _additive(mask: Tensor, dtype: memory.dtype) -> Tensor:
    """−inf where a bool mask is True."""
    if mask.dtype != memory.bool_:
        return mask.to(dtype)
    return arithmetic.where(mask, -math.inf, Tensor._zeros((), dtype, mask.device))


def _merge(attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: memory.dtype) -> Tensor | None:
    """Both masks as one: bool (True where a key is hidden) if both are, else added."""
    if attn_mask is None or key_padding_mask is None:
        return attn_mask if key_padding_mask is None else key_padding_mask
    if attn_mask.dtype == memory.bool_ and key_padding_mask.dtype == memory.bool_:
        return arithmetic.logical_or(attn_mask, key_padding_mask)
    return _additive(attn_mask, dtype) + _additive(key_padding_mask, dtype)


def _shaped_masks(
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    padded_keys: int,
) -> tuple[Tensor | None, Tensor | None]:
    """The masks as (1 or batch, 1 or heads, L, S) and (batch, 1, 1, S); the latter for ``padded_keys``.

    Raises:
        RuntimeError, AssertionError: if a mask has another shape.
    """
    if attn_mask is not None:
        expected = (queries, keys) if attn_mask.dim() == 2 else (batch * heads, queries, keys)
        if tuple(attn_mask.shape) != expected:
            raise RuntimeError(
                f"multi_head_attention: The shape of the {attn_mask.dim()}D attn_mask is {tuple(attn_mask.shape)}, "
                f"but should be {expected}."
            )
        attn_mask = attn_mask.reshape((1, 1, *expected) if len(expected) == 2 else (batch, heads, queries, keys))
    if key_padding_mask is not None:
        if tuple(key_padding_mask.shape) != (batch, padded_keys):
            raise AssertionError(
                f"multi_head_attention: expected key_padding_mask.shape of {(batch, padded_keys)}, "
                f"but got {tuple(key_padding_mask.shape)}"
            )
        key_padding_mask = key_padding_mask.reshape(batch, 1, 1, padded_keys)
    return attn_mask, key_padding_mask


def _attend_with_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float
) -> tuple[Tensor, Tensor]:
    scores = matmul(q * math.sqrt(1 / q.shape[-1]), k.transpose(-2, -1))
    if mask is not None:
        scores = scores + _additive(mask, scores.dtype)
    weights = dropout(softmax(scores, -1), dropout_p)
    return matmul(weights, v), weights


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    weights: Projections,
    batch_first: bool,
    add_zero_attn: bool = False,
    dropout_p: float = 0.0,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    average_attn_weights: bool = True,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention on (N, L, E) if ``batch_first``, else on (L, N, E), or on (L, E) either way.

    No tensor is transposed in memory: heads are views of the projections, and the result of all heads lies as the output
    projection reads it. Arguments as in :func:`multi_head_attention_forward`.
    """
    _check_dims(query, key, value, key_padding_mask, attn_mask)
    _check_mask_dtype("key_padding_mask", key_padding_mask)
    _check_mask_dtype("attn_mask", attn_mask)
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "multi_head_attention: Need attn_mask if specifying the is_causal hint; "
            "Transformer.generate_square_subsequent_mask makes it"
        )
    if query.dim() == 2:
        again = query is key, key is value
        query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        key = query if again[0] else key
        value = key if again[1] else value
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        out, found = attend(
            query, key, value, heads, weights, True, add_zero_attn, dropout_p, key_padding_mask, need_weights, attn_mask,
            is_causal, average_attn_weights, static_k, static_v,
        )  # fmt: skip
        return out.squeeze(0), None if found is None else found.squeeze(0)
    along = 1 if batch_first else 0
    if key.shape[:2] != value.shape[:2] or (weights.packed is not None and key.shape != value.shape):
        raise AssertionError(
            f"multi_head_attention: key shape {tuple(key.shape)} does not match value shape {tuple(value.shape)}"
        )
    batch, queries = query.shape[1 - along], query.shape[along]
    if key.shape[1 - along] != batch:
        raise RuntimeError(
            f"multi_head_attention: expected query and key of one batch size, got query {tuple(query.shape)} and key "
            f"{tuple(key.shape)}"
        )
    q, k, v = _project(query, key, value, weights)
    if is_causal and key_padding_mask is None and not need_weights:
        attn_mask = None  # the hint says all that the mask does
    else:
        is_causal = False
    keys = key.shape[along]
    padded_keys = keys if static_k is None else static_k.shape[1]
    attn_mask, key_padding_mask = _shaped_masks(attn_mask, key_padding_mask, batch, heads, queries, keys, padded_keys)
    extra = 0
    if weights.bias_k is not None and weights.bias_v is not None:
        shape = tuple(1 if d == along else batch if d < 2 else q.shape[-1] for d in range(3))
        k, v = (cat([x, b.expand(shape)], along) for x, b in ((k, weights.bias_k), (v, weights.bias_v)))
        extra += 1

    def split(x: Tensor) -> Tensor:  # (N, heads, length, features)
        x = x.unflatten(-1, (heads, -1))
        return x.permute(0, 2, 1, 3) if batch_first else x.permute(1, 2, 0, 3)

    q, k, v = split(q), split(k), split(v)
    if static_k is not None:
        k = static_k.unflatten(0, (batch, heads))
    if static_v is not None:
        v = static_v.unflatten(0, (batch, heads))
    if add_zero_attn:
        k, v = (cat([x, Tensor._zeros((batch, heads, 1, x.shape[-1]), x.dtype, x.device)], 2) for x in (k, v))
        extra += 1
    for _ in range(extra):
        attn_mask, key_padding_mask = (None if m is None else _one_more(m) for m in (attn_mask, key_padding_mask))
    mask = _merge(attn_mask, key_padding_mask, q.dtype)
    found = None
    if need_weights:
        y, found = _attend_with_weights(q, k, v, mask, dropout_p)
        found = reduction.mean(found, 1) if average_attn_weights else found
    else:
        if mask is not None:
            mask = arithmetic.logical_not(mask) if mask.dtype == memory.bool_ else mask.to(q.dtype)
        y = scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal)
    y = y.permute(0, 2, 1, 3) if batch_first else y.permute(2, 0, 1, 3)
    return linear(y.flatten(-2), weights.out_weight, weights.out_bias), found


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention with given weights: the output (L, N, E), and the attention weights or None.

    Args:
        query: (L, N, E), or (L, E) without a batch; key: (S, N, Ek); value: (S, N, Ev).
        embed_dim_to_check: E.
        num_heads: divides E.
        in_proj_weight, in_proj_bias: (3E, E) and (3E,).
        bias_k, bias_v: (1, 1, E), one more key and value.
        add_zero_attn: whether there is one more key and value of zeros.
        dropout_p: of the attention weights, in training.
        out_proj_weight, out_proj_bias: (E, E) and (E,).
        key_padding_mask: (N, S) or (S,): bool, True where a key is hidden; or floating point, added.
        need_weights: whether the weights are returned, (N, L, S), or with a dimension of heads if not averaged. Without
            them, memory for them is not needed either.
        attn_mask: (L, S) or (N · num_heads, L, S): bool, True where a key is hidden; or floating point, added.
        use_separate_proj_weight: whether ``q_proj_weight`` (E, E), ``k_proj_weight`` (E, Ek) and ``v_proj_weight``
            (E, Ev) stand in place of ``in_proj_weight``.
        static_k, static_v: (N · num_heads, S, E / num_heads), in place of the projected key and value.
        is_causal: a hint that ``attn_mask``, which must be given, is the causal one.

    Raises:
        AssertionError, RuntimeError: if shapes or dtypes do not fit.
    """
    op = "multi_head_attention_forward"
    if query.shape[-1] != embed_dim_to_check:
        raise AssertionError(
            f"{op}: was expecting embedding dimension of {embed_dim_to_check}, but got {query.shape[-1]}"
        )
    if embed_dim_to_check % num_heads:
        raise AssertionError(f"{op}: embed_dim {embed_dim_to_check} not divisible by num_heads {num_heads}")
    if (bias_k is None) != (bias_v is None):
        raise AssertionError(f"{op}: expected both or none of bias_k and bias_v")
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    if any(w is None for w in separate) if use_separate_proj_weight else in_proj_weight is None:
        raise AssertionError(f"{op}: the projection weights that use_separate_proj_weight names are missing")
    packed = None if use_separate_proj_weight else in_proj_weight
    weights = Projections(packed, separate, in_proj_bias, bias_k, bias_v, out_proj_weight, out_proj_bias)
    return attend(
        query,
        key,
        value,
        num_heads,
        weights,
        False,
        add_zero_attn,
        dropout_p if training else 0.0,
        key_padding_mask,
        need_weights,
        attn_mask,
        is_causal,
        average_attn_weights,
        static_k,
        static_v,
    )
