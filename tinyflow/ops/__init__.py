"""Differentiable operations, one family a file, each pairing a kernel with its gradient.

A family's ``__all__`` is what ``tinyflow`` exports under the same name; its ``METHODS`` are bound to Tensor.
"""

from __future__ import annotations

from tinyflow.ops import (
    activation,
    arithmetic,
    batch_norm,
    conv2d,
    copy,
    creation,
    indexing,
    loss,
    matmul,
    methods,
    pooling,
    random,
    reduction,
    rounding,
    scan,
    shape,
    softmax,
    special,
)

FAMILIES = (
    activation,
    arithmetic,
    batch_norm,
    conv2d,
    copy,
    creation,
    indexing,
    loss,
    matmul,
    pooling,
    random,
    reduction,
    rounding,
    scan,
    shape,
    softmax,
    special,
)

methods.bind_all(FAMILIES)
