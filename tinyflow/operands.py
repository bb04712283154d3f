"""What a function takes in place of a tensor, read off its annotations, and the error for everything else.

No function checks this by itself: :class:`~tinyflow.ops.define.Op` reads its launcher's annotations, :func:`guard` puts a
check before every public function of a module that has parameters annotated as Tensors, and the layers that look at their
input before an operation does have it as a decorator, :func:`guarded`::

    conv2d(): expected input to be a tinyflow.Tensor, but it is a numpy.ndarray; tinyflow.from_numpy(...) makes one
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from tinyflow.kernels.memory import Buffer
from tinyflow.tensor import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

_NUMBERS = (bool, int, float, np.bool_, np.number)
#: The members of a union beside classes and sequences.
_MEMBERS: dict[str, tuple[type, ...]] = {
    "Tensor": (Tensor,),
    "Scalar": _NUMBERS,
    "float": _NUMBERS,
    "int": (int, np.bool_, np.integer),
    "None": (NoneType,),
}
_UNION = re.compile(r" \| (?![^\[]*\])")
_SEQUENCE = re.compile(r"(?:Sequence|Iterable|list|tuple)\[([^,]*)(?:, .*)?\]")
#: What can be iterated over, but stands for itself.
_SINGLE = (str, bytes, Mapping, np.ndarray, Buffer, Tensor)


class Takes(NamedTuple):
    """What a parameter takes."""

    types: set[type]  # of which every value is taken; grows by the subclasses of Tensor that come along
    classes: tuple[type, ...]
    items: Takes | None  # what each element is, where the parameter takes a sequence of tensors

    def allows(self, value: Any) -> bool:
        """True if ``value``, whose type is not among ``types``, may be given."""
        if isinstance(value, self.classes):
            if isinstance(value, Tensor):
                self.types.add(type(value))
            return True
        items = self.items
        if items is None or isinstance(value, _SINGLE) or not isinstance(value, Iterable):
            return False
        return not isinstance(value, Sequence) or all(type(v) in items.types or items.allows(v) for v in value)

    def __str__(self) -> str:
        words = ["a tinyflow.Tensor"] if Tensor in self.classes else []
        words += [f"a {c.__name__}" for c in self.classes if c.__module__.startswith("tinyflow") and c is not Tensor]
        words += ["a number"] if float in self.classes else ["an integer"] if int in self.classes else []
        words += ["a sequence of integers"] if list in self.classes else []
        words += ["a sequence of tinyflow.Tensors"] if self.items is not None else []
        words += ["None"] if NoneType in self.classes else []
        return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


TENSOR = Takes({Tensor}, (Tensor,), None)
OPERAND = Takes({Tensor, bool, int, float}, (Tensor, *_NUMBERS), None)


def takes_of(annotation: str, names: Mapping[str, Any]) -> Takes | None:
    """What a parameter takes; None where no tensor is part of it, or where it has a part that is not understood.

    Args:
        annotation: the parameter's.
        names: the classes that it may name.
    """
    classes: list[type] = []
    items: Takes | None = None
    for member in _UNION.split(annotation):
        if member in _MEMBERS:
            classes += _MEMBERS[member]
        elif found := _SEQUENCE.fullmatch(member):
            items = takes_of(found[1], names)
            if items is None and found[1] != "int":
                return None
            classes += [list, tuple] if items is None else []
        elif isinstance(names.get(member), type):
            classes.append(names[member])
        else:
            return None
    if Tensor not in classes and items is None:
        return None
    return Takes({c for c in classes if not issubclass(c, np.generic)}, tuple(dict.fromkeys(classes)), items)


def described(value: Any) -> str:
    """What a value is, with its article, and how it becomes a tensor if there is a way."""
    if value is None:
        return "None"
    kind = type(value)
    name = "tinyflow.Tensor" if kind is Tensor else f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    text = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if isinstance(value, np.ndarray):
        return f"{text}; tinyflow.from_numpy(...) makes one"
    if isinstance(value, Buffer):
        return f"{text}; tinyflow.from_torch(...) makes one"
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return f"{text} of tensors; tinyflow.stack(...) or tinyflow.cat(...) makes one"
    if isinstance(value, (list, tuple, *_NUMBERS)):
        return f"{text}; tinyflow.tensor(...) makes one"
    if isinstance(value, Tensor) or not hasattr(value, "__dlpack__"):
        return text
    return f"{text}; tinyflow.from_dlpack(...) makes one"


def wrong_operand(caller: str, parameter: str, takes: Takes, value: Any) -> TypeError:
    """The error for a value that a parameter does not take."""
    if takes.items is not None and isinstance(value, (list, tuple)):
        k = next(k for k, v in enumerate(value) if not takes.items.allows(v))
        return wrong_operand(caller, f"{parameter}[{k}]", takes.items, value[k])
    return TypeError(f"{caller}: expected {parameter} to be {takes}, but it is {described(value)}")


def as_tuple(values: Any) -> tuple[Any, ...]:
    """Several values as a tuple, and one as the only element of a tuple."""
    return (values,) if isinstance(values, _SINGLE) or not isinstance(values, Iterable) else tuple(values)


def check_tensor(caller: str, parameter: str, value: Any) -> None:
    """TypeError if the value is no Tensor."""
    if not isinstance(value, Tensor):
        raise wrong_operand(caller, parameter, TENSOR, value)


def check_tensors(caller: str, parameter: str, values: Sequence[Any]) -> None:
    """TypeError if one of the values, which may be given one by one or as a list, is no Tensor."""
    for k, value in enumerate(values):
        check_tensor(caller, f"{parameter}[{k}]", value)


def guarded(function: Function) -> Function:
    """``function`` with a check of the parameters that are annotated as tensors; itself where there are none.

    In a class it is a method, whose errors name the class of the instance.
    """
    parameters = inspect.signature(function).parameters.values()
    names = inspect.unwrap(function).__globals__
    named = {p.name: takes for p in parameters if (takes := takes_of(str(p.annotation), names)) is not None}
    if not named:
        return function
    is_method = next(iter(parameters)).annotation is inspect.Parameter.empty
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    first = tuple([named[n].types if n in named else None for n in positional])
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL and p.name in named), None)

    def check(caller: Any, arguments: Iterable[tuple[str, Any]]) -> None:
        for parameter, value in arguments:
            takes = named.get(parameter)
            if takes is not None and type(value) not in takes.types and not takes.allows(value):
                name = type(caller).__name__ if is_method else f"{function.__name__}()"
                raise wrong_operand(name, parameter, takes, value)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for value, types in zip(args, first):
            if types is not None and type(value) not in types:
                check(args[0], zip(positional, args))
                break
        if rest is not None:
            check(None, ((rest, value) for value in args[len(first) :]))
        if kwargs:
            check(args and args[0], kwargs.items())
        return function(*args, **kwargs)

    return cast(Function, checked)


_checked: dict[Callable[..., Any], Callable[..., Any]] = {}


def guard(module: dict[str, Any], names: Iterable[str]) -> None:
    """Puts a check before those of a module's functions that take tensors; one that has several names stays one.

    Who imports a function from the module afterwards gets it with the check; what other modules have imported before, to
    compute with, stays as it is.
    """
    for name in names:
        function = module.get(name)
        if inspect.isfunction(function):
            if function not in _checked:
                _checked[function] = guarded(function)
                _checked[_checked[function]] = _checked[function]
            module[name] = _checked[function]
