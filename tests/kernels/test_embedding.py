"""Bags of a table's rows: every shipped tile, what is chosen and counted."""

from __future__ import annotations

import pytest
import torch

from tests.closeness import assert_close
from tests.poison import poisoned_memory as poisoned_memory
from tinyflow.kernels import embedding as kernels
from tinyflow.kernels import launch, memory

DEVICE = memory.get_default_device()


@pytest.mark.parametrize("config", kernels.embedding_bag_configs.shipped, ids=lambda c: str(c.blocks["BLOCK_B"]))
@pytest.mark.parametrize("mode", kernels.MODES)
def test_every_shipped_tile(config, mode):
    bags, columns = 2 * config.blocks["BLOCK_B"] + 1, config.blocks["BLOCK_D"] + 3
    weight, lengths = torch.randn(11, columns), torch.arange(bags) % 4
    lengths[-1] = 5
    numbers, offsets = torch.randint(11, (int(lengths.sum()),)), lengths.cumsum(0) - lengths
    with kernels.embedding_bag_configs.forced(config):
        here = (x.to(DEVICE) for x in (weight, numbers, offsets))
        out, chosen, counts = kernels.embedding_bag(*here, bags, mode)
    expected = torch.nn.functional.embedding_bag(numbers, weight.double(), offsets, mode=mode)
    assert_close(out, expected, 5)
    assert torch.equal(counts.cpu(), lengths)
    assert (chosen is not None) == (mode == "max")
    if chosen is not None:
        chosen = chosen.cpu()
        assert (chosen[lengths == 0] == -1).all()
        assert torch.equal(weight.gather(0, chosen[lengths > 0]), out.cpu()[lengths > 0])


def test_what_is_counted():
    weight = torch.empty(50, 8, device="meta")
    numbers, offsets = (torch.empty(n, dtype=torch.int64, device="meta") for n in (12, 3))
    with launch.count() as records:
        kernels.embedding_bag(weight, numbers, offsets, 3, "sum")
    assert [r.cost for r in records] == [launch.Cost(2 * 12 * 8, 4 * 12 * 8 + 4 * 3 * 8 + 8 * (3 + 12 + 3))]
