"""Optimisers that are a rule for each element: what they share is here, and a subclass says its states and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import memory, step_numbers, update_rules
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.optimizer import Update, words
from tinyflow.kernels.step_numbers import StepNumbers
from tinyflow.ops.creation import full, tensor, zeros_like
from tinyflow.ops.optimizer import step_numbers_, update_
from tinyflow.optim.optimizer import Group, Optimizer, loss_of
from tinyflow.recording import active
from tinyflow.tensor import Tensor

#: Weight decay, the factor that decoupled decay leaves of a parameter, and a rule's numbers.
Values = tuple[float, float, Sequence[float]]


class Settled(NamedTuple):
    """What an update is told: values, or where on the device they are, and what may leave it out."""

    values: Values
    settings: Buffer | None = None
    found_inf: Tensor | None = None


def settled(read: Callable[[], Values], found_inf: Tensor | None) -> Settled:
    """Values that the host knows, which a recorded step reads again at each replay."""
    recording = active.recording
    settings = None if recording is None else recording.words(lambda: words(*read()))
    return Settled(read(), settings, found_inf)


class RuleOptimizer(Optimizer):
    """Base of the optimisers whose step is one launch of :mod:`tinyflow.kernels.optimizer` for parameters of one history.

    What is counted of a parameter (``step``, and the subclass's ``counted``) is a Python number in ``state``, and a
    float32 tensor of no dimensions in ``state_dict()``, as torch has it. Once a step came with ``found_inf``, only the
    device knows how many were taken: from then on it is a float64 tensor in ``state`` too, one for all parameters of a
    history, and a small launch of :mod:`tinyflow.kernels.step_numbers` precedes the update.
    """

    skips_on_device = True

    #: The names of what is remembered of every element, in the rule's order.
    states: tuple[str, ...] = ()
    #: The names, beside ``step``, of what is counted of a parameter, and where they start.
    counted: ClassVar[Mapping[str, float]] = {}
    #: The settings that a recorded step cannot follow: they choose what is launched.
    fixed: ClassVar[tuple[str, ...]] = ("maximize",)

    _loads = 0  # how often a state was loaded, after which a recorded step would change memory that is no longer it

    # ---- what a subclass says -----------------------------------------------------------------------------------------

    def _states(self, group: Group) -> tuple[str, ...]:
        return self.states

    def _rule(self, group: Group) -> Update:
        raise NotImplementedError

    def _advance(self, group: Group, counts: tuple[float, ...]) -> tuple[float, ...]:
        """The step and the other counts as they are during the next step."""
        return (counts[0] + 1, *counts[1:])

    def _left(self, group: Group, counts: tuple[float, ...]) -> tuple[float, ...]:
        """The counts after the step that these belong to."""
        return counts

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        """The rule's numbers during the step that these counts belong to."""
        raise NotImplementedError

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        """How a device makes the rule's numbers, where it alone knows the counts, and of which settings."""
        return step_numbers.constant, self._numbers(group, ())

    def _decays(self, group: Group, counts: tuple[float, ...]) -> tuple[float, float]:
        """Coupled weight decay, and the factor that decoupled decay leaves of a parameter."""
        decay = group["weight_decay"]
        if group.get("decoupled_weight_decay"):
            return 0.0, 1 - float(group["lr"]) * decay
        return decay, 1.0

    def _begin(self, group: Group, name: str, param: Tensor) -> Tensor:
        """A state before the first step."""
        return zeros_like(param)

    def _fixed(self, group: Group) -> dict[str, Any]:
        """What a recorded step cannot follow, in words and values."""
        return {name: group[name] for name in self.fixed if name in group}

    # ---- the step -----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; ``closure`` may compute loss and gradients first."""
        loss = loss_of(closure)
        with no_grad():
            for group in self.param_groups:
                self._watch(group)
                for counts, params in self._histories(group):
                    self._update(group, params, counts)
        return loss

    def _histories(self, group: Group) -> list[tuple[tuple[Any, ...], list[Tensor]]]:
        """Parameters with a gradient that share their counts, and the device that says whether a step is left out."""
        found: dict[Any, tuple[tuple[Any, ...], list[Tensor]]] = {}
        for p in group["params"]:
            if p.grad is not None:
                counts = self._counts(group, p)
                key = tuple([(id(c),) if isinstance(c, Tensor) else c for c in counts])
                device = None if self.found_inf is None else p.device
                found.setdefault((key, device), (counts, []))[1].append(p)
        return list(found.values())

    def _counts(self, group: Group, param: Tensor) -> tuple[Any, ...]:
        state = self.state[param]
        if "step" not in state:
            self._check_may_begin()
            state["step"] = 0
            for name, start in self.counted.items():
                state.setdefault(name, start)
            for name in self._states(group):  # a state that was loaded without a count stays
                if name not in state:
                    state[name] = self._begin(group, name, param)
        return (state["step"], *(state[name] for name in self.counted))

    def _update(self, group: Group, params: list[Tensor], counts: tuple[Any, ...]) -> None:
        self._launch(group, params, self._settle(group, params, counts))

    def _found_inf_for(self, params: Sequence[Tensor]) -> Tensor | None:
        return None if self.found_inf is None else self.found_inf[params[0].device]

    def _settle(self, group: Group, params: list[Tensor], before: tuple[Any, ...]) -> Settled:
        """Moves the counts on, when the step is done if it is being recorded, and at each of its replays."""
        if self.found_inf is not None or isinstance(before[0], Tensor):
            return self._settle_on_device(group, params, before)
        recording = active.recording
        if recording is None:
            counts = self._advance(group, before)
            self._keep(params, self._left(group, counts))
            return Settled((*self._decays(group, counts), self._numbers(group, counts)))

        def during() -> tuple[float, ...]:
            return self._advance(group, self._counts(group, params[0]))

        def read() -> Values:
            counts = during()
            return *self._decays(group, counts), self._numbers(group, counts)

        recording.after(lambda: self._keep(params, self._left(group, during())))
        return settled(read, None)

    def _settle_on_device(self, group: Group, params: list[Tensor], before: tuple[Any, ...]) -> Settled:
        """Has the device move the counts on, if the step is taken, and make the numbers of them."""
        counts = self._counts_on_device(group, params, before)
        rule = self._on_device(group)[0]

        def read() -> tuple[int, ...]:
            return words(*self._decays(group, (0.0, *self.counted.values())), self._on_device(group)[1])

        recording, found_inf = active.recording, self._found_inf_for(params)
        given = read() if recording is None else recording.words(read)
        return Settled((0.0, 1.0, ()), step_numbers_(rule, counts, given, found_inf), found_inf)

    def _counts_on_device(self, group: Group, params: list[Tensor], before: tuple[Any, ...]) -> Sequence[Tensor]:
        """Counts on the device that these parameters, and no others, share."""
        there = isinstance(before[0], Tensor)
        if there and len(params) == sum(self.state[p].get("step") is before[0] for p in group["params"]):
            return before
        self._check_may_begin()
        device = params[0].device
        own = tuple(c.clone() if there else full((), float(c), dtype=memory.float64, device=device) for c in before)
        self._keep(params, own)
        return own

    def _keep(self, params: Sequence[Tensor], counts: tuple[Any, ...]) -> None:
        kept = dict(zip(("step", *self.counted), counts))
        for p in params:
            self.state[p].update(kept)

    def _launch(self, group: Group, params: list[Tensor], told: Settled) -> None:
        self._apply(group, params, told)

    def _apply(
        self,
        group: Group,
        params: list[Tensor],
        told: Settled,
        written: Sequence[list[Tensor]] = (),
        factors: Tensor | None = None,
        rule: Update | None = None,
    ) -> None:
        """The rule on every element, with what it writes beside the states, and a factor for each tensor."""
        decay, shrink, numbers = told.values
        states = [[self.state[p][name] for p in params] for name in self._states(group)]
        update_(
            rule or self._rule(group),
            params,
            [p.grad for p in params if p.grad is not None],
            [*states, *written],
            numbers,
            decay=decay,
            shrink=shrink,
            maximize=group.get("maximize", False),
            factors=factors,
            settings=told.settings,
            found_inf=told.found_inf,
        )

    # ---- recorded steps -----------------------------------------------------------------------------------------------

    def _watch(self, group: Group) -> None:
        """Has each replay of a step that is being recorded look whether it still is the step of this group."""
        recording = active.recording
        if recording is None or recording.computes:
            return
        recorded, loads, on_device = self._fixed(group), self._loads, self._counting_on_device(group)

        def look() -> None:
            now = self._fixed(group)
            changed = [
                f"{name} from {recorded[name]} to {now[name]}" for name in recorded if now[name] != recorded[name]
            ]
            if self._loads != loads:
                changed.append("the memory of its state, by load_state_dict()")
            if self._counting_on_device(group) != on_device:
                changed.append("where it counts steps, by a step of a GradScaler outside of the captured one")
            if changed:
                raise RuntimeError(
                    f"captured step: {type(self).__name__} has changed {', '.join(changed)} since it was recorded, and a "
                    "replay cannot follow; capture the step again"
                )

        recording.before(look)

    def _check_may_begin(self) -> None:
        """Before state is made, which each replay of a recorded step would make anew."""
        if active.recording is not None and not active.recording.computes:
            raise RuntimeError(
                f"capture: {type(self).__name__} would begin to remember steps of parameters in a step that is being "
                "recorded, and every replay would begin anew; capture with more calls to warm up, in which the same "
                "parameters have gradients"
            )

    def _counting_on_device(self, group: Group) -> bool:
        return any(isinstance(self.state[p].get("step"), Tensor) for p in group["params"] if p in self.state)

    # ---- saving and loading -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`Optimizer.state_dict`; counts are float32 tensors of no dimensions."""
        saved = super().state_dict()
        names = ("step", *self.counted)
        read: dict[int, float] = {}  # of counts on the device, each once
        for state in saved["state"].values():
            for name in names:
                if name in state:
                    count = state[name]
                    if id(count) not in read or not isinstance(count, Tensor):
                        read[id(count)] = float(count)
                    state[name] = tensor(read[id(count)])
        return saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As :meth:`Optimizer.load_state_dict`; counts may be tensors or numbers."""
        names = ("step", *self.counted)
        plain = {
            number: {k: float(v) if k in names else v for k, v in state.items()}
            for number, state in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": plain})
        self._loads += 1


def descend(
    group: Group,
    params: Sequence[Tensor],
    directions: Sequence[Tensor],
    factors: Tensor,
    found_inf: Tensor | None,
    decoupled: bool = False,
) -> None:
    """``p ← p − lr · factor · direction`` for each tensor, of which ``decoupled`` leaves ``p (1 − lr · weight_decay)``."""

    def read() -> Values:
        lr = float(group["lr"])
        return 0.0, (1 - lr * group["weight_decay"] if decoupled else 1.0), (lr,)

    told = settled(read, found_inf)
    _, shrink, numbers = told.values
    update_(
        update_rules.descend,
        params,
        directions,
        [],
        numbers,
        shrink=shrink,
        factors=factors,
        settings=told.settings,
        found_inf=found_inf,
    )


def check_from_zero(**numbers: float) -> None:
    """Raises a ValueError that names the first number below 0, or not a number."""
    for name, value in numbers.items():
        if not value >= 0.0:
            raise ValueError(f"Invalid {name} value: {value}")


def settings(
    name: str,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    *,
    eps: float | None = None,
    betas: tuple[float, float] | None = None,
    foreach: bool | None = None,
    fused: bool | None = None,
    differentiable: bool = False,
    **others: Any,
) -> dict[str, Any]:
    """The defaults of an optimiser's groups, checked.

    Raises:
        ValueError: for numbers out of range.
        RuntimeError: for ``fused`` together with ``foreach``.
        NotImplementedError: for ``differentiable=True``.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(lr.shape)}")
    if not float(lr) >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")
    check_from_zero(weight_decay=weight_decay)
    if eps is not None and not eps >= 0.0:
        raise ValueError(f"Invalid epsilon value: {eps}")
    for index, beta in enumerate(betas or ()):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if differentiable:
        raise NotImplementedError(
            f"{name}: differentiable=True is not implemented; the step is not recorded in the graph"
        )
    if foreach and fused:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    numbers = {"eps": eps, "betas": betas}
    return {
        "lr": lr,
        **{k: v for k, v in numbers.items() if v is not None},
        "weight_decay": weight_decay,
        "foreach": foreach,
        "differentiable": differentiable,
        **others,
    }
