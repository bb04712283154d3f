"""Optimisers that are a rule for each element: what they share is here, and a subclass says its states and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import update_rules
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.update import Update, words
from tinyflow.ops.creation import tensor, zeros_like
from tinyflow.ops.optimizer import update_
from tinyflow.optim.optimizer import Group, Optimizer, loss_of
from tinyflow.recording import active
from tinyflow.tensor import Tensor

#: The counts during a step, and where a recorded one reads its numbers.
Settled = tuple[tuple[float, ...], Buffer | None]


class RuleOptimizer(Optimizer):
    """Base of the optimisers whose step is one launch of :mod:`tinyflow.kernels.update` for parameters of one history.

    What is counted of a parameter (``step``, and the subclass's ``counted``) is a Python number in ``state``, and a
    float32 tensor of no dimensions in ``state_dict()``, as torch has it.
    """

    #: The names of what is remembered of every element, in the rule's order.
    states: tuple[str, ...] = ()
    #: The names, beside ``step``, of what is counted of a parameter, and where they start.
    counted: ClassVar[Mapping[str, float]] = {}

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

    def _decays(self, group: Group, counts: tuple[float, ...]) -> tuple[float, float]:
        """Coupled weight decay, and the factor that decoupled decay leaves of a parameter."""
        decay = group["weight_decay"]
        if group.get("decoupled_weight_decay"):
            return 0.0, 1 - float(group["lr"]) * decay
        return decay, 1.0

    def _begin(self, group: Group, name: str, param: Tensor) -> Tensor:
        """A state before the first step."""
        return zeros_like(param)

    # ---- the step -----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; ``closure`` may compute loss and gradients first."""
        loss = loss_of(closure)
        with no_grad():
            for group in self.param_groups:
                histories: dict[tuple[float, ...], list[Tensor]] = {}
                for p in group["params"]:
                    if p.grad is not None:
                        histories.setdefault(self._counts(group, p), []).append(p)
                for counts, params in histories.items():
                    self._update(group, params, counts)
        return loss

    def _counts(self, group: Group, param: Tensor) -> tuple[float, ...]:
        state = self.state[param]
        if "step" not in state:
            state["step"] = 0
            for name, start in self.counted.items():
                state.setdefault(name, start)
            for name in self._states(group):  # a state that was loaded without a count stays
                if name not in state:
                    state[name] = self._begin(group, name, param)
        return (state["step"], *(state[name] for name in self.counted))

    def _update(self, group: Group, params: list[Tensor], counts: tuple[float, ...]) -> None:
        self._launch(group, params, self._settle(group, params, counts))

    def _settle(self, group: Group, params: list[Tensor], before: tuple[float, ...]) -> Settled:
        """Moves the counts on, when the step is done if it is being recorded, and at each of its replays."""
        recording = active.recording
        if recording is None:
            counts = self._advance(group, before)
            self._keep(params, self._left(group, counts))
            return counts, None

        def during() -> tuple[float, ...]:
            return self._advance(group, self._counts(group, params[0]))

        def read() -> tuple[int, ...]:
            counts = during()
            return words(*self._decays(group, counts), self._numbers(group, counts))

        recording.after(lambda: self._keep(params, self._left(group, during())))
        return during(), recording.words(read)

    def _keep(self, params: Sequence[Tensor], counts: tuple[float, ...]) -> None:
        kept = dict(zip(("step", *self.counted), counts))
        for p in params:
            self.state[p].update(kept)

    def _launch(self, group: Group, params: list[Tensor], settled: Settled) -> None:
        self._apply(group, params, settled)

    def _apply(
        self,
        group: Group,
        params: list[Tensor],
        settled: Settled,
        written: Sequence[list[Tensor]] = (),
        factors: Tensor | None = None,
    ) -> None:
        """The rule on every element, with what it writes beside the states, and a factor for each tensor."""
        counts, settings = settled
        decay, shrink = self._decays(group, counts)
        states = [[self.state[p][name] for p in params] for name in self._states(group)]
        update_(
            self._rule(group),
            params,
            [p.grad for p in params if p.grad is not None],
            [*states, *written],
            self._numbers(group, counts),
            decay=decay,
            shrink=shrink,
            maximize=group.get("maximize", False),
            factors=factors,
            settings=settings,
        )

    # ---- saving and loading -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`Optimizer.state_dict`; counts are float32 tensors of no dimensions."""
        saved = super().state_dict()
        names = ("step", *self.counted)
        for state in saved["state"].values():
            state.update({name: tensor(float(state[name])) for name in names if name in state})
        return saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As :meth:`Optimizer.load_state_dict`; counts may be tensors or numbers."""
        names = ("step", *self.counted)
        plain = {
            number: {k: float(v) if k in names else v for k, v in state.items()}
            for number, state in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": plain})


def descend(
    group: Group, params: Sequence[Tensor], directions: Sequence[Tensor], factors: Tensor, decoupled: bool = False
) -> None:
    """``p ← p − lr · factor · direction`` for each tensor, of which ``decoupled`` leaves ``p (1 − lr · weight_decay)``."""
    recording = active.recording

    def numbers() -> tuple[float, float]:
        lr = float(group["lr"])
        return (1 - lr * group["weight_decay"] if decoupled else 1.0), lr

    shrink, lr = numbers()
    update_(
        update_rules.descend,
        params,
        directions,
        [],
        (lr,),
        shrink=shrink,
        factors=factors,
        settings=None if recording is None else recording.words(lambda: words(0.0, numbers()[0], numbers()[1:])),
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
