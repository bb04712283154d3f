"""Initial values have the distributions of torch's: bounds, moments, fans and gains."""

from __future__ import annotations

import math

import pytest
import torch

import tinyflow
from tests.device import on_cpu
from tinyflow import nn
from tinyflow.nn import init

SHAPE = (48, 20, 3, 5)  # fan_in 300, fan_out 720; 14,400 values
N = math.prod(SHAPE)


@pytest.fixture(autouse=True)
def seed():
    tinyflow.manual_seed(5)


def drawn(fill, shape=SHAPE):
    """The values that ``fill`` writes over NaN."""
    tensor = tinyflow.full(shape, math.nan)
    assert fill(tensor) is tensor
    values = on_cpu(tensor).double().flatten()
    assert values.isfinite().all()
    return values


@pytest.mark.parametrize(
    ("fill", "bound"),
    [
        (lambda t: init.uniform_(t, -3.0, 3.0), 3.0),
        (init.xavier_uniform_, math.sqrt(6 / 1020)),
        (lambda t: init.xavier_uniform_(t, gain=2.0), 2 * math.sqrt(6 / 1020)),
        (init.kaiming_uniform_, math.sqrt(2) * math.sqrt(3 / 300)),
        (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), math.sqrt(1 / 300)),
        (lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="tanh"), 5 / 3 * math.sqrt(3 / 720)),
    ],
)
def test_uniform_values_fill_their_interval(fill, bound):
    values = drawn(fill)
    assert values.abs().max() <= bound * (1 + 1e-6)
    assert values.max() > 0.99 * bound
    assert values.min() < -0.99 * bound
    assert abs(values.mean()) < 5 * bound / math.sqrt(3 * N)
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (lambda t: init.normal_(t, 0.0, 2.0), 2.0),
        (init.xavier_normal_, math.sqrt(2 / 1020)),
        (lambda t: init.xavier_normal_(t, gain=3.0), 3 * math.sqrt(2 / 1020)),
        (init.kaiming_normal_, math.sqrt(2 / 300)),
        (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / 720)),
        (lambda t: init.kaiming_normal_(t, a=0.5), math.sqrt(2 / 1.25 / 300)),
    ],
)
def test_normal_values_have_their_deviation(fill, std):
    values = drawn(fill)
    assert abs(values.mean()) < 5 * std / math.sqrt(N)
    assert values.std() == pytest.approx(std, rel=0.03)
    assert (values.abs() < std).double().mean() == pytest.approx(0.6827, abs=0.02)


def test_normal_values_have_their_mean():
    assert drawn(lambda t: init.normal_(t, 7.0, 0.5)).mean() == pytest.approx(7.0, abs=5 * 0.5 / math.sqrt(N))


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [(0.0, 1.0, -2.0, 2.0), (1.0, 2.0, 0.5, 4.0), (0.0, 1.0, 1.5, 3.5), (0.0, 0.02, -2.0, 2.0), (0.0, 50.0, -1.0, 1.0)],
)
def test_truncated_normal_values_follow_their_distribution(mean, std, a, b):
    def below(x):
        return math.erf((x - mean) / (std * math.sqrt(2)))

    values = drawn(lambda t: init.trunc_normal_(t, mean, std, a, b))
    assert values.min() >= a
    assert values.max() <= b
    for x in torch.linspace(max(a, mean - 3 * std), min(b, mean + 3 * std), 9).tolist()[1:-1]:
        expected = (below(x) - below(a)) / (below(b) - below(a))
        assert (values < x).double().mean() == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(N))


def test_truncated_normal_warns_where_the_interval_is_far():
    with pytest.warns(UserWarning, match="more than 2 std"):
        init.trunc_normal_(tinyflow.empty(10), mean=5.0, a=-2.0, b=2.0)


def test_constants():
    assert drawn(lambda t: init.constant_(t, 3.5)).unique().tolist() == [3.5]
    assert drawn(init.ones_).unique().tolist() == [1.0]
    assert drawn(init.zeros_).unique().tolist() == [0.0]


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2)])
def test_eye(shape):
    expected = torch.nn.init.eye_(torch.empty(shape))
    assert init.eye_(tinyflow.full(shape, math.nan)).tolist() == expected.tolist()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 2, 3, 5), (6, 4, 3, 1, 2)])
def test_dirac(shape, groups):
    expected = torch.nn.init.dirac_(torch.empty(shape), groups)
    assert init.dirac_(tinyflow.full(shape, math.nan), groups).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("nonlinearity", "param"),
    [("linear", None), ("conv2d", None), ("sigmoid", None), ("tanh", None), ("relu", None), ("selu", None)]
    + [("leaky_relu", slope) for slope in (None, 0.2, 1)],
)
def test_gains_are_those_of_torch(nonlinearity, param):
    assert init.calculate_gain(nonlinearity, param) == torch.nn.init.calculate_gain(nonlinearity, param)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: init.calculate_gain("sine"), ValueError, "Unsupported nonlinearity sine"),
        (lambda: init.calculate_gain("leaky_relu", "steep"), ValueError, "negative_slope steep not a valid number"),
        (lambda: init.xavier_normal_(tinyflow.empty(3)), ValueError, r"fewer than 2 dimensions, got shape \(3,\)"),
        (lambda: init.kaiming_normal_(tinyflow.empty(3, 3), mode="fan"), ValueError, "Mode fan not supported"),
        (lambda: init.eye_(tinyflow.empty(3)), ValueError, r"2 dimensions are supported, got shape \(3,\)"),
        (lambda: init.dirac_(tinyflow.empty(3, 3)), ValueError, r"3, 4, or 5 dimensions .* got shape \(3, 3\)"),
        (lambda: init.dirac_(tinyflow.empty(3, 3, 3), 2), ValueError, "divisible by groups, got 3 and groups=2"),
    ],
)
def test_mistakes_say_so(act, error, text):
    with pytest.raises(error, match=text):
        act()


def test_nothing_is_drawn_for_an_empty_tensor():
    with pytest.warns(UserWarning, match="zero-element"):
        assert init.kaiming_uniform_(tinyflow.empty(0, 3)).shape == (0, 3)


def test_a_parameter_stays_a_leaf():
    parameter = nn.Parameter(tinyflow.zeros(4, 4))
    init.kaiming_normal_(parameter)
    assert parameter.is_leaf
    assert parameter.grad_fn is None


def test_a_generator_decides_the_values():
    def values(seed):
        return init.normal_(tinyflow.empty(5), generator=tinyflow.Generator().manual_seed(seed)).tolist()

    assert values(1) == values(1) != values(2)


def test_layers_start_as_those_of_torch():
    conv = nn.Conv2d(20, 48, (3, 5))
    linear = nn.Linear(300, 48)
    bound = 1 / math.sqrt(300)
    for values in (conv.weight, conv.bias, linear.weight, linear.bias):
        flat = on_cpu(values).double().flatten()
        assert flat.abs().max() <= bound
        assert flat.std() == pytest.approx(bound / math.sqrt(3), rel=0.03 if flat.numel() > 1000 else 0.35)
        assert flat.numel() < 1000 or flat.abs().max() > 0.99 * bound
    norm = nn.BatchNorm2d(3)
    assert [norm.weight.tolist(), norm.bias.tolist(), norm.running_mean.tolist(), norm.running_var.tolist()] == [
        [1.0] * 3,
        [0.0] * 3,
        [0.0] * 3,
        [1.0] * 3,
    ]
    assert norm.num_batches_tracked.item() == 0


def test_random_values_may_be_left_out():
    with init.without_random_values():
        for fill in (init.uniform_, init.normal_, init.trunc_normal_, init.xavier_normal_, init.kaiming_uniform_):
            assert fill(tinyflow.full((2, 2), 7.0)).tolist() == [[7.0, 7.0], [7.0, 7.0]]
        assert init.ones_(tinyflow.zeros(1)).tolist() == [1.0]
    assert init.normal_(tinyflow.full((2,), 7.0)).tolist() != [7.0, 7.0]
