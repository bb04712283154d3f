"""Random tensors and their generators: what torch's signatures promise, and that a state names its numbers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tinyflow
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.nn import functional as F


@pytest.fixture(autouse=True)
def _seeded() -> None:
    tinyflow.manual_seed(1234)


def _equal(a, b) -> bool:
    return np.array_equal(a.numpy(), b.numpy())


def test_a_seed_names_the_numbers() -> None:
    first = tinyflow.rand(3, 4), tinyflow.randn(5), tinyflow.randint(100, (7,))
    tinyflow.manual_seed(1234)
    again = tinyflow.rand(3, 4), tinyflow.randn(5), tinyflow.randint(100, (7,))
    assert all(_equal(a, b) for a, b in zip(first, again))
    tinyflow.manual_seed(1235)
    assert not _equal(tinyflow.rand(3, 4), first[0])


def test_draws_do_not_repeat() -> None:
    numbers = np.concatenate([tinyflow.rand(n).numpy() for n in (1, 2, 3, 5, 8, 1000, 1000)])
    assert len(np.unique(numbers)) > len(numbers) - 3


def test_state_goes_there_and_back() -> None:
    tinyflow.rand(7)
    state = tinyflow.get_rng_state()
    assert (state.dtype, tuple(state.shape), state.device.type) == (tinyflow.uint8, (16,), "cpu")
    expected = tinyflow.randn(9)
    tinyflow.set_rng_state(state)
    assert _equal(tinyflow.randn(9), expected)
    assert tinyflow.initial_seed() == 1234


def test_generators_are_streams_of_their_own() -> None:
    one, two = tinyflow.Generator().manual_seed(5), tinyflow.Generator().manual_seed(5)
    default = tinyflow.get_rng_state()
    a = tinyflow.rand(6, generator=one)
    assert _equal(tinyflow.get_rng_state(), default)
    assert _equal(a, tinyflow.rand(6, generator=two))
    assert one.initial_seed() == 5
    two.set_state(one.get_state())
    assert _equal(tinyflow.randperm(20, generator=one), tinyflow.randperm(20, generator=two))
    assert one.seed() != 5
    assert one.initial_seed() != 5


def test_negative_and_large_seeds() -> None:
    assert tinyflow.Generator().manual_seed(-1).initial_seed() == 2**64 - 1
    with pytest.raises(RuntimeError, match=r"expected a seed in \[-2\^63, 2\^64\), got"):
        tinyflow.manual_seed(2**64)
    with pytest.raises(TypeError, match="manual_seed: expected an int, got float"):
        tinyflow.manual_seed(1.5)


def test_wrong_states() -> None:
    generator = tinyflow.Generator()
    with pytest.raises(TypeError, match="expected a uint8 Tensor on the CPU, got list"):
        generator.set_state([1, 2])
    with pytest.raises(RuntimeError, match=r"expected 16 bytes, got shape \(8,\)"):
        generator.set_state(tinyflow.zeros(8, dtype=tinyflow.uint8))


def test_threads_share_no_counters() -> None:
    generator, taken = tinyflow.Generator(), []
    threads = [
        threading.Thread(target=lambda: taken.extend(generator.reserve(3) for _ in range(200))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(offset for _, offset in taken) == list(range(0, 2400, 3))


def test_fork_rng() -> None:
    from tinyflow.random import fork_rng

    before = tinyflow.get_rng_state()
    with fork_rng():
        tinyflow.rand(5)
    assert _equal(tinyflow.get_rng_state(), before)


def test_shapes_dtypes_and_gradients() -> None:
    assert tinyflow.rand(2, 3).shape == tinyflow.rand((2, 3)).shape == (2, 3)
    assert tinyflow.randn().shape == ()
    assert tinyflow.rand(0, 3).shape == (0, 3)
    assert tinyflow.rand(2, dtype=tinyflow.float64).dtype == tinyflow.float64
    assert tinyflow.randn(2, requires_grad=True).requires_grad
    assert tinyflow.randint(3, 9, (2, 2)).dtype == tinyflow.int64
    assert tinyflow.randint(9, (3,), dtype=tinyflow.float32).dtype == tinyflow.float32
    assert tinyflow.randperm(4, dtype=tinyflow.int32).dtype == tinyflow.int32
    like = tinyflow.zeros(2, 3, 4, 5, dtype=tinyflow.float16).contiguous(memory_format=tinyflow.channels_last)
    for make in (tinyflow.rand_like, tinyflow.randn_like, lambda x: tinyflow.randint_like(x, 2, 5)):
        y = make(like)
        assert (y.dtype, y.stride()) == (like.dtype, like.stride())


def test_ranges() -> None:
    u, i = tinyflow.rand(1000).numpy(), tinyflow.randint(-3, 4, (1000,)).numpy()
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1
    assert set(i.tolist()) == set(range(-3, 4))
    assert sorted(tinyflow.randperm(100).tolist()) == list(range(100))
    z = tinyflow.normal(5.0, 0.1, (1000,)).numpy()
    assert abs(z.mean() - 5) < 0.02
    per_element = tinyflow.normal(
        tinyflow.arange(0, 300, 100, dtype=tinyflow.float32), tinyflow.tensor([0.0, 1.0, 2.0])
    )
    assert np.abs(per_element.numpy() - [0, 100, 200]).max() < 12
    assert per_element[0].item() == 0


def test_in_place_draws() -> None:
    x = tinyflow.empty(500)
    version = x._version
    assert x.uniform_(2, 3) is x
    assert x._version == version + 1
    assert 2 <= x.min().item() < x.max().item() < 3
    assert abs(x.normal_(-1, 0.5).mean().item() + 1) < 0.2
    assert x.exponential_(4.0).min().item() > 0
    assert set(x.bernoulli_(0.5).tolist()) == {0.0, 1.0}
    assert set(tinyflow.empty(60, dtype=tinyflow.int64).random_(3).tolist()) == {0, 1, 2}
    assert set(tinyflow.empty(60, dtype=tinyflow.int64).random_(3, 5).tolist()) == {3, 4}
    assert tinyflow.empty(500, dtype=tinyflow.uint8).random_().max().item() > 240
    strided = tinyflow.zeros(4, 6)
    strided[:, ::2].uniform_(1, 2)
    assert (strided[:, ::2] >= 1).all()
    assert (strided[:, 1::2] == 0).all()


def test_bernoulli_of_probabilities() -> None:
    p = tinyflow.tensor([0.0, 1.0, 0.5]).expand(400, 3)
    x = tinyflow.bernoulli(p)
    assert x.sum(0)[:2].tolist() == [0, 400]
    assert 140 < x.sum(0)[2].item() < 260
    assert tinyflow.zeros(400, 3).bernoulli_(tinyflow.tensor([0.0, 1.0, 1.0])).sum(0).tolist() == [0, 400, 400]
    with pytest.raises(RuntimeError, match="expected all elements of input to be between 0 and 1"):
        tinyflow.bernoulli(tinyflow.tensor([1.5]))


def test_an_in_place_draw_belongs_to_the_graph() -> None:
    leaf = tinyflow.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place operation"):
        leaf.normal_()
    with tinyflow.no_grad():
        leaf.normal_()
    y = leaf * 2
    z = y * y
    y.uniform_()
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|in-place"):
        z.sum().backward()


@pytest.mark.parametrize(("call", "text"), [
    (lambda: tinyflow.randint(3), r"expected a size, as in randint\(high, \(2, 3\)\)"),
    (lambda: tinyflow.randint(3, 3, (2,)), "expects 'from' to be less than 'to', but got from=3 >= to=3"),
    (lambda: tinyflow.randperm(-1), "n must be non-negative, got -1"),
    (lambda: tinyflow.randperm(300, dtype=tinyflow.uint8), "expected a dtype that holds 299, got torch.uint8"),
    (lambda: tinyflow.zeros(2).random_(0), "expects 'from' to be less than 'to', but got from=0 >= to=0"),
    (lambda: tinyflow.zeros(2, dtype=tinyflow.uint8).random_(0, 257), "'to' - 1 256 is out of bounds for torch.uint8"),
    (lambda: tinyflow.randint(-129, 5, (2,), dtype=tinyflow.int8), "'from' -129 or .* out of bounds for torch.int8"),
    (lambda: tinyflow.zeros(2, dtype=tinyflow.bool).geometric_(0.5), "dtype with numbers above 1, got torch.bool"),
    (lambda: tinyflow.normal(0.0, tinyflow.tensor([1.0, -1.0])), "all elements of std >= 0.0"),
    (lambda: tinyflow.normal(tinyflow.zeros(2), -1.0), "std >= 0.0, got -1.0"),
    (lambda: tinyflow.rand(-1), "sizes must not be negative"),
    (lambda: tinyflow.zeros(2).uniform_(2, 1), "expected low <= high"),
    (lambda: F.dropout(tinyflow.zeros(2), 1.5), "dropout probability has to be between 0 and 1, but got 1.5"),
])  # fmt: skip
def test_errors(call, text: str) -> None:
    with pytest.raises((TypeError, RuntimeError, ValueError), match=text):
        call()


def test_dropout() -> None:
    x = tinyflow.ones(40, 50, requires_grad=True)
    y = F.dropout(x, 0.2)
    assert set(np.unique(y.detach().numpy()).tolist()) == {0.0, 1.25}
    assert abs(y.mean().item() - 1) < 0.06
    y.sum().backward()
    assert _equal(x.grad, y.detach())
    assert F.dropout(x, 0.2, training=False) is x
    assert F.dropout(x, 1.0).sum().item() == 0
    assert not _equal(F.dropout(x, 0.2).detach(), y.detach())


def test_dropout_in_place() -> None:
    x = tinyflow.ones(100)
    assert F.dropout(x, 0.5, inplace=True) is x
    assert set(x.tolist()) == {0.0, 2.0}


def test_dropout_differentiates_twice() -> None:
    x = tinyflow.randn(4, 5, dtype=tinyflow.float64, requires_grad=True)
    state = tinyflow.get_rng_state()

    def same_mask(t):
        tinyflow.set_rng_state(state)
        return F.dropout(t * t, 0.4)

    assert gradcheck(same_mask, [x], fast_mode=True)
    assert gradgradcheck(same_mask, [x], fast_mode=True)


def test_more_in_place_distributions() -> None:
    tinyflow.manual_seed(5)
    for dtype in (tinyflow.float32, tinyflow.float64):
        x = tinyflow.empty(20001, dtype=dtype)
        logs = np.log(x.log_normal_(0.5, 0.25).numpy())
        assert abs(logs.mean() - 0.5) < 0.01 and abs(logs.std() - 0.25) < 0.01
        cauchy = x.cauchy_(3.0, 2.0).numpy()
        assert abs(np.median(cauchy) - 3) < 0.1
        low, high = np.quantile(cauchy, [0.25, 0.75])  # median ± sigma
        assert abs(low - 1) < 0.2 and abs(high - 5) < 0.2
        trials = x.geometric_(0.25).numpy()
        assert trials.min() == 1 and (trials == np.round(trials)).all()
        assert abs(trials.mean() - 4) < 0.1 and abs((trials == 1).mean() - 0.25) < 0.02
    assert tinyflow.empty(50, dtype=tinyflow.int64).geometric_(0.5).min().item() >= 1


def test_multinomial() -> None:
    tinyflow.manual_seed(7)
    weights = tinyflow.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 2.0]])
    drawn = tinyflow.multinomial(weights, 8000, replacement=True)
    assert drawn.shape == (2, 8000) and drawn.dtype == tinyflow.int64
    for row, p in zip(drawn.numpy(), [[0, 0.25, 0.75], [0.5, 0, 0.5]]):
        assert np.abs(np.bincount(row, minlength=3) / 8000 - p).max() < 0.02
    alone = tinyflow.multinomial(tinyflow.tensor([0.0, 1.0, 3.0]).expand(8000, 3), 2).numpy()
    assert (np.sort(alone, 1) == [1, 2]).all()  # no position twice, none of weight 0
    assert abs((alone[:, 0] == 2).mean() - 0.75) < 0.02
    assert tinyflow.tensor([0.0, 5.0]).multinomial(1).tolist() == [1]
    generator = tinyflow.Generator().manual_seed(1)
    state = generator.get_state()
    first = tinyflow.multinomial(weights, 5, True, generator=generator)
    generator.set_state(state)
    assert _equal(tinyflow.multinomial(weights, 5, True, generator=generator), first)


def test_draws_of_probabilities_are_captured() -> None:
    x = tinyflow.full((4,), 0.5)
    for draw in (tinyflow.bernoulli, lambda p: p.multinomial(2), lambda p: tinyflow.normal(p, p)):
        assert tinyflow.capture(draw, x)(x).shape[0] in (2, 4)


@pytest.mark.parametrize(("call", "text"), [
    (lambda: tinyflow.tensor([1.0, -1.0]).multinomial(1), "finite and not negative"),
    (lambda: tinyflow.tensor([1.0, float("inf")]).multinomial(1, True), "finite and not negative"),
    (lambda: tinyflow.zeros(3).multinomial(1), "positive sum in every row"),
    (lambda: tinyflow.ones(3).multinomial(4), "cannot draw 4 samples without replacement from 3 weights"),
    (lambda: tinyflow.ones(3).multinomial(0), "num_samples > 0, got 0"),
    (lambda: tinyflow.ones(3, dtype=tinyflow.int64).multinomial(1), r"floating-point weights \(K,\) or \(N, K\)"),
    (lambda: tinyflow.zeros(2).cauchy_(0, 0), "sigma > 0, got 0"),
    (lambda: tinyflow.zeros(2).log_normal_(0, 0), "std > 0, got 0"),
    (lambda: tinyflow.zeros(2).geometric_(1.0), r"p in \(0, 1\), got 1.0"),
    (lambda: F.dropout1d(tinyflow.zeros(2)), "Expected 2D or 3D input, but received a 1D input"),
    (lambda: F.alpha_dropout(tinyflow.zeros(2), -0.1), "between 0 and 1, but got -0.1"),
    (lambda: F.feature_alpha_dropout(tinyflow.zeros(2), 0.1, True), "input with channels"),
    (lambda: F.rrelu(tinyflow.zeros(2), 0.5, 0.1), "less than or equal to the upper bound"),
])  # fmt: skip
def test_errors_of_draws(call, text: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=text):
        call()


@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [("dropout1d", (20, 30, 3), 2), ("dropout1d", (300, 3), 1), ("dropout2d", (20, 30, 2, 3), 2),
     ("dropout3d", (20, 30, 1, 2, 2), 2), ("dropout3d", (300, 1, 2, 2), 1)],
)  # fmt: skip
def test_channels_are_dropped_whole(name: str, shape: tuple[int, ...], channels: int) -> None:
    x = tinyflow.ones(shape, requires_grad=True)
    y = getattr(F, name)(x, 0.2)
    rows = y.detach().numpy().reshape(np.prod(shape[:channels]), -1)
    assert (rows == rows[:, :1]).all() and set(np.unique(rows).tolist()) == {0.0, 1.25}
    assert abs((rows[:, 0] == 0).mean() - 0.2) < 0.08
    y.sum().backward()
    assert _equal(x.grad, y.detach())
    assert getattr(F, name)(x, 0.2, False) is x
    inplace = tinyflow.ones(shape)
    assert getattr(F, name)(inplace, 0.5, inplace=True) is inplace and set(inplace.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", ["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_dropout_keeps_mean_and_variance(name: str) -> None:
    tinyflow.manual_seed(3)
    x = tinyflow.randn(100, 200, requires_grad=True)
    y = getattr(F, name)(x, 0.3, training=True)
    assert abs(y.mean().item()) < 0.03 and abs(y.var().item() - 1) < 0.05
    saturation = 1.7580993408473766
    value = -0.7 * saturation / np.sqrt((saturation**2 * 0.3 + 1) * 0.7)
    dropped = np.abs(y.detach().numpy() - value) < 1e-6
    assert abs(dropped.mean() - 0.3) < 0.02
    y.sum().backward()
    assert ((x.grad.numpy() == 0) == dropped).all()
    assert getattr(F, name)(x, 0.3) is x
    assert getattr(F, name)(x, 1.0, training=True).sum().item() == 0


def test_rrelu_and_gumbel_softmax() -> None:
    tinyflow.manual_seed(3)
    x = tinyflow.tensor([-1.0, 2.0]).expand(4000, 2).clone().requires_grad_()
    y = F.rrelu(x, 0.2, 0.6, training=True)
    slopes = -y.detach().numpy()[:, 0]
    assert slopes.min() >= 0.2 and slopes.max() < 0.6 and abs(slopes.mean() - 0.4) < 0.01
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy()[:, 0], slopes, rtol=1e-6)
    assert (x.grad.numpy()[:, 1] == 1).all()
    np.testing.assert_allclose(F.rrelu(x, 0.2, 0.6).detach().numpy()[0], [-0.4, 2], rtol=1e-6)
    logits = tinyflow.tensor([0.0, 1.0, 2.0]).expand(8000, 3).clone().requires_grad_()
    hard = F.gumbel_softmax(logits, tau=0.7, hard=True)
    counts = hard.detach().numpy()
    np.testing.assert_allclose(np.sort(counts, 1)[:, -1], 1, rtol=1e-6)
    assert np.abs(counts.mean(0) - np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()).max() < 0.02
    (hard * tinyflow.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert (logits.grad.numpy() != 0).mean() > 0.5
    np.testing.assert_allclose(F.gumbel_softmax(logits).sum(1).detach().numpy(), 1, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="eps has no effect"):
        F.gumbel_softmax(logits, eps=1e-5)


@pytest.mark.parametrize("name", ["Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"])
def test_dropout_modules(name: str) -> None:
    module = getattr(tinyflow.nn, name)(0.5)
    assert repr(module) == f"{name}(p=0.5, inplace=False)"
    x = tinyflow.ones(4, 40, 1, 1, 1) if name == "Dropout3d" else tinyflow.ones(4, 40, 1, 1)
    x = x[..., 0] if name == "Dropout1d" else x
    assert len(set(module(x).flatten().tolist())) == 2
    assert module.eval()(x) is x
