"""Norms of samples: shapes in which rows are last, spread over channels, of one element, or absent."""

import torch.nn.functional as F

from tests.ops.case import FLOATING, Case, case


def _by_name(function):
    """Inputs are x, weight and bias, which the function takes after its other arguments."""

    def call(x, weight=None, bias=None, **how):
        return function(x, weight=weight, **({} if bias is None else {"bias": bias}), **how)

    return call


class Norm(Case):
    """A norm, whose parameters are given by name."""

    def function(self):
        return _by_name(super().function())


def norm(name, inputs, **options):
    return Norm(**vars(case(name, inputs, torch=_by_name(getattr(F, name)), **options)))


CASES = [
    norm("layer_norm", ((4, 5), (5,), (5,)), normalized_shape=(5,), length=5),
    norm("layer_norm", ((2, 3, 5), (3, 5), None), normalized_shape=(3, 5), length=15, label="matrix, no bias"),
    norm("layer_norm", ((3, 7), None, (7,)), normalized_shape=(7,), length=7, eps=0.1, label="bias alone"),
    norm("layer_norm", ((3, 2), None, None), normalized_shape=(2,), length=2, eps=0.5, label="plain"),
    norm("layer_norm", ((0, 3), (3,), (3,)), normalized_shape=(3,), label="no rows"),
    norm("rms_norm", ((4, 5), (5,)), normalized_shape=(5,), length=5),
    norm("rms_norm", ((2, 3, 4), None), normalized_shape=(3, 4), eps=0.1, length=12, label="plain"),
    norm("group_norm", ((2, 6, 3, 2), (6,), (6,)), num_groups=3, length=12),
    norm("group_norm", ((3, 4), (4,), None), num_groups=2, length=2, eps=0.5, label="features"),
    norm("instance_norm", ((2, 3, 5), (3,), (3,)), length=5),
    norm("instance_norm", ((2, 3, 2, 3), None, None), length=6, label="plain"),
    case("local_response_norm", ((2, 5, 3),), torch=F.local_response_norm, size=3, alpha=0.5, k=2.0, length=3),
    case("local_response_norm", ((1, 5, 2, 2),), torch=F.local_response_norm, size=4, label="even", length=4),
    case("normalize", ((3, 5),), torch=F.normalize, length=5),
    case("normalize", ((3, 5),), torch=F.normalize, p=1.0, dim=0, length=3, label="sum", second=False),
    case("cosine_similarity", ((3, 5), (1, 5)), torch=F.cosine_similarity, length=5),
    case("cosine_similarity", ((2, 3, 4), (3, 4)), torch=F.cosine_similarity, dim=-1, length=4, label="broadcast"),
    case("pairwise_distance", ((3, 5), (3, 5)), torch=F.pairwise_distance, length=5),
    case("pairwise_distance", ((3, 5), (5,)), torch=F.pairwise_distance, keepdim=True, length=5, dtypes=FLOATING[:2]),
]
