"""Losses are those of torch, forward and backward."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn

WEIGHT = [0.5, 2.0, 1.0, 0.0, 3.0]


def case(name, target, shape=(7, 5), **settings):
    return pytest.param(name, target, shape, settings, id=f"{name}-{target}-{shape}-{settings}")


CASES = [
    case(name, target, shape, reduction=reduction)
    for reduction in ("mean", "sum", "none")
    for name, target, shape in [
        ("CrossEntropyLoss", "classes", (7, 5)),
        ("CrossEntropyLoss", "classes", (2, 5, 3, 2)),
        ("CrossEntropyLoss", "probabilities", (7, 5)),
        ("NLLLoss", "classes", (7, 5)),
        ("MSELoss", "values", (7, 5)),
        ("L1Loss", "values", (3, 1, 2)),
    ]
] + [
    case("CrossEntropyLoss", "classes", label_smoothing=0.1, weight=WEIGHT),
    case("CrossEntropyLoss", "classes", ignore_index=2, weight=WEIGHT),
    case("CrossEntropyLoss", "probabilities", label_smoothing=0.1, weight=WEIGHT),
    case("NLLLoss", "classes", ignore_index=2, weight=WEIGHT),
]


@pytest.mark.parametrize(("name", "target", "shape", "settings"), CASES)
def test_losses_are_those_of_torch(name, target, shape, settings):
    settings, weight = {k: v for k, v in settings.items() if k != "weight"}, settings.get("weight")
    values = torch.randn(shape, dtype=torch.float64)
    if target == "classes":
        goal = torch.arange(values.numel() // shape[1]).reshape(shape[:1] + shape[2:]) * 3 % shape[1]
    elif target == "probabilities":
        goal = torch.rand(shape, dtype=torch.float64).softmax(1)
    else:
        goal = torch.randn(shape, dtype=torch.float64)
    x, reference = on_device(values.clone()).requires_grad_(), values.clone().requires_grad_()
    ours = getattr(nn, name)(**settings, **({} if weight is None else {"weight": tinyflow.tensor(weight)})).double()
    theirs = getattr(torch.nn, name)(
        **settings, **({} if weight is None else {"weight": torch.tensor(weight)})
    ).double()
    assert repr(ours) == repr(theirs)
    loss, expected = ours(x, on_device(goal)), theirs(reference, goal)
    assert_close(on_cpu(loss), expected.detach(), length=64)
    g = torch.randn_like(expected)
    loss.backward(on_device(g))
    expected.backward(g)
    assert_close(on_cpu(x.grad), reference.grad, length=64)


def test_the_weight_is_part_of_the_state():
    loss = nn.CrossEntropyLoss(weight=tinyflow.tensor(WEIGHT))
    assert list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype == tinyflow.float64


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss, nn.MSELoss, nn.L1Loss])
def test_an_unknown_reduction_says_so(kind):
    with pytest.raises(ValueError, match="median is not a valid value for reduction"):
        kind(reduction="median")


SIGNS = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
X = ((torch.arange(15) * 7 % 15 - 7) / 4 + 0.1).reshape(5, 3).double()
POSITIVE = X.abs() + 0.2

ARGUMENTS = [
    ("BCELoss", {}, (X.sigmoid(), X.flip(0).sigmoid())),
    ("BCELoss", {"weight": [1.0, 2.0, 0.5], "reduction": "sum"}, (X.sigmoid(), X.flip(0).sigmoid())),
    ("BCEWithLogitsLoss", {"pos_weight": [1.0, 2.0, 0.5], "weight": [3.0, 1.0, 2.0]}, (X, X.flip(0).sigmoid())),
    ("SmoothL1Loss", {"beta": 0.7}, (X, X.flip(0))),
    ("HuberLoss", {"delta": 0.7, "reduction": "none"}, (X, X.flip(0))),
    ("KLDivLoss", {"reduction": "batchmean"}, (X, POSITIVE)),
    ("KLDivLoss", {"reduction": "sum", "log_target": True}, (X, POSITIVE)),
    ("SoftMarginLoss", {}, (X, SIGNS[:, None].expand(5, 3).double())),
    ("HingeEmbeddingLoss", {"margin": 0.6}, (X[:, 0], SIGNS)),
    ("PoissonNLLLoss", {"full": True}, (X, POSITIVE)),
    ("PoissonNLLLoss", {"log_input": False, "eps": 1e-3}, (POSITIVE, X)),
    ("GaussianNLLLoss", {"full": True}, (X, X.flip(0), POSITIVE)),
    ("GaussianNLLLoss", {"eps": 0.5}, (X, X.flip(0), POSITIVE[:, :1])),
    ("MarginRankingLoss", {"margin": 0.3}, (X[:, 0], X[:, 1], SIGNS)),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": [1.0, 2.0, 0.5]}, (X, torch.tensor([0, 2, 1, 1, 0]))),
    ("MultiLabelMarginLoss", {}, (X, torch.tensor([[2, -1, 0], [0, 1, -1], [-1, 0, 1], [0, 1, 2], [1, -1, 1]]))),
    ("MultiLabelSoftMarginLoss", {"weight": [1.0, 2.0, 0.5]}, (X, (X > 0).double().flip(0))),
    ("CosineEmbeddingLoss", {"margin": -0.5}, (X, X.flip(0), SIGNS)),
    ("TripletMarginLoss", {"margin": 2.0, "swap": True}, (X, X.flip(0), X.roll(1, 0))),
    ("TripletMarginWithDistanceLoss", {"margin": 2.0}, (X, X.flip(0), X.roll(1, 0))),
]


@pytest.mark.parametrize(("name", "settings", "inputs"), ARGUMENTS, ids=lambda x: x if isinstance(x, str) else None)
def test_more_losses_are_those_of_torch(name, settings, inputs):
    lists = {k: v for k, v in settings.items() if isinstance(v, list)}
    plain = {k: v for k, v in settings.items() if k not in lists}
    ours = getattr(nn, name)(**plain, **{k: tinyflow.tensor(v) for k, v in lists.items()}).double()
    theirs = getattr(torch.nn, name)(**plain, **{k: torch.tensor(v) for k, v in lists.items()}).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    reference = inputs[0].clone().requires_grad_()
    x = on_device(inputs[0].clone()).requires_grad_()
    expected = theirs(reference, *inputs[1:])
    loss = ours(x, *[on_device(t.contiguous()) for t in inputs[1:]])
    assert_close(on_cpu(loss), expected.detach(), length=64)
    expected.sum().backward()
    loss.sum().backward()
    assert_close(on_cpu(x.grad), reference.grad, length=64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: nn.BCELoss()(x - 3, x), RuntimeError, r"probabilities in \[0, 1\]"),
        (lambda x: nn.BCELoss()(x, x[0]), ValueError, r"shape \(2, 3\), got \(3,\)"),
        (lambda x: nn.BCELoss()(x * float("nan"), x), RuntimeError, r"probabilities in \[0, 1\]"),
        (lambda x: nn.BCELoss()(x, x * 2), RuntimeError, r"targets in \[0, 1\]"),
        (lambda x: nn.BCELoss(tinyflow.ones(4, 2, 3))(x, x), RuntimeError, r"weight that broadcasts .* got \(4, 2, 3\)"),
        (
            lambda x: nn.BCEWithLogitsLoss(pos_weight=tinyflow.ones(4, 2, 3))(x, x),
            RuntimeError,
            r"pos_weight that broadcasts .* got \(4, 2, 3\)",
        ),
        (
            lambda x: nn.MultiMarginLoss(weight=tinyflow.ones(4))(x, tinyflow.zeros(2, dtype=tinyflow.int64)),
            RuntimeError,
            r"weight for each class of \(2, 3\), got \(4,\)",
        ),
        (lambda x: nn.HuberLoss(delta=0)(x, x), RuntimeError, "delta > 0, got 0"),
        (lambda x: nn.SmoothL1Loss(beta=-1)(x, x), RuntimeError, "beta >= 0, got -1"),
        (lambda x: nn.GaussianNLLLoss()(x, x, x[:, :2]), ValueError, r"var of shape \(2, 3\).* got \(2, 2\)"),
        (lambda x: nn.GaussianNLLLoss()(x, x, -1.0), ValueError, "var >= 0, got -1"),
        (lambda x: nn.MultiMarginLoss(p=3), ValueError, "p to be 1 or 2, got 3"),
        (lambda x: nn.MultiMarginLoss()(x, x), RuntimeError, r"scores \(N, C\) and targets \(N,\).* \(2, 3\)"),
        (lambda x: nn.TripletMarginLoss(margin=0), ValueError, "margin > 0, got 0"),
        (lambda x: nn.TripletMarginLoss()(x, x, x[0]), RuntimeError, "of as many dimensions"),
        (lambda x: nn.CosineEmbeddingLoss()(x, x, x), RuntimeError, r"inputs \(N, D\) and a target \(N,\)"),
        (lambda x: nn.functional.mse_loss(x, x, weight=x[0]), ValueError, r"weight of the input's shape \(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(tinyflow.ones(2, 3))


def test_what_is_no_number_stays_where_a_gpu_does_not_look():
    """On the CPU such probabilities are refused; the kernel must not take them for 0."""
    from tinyflow.kernels.elementwise_loss import binary_cross_entropy

    x = torch.tensor([float("nan"), 0.0], device=tinyflow.get_default_device())
    assert binary_cross_entropy(x, torch.ones_like(x)).isnan().tolist() == [True, False]


def test_an_infinite_variance():
    x, var = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([float("inf"), 1e-9, float("nan")])
    expected = torch.nn.functional.gaussian_nll_loss(x, 2 * x, var, reduction="none")
    found = nn.functional.gaussian_nll_loss(on_device(x), on_device(2 * x), on_device(var), reduction="none")
    torch.testing.assert_close(on_cpu(found), expected, equal_nan=True)


@pytest.mark.parametrize(
    "name",
    [
        "soft_margin_loss", "hinge_embedding_loss", "poisson_nll_loss", "margin_ranking_loss", "triplet_margin_loss",
        "cosine_embedding_loss", "multi_margin_loss", "multilabel_margin_loss",
    ],
)  # fmt: skip
def test_autocast_computes_losses_in_full_precision(name):
    x = tinyflow.ones(2, 3, dtype=tinyflow.bfloat16)
    others = {
        "margin_ranking_loss": (x, x),
        "triplet_margin_loss": (x, x),
        "cosine_embedding_loss": (x, x[:, 0]),
        "multi_margin_loss": (tinyflow.zeros(2, dtype=tinyflow.int64),),
        "multilabel_margin_loss": (tinyflow.zeros(2, 3, dtype=tinyflow.int64),),
    }.get(name, (x,))
    with tinyflow.autocast(x.device.type, dtype=tinyflow.bfloat16):
        assert getattr(nn.functional, name)(x, *others).dtype == tinyflow.float32
        assert tinyflow.cdist(x, x).dtype == tinyflow.dist(x, x).dtype == tinyflow.float32


def test_captured_steps_have_no_look_at_values():
    half = tinyflow.full((3,), 0.5)
    for call in (nn.functional.binary_cross_entropy, lambda x, y: nn.functional.gaussian_nll_loss(x, y, x)):
        assert tinyflow.capture(call, half, half)(half, half).item() == call(half, half).item()


def test_losses_take_their_arguments_by_name():
    x, y = tinyflow.ones(2, 3), tinyflow.zeros(2, 3)
    assert nn.MSELoss()(input=x, target=y).item() == nn.L1Loss()(target=y, input=x).item() == 1.0
    assert nn.MarginRankingLoss()(input1=x, input2=y, target=x).item() == 0.0
    assert nn.Dropout(0.0)(input=x).shape == nn.Linear(3, 3)(input=x).shape == (2, 3)


def test_weighted_means_of_squares_are_over_the_weights():
    a, b, w = (torch.tensor(v) for v in ([1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]))
    for name in ("mse_loss", "l1_loss"):
        expected = getattr(torch.nn.functional, name)(a, b, weight=w)
        found = getattr(nn.functional, name)(on_device(a), on_device(b), weight=on_device(w))
        assert_close(on_cpu(found), expected, length=3)
