"""Batch normalisation (Ioffe & Szegedy 2015)."""

from __future__ import annotations

from typing import Any

from tinyflow.nn.channel_norm import ChannelNorm
from tinyflow.operands import guarded
from tinyflow.ops.batch_norm import batch_norm_counted, counts
from tinyflow.tensor import Tensor


class _BatchNorm(ChannelNorm):
    """y = (x − mean) / √(var + eps) · weight + bias for each channel.

    In training, mean and var are those of the batch over all dimensions but the channels', and the running statistics
    move towards them: ``running = (1 − momentum) · running + momentum · batch`` (the variance unbiased). In evaluation
    the running statistics are used.

    Args:
        num_features: number of channels, C.
        eps: keeps the root away from zero.
        momentum: weight of a new batch in the running statistics; ``None`` averages over all batches.
        affine: whether there is a weight.
        bias: whether there is a bias beside it.
        track_running_stats: whether there are running statistics; without them the batch's are used in evaluation too.
    """

    _dimensions: tuple[int, ...] = ()

    @guarded
    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in self._dimensions:
            expected = " or ".join(f"{n}D" for n in self._dimensions)
            raise ValueError(
                f"{type(self).__name__}: expected {expected} input, got {input.dim()}D input of shape {tuple(input.shape)}"
            )
        running_mean, running_var, num_batches, training, momentum = self.next_batch()
        return batch_norm_counted(
            input, running_mean, running_var, num_batches, self.weight, self.bias, training, momentum, self.eps
        )

    def next_batch(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, bool, float]:
        """Running mean and variance to use, the number to count in, whether statistics are the batch's, and momentum.

        Where the momentum follows from the number, the batch is counted here and there is none left to count in.
        """
        momentum = 0.0 if self.momentum is None else self.momentum
        training = self.training or self.running_mean is None
        if not self.training:
            return self.running_mean, self.running_var, None, training, momentum
        if not self.track_running_stats:
            return None, None, None, training, momentum
        num_batches = self.num_batches_tracked
        if num_batches is not None and (self.momentum is None or not counts(num_batches, self.running_mean)):
            num_batches.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(num_batches.item())
            num_batches = None
        return self.running_mean, self.running_var, num_batches, training, momentum

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        key = prefix + "num_batches_tracked"
        version = local_metadata.get("version")
        if (version is None or version < 2) and self.track_running_stats and key not in state_dict:
            state_dict[key] = self.num_batches_tracked  # older files do not count batches
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class BatchNorm1d(_BatchNorm):
    __doc__ = "Over inputs of shape (N, C) or (N, C, L).\n\n" + (_BatchNorm.__doc__ or "")
    _dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = "Over inputs of shape (N, C, H, W).\n\n" + (_BatchNorm.__doc__ or "")
    _dimensions = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = "Over inputs of shape (N, C, D, H, W).\n\n" + (_BatchNorm.__doc__ or "")
    _dimensions = (5,)
