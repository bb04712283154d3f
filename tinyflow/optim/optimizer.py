"""Optimizer: parameters in groups with their settings, and what is remembered of each parameter between steps."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from tinyflow.autograd.grad_mode import enable_grad
from tinyflow.autograd.graph import RemovableHandle
from tinyflow.operands import described
from tinyflow.tensor import Tensor

Group = dict[str, Any]


class Optimizer:
    """Base of all optimisers.

    Args:
        params: tensors, pairs of name and tensor, or dictionaries ``{"params": tensors, …}`` with own settings.
        defaults: settings of groups that do not name them.

    Raises:
        TypeError: if ``params`` is a single tensor, or holds what is no tensor.
        ValueError: if there are none, or one that is no leaf.
    """

    #: Whether ``step`` heeds ``found_inf``, for each device a float32 that is not 0 where gradients overflowed, and then
    #: changes nothing there; a GradScaler sets it for the time of the step.
    skips_on_device = False
    found_inf: Mapping[Any, Tensor] | None = None

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                "but got a single Tensor"
            )
        self.defaults = defaults
        #: Whether ``step`` was ever called: schedules warn where they run ahead of it.
        self.has_stepped = False
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._step_pre_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._step_post_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Adds parameters with settings of their own, such as those of a layer that is no longer frozen.

        Raises:
            TypeError: if the group is no dictionary, or holds what is no tensor.
            ValueError: if a setting without default is missing, a tensor is no leaf, or is in another group already.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group).__name__}")
        group = dict(param_group)
        params = group["params"]
        if isinstance(params, (set, frozenset)):
            raise TypeError("optimizer parameters need to be organized in ordered collections, but a set has no order")
        entries = [params] if isinstance(params, Tensor) else list(params)
        names = [entry[0] for entry in entries if isinstance(entry, tuple)]
        group["params"] = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
        if names:
            if len(names) != len(entries):
                raise ValueError("all optimizer params should be with/without names. Some param names are missing")
            group["param_names"] = names
        self._check(group)
        for name, default in self.defaults.items():
            if default is REQUIRED and name not in group:
                raise ValueError(f"parameter group didn't specify a value of required optimization parameter {name}")
            group.setdefault(name, default)
        self.param_groups.append(group)

    def _check(self, group: Group) -> None:
        for param in group["params"]:
            if not isinstance(param, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {described(param)}")
            if not param.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        ids = [id(param) for param in group["params"]]
        if len(set(ids)) != len(ids):
            raise ValueError("optimizer contains a parameter group with duplicate parameters")
        if any(("param_names" in group) != ("param_names" in other) for other in self.param_groups):
            raise ValueError("all optimizer param groups should be with/without names")
        if not {id(param) for param in self._all_params()}.isdisjoint(ids):
            raise ValueError("some parameters appear in more than one parameter group")

    def _all_params(self) -> Iterable[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops every gradient, or fills it with zeros."""
        for param in self._all_params():
            if param.grad is None:
                continue
            if set_to_none:
                param.grad = None
            else:
                param.grad = param.grad.detach()
                param.grad.zero_()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _with_hooks(cls.step)  # type: ignore[method-assign]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Args:
            closure: computes the loss anew with its gradients; what it returns is returned.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define its step")

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(optimizer, args, kwargs)`` before each step; may return a changed ``(args, kwargs)``."""
        return RemovableHandle(self._step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(optimizer, args, kwargs)`` after each step."""
        return RemovableHandle(self._step_post_hooks, hook)

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {number: what is remembered}, "param_groups": [settings, "params": numbers]}``.

        Parameters are numbered in the order of the groups. Tensors share memory with the optimizer.
        """
        number: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                number.setdefault(id(param), len(number))
            settings = {name: value for name, value in group.items() if name != "params"}
            groups.append({**settings, "params": [number[id(param)] for param in group["params"]]})
        return {"state": {number[id(p)]: dict(kept) for p, kept in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict()`` of an optimizer with the same groups gave.

        Tensors are copied, and cast to the dtype and device of their parameter (``step`` keeps its dtype).

        Raises:
            ValueError: if the groups differ in number or size.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError(
                "loaded state dict has a different number of parameter groups: "
                f"expected {len(self.param_groups)}, got {len(groups)}"
            )
        for position, (own, saved) in enumerate(zip(self.param_groups, groups)):
            if len(own["params"]) != len(saved["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                    f"expected {len(own['params'])} parameters in group {position}, got {len(saved['params'])}"
                )
        numbers = chain.from_iterable(group["params"] for group in groups)
        param_of = dict(zip(numbers, self._all_params()))
        self.state = defaultdict(dict)
        for number, kept in state_dict["state"].items():
            param = param_of[number]
            self.state[param] = {name: _restored(name, value, param) for name, value in kept.items()}
        self.param_groups = [
            {
                **{name: value for name, value in own.items() if name == "param_names"},
                **{
                    name: copy.deepcopy(value) for name, value in saved.items() if name not in ("params", "param_names")
                },
                "params": own["params"],
            }
            for own, saved in zip(self.param_groups, groups)
        ]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for position, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {position}")
            lines.extend(
                f"    {name}: {group[name]}" for name in sorted(group) if name not in ("params", "param_names")
            )
            lines.append("")
        return "\n".join(lines[:-1]) + "\n)"


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """What a step's closure returns, which computes gradients; None if there is none."""
    if closure is None:
        return None
    with enable_grad():
        return closure()


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an optimizer's hooks around the ``step`` that its own class defines, once where that calls its base's."""

    @functools.wraps(step)
    def wrapped(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if type(self).step is not wrapped:
            return step(self, *args, **kwargs)
        for hook in list(self._step_pre_hooks.values()):
            changed = hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        result = step(self, *args, **kwargs)
        self.has_stepped = True
        for hook in list(self._step_post_hooks.values()):
            hook(self, args, kwargs)
        return result

    return wrapped


def _restored(name: str, value: Any, param: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    copied = value.detach().clone()
    if name == "step":
        return copied
    return copied.to(device=param.device, dtype=param.dtype if param.dtype.is_floating_point else None)


class _Required:
    def __repr__(self) -> str:
        return "<required parameter>"


#: A default that every group must name.
REQUIRED = _Required()
