"""Rows of a table: repeated, padded, weighted by frequency; bags of one length, of any, and empty ones."""

import numpy as np
import torch.nn.functional as F

from tests.ops.case import FLOATING, Case, case

NUMBERS = np.array([[0, 2, 2], [4, 0, 2]])
RUN = np.array([3, 0, 0, 4, 1])
OFFSETS = np.array([0, 2, 2, 5])  # the second bag and the last are empty


def _table_first(function):
    """The table, which is differentiated, before the numbers: torch's functions take it second."""

    def call(weight, input, *more, **how):
        names = ("per_sample_weights",) if len(more) == 1 else ("offsets", "per_sample_weights")
        return function(input, weight, **dict(zip(names, more)), **how)

    return call


class Lookup(Case):
    def function(self):
        return _table_first(super().function())


def look_up(name, inputs, **options):
    return Lookup(**vars(case(name, inputs, torch=_table_first(getattr(F, name)), **options)))


TWO = FLOATING[1:3]
CASES = [
    look_up("embedding", ((5, 3), NUMBERS)),
    look_up(
        "embedding",
        ((5, 3), NUMBERS),
        padding_idx=-3,
        scale_grad_by_freq=True,
        dtypes=TWO,
        gradient=False,
        label="padding",
    ),
    look_up("embedding", ((5, 1), np.array(3)), dtypes=TWO, label="one"),
    look_up("embedding", ((5, 3), np.zeros((0, 2), np.int64)), dtypes=TWO, label="nothing"),
    *[look_up("embedding_bag", ((5, 3), NUMBERS), mode=mode, label=mode) for mode in ("sum", "mean")],
    look_up("embedding_bag", ((5, 3), NUMBERS), mode="max", spaced=True),
    *[
        look_up("embedding_bag", ((5, 3), RUN, OFFSETS, None), mode=m, label=f"runs, {m}", spaced=True, dtypes=TWO)
        for m in ("sum", "mean", "max")
    ],
    look_up("embedding_bag", ((5, 3), NUMBERS, (2, 3)), mode="sum", label="weights"),
    look_up("embedding_bag", ((5, 3), NUMBERS), mode="mean", padding_idx=2, label="padding", dtypes=TWO),
    look_up(
        "embedding_bag", ((5, 3), NUMBERS), mode="max", padding_idx=2, label="padding max", spaced=True, dtypes=TWO
    ),
    look_up(
        "embedding_bag", ((5, 3), NUMBERS, (2, 3)), mode="sum", padding_idx=0, label="padding, weights", dtypes=TWO
    ),
    look_up(
        "embedding_bag", ((5, 3), RUN, OFFSETS, None), mode="sum", include_last_offset=True, label="ends", dtypes=TWO
    ),
]
