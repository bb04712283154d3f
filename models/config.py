"""What each program can be told, as typed fields; the command line is made from them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

with contextlib.suppress(ModuleNotFoundError):  # only the command line reads the annotations that name it
    import tyro

#: Where ``train`` leaves the digits' best checkpoint, and ``evaluate`` and ``predict`` look for one.
DEFAULT_CHECKPOINT = Path("runs/digits/best.safetensors")


@dataclass(frozen=True)
class Train:
    """Trains a model and leaves checkpoints, metrics and a learning curve in a folder. The defaults suit the digits."""

    data: Path | None = None
    """An image folder, CIFAR-10/100 as downloaded, or MNIST's idx files; left out, the digits that tinyflow ships."""
    out: Path | None = None
    """The folder to write to; left out, runs/<name of the data>."""
    resume: bool = False
    """Continue the run in the output folder from its last checkpoint, with that run's own options."""
    model: str = "resnet18"
    """The architecture: resnet18, resnet34, resnet50, …"""
    weights: str | None = None
    """Weights to start from: a file, or IMAGENET1K_V1; the last layer is made anew for the data's classes."""
    epochs: int = 5
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    lr: float = 0.04
    """The highest learning rate."""
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    """How the learning rate moves from step to step."""
    momentum: float = 0.9
    """SGD's momentum, Nesterov's kind."""
    weight_decay: float = 5e-4
    """How strongly weights are pulled towards zero."""
    label_smoothing: float = 0.1
    """Share of a label's weight that is spread over all classes."""
    image_size: int | None = None
    """Height and width that images are scaled to; left out, what suits the data."""
    shift: int | None = None
    """Training images are moved by up to this many pixels; left out, a sixteenth of their size."""
    flip: bool | None = None
    """Mirror half of the training images; left out, where a mirrored image keeps its label."""
    checkpoint_every: int = 0
    """Also save after so many steps; 0: at the end of each epoch only."""
    seed: int = 0
    """Decides the first weights, the order of images and every other random choice."""
    device: str | None = None
    """Where to compute; left out, the GPU if there is one, else the CPU."""
    amp: bool | None = None
    """Compute products in bfloat16 (--amp) or in float32 (--no-amp); left out, in bfloat16 on a GPU."""
    capture: bool | None = None
    """Record the training step once and replay it (--capture) or run each anew (--no-capture); left out, record on a GPU."""


@dataclass(frozen=True)
class Evaluate:
    """Judges a checkpoint by the test part of a data set."""

    checkpoint: Path = DEFAULT_CHECKPOINT
    """What train left."""
    data: Path | None = None
    """The data to judge by; left out, the data that the checkpoint was trained with."""
    batch_size: int = 128
    """Images at a time."""
    json: bool = False
    """Print one JSON object instead of a table."""
    device: str | None = None
    """Where to compute; left out, the GPU if there is one, else the CPU."""


@dataclass(frozen=True)
class Predict:
    """Says what image files show."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """One or many image files."""
    checkpoint: Path = DEFAULT_CHECKPOINT
    """What train left."""
    weights: str | None = None
    """Instead of a checkpoint, ImageNet weights for --model: a file, or IMAGENET1K_V1."""
    model: str = "resnet18"
    """The architecture that --weights is for."""
    top: int = 3
    """How many classes to name for an image."""
    invert: bool = False
    """Turn dark on light into light on dark: the digits were learnt as light strokes on black."""
    json: bool = False
    """Print a JSON object a line instead of text."""
    device: str | None = None
    """Where to compute; left out, the GPU if there is one, else the CPU."""


@dataclass(frozen=True)
class Tune:
    """Measures which configuration of each kernel is fastest on this device, and writes them to a table.

    A candidate is proved right by itself before it is timed. Later runs on such a device use the table on their own;
    TINYFLOW_TUNED names another one.
    """

    kernel: Annotated[str | None, tyro.conf.Positional] = None
    """A kernel to search, such as _matmul_kernel; left out, all that the model's training step launches."""
    shapes: str = "resnet18"
    """The model whose training step gives the problems."""
    image_size: Annotated[int, tyro.conf.arg(aliases=["--size"])] = 224
    """Height and width of its images."""
    batch_size: Annotated[int, tyro.conf.arg(aliases=["--batch"])] = 256
    """Images a step."""
    classes: int = 1000
    """Outputs of the last layer."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "bfloat16"
    """The dtype of parameters and images."""
    rounds: int = 20
    """How often a candidate is timed; the median counts."""
    out: Path | None = None
    """The table to write or to add to; left out, the one that ships for this GPU."""
    resume: bool = False
    """Leave out what the table has already."""
    seconds: float = float("inf")
    """Begin no problem after this time; what was found is kept, and --resume goes on."""
    device: str | None = None
    """Where to measure; left out, the GPU if there is one, else the CPU."""


@dataclass(frozen=True)
class Info:
    """Shows the device, the versions, and a model layer by layer with shapes, parameters, FLOPs, bytes and least times."""

    model: str = "resnet18"
    """The architecture."""
    image_size: Annotated[int, tyro.conf.arg(aliases=["--size"])] = 224
    """Height and width of the images to count for."""
    batch_size: Annotated[int, tyro.conf.arg(aliases=["--batch"])] = 1
    """How many images to count for."""
    train: bool = False
    """Count a whole training step: the backward pass, the loss and SGD with momentum besides."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """The dtype of parameters and images."""
    fused: bool = False
    """Count convolution, batch normalisation, residual and ReLU as one where they are fused on a GPU, and list blocks."""
    gpu: str | None = None
    """The GPU whose measured rates give the least times: h100 or h200; left out, h100."""
    classes: int = 1000
    """Outputs of the last layer."""
    json: bool = False
    """Print one JSON object instead of tables."""
