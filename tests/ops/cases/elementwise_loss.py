"""Losses of single elements and of margins; values keep away from corners, where torch's halves of a slope may differ."""

import functools

import numpy as np
import torch.nn.functional as F

from tests.ops.case import case

SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
SHARES = np.array([[0.1, 0.9, 0.3], [0.0, 1.0, 0.6]])
X = (5, 3)
APART = ((np.arange(15) * 7 % 15 - 7) / 4 + 0.1).reshape(X)
COUNTS = (np.arange(15.0) % 4).reshape(X)
LABELS = np.array([[2, 0, -1, 1], [-1, 0, 1, 2], [3, 2, 1, 0]])
FLAGS = (np.arange(12) % 2).reshape(3, 4) * 1.0

_kl_mean = functools.partial(F.kl_div, reduction="batchmean")

CASES = [
    case("binary_cross_entropy", ((2, 3), 0.1 + 0.8 * SHARES), torch=F.binary_cross_entropy, low=0.05, high=0.95,
         length=6),
    case("binary_cross_entropy", ((2, 3), SHARES, (3,)), torch=F.binary_cross_entropy, low=0.05, high=0.95, length=6,
         reduction="sum", label="weight", gradient=False),
    case("binary_cross_entropy_with_logits", (APART, X), torch=F.binary_cross_entropy_with_logits, length=15),
    case("binary_cross_entropy_with_logits", ((2, 3), SHARES), torch=F.binary_cross_entropy_with_logits, length=3,
         reduction="none", label="none"),
    case("smooth_l1_loss", (APART, np.zeros(X)), torch=F.smooth_l1_loss, length=15),
    case("smooth_l1_loss", (APART, np.zeros(X)), torch=F.smooth_l1_loss, beta=0.33, reduction="sum", length=15,
         label="beta"),
    case("smooth_l1_loss", (APART, np.zeros(X)), torch=F.smooth_l1_loss, beta=0.0, length=15, label="l1"),
    case("huber_loss", (APART, np.zeros(X)), torch=F.huber_loss, length=15),
    case("huber_loss", (APART, np.zeros(X)), torch=F.huber_loss, delta=0.7, reduction="none", label="delta"),
    case("kl_div", (X, X), torch=_kl_mean, low=0.1, high=2.0, reduction="batchmean", length=15),
    case("kl_div", (X, X), torch=F.kl_div, log_target=True, reduction="sum", length=15, label="logs"),
    case("kl_div", ((2, 3), SHARES), torch=F.kl_div, reduction="none", label="zeros", gradient=False),
    case("soft_margin_loss", ((5,), SIGNS.astype(int)), torch=F.soft_margin_loss, length=5),
    case("hinge_embedding_loss", (APART[:, 0], SIGNS), torch=F.hinge_embedding_loss, margin=0.77, length=5),
    case("poisson_nll_loss", (X, COUNTS), torch=F.poisson_nll_loss, full=True, length=15, gradient=False,
         label="full"),
    case("poisson_nll_loss", (X, COUNTS), torch=F.poisson_nll_loss, length=15),
    case("poisson_nll_loss", (X, X), torch=F.poisson_nll_loss, low=0.2, high=2.0, log_input=False, length=15,
         label="rate"),
    case("gaussian_nll_loss", (X, X, X), torch=F.gaussian_nll_loss, low=0.5, high=2.0, length=15),
    case("gaussian_nll_loss", (X, X, (5,)), torch=F.gaussian_nll_loss, low=0.5, high=2.0, full=True, length=15,
         reduction="sum", label="one variance a row"),
    case("margin_ranking_loss", (APART[:, 0], APART[:, 1] * 1.1, SIGNS), torch=F.margin_ranking_loss, margin=0.3,
         length=5),
    case("multi_margin_loss", (APART, np.array([0, 2, 1, 1, 0])), torch=F.multi_margin_loss, length=9),
    case("multi_margin_loss", (APART, np.array([0, 2, 1, 1, 0])), torch=F.multi_margin_loss, p=2, margin=0.55,
         reduction="none", length=9, label="squared"),
    case("multi_margin_loss", (APART[0], np.array(2)), torch=F.multi_margin_loss, length=3),
    case("multilabel_margin_loss", ((APART * 0.9)[:3].repeat(2, 1)[:, :4] * np.array([1, 0.9, 0.8, 0.7]), LABELS),
         torch=F.multilabel_margin_loss, length=16),
    case("multilabel_margin_loss", (APART[0], LABELS[0][:3]), torch=F.multilabel_margin_loss, length=9),
    case("multilabel_soft_margin_loss", ((3, 4), FLAGS), torch=F.multilabel_soft_margin_loss, length=12),
    case("cosine_embedding_loss", (X, X, SIGNS), torch=F.cosine_embedding_loss, margin=-0.9, length=15),
    case("triplet_margin_loss", (X, X, X), torch=F.triplet_margin_loss, margin=4.0, length=15),
    case("triplet_margin_loss", (X, X, X), torch=F.triplet_margin_loss, margin=5.0, swap=True, reduction="none",
         length=15, label="swap"),
    case("triplet_margin_with_distance_loss", (X, X, X), torch=F.triplet_margin_with_distance_loss, margin=4.0,
         length=15),
]  # fmt: skip
