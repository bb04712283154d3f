"""Tables of vectors that are looked up by number."""

from __future__ import annotations

import tinyflow
from tinyflow.nn import functional as F
from tinyflow.nn import init
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.operands import check_tensor
from tinyflow.tensor import Tensor


class _Table(Module):
    """A weight of (num_embeddings, embedding_dim), its padding row and its settings."""

    def _make(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool,
        weight: Tensor | None,
        device: str | tinyflow.device | None,
        dtype: tinyflow.dtype | None,
    ) -> None:
        name = type(self).__name__
        if sparse:
            raise NotImplementedError(f"{name}: sparse=True is not implemented, since gradients are dense here")
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise AssertionError(
                f"{name}: Padding_idx must be within num_embeddings, {num_embeddings}, got {padding_idx}"
            )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        if weight is None:
            self.weight = Parameter(tinyflow.empty((num_embeddings, embedding_dim), device=device, dtype=dtype))
            self.reset_parameters()
        elif tuple(weight.shape) != (num_embeddings, embedding_dim):
            raise AssertionError(
                f"{name}: Shape of weight does not match num_embeddings and embedding_dim: "
                f"expected {(num_embeddings, embedding_dim)}, got {tuple(weight.shape)}"
            )
        else:
            self.weight = Parameter(weight)

    def reset_parameters(self) -> None:
        """Standard normal values, and zeros in the padding row."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with tinyflow.no_grad():
                self.weight[self.padding_idx].zero_()

    def _settings(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        return text


class Embedding(_Table):
    """y = weight[x]: a row of the table for each number.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of each row.
        padding_idx: a row that starts as zeros and gets no gradient; negative ones count from the end.
        max_norm: rows that are looked up and longer are scaled to this norm first, in place.
        norm_type: the order of that norm.
        scale_grad_by_freq: whether a row's gradient is divided by how often it is looked up.
        sparse: refused.

    Raises:
        NotImplementedError: for ``sparse``.
        AssertionError: if ``padding_idx`` is no row.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        self._make(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            device,
            dtype,
        )
        self.weight.requires_grad_(not _freeze)

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )

    def extra_repr(self) -> str:
        size = f"{self.num_embeddings}, {self.embedding_dim}"
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return size + padding + self._settings().removeprefix(size)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """A layer with the given table, which does not learn if ``freeze``.

        Raises:
            AssertionError: if the table is no matrix.
        """
        check_tensor(f"{cls.__name__}.from_pretrained()", "embeddings", embeddings)
        if embeddings.dim() != 2:
            raise AssertionError(f"Embeddings parameter is expected to be 2-dimensional, got {tuple(embeddings.shape)}")
        rows, columns = embeddings.shape
        return cls(rows, columns, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, embeddings, freeze)


class EmbeddingBag(_Table):
    """The sum, mean or maximum of the rows that each bag of numbers names.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of each row.
        max_norm, norm_type, scale_grad_by_freq, sparse: as in :class:`Embedding`.
        mode: "sum", "mean" or "max".
        include_last_offset: whether offsets have one more entry, the end of the last bag.
        padding_idx: a row that does not count, starts as zeros and gets no gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        self._make(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            device,
            dtype,
        )
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """(bags, embedding_dim); arguments as in :func:`tinyflow.nn.functional.embedding_bag`."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx!r}"
        return f"{self._settings()}, mode={self.mode!r}{padding}"

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """A layer with the given table, which does not learn if ``freeze``.

        Raises:
            AssertionError: if the table is no matrix.
        """
        check_tensor(f"{cls.__name__}.from_pretrained()", "embeddings", embeddings)
        if embeddings.dim() != 2:
            raise AssertionError(f"Embeddings parameter is expected to be 2-dimensional, got {tuple(embeddings.shape)}")
        rows, columns = embeddings.shape
        layer = cls(
            rows, columns, max_norm, norm_type, scale_grad_by_freq, mode, sparse, embeddings, include_last_offset,
            padding_idx,
        )  # fmt: skip
        layer.weight.requires_grad_(not freeze)
        return layer
