"""A training step that is recorded once and replayed, and run as it is where it cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tinyflow
from tinyflow import nn, optim
from tinyflow.capture import Captured
from tinyflow.models.errors import one_line
from tinyflow.tensor import Tensor

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: Calls after which a captured step has been warmed up, recorded and replayed.
_SETTLED = 5


class Replayed:
    """A step of a model and its optimiser, as :func:`tinyflow.capture` replays it.

    If one of the first calls fails, when the step is warmed up and recorded, everything is set back to where it was before
    that call, ``say`` is told why, and this and all later calls run the step as it is: no step is lost or made twice.

    Args:
        step: takes images and labels on ``device``; gives two Tensors. Changes ``model``, ``optimizer`` and the default
            generators, and nothing else.
        say: shows a line to the user.
    """

    def __init__(
        self,
        step: Step,
        model: nn.Module,
        optimizer: optim.Optimizer,
        device: tinyflow.device,
        say: Callable[[str], None],
    ) -> None:
        self._step, self._model, self._optimizer, self._device, self._say = step, model, optimizer, device, say
        self._captured: Captured | None = None
        self._calls = 0
        self.recorded = True

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step; its results are not overwritten by the next."""
        if not self.recorded:
            return self._plainly(images, labels)
        if self._calls >= _SETTLED:
            return self._replay(images, labels)
        before = _State(self._model, self._optimizer)
        self._calls += 1
        try:
            return self._replay(images, labels)
        except Exception as error:
            before.restore(self._model, self._optimizer)
            self.recorded, self._captured = False, None
            self._say(
                f"the step cannot be recorded here, so every step runs anew, more slowly (--no-capture does so from the "
                f"start): {type(error).__name__}: {one_line(error)}"
            )
        return self._plainly(images, labels)

    def _replay(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._captured is None:
            self._captured = tinyflow.capture(self._step, images.to(self._device), labels.to(self._device))
        first, second = self._captured(images, labels)
        return first.clone(), second.clone()

    def _plainly(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self._step(images.to(self._device), labels.to(self._device))


class _State:
    """Copies of all that a step changes."""

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer) -> None:
        self._weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        saved = optimizer.state_dict()
        kept = {number: {name: _copied(value) for name, value in of.items()} for number, of in saved["state"].items()}
        self._optimizer = {**saved, "state": kept}
        self._random = tinyflow.get_rng_state()

    def restore(self, model: nn.Module, optimizer: optim.Optimizer) -> None:
        model.load_state_dict(self._weights)
        optimizer.load_state_dict(self._optimizer)
        optimizer.zero_grad()
        tinyflow.set_rng_state(self._random)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
