"""What is no tensor, in place of one: a sentence that names the function, what it expected, what came, and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
from tinyflow import nn, ops
from tinyflow.nn import functional as F
from tinyflow.ops.define import Op

ARRAY = np.ones((2, 2), np.float32)


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function of the register, once, by the first name that it has."""
    seen = set()
    for family in ops.FAMILIES:
        for name in sorted({name for table in ops.TABLES for name in getattr(family, table, ())}):
            function = getattr(family, name, None)
            if callable(function) and id(function) not in seen:
                seen.add(id(function))
                yield f"{family.__name__.rsplit('.', 1)[1]}.{name}", function


def first_operand(function: Callable[..., Any]) -> str | None:
    """The first parameter, where it takes a tensor and nothing else."""
    if isinstance(function, Op):
        return function.parameters[0] if function.inputs[:1] == function.parameters[:1] else None
    parameter = next(iter(inspect.signature(function).parameters.values()), None)
    if parameter is None or parameter.annotation != "Tensor":
        return None
    return parameter.name


TAKING = [(name, function) for name, function in functions() if first_operand(function) is not None]


def required(function: Callable[..., Any]) -> list[Any]:
    """Something for each parameter behind the first that has no default."""
    parameters = [*inspect.signature(function).parameters.values()][1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [tinyflow.ones(2, 2) for p in parameters if p.default is p.empty and p.kind in kinds]


def test_the_register_has_functions_that_take_tensors() -> None:
    assert len(TAKING) > 200


@pytest.mark.parametrize("function", [f for _, f in TAKING], ids=[name for name, _ in TAKING])
def test_an_array_in_place_of_the_first_tensor(function) -> None:
    with pytest.raises(
        TypeError, match=r"^\w+(\(\))?: expected .* to be .*, but it is a numpy\.ndarray; tinyflow\.from_numpy"
    ):
        function(ARRAY, *required(function))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "it is a str"),
        (None, "it is None"),
        ([1.0, 2.0], r"it is a list; tinyflow\.tensor\(\.\.\.\) makes one"),
        (torch.ones(2, 2), r"it is a torch\.Tensor; tinyflow\.from_torch\(\.\.\.\) makes one"),
        (
            [tinyflow.ones(2)],
            r"it is a list of tensors; tinyflow\.stack\(\.\.\.\) or tinyflow\.cat\(\.\.\.\) makes one",
        ),
        (object(), "it is an object"),
    ],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("function", [tinyflow.exp, F.conv2d, F.linear, F.max_pool2d, tinyflow.matmul])
def test_each_kind_of_value(function, value, told) -> None:
    with pytest.raises(TypeError, match=rf"\(\): expected \w+ to be a .*, but {told}"):
        function(value, *required(function))


MODULES = [
    nn.Linear(2, 3),
    nn.Conv1d(2, 3, 1),
    nn.Conv2d(2, 3, 1),
    nn.Conv3d(2, 3, 1),
    nn.ConvTranspose2d(2, 3, 1),
    nn.BatchNorm1d(2),
    nn.BatchNorm2d(2),
    nn.LayerNorm(2),
    nn.GroupNorm(1, 2),
    nn.InstanceNorm2d(2),
    nn.ReLU(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softmax2d(),
    nn.MaxPool2d(1),
    nn.AvgPool2d(1),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Dropout(),
    nn.ZeroPad2d(1),
    nn.Upsample(scale_factor=2),
    nn.PixelShuffle(1),
    nn.LSTM(2, 3),
    nn.GRUCell(2, 3),
    nn.TransformerEncoderLayer(2, 1, 4),
]


@pytest.mark.parametrize("value", [ARRAY, "text", torch.ones(2, 2), None], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_layers(module, value) -> None:
    with pytest.raises(TypeError, match=r": expected \w+ to be a tinyflow\.Tensor( or a PackedSequence)?, but it is"):
        module(value)


def test_losses_look_at_both() -> None:
    good = tinyflow.ones(2, 2)
    for loss in (
        nn.MSELoss(),
        nn.L1Loss(),
        nn.CrossEntropyLoss(),
        nn.BCEWithLogitsLoss(),
        nn.NLLLoss(),
        nn.HuberLoss(),
    ):
        for given in ((ARRAY, good), (good, ARRAY)):
            with pytest.raises(
                TypeError, match=r"expected (input|target|\w+) to be a tinyflow\.Tensor, but it is a numpy"
            ):
                loss(*given)


def test_a_sequence_names_the_element() -> None:
    with pytest.raises(TypeError, match=r"expected tensors\[1\] to be a tinyflow\.Tensor, but it is a numpy\.ndarray"):
        tinyflow.cat([tinyflow.ones(2, 2), ARRAY])
    with pytest.raises(TypeError, match=r"expected operands\[1\] to be a tinyflow\.Tensor, but it is a str"):
        tinyflow.einsum("i,i->", tinyflow.ones(2), "text")


def test_operators() -> None:
    x = tinyflow.ones(2, 2)
    with pytest.raises(TypeError, match=r"add\(\): expected other to be .*, but it is a torch\.Tensor"):
        x + torch.ones(2, 2)
    with pytest.raises(TypeError):
        x + "text"


def test_numbers_stay_operands() -> None:
    x = tinyflow.ones(2, 2)
    for number in (2, 2.0, True, np.float32(2), np.int64(2)):
        assert (x + number).tolist() == (number + x).tolist() == [[1 + number] * 2] * 2
        assert tinyflow.mul(x, number).tolist() == [[float(number)] * 2] * 2
    assert tinyflow.where(x > 0, 3.0, x).tolist() == [[3.0] * 2] * 2


RNN = nn.utils.rnn
X = tinyflow.tensor([1.0, 2.0], requires_grad=True)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: tinyflow.atleast_1d(ARRAY),
            r"atleast_1d\(\): expected tensors\[0\] .* a numpy.ndarray",
        ),
        (lambda: tinyflow.atleast_2d([X, "a"]), r"atleast_2d\(\): expected tensors\[1\] .* a str"),
        (lambda: nn.Embedding.from_pretrained(ARRAY), r"Embedding.from_pretrained\(\): expected embeddings"),
        (lambda: nn.EmbeddingBag.from_pretrained(ARRAY), r"EmbeddingBag.from_pretrained\(\): expected embeddings"),
        (lambda: RNN.pad_sequence([X, ARRAY]), r"pad_sequence\(\): expected sequences\[1\]"),
        (lambda: RNN.pad_packed_sequence(X), "pad_packed_sequence: expected a PackedSequence, got Tensor"),
        (
            lambda: nn.utils.fusion.fuse_conv_bn_weights(X, None, X, ARRAY, 1e-5, None, None),
            r"fuse_conv_bn_weights\(\): expected bn_rv",
        ),
        (lambda: F.conv_bn_act(X, "a", nn.BatchNorm2d(3)), "conv_bn_act: expected conv to be a module, got str"),
        (lambda: tinyflow.autograd.grad(X.sum(), ARRAY), r"grad\(\): expected inputs\[0\] .* a numpy.ndarray"),
        (lambda: tinyflow.autograd.grad([X.sum(), 3], X), r"grad\(\): expected outputs\[1\] .* an int"),
        (lambda: tinyflow.autograd.backward(X.sum(), inputs="x"), r"backward\(\): expected inputs\[0\] .* a str"),
        (lambda: X.register_hook(3), "expected the hook to be a function, got int"),
        (lambda: nn.Linear(2, 2).register_forward_hook(3), "expected the hook to be a function, got int"),
        (lambda: tinyflow.arange("a"), r"arange\(\): expected end to be a number, got 'a'"),
        (lambda: tinyflow.linspace(0, None, 3), r"linspace\(\): expected end to be a number, got None"),
        (
            lambda: tinyflow.tensor_split(X, [1.0]),
            r"tensor_split: .* a list of indices, got \[1.0\]",
        ),
    ],
)
def test_what_the_register_does_not_guard(call, told) -> None:
    with pytest.raises(TypeError, match=told):
        call()
