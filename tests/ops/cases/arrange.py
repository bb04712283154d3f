"""Flips, rolls, repeats and sections: odd sizes, so that no two dimensions can be mistaken for each other."""

import numpy as np
import torch

from tests.ops.case import case

BOX = (2, 3, 5)
COUNTS = np.array([2, 0, 3])


def _tensor_split(x, indices_or_sections, dim):
    return torch.tensor_split(x, indices_or_sections, dim)


CASES = [
    case("fliplr", (BOX,), torch=torch.fliplr),
    case("flipud", ((3,),), torch=torch.flipud, label="vector"),
    case("rot90", (BOX,), torch=torch.rot90, label="quarter"),
    case("rot90", (BOX,), torch=torch.rot90, k=-5, dims=(2, 0), label="back"),
    case("rot90", (BOX,), torch=torch.rot90, k=2, dims=(1, 2), label="half"),
    case("roll", (BOX,), torch=torch.roll, shifts=-8, dims=2, label="one"),
    case("roll", (BOX,), torch=torch.roll, shifts=(1, 4, 1), dims=(0, -1, 2), label="two of one"),
    case("roll", (BOX,), torch=torch.roll, shifts=4, label="flat"),
    case("roll", ((1, 7),), torch=torch.roll, shifts=0, dims=1, label="nothing"),
    case("repeat_interleave", (BOX,), torch=torch.repeat_interleave, repeats=3, dim=1, length=3),
    case("repeat_interleave", ((2, 3),), torch=torch.repeat_interleave, repeats=2, length=2, label="flat"),
    case("repeat_interleave", ((2, 3),), torch=torch.repeat_interleave, repeats=0, dim=0, label="none"),
    case("repeat_interleave", ((3, 2), COUNTS), torch=lambda x, n, dim: x.repeat_interleave(n, dim), dim=0, length=3),
    case("tensor_split", ((2, 7),), torch=_tensor_split, indices_or_sections=3, dim=1, output=1),
    case(
        "tensor_split",
        ((2, 7),),
        torch=_tensor_split,
        indices_or_sections=(5, 2, -1),
        dim=1,
        output=2,
        label="that overlap",
    ),
    case("unfold_dim", (BOX,), torch=lambda x, **k: x.unfold(**k), dimension=2, size=3, step=1, length=3),
    case("unfold_dim", ((7, 2),), torch=lambda x, **k: x.unfold(**k), dimension=0, size=2, step=3, label="apart"),
    case("swapaxes", (BOX,), torch=torch.swapaxes, axis0=0, axis1=-1),
]
