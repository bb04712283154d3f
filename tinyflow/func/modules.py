"""Modules as functions of their parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinyflow.tensor import Tensor


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Calls a module with other tensors in the place of its parameters and buffers, which it has back afterwards.

    Args:
        module: an ``nn.Module``.
        parameter_and_buffer_dicts: tensors by their names in ``named_parameters()`` and ``named_buffers()``, or several
            such dictionaries.
        args, kwargs: the module's arguments; one that is no tuple stands alone.
        tie_weights: a tensor that goes by several names in the module is replaced under all of them.
        strict: every parameter and buffer must be given.

    Raises:
        KeyError: for a name that the module does not have, or, if ``strict``, lacks in the dictionaries.
    """
    given: dict[str, Tensor] = {}
    dictionaries = (
        [parameter_and_buffer_dicts] if isinstance(parameter_and_buffer_dicts, Mapping) else parameter_and_buffer_dicts
    )
    for dictionary in dictionaries:
        if repeated := given.keys() & dictionary.keys():
            raise ValueError(f"functional_call: {sorted(repeated)} appear in more than one dictionary")
        given.update(dictionary)
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    with _replacing(module, given, tie_weights, strict):
        return module(*arguments, **(kwargs or {}))


def _places(module: Any) -> dict[str, tuple[dict[str, Any], str]]:
    """Where every parameter and buffer stands: the table that holds it, and the name there."""
    places: dict[str, tuple[dict[str, Any], str]] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if value is not None:
                    places[f"{prefix}.{name}" if prefix else name] = table, name
    return places


@contextlib.contextmanager
def _replacing(module: Any, given: Mapping[str, Tensor], tie_weights: bool, strict: bool) -> Iterator[None]:
    places = _places(module)
    if unknown := sorted(given.keys() - places.keys()):
        raise KeyError(f"functional_call: {unknown} are no parameters or buffers of {type(module).__name__}")
    own = {name: table[key] for name, (table, key) in places.items()}
    chosen = dict(given)
    if tie_weights:
        by_identity = {id(own[name]): value for name, value in given.items()}
        chosen.update({n: by_identity[id(x)] for n, x in own.items() if n not in given and id(x) in by_identity})
    if strict and (missing := sorted(own.keys() - chosen.keys())):
        raise KeyError(f"functional_call: strict=True, but {missing} are missing")
    try:
        for name, value in chosen.items():
            table, key = places[name]
            table[key] = value
        yield
    finally:
        for name in chosen:
            table, key = places[name]
            table[key] = own[name]
