"""Sequences of several lengths in one batch: padded, or packed step by step without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tinyflow
from tinyflow.operands import check_tensors
from tinyflow.tensor import Tensor


class PackedSequence(NamedTuple):
    """A batch of sequences, longest first, as the elements of step 0, then of step 1, …

    Attributes:
        data: (sum of the lengths, \\*).
        batch_sizes: int64 on the CPU: how many sequences have each step.
        sorted_indices: where in the batch each sequence was, or None if it was sorted.
        unsorted_indices: the other way round.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with ``data`` on another device or in another dtype."""
        data = self.data.to(*args, **kwargs)
        moved = [None if x is None else x.to(data.device) for x in (self.sorted_indices, self.unsorted_indices)]
        return PackedSequence(data, self.batch_sizes, *moved)

    def cpu(self) -> PackedSequence:
        return self.to("cpu")

    def cuda(self, device: Any = "cuda") -> PackedSequence:
        return self.to(device)

    def double(self) -> PackedSequence:
        return self.to(tinyflow.float64)

    def float(self) -> PackedSequence:
        return self.to(tinyflow.float32)

    def half(self) -> PackedSequence:
        return self.to(tinyflow.float16)

    @property
    def is_cuda(self) -> bool:
        return self.data.is_cuda


def _indices(values: Sequence[int], device: Any) -> Tensor:
    return tinyflow.tensor(list(values), dtype=tinyflow.int64, device=device)


def _invert(order: Sequence[int]) -> list[int]:
    inverse = [0] * len(order)
    for place, index in enumerate(order):
        inverse[index] = place
    return inverse


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs padded sequences (T, N, \\*), or (N, T, \\*) with ``batch_first``.

    Args:
        lengths: of each sequence, on the CPU.
        enforce_sorted: whether the longest must come first; else the batch is sorted.

    Raises:
        RuntimeError: if the lengths do not fit, are not positive, or not sorted where they must be.
    """
    sizes = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    x = input.transpose(0, 1) if batch_first else input
    if len(sizes) != x.shape[1]:
        raise RuntimeError(
            f"pack_padded_sequence: expected {x.shape[1]} lengths for a batch of that size, got {len(sizes)}"
        )
    if not sizes or min(sizes) <= 0:
        raise RuntimeError(
            f"pack_padded_sequence: Length of all samples has to be greater than 0, but found lengths {sizes}"
        )
    if max(sizes) > x.shape[0]:
        raise RuntimeError(f"pack_padded_sequence: expected lengths of at most {x.shape[0]}, got {max(sizes)}")
    order = None
    if not enforce_sorted:
        order = sorted(range(len(sizes)), key=lambda k: -sizes[k])
        sizes = [sizes[k] for k in order]
        x = x.index_select(1, _indices(order, x.device))
    elif sizes != sorted(sizes, reverse=True):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            f"`enforce_sorted=False` to have the batch sorted; got {sizes}"
        )
    counts = [sum(n > t for n in sizes) for t in range(sizes[0])]
    data = tinyflow.cat([x[t, :count] for t, count in enumerate(counts)])
    places = (None, None) if order is None else (_indices(order, x.device), _indices(_invert(order), x.device))
    return PackedSequence(data, _indices(counts, "cpu"), *places)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """The padded sequences of a packed batch, in the order before it was sorted, and their lengths.

    Args:
        total_length: how long the padded sequences are; as the longest by default.

    Raises:
        ValueError: if ``total_length`` is less than the longest.
    """
    if not isinstance(sequence, PackedSequence):
        raise TypeError(f"pad_packed_sequence: expected a PackedSequence, got {type(sequence).__name__}")
    counts = sequence.batch_sizes.tolist()
    longest, batch = len(counts), counts[0]
    if total_length is not None and total_length < longest:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {longest}"
        )
    steps = []
    for step in sequence.data.split(counts):
        missing = batch - step.shape[0]
        filler = step.new_full((missing, *step.shape[1:]), padding_value)
        steps.append(tinyflow.cat([step, filler]) if missing else step)
    steps += [steps[0].new_full(steps[0].shape, padding_value)] * ((total_length or longest) - longest)
    padded = tinyflow.stack(steps)
    lengths = [sum(count > k for count in counts) for k in range(batch)]
    if sequence.unsorted_indices is not None:
        padded = padded.index_select(1, sequence.unsorted_indices)
        lengths = [lengths[k] for k in sequence.unsorted_indices.tolist()]
    return padded.transpose(0, 1) if batch_first else padded, _indices(lengths, "cpu")


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences (Tᵢ, \\*) in one tensor (T, N, \\*), or (N, T, \\*), each padded to the longest.

    Raises:
        RuntimeError: for no sequences, or another side than "right" or "left".
    """
    if padding_side not in ("right", "left"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}")
    if not len(sequences):
        raise RuntimeError("pad_sequence: received an empty list of sequences")
    check_tensors("pad_sequence()", "sequences", sequences)
    longest = max(x.shape[0] for x in sequences)
    padded = []
    for x in sequences:
        filler = x.new_full((longest - x.shape[0], *x.shape[1:]), padding_value)
        padded.append(tinyflow.cat([x, filler] if padding_side == "right" else [filler, x]))
    return tinyflow.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """The sequences of a padded batch, each of its length."""
    x = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [x[k, :n] for k, n in enumerate(lengths.tolist())]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Packs sequences (Tᵢ, \\*); errors as :func:`pack_padded_sequence`."""
    return pack_padded_sequence(pad_sequence(sequences), [x.shape[0] for x in sequences], False, enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a packed batch."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
