"""Images of another size: every form of resampling, alone and together with others."""

import torch.nn.functional as F

from tests.ops.case import case

IMAGE = (2, 3, 5, 4)


def interpolated(shape, label, length=1, **params):
    return case("interpolate", (shape,), torch=F.interpolate, label=label, length=length, **params)


CASES = [
    interpolated(IMAGE, "nearest", size=(7, 2)),
    interpolated((2, 3, 5), "nearest-exact", size=7, mode="nearest-exact"),
    interpolated((1, 2, 3, 2, 4), "nearest 3d", scale_factor=(2, 1.5, 0.5)),
    interpolated((2, 3, 5), "linear", length=2, scale_factor=1.7, mode="linear"),
    interpolated(IMAGE, "bilinear", length=4, size=(9, 3), mode="bilinear"),
    interpolated(IMAGE, "corners", length=4, size=(3, 7), mode="bilinear", align_corners=True),
    interpolated((1, 2, 3, 2, 4), "trilinear", length=8, size=(4, 5, 2), mode="trilinear"),
    interpolated(IMAGE, "bicubic", length=64, size=(8, 3), mode="bicubic"),
    interpolated(IMAGE, "bicubic, corners", length=64, scale_factor=1.5, mode="bicubic", align_corners=True),
    interpolated((1, 2, 9, 7), "smooth", length=16, size=(3, 5), mode="bilinear", antialias=True),
    interpolated((1, 2, 9, 7), "smooth, by turns", length=256, size=(3, 9), mode="bicubic", antialias=True),
    interpolated(IMAGE, "area", length=6, size=(3, 3), mode="area"),
    interpolated((0, 3, 5, 4), "no images", size=(3, 3), mode="bilinear"),
]
