"""In-place changes of saved tensors made harmless: what a change would destroy is copied first."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import TYPE_CHECKING

from tinyflow.autograd.grad_mode import mode
from tinyflow.kernels import elementwise
from tinyflow.kernels.memory import Buffer

if TYPE_CHECKING:
    from tinyflow.autograd.saved import SavedTensor
    from tinyflow.tensor import Counter, Tensor


class Keeper:
    """The tensors saved in one context, by the memory that they are in."""

    def __init__(self) -> None:
        self._saved: dict[int, tuple[Counter, list[weakref.ref[SavedTensor]]]] = {}

    def keep(self, saved: SavedTensor) -> None:
        """Takes a saved tensor in its care."""
        if not saved.is_packed:
            self._saved.setdefault(id(saved._counter), (saved._counter, []))[1].append(weakref.ref(saved))

    def before_change(self, target: Tensor) -> None:
        """Copies, once, what is saved in the memory of ``target``."""
        _, references = self._saved.pop(id(target._counter), (None, ()))
        copies: dict[int, Buffer] = {}
        for reference in references:
            saved = reference()
            if saved is not None and not saved.is_packed and saved._counter[0] == saved._version:
                if id(saved._data) not in copies:
                    copies[id(saved._data)] = elementwise.copy(saved._data)
                saved.move_to(copies[id(saved._data)])

    def clear(self) -> None:
        """Lets go of all; a change from now on is an error again, as outside of the context."""
        self._saved.clear()


class allow_mutation_on_saved_tensors:
    """A context in which a tensor that was saved for the backward pass may be changed in place: it is copied first.

    The backward pass of what is recorded in the context runs in the context too. ``with ... as keeper`` gives an object
    whose ``clear()`` ends its care early.
    """

    def __enter__(self) -> Keeper:
        if mode.mutation is not None:
            raise RuntimeError("allow_mutation_on_saved_tensors contexts cannot be nested")
        mode.mutation = Keeper()
        mode.look()
        return mode.mutation

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.mutation.clear()
        mode.mutation = None
        mode.look()
