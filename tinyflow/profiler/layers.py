"""A model's launches by layer, counted on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tinyflow.autograd.grad_mode import set_grad_enabled
from tinyflow.autograd.graph import AccumulateGrad, Node
from tinyflow.kernels.configs import planned_for_gpu
from tinyflow.kernels.launch import Cost, Record
from tinyflow.kernels.launch import count as count_launches
from tinyflow.tensor import Tensor


class Model(Protocol):
    """What is asked of a model: an ``nn.Module``, which stands above this file."""

    def __call__(self, images: Tensor) -> Tensor: ...

    def named_modules(self) -> Iterable[tuple[str, Any]]: ...


class Optimizer(Protocol):
    """What is asked of an optimiser."""

    def step(self) -> Any: ...


@dataclass
class Layer:
    """One call of a layer, or the loss, or the optimiser: what it gave, and the launches that it took."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    forward: list[Record] = field(default_factory=list)
    backward: list[Record] = field(default_factory=list)


def total(records: Sequence[Record]) -> Cost:
    """The sum of what launches cost."""
    return Cost(sum(r.cost.flops for r in records), sum(r.cost.bytes for r in records))


def summarise(
    model: Model,
    images: Tensor,
    loss: Callable[[Tensor], Tensor] | None = None,
    optimizer: Optimizer | None = None,
    watched: Callable[[Any], bool] = lambda module: True,
) -> list[Layer]:
    """What each call of a layer gives and launches, in the order of a forward pass.

    On the ``meta`` device nothing is computed, and the counts are those of a GPU: its configurations are chosen. A module
    with others inside is listed where it launches something itself, such as the addition of a residual block.

    Args:
        model, images: on one device.
        loss: of the model's output; with it the backward pass is counted too, and each launch of it belongs to the layer
            whose operation it differentiates.
        optimizer: counted in its second step, when its buffers are there; inference likewise, when weights are folded.
        watched: which modules are listed by themselves. Hooks are put on them, so those with no others inside are not fused
            with their neighbours; what another module launches belongs to the one around it.
    """
    layers = _Layers(model, watched)
    with count_launches() as records, planned_for_gpu(), set_grad_enabled(loss is not None):
        if loss is None:
            model(images)  # what is folded into weights is folded once
        with layers.watched(records):
            output = model(images)
        if loss is not None:
            with layers.called("(loss)", "loss", (), records):
                value = loss(output)
            layers.own(value, [output])
            with layers.attributed(value, records):
                value.backward()
        if optimizer is not None:
            optimizer.step()
            records.clear()
            with layers.called("(optimizer)", type(optimizer).__name__, (), records):
                optimizer.step()
    return layers.found


class _Layers:
    """Hands launches to the layer that made them, forwards by the calls and backwards by the nodes of the graph."""

    def __init__(self, model: Model, watched: Callable[[Any], bool]) -> None:
        self.found: list[Layer] = []
        named = model.named_modules()
        self._names = {module: name or "(model)" for name, module in named if not name or watched(module)}
        self._counted: set[str] = set()
        # of the calls that are under way, the outermost first: launches, and the nodes that made the inputs
        self._open: list[tuple[list[Record], set[Any]]] = []
        self._owner: dict[Node, Layer] = {}

    @contextmanager
    def watched(self, records: list[Record]) -> Iterator[None]:
        """Follows the calls of all modules in a block."""

        def hooks(blind: bool) -> tuple[Callable[..., None], Callable[..., None]]:
            def enter(module: Any, inputs: tuple[Any, ...]) -> None:
                self._settle(records)
                self._open.append(([], _nodes(inputs)))  # now: an operation in place gives its input another history

            def leave(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
                self._settle(records)
                self._leave(module, output)

            enter.blind = leave.blind = blind  # type: ignore[attr-defined]
            return enter, leave

        handles: list[Any] = []
        try:
            for module in self._names:
                enter, leave = hooks(blind=not _is_leaf(module))
                handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
            records.clear()
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _settle(self, records: list[Record]) -> None:
        if self._open:
            self._open[-1][0].extend(records)
        records.clear()

    def _leave(self, module: Any, output: Any) -> None:
        records, before = self._open.pop()
        name = self._names[module]
        leaf = _is_leaf(module)
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        layer = Layer(name, type(module).__name__, shape, 0, records)
        if records or leaf:
            own = {n: p for n, p in module.named_parameters(self._prefix(name)) if n not in self._counted}
            self._counted.update(own)
            layer.parameters = sum(p.numel() for p in own.values())
            self.found.append(layer)
            self._claim(layer, output, before)

    def _prefix(self, name: str) -> str:
        return "" if name == "(model)" else name

    @contextmanager
    def called(self, name: str, kind: str, shape: tuple[int, ...], records: list[Record]) -> Iterator[None]:
        """A layer of what is launched in a block."""
        records.clear()
        yield
        self.found.append(Layer(name, kind, shape, 0, list(records)))
        records.clear()

    def own(self, output: Tensor, inputs: Sequence[Tensor]) -> None:
        """The last layer made ``output`` from ``inputs``."""
        self._claim(self.found[-1], output, _nodes(inputs))

    def _claim(self, layer: Layer, output: Any, before: set[Any]) -> None:
        """Gives a layer the nodes that led from ``before`` to its output and that no layer inside it has."""
        seen = set(before)
        stack = [output.grad_fn] if isinstance(output, Tensor) else []
        while stack:
            node = stack.pop()
            if node is None or node in seen or isinstance(node, AccumulateGrad):
                continue
            seen.add(node)
            self._owner.setdefault(node, layer)
            stack.extend(following for following, _ in node.next_functions)

    @contextmanager
    def attributed(self, value: Tensor, records: list[Record]) -> Iterator[None]:
        """Hands the launches of the backward pass in a block to the layers whose nodes run."""
        current = self.found[-1]  # what starts the backward pass belongs to the loss

        def hand_over() -> None:
            current.backward.extend(records)
            records.clear()

        def runs(layer: Layer) -> Callable[[Any], None]:
            def hook(grads: Any) -> None:
                nonlocal current
                hand_over()
                current = layer

            hook.blind = True  # type: ignore[attr-defined]  # fused operations work on as if nobody were there
            return hook

        handles = [node.register_prehook(runs(layer)) for node, layer in self._owner.items()]
        records.clear()
        try:
            yield
            hand_over()
        finally:
            for handle in handles:
                handle.remove()


def _is_leaf(module: Any) -> bool:
    return not any(True for _ in module.children())


def _nodes(inputs: Sequence[Any]) -> set[Any]:
    return {x.grad_fn for x in inputs if isinstance(x, Tensor)}
