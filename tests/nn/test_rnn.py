"""Recurrent layers beside torch's: outputs, states, gradients of all weights, packed sequences, cells, errors."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.kernels import launch
from tinyflow.nn.utils import rnn
from tinyflow.ops.recurrent import gru_cell, lstm_cell

LAYERS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"bias": False}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"num_layers": 2, "proj_size": 2}),
    ("GRU", {"batch_first": True}),
    ("GRU", {"num_layers": 2, "bidirectional": True, "bias": False}),
]


def twins(name, *arguments, **settings):
    theirs = getattr(torch.nn, name)(*arguments, **settings).double()
    ours = getattr(nn, name)(*arguments, **settings).double()
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: on_device(v.clone()) for k, v in theirs.state_dict().items()})
    return ours, theirs


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


def compare(ours, theirs, found, expected):
    """Outputs and states, and the gradients of a sum of them."""
    for mine, value in zip(found, expected):
        assert_close(on_cpu(mine), value.detach(), 64)
    sum((x * x).sum() for x in found).backward()
    sum((x * x).sum() for x in expected).backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        assert_close(on_cpu(p.grad), q.grad, 1024), name


@pytest.mark.parametrize(("name", "settings"), LAYERS, ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "given state"])
def test_layers(name, settings, given):
    ours, theirs = twins(name, 3, 5, **settings)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    arguments = ()
    if given:
        batch = 4 if settings.get("batch_first") else 2
        layers = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
        sizes = [settings.get("proj_size") or 5, 5] if name == "LSTM" else [5]
        state = [torch.randn(layers, batch, size, dtype=torch.float64) for size in sizes]
        arguments = (state[0],) if len(state) == 1 else (tuple(state),)
    mine, reference = on_device(x.clone()).requires_grad_(), x.clone().requires_grad_()
    moved = [tuple(map(on_device, a)) if isinstance(a, tuple) else on_device(a) for a in arguments]
    found, state = ours(mine, *moved)
    expected, last = theirs(reference, *arguments)
    compare(ours, theirs, [found, *parts(state)], [expected, *parts(last)])
    assert_close(on_cpu(mine.grad), reference.grad, 256)


@pytest.mark.parametrize(("name", "settings"), [LAYERS[1], LAYERS[3], LAYERS[6]], ids=str)
@pytest.mark.parametrize("lengths", [[4, 2, 2, 1], [1, 4, 3, 4]], ids=str)
def test_packed_sequences(name, settings, lengths):
    ours, theirs = twins(name, 3, 5, **settings)
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    is_sorted = lengths == sorted(lengths, reverse=True)
    first = settings.get("batch_first", False)
    packed = rnn.pack_padded_sequence(on_device(x), lengths, first, enforce_sorted=is_sorted)
    reference = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), first, enforce_sorted=is_sorted)
    assert packed.batch_sizes.tolist() == reference.batch_sizes.tolist()
    assert_close(on_cpu(packed.data), reference.data, 1)
    found, state = ours(packed)
    expected, last = theirs(reference)
    padded, counts = rnn.pad_packed_sequence(found, first, -1.0, total_length=5)
    wanted, theirs_counts = torch.nn.utils.rnn.pad_packed_sequence(expected, first, -1.0, total_length=5)
    assert counts.tolist() == theirs_counts.tolist() == lengths
    compare(ours, theirs, [padded, *parts(state)], [wanted, *parts(last)])


def test_without_a_batch():
    ours, theirs = twins("GRU", 3, 5, bidirectional=True)
    x, h = torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    found, state = ours(on_device(x), on_device(h))
    expected, last = theirs(x, h)
    assert tuple(found.shape) == tuple(expected.shape)
    compare(ours, theirs, [found, state], [expected, last])


@pytest.mark.parametrize(
    ("name", "settings"),
    [("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}), ("GRUCell", {}), ("LSTMCell", {"bias": False})],
)
def test_cells(name, settings):
    ours, theirs = twins(name, 3, 5, **settings)
    x = torch.randn(2, 3, dtype=torch.float64)
    state = [torch.randn(2, 5, dtype=torch.float64) for _ in range(2 if name == "LSTMCell" else 1)]
    given = tuple(state) if len(state) == 2 else state[0]
    moved = tuple(map(on_device, state)) if len(state) == 2 else on_device(state[0])
    compare(ours, theirs, parts(ours(on_device(x), moved)), parts(theirs(x, given)))
    alone, reference = parts(ours(on_device(x[0]))), parts(theirs(x[0]))
    for mine, value in zip(alone, reference):
        assert mine.shape == value.shape
        assert_close(on_cpu(mine), value.detach(), 16)


def draw(*shape, dtype=torch.float64):
    return on_device(torch.randn(shape, dtype=torch.float64).to(dtype)).requires_grad_()


def test_cells_differentiate_twice():
    arguments = [draw(2, 12), draw(2, 3)]
    assert gradcheck(lstm_cell, arguments, fast_mode=True) and gradgradcheck(lstm_cell, arguments, fast_mode=True)
    arguments = [draw(2, 9), draw(2, 9), draw(2, 3)]
    assert gradcheck(gru_cell, arguments, fast_mode=True) and gradgradcheck(gru_cell, arguments, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_cell_is_one_launch_each_way_in_every_dtype(dtype):
    gates, c = draw(3, 20, dtype=dtype), draw(3, 5, dtype=dtype)
    i, f, g, o = on_cpu(gates.detach()).double().chunk(4, 1)
    expected_c = f.sigmoid() * on_cpu(c.detach()).double() + i.sigmoid() * g.tanh()
    with launch.count() as records:
        h, c_out = lstm_cell(gates, c)
        grads = tinyflow.autograd.grad([h, c_out], [gates, c], [h.detach(), c_out.detach()])
    assert [r.kernel for r in records] == ["_lstm_cell_kernel", "_lstm_cell_grad_kernel"]
    assert_close(on_cpu(c_out.detach()), expected_c, 8)
    assert_close(on_cpu(h.detach()), o.sigmoid() * expected_c.tanh(), 8)
    assert all(x.dtype == dtype for x in grads)


def test_dropout_between_layers():
    layer = nn.LSTM(3, 5, num_layers=2, dropout=1.0)
    x = tinyflow.randn(4, 2, 3)
    zeros = nn.LSTM(3, 5, num_layers=2)
    zeros.load_state_dict(layer.state_dict())
    _, (h, _) = layer(x)
    inputs = tinyflow.zeros(4, 2, 5)
    second = nn.LSTM(5, 5)
    second.load_state_dict({k.replace("l1", "l0"): v for k, v in layer.state_dict().items() if "l1" in k})
    assert_close(on_cpu(h[1].detach()), on_cpu(second(inputs)[1][0][0].detach()).double(), 8)
    assert_close(on_cpu(layer.eval()(x)[0].detach()), on_cpu(zeros(x)[0].detach()).double(), 8)
    with pytest.warns(UserWarning, match="has no effect on one layer"):
        nn.GRU(2, 3, dropout=0.5)


def test_layers_are_joined_once():
    """What lies between two layers is put together and dropped in one launch each, whatever the number of steps."""
    layer = nn.GRU(3, 5, num_layers=2, dropout=0.5, bidirectional=True)
    counts = []
    for steps in (3, 6):
        with launch.count() as records:
            layer(tinyflow.zeros(steps, 2, 3))
        counts.append([r.kernel for r in records].count("_dropout_kernel"))
    assert counts == [1, 1]


def test_padding_and_unpadding():
    sequences = [torch.randn(n, 2) for n in (3, 1, 4)]
    ours = [on_device(s) for s in sequences]
    for settings in ({}, {"batch_first": True, "padding_value": 2.0}, {"padding_side": "left"}):
        expected = torch.nn.utils.rnn.pad_sequence(sequences, **settings)
        assert_close(on_cpu(rnn.pad_sequence(ours, **settings)), expected, 1)
    packed = rnn.pack_sequence(ours, enforce_sorted=False)
    dtypes = [p.data.dtype for p in (packed.half(), packed.float(), packed.double())]
    assert dtypes == [tinyflow.float16, tinyflow.float32, tinyflow.float64]
    moved = packed.cpu()
    assert moved.data.device.type == moved.sorted_indices.device.type == "cpu" and not moved.is_cuda
    for found, expected in zip(rnn.unpack_sequence(rnn.pack_sequence(ours, enforce_sorted=False)), sequences):
        assert_close(on_cpu(found), expected, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.RNN(3, 5, nonlinearity="gelu"), ValueError, "Unknown nonlinearity 'gelu'"),
        (lambda: nn.RNNBase("GRU", 3, 5, proj_size=2), ValueError, "only supported for LSTM"),
        (lambda: nn.RNNBase("QRNN", 3, 5), ValueError, "Unrecognized RNN mode: QRNN"),
        (lambda: nn.LSTM(3, 5, proj_size=5), ValueError, "below hidden_size 5, got 5"),
        (lambda: nn.LSTM(3, 0), ValueError, "hidden_size must be greater than zero"),
        (lambda: nn.LSTM(3, 5.0), TypeError, "hidden_size should be of type int, got: float"),
        (lambda: nn.LSTM(0, 5), ValueError, "input_size must be greater than zero"),
        (lambda: rnn.pad_sequence([]), RuntimeError, "an empty list of sequences"),
        (lambda: nn.LSTM(3, 5, num_layers=2, dropout=2), ValueError, r"number in range \[0, 1\]"),
        (lambda: nn.LSTM(3, 5)(tinyflow.zeros(2, 2, 4)), RuntimeError, "Expected 3, got 4"),
        (lambda: nn.LSTM(3, 5)(tinyflow.zeros(3)), ValueError, "2D or 3D, got 1D"),
        (
            lambda: nn.GRU(3, 5)(tinyflow.zeros(2, 2, 3), tinyflow.zeros(1, 3, 5)),
            RuntimeError,
            r"expected hidden size \(1, 2, 5\), got \(1, 3, 5\)",
        ),
        (lambda: nn.GRU(3, 5)(tinyflow.zeros(2, 2, 3), tinyflow.zeros(1, 5)), RuntimeError, "hx should also be 3-D"),
        (lambda: nn.GRUCell(3, 5)(tinyflow.zeros(2, 4)), RuntimeError, "expected 3 input features"),
        (lambda: nn.GRUCell(3, 5)(tinyflow.zeros(2, 3), tinyflow.zeros(2, 4)), RuntimeError, r"\(2, 5\), got \(2, 4\)"),
        (lambda: rnn.pack_padded_sequence(tinyflow.zeros(3, 2, 1), [1, 3]), RuntimeError, "sorted in decreasing order"),
        (lambda: rnn.pack_padded_sequence(tinyflow.zeros(3, 2, 1), [3, 0]), RuntimeError, "greater than 0"),
        (lambda: rnn.pack_padded_sequence(tinyflow.zeros(3, 2, 1), [3]), RuntimeError, "expected 2 lengths"),
        (lambda: rnn.pad_sequence([tinyflow.zeros(3)], padding_side="top"), RuntimeError, "but got top"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "given state"])
@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_autocast_chooses_the_dtypes_that_torch_does(name, given, kind):
    """On the CPU torch's own are beside ours; a GPU, which ``meta`` counts as, runs everything in half precision."""
    if kind == "cpu" and tinyflow.gpu_available():
        pytest.skip("kernels are compiled for the GPU")
    torch.manual_seed(3)
    theirs, ours = getattr(torch.nn, name)(3, 5), getattr(nn, name)(3, 5)
    ours.load_state_dict({k: tinyflow.from_torch(v.detach().clone()) for k, v in theirs.state_dict().items()})
    x = torch.randn(*((2, 3) if "Cell" in name else (4, 2, 3)))
    h = torch.randn(*((2, 5) if "Cell" in name else (1, 2, 5)))
    states = [] if not given else [(h, h) if "LSTM" in name else h]

    def moved(value):
        return tuple(map(moved, value)) if isinstance(value, tuple) else tinyflow.from_torch(value.clone()).to(kind)

    ours = ours.to(kind)
    with tinyflow.autocast(kind, dtype=tinyflow.bfloat16):
        found = flat(ours(moved(x), *map(moved, states)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = flat(theirs(x, *states))
    assert [y.dtype for y in found] == [e.dtype if kind == "cpu" else torch.bfloat16 for e in expected]
    sum(y.float().sum() for y in found).backward()
    assert all(p.grad.dtype == tinyflow.float32 for p in ours.parameters())
    if kind == "cpu":
        sum(e.float().sum() for e in expected).backward()
        for y, e in zip(found, expected):
            torch.testing.assert_close(on_cpu(y), e.detach(), rtol=0.03, atol=0.03)
        for p, q in zip(ours.parameters(), theirs.parameters()):
            torch.testing.assert_close(on_cpu(p.grad), q.grad, rtol=0.05, atol=0.05)


def flat(value):
    return [y for part in value for y in flat(part)] if isinstance(value, tuple) else [value]
