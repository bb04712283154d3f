"""Channels and pixels exchanged."""

import torch
import torch.nn.functional as F

from tests.ops.case import case

CASES = [
    case("pixel_shuffle", ((2, 8, 3, 5),), torch=F.pixel_shuffle, upscale_factor=2),
    case("pixel_shuffle", ((9, 2, 1),), torch=F.pixel_shuffle, upscale_factor=3, label="one image"),
    case("pixel_unshuffle", ((2, 1, 2, 6, 4),), torch=F.pixel_unshuffle, downscale_factor=2),
    case("channel_shuffle", ((2, 6, 5),), torch=torch.channel_shuffle, groups=3),
]
