"""One small data set and one short run, for all tests of the programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.models import small_model
from tinyflow.models.cli import main

small_model.register()

#: Three epochs of six steps; a checkpoint after every other step.
OPTIONS = ("--model", "small", "--image-size", "16", "--batch-size", "4", "--epochs", "3", "--checkpoint-every", "2")


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: noisy stripes that lie, and noisy stripes that stand."""
    root = tmp_path_factory.mktemp("data") / "stripes"
    random = np.random.default_rng(0)
    for part, count in (("train", 13), ("val", 5)):
        for name, axis in (("lying", 0), ("standing", 1)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                wave = np.sin(np.arange(20) * random.uniform(0.8, 1.4) + random.uniform(0, 6))
                pixels = 128 + 90 * (wave[:, None] if axis == 0 else wave[None, :]) + random.normal(0, 20, (20, 20))
                Image.fromarray(np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, 2)).save(
                    folder / f"{k:02}.png"
                )
    return root


@pytest.fixture(scope="session")
def finished(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", "--data", str(stripes), "--out", str(out), *OPTIONS]) == 0
    return out
