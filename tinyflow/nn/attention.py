"""Multi-head attention (Vaswani et al. 2017)."""

from __future__ import annotations

import tinyflow
from tinyflow.nn import init
from tinyflow.nn.linear import Linear
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.operands import guarded
from tinyflow.ops.multi_head import Projections, attend
from tinyflow.tensor import Tensor


class MultiheadAttention(Module):
    """Attention of several heads on projections of query, key and value, and a projection of what they return.

    Args:
        embed_dim: E, the features of the query and of the output.
        num_heads: divides E; each head has E / num_heads features.
        dropout: the probability with which an attention weight is dropped in training.
        bias: whether projections have biases.
        add_bias_kv: whether there is one more, learned, key and value.
        add_zero_attn: whether there is one more key and value of zeros.
        kdim, vdim: features of key and value; default E.
        batch_first: whether tensors are (N, L, E) rather than (L, N, E).

    Raises:
        ValueError: if a size is not positive.
        AssertionError: if the heads do not divide E.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and num_heads={num_heads}"
            )
        if embed_dim % num_heads:
            raise AssertionError(f"embed_dim must be divisible by num_heads, got {embed_dim} and {num_heads}")
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        self.add_zero_attn = add_zero_attn

        def weight(there: bool, *shape: int) -> Parameter | None:
            return Parameter(tinyflow.empty(shape, device=device, dtype=dtype)) if there else None

        same = self._qkv_same_embed_dim
        self.register_parameter("in_proj_weight", weight(same, 3 * embed_dim, embed_dim))
        self.register_parameter("q_proj_weight", weight(not same, embed_dim, embed_dim))
        self.register_parameter("k_proj_weight", weight(not same, embed_dim, self.kdim))
        self.register_parameter("v_proj_weight", weight(not same, embed_dim, self.vdim))
        self.register_parameter("in_proj_bias", weight(bias, 3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        self.register_parameter("bias_k", weight(add_bias_kv, 1, 1, embed_dim))
        self.register_parameter("bias_v", weight(add_bias_kv, 1, 1, embed_dim))
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Projections uniform and the extra key and value normal by Glorot's rule, biases 0."""
        for matrix in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if matrix is not None:
                init.xavier_uniform_(matrix)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    @guarded
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output in the shape of ``query``, and the attention weights or None.

        Arguments as in :func:`tinyflow.nn.functional.multi_head_attention_forward`, in this module's order of dimensions.
        ``need_weights=False`` runs the fused kernel, which keeps no matrix of weights.
        """
        if query.shape[-1] != self.embed_dim:
            raise AssertionError(f"was expecting embedding dimension of {self.embed_dim}, but got {query.shape[-1]}")
        weights = Projections(
            self.in_proj_weight,
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight),
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.out_proj.weight,
            self.out_proj.bias,
        )
        return attend(
            query,
            key,
            value,
            self.num_heads,
            weights,
            self.batch_first,
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
            key_padding_mask,
            need_weights,
            attn_mask,
            is_causal,
            average_attn_weights,
        )
