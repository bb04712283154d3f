"""torch is device memory and nothing more: whole training steps run while every operation that it dispatches is watched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinyflow
import tinyflow.nn.functional as F
from tests.memory_only import MemoryOnly, TorchComputed
from tinyflow import nn, optim
from tinyflow.models import resnet18


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + 1,
        lambda x: x.sum(),
        lambda x: x.zero_(),
        lambda x: x.to(torch.float64),
        lambda x: torch.empty(3).copy_(x[::2]),
        lambda x: x.reshape(2, 3).t().reshape(-1),
        lambda x: torch.empty(2, 6).copy_(x),
        lambda x: torch.rand(3),
    ],
)
def test_the_watch_catches_what_computes(compute) -> None:
    x = torch.arange(6.0)
    with pytest.raises(TorchComputed), MemoryOnly():
        compute(x)


def test_training_steps() -> None:
    with MemoryOnly() as watch:
        tinyflow.manual_seed(0)
        model = resnet18(num_classes=10)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4)
        images = tinyflow.from_numpy(np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32))
        images = images.to(tinyflow.get_default_device())
        labels = tinyflow.tensor([1, 2, 3, 4])
        for _ in range(2):
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with tinyflow.no_grad():
            probabilities = F.softmax(model(images), dim=1)
            assert probabilities.argmax(1).tolist() is not None
        assert loss.item() > 0
    assert watch.seen


def test_transformers_and_tables() -> None:
    with MemoryOnly():
        table, bags = nn.Embedding(5, 4, padding_idx=0, max_norm=1.0), nn.EmbeddingBag(5, 4, mode="max")
        numbers = tinyflow.tensor([[1, 2, 0], [3, 4, 4]])
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        hidden = tinyflow.tensor([[False, False, True], [False, False, False]])
        y = layer(table(numbers), src_key_padding_mask=hidden) + bags(numbers).unsqueeze(1)
        y = F.rms_norm(F.group_norm(F.instance_norm(y), 1), (4,))
        weights = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)(y, y, y)[1]
        (y.square().mean() + weights.square().sum()).backward()


def test_second_derivatives_through_convolution() -> None:
    with MemoryOnly():
        x = tinyflow.randn(2, 3, 6, 6, requires_grad=True)
        conv = nn.Conv2d(3, 4, 3, padding=1)
        (g,) = tinyflow.autograd.grad(conv(x).tanh().sum(), x, create_graph=True)
        (g * g).sum().backward()
        assert conv.weight.grad is not None


def test_initialisation_random_numbers_and_dropout() -> None:
    with MemoryOnly():
        w = tinyflow.empty(8, 4, 3, 3)
        for fill in (nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_uniform_, nn.init.trunc_normal_):
            fill(w)
        tinyflow.randint(0, 10, (5,))
        tinyflow.randperm(7)
        F.dropout(tinyflow.rand(10), 0.5)
        w[0, 1:3] = 2.0
        assert w[w > 1.5].numel() >= 2 * 9


def test_saving_and_loading(tmp_path) -> None:
    with MemoryOnly():
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        tinyflow.save(model.state_dict(), tmp_path / "model.safetensors")
        model.load_state_dict(tinyflow.load(tmp_path / "model.safetensors"))
        assert repr(model.state_dict()["0.weight"])


def test_volumes_and_images_of_another_size() -> None:
    with MemoryOnly():
        x = tinyflow.randn(1, 2, 5, 4, 6, requires_grad=True)
        y, indices = F.max_pool3d(nn.Conv3d(2, 4, 3, stride=(2, 1, 1), padding=1)(x), 2, return_indices=True)
        y = nn.ConvTranspose3d(4, 2, 2, output_padding=0)(F.max_unpool3d(y, indices, 2)).sum(2)
        y = F.interpolate(y, scale_factor=1.5, mode="bicubic", antialias=True)
        grid = F.affine_grid(tinyflow.randn(1, 2, 3, requires_grad=True), (1, 2, 5, 5), align_corners=False)
        y = F.lp_pool1d(F.grid_sample(y, grid, align_corners=False)[:, 0].abs() + 1, 2, 2)
        F.fractional_max_pool2d(y[None], 2, output_size=(3, 1)).sum().backward()
        assert x.grad is not None
