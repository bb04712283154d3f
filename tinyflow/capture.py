"""A whole training or inference step as one device graph: recorded once, then replayed with one call to the driver.

>>> def step(images, labels):
...     loss = F.cross_entropy(model(images), labels)
...     optimizer.zero_grad()
...     loss.backward()
...     optimizer.step()
...     return loss
>>> step = tinyflow.capture(step, images, labels)
>>> for images, labels in loader:
...     loss = step(images, labels)
...     schedule.step()

Inputs are copied into memory of the graph's own, and outputs appear in memory that the next call overwrites. What the
host decides from step to step must reach the device without it: random numbers and the settings of optimizers do, since
kernels read them from device memory that is written anew before each replay. Everything else that Python does inside the
step, it does once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tinyflow import autocast_mode
from tinyflow.kernels import elementwise, memory
from tinyflow.kernels.memory import Buffer
from tinyflow.recording import Recording, record
from tinyflow.tensor import Tensor

#: Calls that run the step as it is before it is recorded: momentum buffers are made, kernels compiled, sizes settled.
_WARM_UP = 3


class Captured:
    """What :func:`capture` returns; call it with inputs like the examples."""

    def __init__(self, step: Callable[..., Any], examples: Sequence[Any], warm_up: int) -> None:
        for k, x in enumerate(examples):
            if not isinstance(x, Tensor):
                raise TypeError(f"capture: expected Tensors as example inputs, got {type(x).__name__} as input {k}")
        devices = {x.device for x in examples}
        if len(devices) > 1:
            raise ValueError(f"capture: expected example inputs on one device, got {sorted(map(str, devices))}")
        if warm_up < 1:
            raise ValueError(f"capture: expected at least one call to warm up, got {warm_up}")
        self.step = step
        self.device = devices.pop() if devices else memory.get_default_device()
        self.inputs = tuple(_like(x) for x in examples)
        self._recording = Recording(self.device)
        self._warm_up = warm_up
        self._graph = memory.Graph(self.device) if memory.records_graphs(self.device) else None
        self._recorded = False
        self._outputs: Any = None
        self._static: list[Tensor] | None = None
        self._grads: list[tuple[Tensor, Buffer]] = []

    def __call__(self, *inputs: Tensor) -> Any:
        """One step; the outputs are the same tensors every time, with new values.

        Raises:
            TypeError, ValueError: for inputs unlike the examples.
            RuntimeError: for a step that cannot be captured, or gradients that are not where the last call left them.
        """
        self._check_inputs(inputs)
        self._check_grads()
        for static, given in zip(self.inputs, inputs):
            _copy(static, given)
        if self._graph is None:
            self._run_eagerly(self._run)
        elif self._warm_up > 0:
            self._warm_up -= 1
            self._run_eagerly(functools.partial(self._graph.warm_up, self._run))
        else:
            self._replay()
        return self._outputs

    # ---- running ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The step, and its outputs copied to where they stay."""
        autocast_mode.clear_autocast_cache()  # a cast that was made outside would not be made again by a replay
        result = self.step(*self.inputs)
        autocast_mode.clear_autocast_cache()
        found: list[Tensor] = []
        outputs = _outputs(result, found)
        if self._static is None:
            self._static = [_like(y) for y in found]
            self._outputs = _placed(outputs, iter(self._static))
        self._check_outputs(found)
        for static, y in zip(self._static, found):
            elementwise.copy_into(static._data, y._data)
            static._bump_version()

    def _run_eagerly(self, run: Callable[[], None]) -> None:
        with record(self._recording, writes=True):
            run()
        self._recording.advance()
        self._remember_grads()

    def _replay(self) -> None:
        if not self._recorded:
            self._graph = memory.Graph(self.device)  # a new one: a recording that failed cannot go on
            with record(self._recording, writes=False):
                self._graph.record(self._run)
            self._recorded = True
            self._remember_grads()
        assert self._graph is not None
        self._recording.refresh()
        self._graph.replay()
        memory.note_replay()
        self._recording.advance()

    # ---- checks ----------------------------------------------------------------------------------------------------

    def _check_inputs(self, inputs: Sequence[Any]) -> None:
        if len(inputs) != len(self.inputs):
            raise TypeError(f"captured step: expected {len(self.inputs)} inputs, got {len(inputs)}")
        for k, (x, static) in enumerate(zip(inputs, self.inputs)):
            if not isinstance(x, Tensor):
                raise TypeError(f"captured step: expected a Tensor as input {k}, got {type(x).__name__}")
            if (x.shape, x.dtype) != (static.shape, static.dtype):
                raise ValueError(
                    f"captured step: expected input {k} of shape {tuple(static.shape)} and {static.dtype}, as in the "
                    f"example, got {tuple(x.shape)} and {x.dtype}; capture the step again for other inputs"
                )

    def _check_outputs(self, found: Sequence[Tensor]) -> None:
        static = self._static or []
        shapes = [(tuple(y.shape), y.dtype) for y in static]
        got = [(tuple(y.shape), y.dtype) for y in found]
        if shapes != got:
            raise RuntimeError(
                f"capture: expected outputs as in the first call, {shapes}, got {got}; shapes must not depend on data"
            )

    def _remember_grads(self) -> None:
        leaves = self._recording.leaves.values()
        self._grads = [(leaf, leaf.grad._data) for leaf in leaves if leaf.grad is not None]

    def _check_grads(self) -> None:
        for leaf, place in self._grads:
            if leaf.grad is None or leaf.grad._data is not place:
                change = "set to None" if leaf.grad is None else "replaced"
                raise RuntimeError(
                    f"captured step: the gradient of a leaf of shape {tuple(leaf.shape)} was {change} between two calls, "
                    "but a captured step writes gradients to one place; call zero_grad() inside the step, or "
                    "zero_grad(set_to_none=False) outside"
                )


def capture(step: Callable[..., Any], *example_inputs: Tensor, warm_up: int = _WARM_UP) -> Captured:
    """A step that a GPU runs from a recorded graph: no Python, and no gaps, between its kernels.

    The first ``warm_up`` calls run the step as it is, on the stream that will record it; the next one records it and
    every call from there on replays. Each call is one step on the inputs that it is given: example inputs are looked at
    for shape, dtype and device, and nothing runs before the first call. **On the CPU, where there is nothing to record,
    every call runs the step eagerly**, with the same rules: the same static inputs and outputs, the same errors.

    The step may contain forward pass, backward pass, ``zero_grad()``, an optimizer and a GradScaler. Random draws go on
    from replay to replay as they would eagerly, from the same generators; learning rates, betas and the like are read from
    the optimizers' groups at every call, so a schedule steps outside, while what chooses a rule (``nesterov``, ``amsgrad``,
    whether momentum is 0) may not change once it is recorded: the next call says so. What cannot be captured is refused:
    values read on the host (``item()``, ``print``, ``if`` on a tensor, ``nonzero``, indexing by a mask), copies between
    host and device, shapes that depend on data, and gradients that are set to None between calls.

    Args:
        step: takes Tensors; returns a Tensor, None, or a tuple, list or dictionary of them.
        example_inputs: one for each argument of the step, all on one device.
        warm_up: calls before the recording; two at least for an optimizer that makes its state in the first step.

    Returns:
        A callable with the arguments of the step. Its inputs may lie on another device, and are copied (from page-locked
        memory in the background: leave that alone until the step is done); its outputs are detached, and overwritten by
        the next call: clone what is to be kept.

    Raises:
        TypeError, ValueError: for examples that are no Tensors, or on several devices.
    """
    return Captured(step, example_inputs, warm_up)


def _like(x: Tensor) -> Tensor:
    """New memory with the contents and the layout of ``x``."""
    return Tensor(elementwise.copy(x._data))


def _copy(static: Tensor, given: Tensor) -> None:
    data: Buffer = given._data
    if data.device != static.device:
        data = memory.to_device(data if memory.is_dense(data) else elementwise.copy(data), static.device, True)
    if data is not static._data:
        elementwise.copy_into(static._data, data)
        static._bump_version()


def _outputs(value: Any, found: list[Tensor]) -> Any:
    """The structure of a step's result, whose Tensors are appended to ``found``.

    Raises:
        TypeError: for what would not change from replay to replay.
    """
    if value is None:
        return None
    if isinstance(value, Tensor):
        found.append(value)
        return Tensor
    if isinstance(value, dict):
        return {k: _outputs(v, found) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_outputs(v, found) for v in value)
    raise TypeError(
        f"capture: expected the step to return Tensors, None, or tuples, lists and dictionaries of them, got "
        f"{type(value).__name__}, which a replay would not compute again"
    )


def _placed(structure: Any, tensors: Any) -> Any:
    if structure is Tensor:
        return next(tensors)
    if isinstance(structure, dict):
        return {k: _placed(v, tensors) for k, v in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(_placed(v, tensors) for v in structure)
    return None
