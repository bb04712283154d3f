"""Mixed precision: in which dtype operations run inside an :class:`autocast` region, one state for each thread.

An operation declares a :class:`Policy` where it is defined, and what its declaration names is cast as the operation is
called: products run in half precision, functions that lose too much there in float32, and operations that mix the two in
the wider one. Everything else runs in the dtype that it is given. The lists are torch's, which has a longer list of
float32 operations for GPUs than for the CPU; the ``meta`` device, which only counts, stands for a GPU.

A cast is an operation, so gradients of float32 parameters arrive in float32; what sums them there writes them so (see
``autograd.walks.gradient_dtype``). The half-precision copy of a parameter is
kept until the outermost region ends, and made anew if the parameter changes; an optimizer's step may leave the next one
(see ``autograd.half_copies``).
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tinyflow.autograd.grad_mode import carries_tangents, is_grad_enabled
from tinyflow.kernels import memory
from tinyflow.recording import active

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])

_HALF, _FULL, _WIDEST = "half", "full", "widest"
_GPUS = ("cuda", "meta")
_DEFAULTS = {"cuda": memory.float16, "cpu": memory.bfloat16, "meta": memory.float16}
_SUPPORTED = (memory.bfloat16, memory.float16)


class Policy(NamedTuple):
    """What happens to an operation's floating-point inputs, float64 excepted, inside an autocast region."""

    cast: str
    gpu_only: bool = False
    inputs: tuple[str, ...] | None = None  # None: all of them

    def only(self, *inputs: str) -> Policy:
        """The same for some of an operation's inputs."""
        return self._replace(inputs=inputs)


#: In the region's dtype.
HALF = Policy(_HALF)
#: In float32, everywhere or where a GPU computes.
FULL, FULL_ON_GPU = Policy(_FULL), Policy(_FULL, gpu_only=True)
#: In float32 if one of the inputs is, else as they are.
WIDEST_ON_GPU = Policy(_WIDEST, gpu_only=True)


class _Kept(NamedTuple):
    """A cast parameter, and what it was cast from: the tensor itself, so that its identity is not given away."""

    source: Tensor
    version: int
    data: memory.Buffer
    stamp: tuple[int, int] | None
    cast: Tensor


#: What of the state is set for a region: the device types that are enabled, their half precision, whether casts are kept.
Noted = tuple[frozenset[str], dict[str, memory.dtype], bool]


class _State(threading.local):
    def __init__(self) -> None:
        self.active = False  # whether any device type is enabled: all that an operation looks at outside regions
        self.enabled: frozenset[str] = frozenset()
        self.dtypes = dict(_DEFAULTS)
        self.cache_enabled = True
        self.depth = 0
        self.cache: dict[tuple[int, memory.dtype, bool], _Kept] = {}

    def enable(self, enabled: frozenset[str]) -> None:
        self.enabled, self.active = enabled, bool(enabled)

    def noted(self) -> Noted:
        """The state as it is, for :meth:`restore`."""
        return self.enabled, dict(self.dtypes), self.cache_enabled

    def restore(self, noted: Noted) -> None:
        enabled, dtypes, self.cache_enabled = noted
        self.dtypes = dict(dtypes)
        self.enable(enabled)


state = _State()


def _check_type(device_type: str) -> str:
    if not isinstance(device_type, str):
        raise ValueError(f"autocast: expected device_type of type str, got {type(device_type).__name__}")
    if device_type not in _DEFAULTS:
        raise RuntimeError(
            f"User specified an unsupported autocast device_type '{device_type}'; expected one of {sorted(_DEFAULTS)}"
        )
    return device_type


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether operations on such devices are cast in this thread."""
    return _check_type(device_type) in state.enabled


def get_autocast_dtype(device_type: str) -> memory.dtype:
    """The half precision of a device type: float16 on GPUs, bfloat16 on the CPU, unless set."""
    return state.dtypes[_check_type(device_type)]


def set_autocast_enabled(device_type: str, enabled: bool) -> None:
    """Turns casting on or off for a device type."""
    chosen = {_check_type(device_type)}
    state.enable(state.enabled | chosen if enabled else state.enabled - chosen)


def set_autocast_dtype(device_type: str, dtype: memory.dtype) -> None:
    """Sets the half precision of a device type."""
    state.dtypes[_check_type(device_type)] = dtype


def is_autocast_available(device_type: str) -> bool:
    """Whether a device type can be cast for at all."""
    return device_type in _DEFAULTS


def is_autocast_cache_enabled() -> bool:
    """Whether cast parameters are kept within a region."""
    return state.cache_enabled


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Turns the keeping of cast parameters on or off."""
    state.cache_enabled = bool(enabled)


def clear_autocast_cache() -> None:
    """Drops all cast parameters."""
    state.cache.clear()


class _Region:
    """Sets the state and puts it back; regions nest, and the cache is cleared where the outermost ends."""

    def __init__(self) -> None:
        self._before: list[Noted] = []

    def _set(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        self._before.append(state.noted())
        state.depth += 1
        self._set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state.restore(self._before.pop())
        state.depth -= 1
        if state.depth == 0:
            clear_autocast_cache()


class autocast(_Region):
    """A region in which operations choose their dtype; a context manager and a decorator, as ``torch.autocast``.

    >>> with tinyflow.autocast("cuda", dtype=tinyflow.bfloat16):
    ...     loss = F.cross_entropy(model(images), labels)
    >>> loss.backward()

    The backward pass runs in the dtypes of the forward pass, inside a region or not.

    Args:
        device_type: "cuda", "cpu", or "meta" (which counts as a GPU).
        dtype: the half precision; default: float16 on GPUs, bfloat16 on the CPU.
        enabled: False makes a region without casts, inside another one too.
        cache_enabled: whether cast parameters are kept within the region; default: as around it.

    Raises:
        ValueError, RuntimeError: if the device type is no word, or not one of these.
    """

    def __init__(
        self,
        device_type: str,
        dtype: memory.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        super().__init__()
        self.device_type = _check_type(device_type)
        self.dtype = get_autocast_dtype(device_type) if dtype is None else dtype
        self.cache_enabled = cache_enabled
        if enabled and device_type == "cuda" and not memory.gpu_available():
            warnings.warn("autocast: device_type is 'cuda', but no GPU is available. Disabling autocast.", stacklevel=2)
            enabled = False
        if enabled and self.dtype not in _SUPPORTED:
            warnings.warn(
                f"autocast: expected dtype bfloat16 or float16, got {self.dtype}. Disabling autocast.", stacklevel=2
            )
            enabled = False
        self.enabled = bool(enabled)

    def _set(self) -> None:
        set_autocast_dtype(self.device_type, self.dtype)
        set_autocast_enabled(self.device_type, self.enabled)
        if self.cache_enabled is not None:
            state.cache_enabled = self.cache_enabled

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]


class disabled(_Region):
    """A region without casts for any device."""

    def _set(self) -> None:
        state.enable(frozenset())


class restored(_Region):
    """A region like the one in which ``state.noted()`` was called."""

    def __init__(self, noted: Noted) -> None:
        super().__init__()
        self._noted = noted

    def _set(self) -> None:
        state.restore(self._noted)


# ---- what operations ask -------------------------------------------------------------------------------------------


def cast_inputs(policy: Policy, names: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """An operation's arguments with its tensor inputs ``names`` cast as the policy says."""
    chosen = names if policy.inputs is None else policy.inputs
    tensors = [t for name in chosen for t in _tensors(values[name])]
    dtype = _target(policy, tensors)
    if dtype is None or all(t._data.dtype == dtype for t in tensors):
        return values
    return {**values, **{name: _cast_value(values[name], dtype) for name in chosen}}


def full(*tensors: Any) -> tuple[Any, ...]:
    """For functions made of operations that are all to run in float32: their arguments, cast inside a region."""
    return _cast_all(FULL, tensors)


def half(*tensors: Any) -> tuple[Any, ...]:
    """The same for functions that run in the region's half precision."""
    return _cast_all(HALF, tensors)


def half_on_gpu_else_widest(*tensors: Any) -> tuple[Any, ...]:
    """The same for functions that run in half precision where a GPU computes, elsewhere in their widest dtype."""
    return half(*tensors) if tensors[0].device.type in _GPUS else widest(*tensors)


def widest(*tensors: Any) -> tuple[Any, ...]:
    """The same for functions that run in the wider one of their arguments' dtypes."""
    return _cast_all(Policy(_WIDEST), tensors)


def _cast_all(policy: Policy, values: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = _target(policy, [t for v in values for t in _tensors(v)]) if state.active else None
    return values if dtype is None else tuple(_cast_value(v, dtype) for v in values)


def _tensors(value: Any) -> list[Tensor]:
    if type(value) in (list, tuple):
        return [v for v in value if hasattr(v, "_data")]
    return [value] if hasattr(value, "_data") else []


def _target(policy: Policy, tensors: Sequence[Tensor]) -> memory.dtype | None:
    """The dtype to cast to; None where nothing is cast."""
    if not tensors:
        return None
    kind = tensors[0]._data.device.type
    if kind not in state.enabled or (policy.gpu_only and kind not in _GPUS):
        return None
    if policy.cast == _HALF:
        return state.dtypes[kind]
    if policy.cast == _FULL or any(t._data.dtype == memory.float32 for t in tensors):
        return memory.float32
    return None


def _cast_value(value: Any, dtype: memory.dtype) -> Any:
    if type(value) in (list, tuple):
        return [_cast(v, dtype) for v in value]
    return _cast(value, dtype)


def _cast(value: Any, dtype: memory.dtype) -> Any:
    data = getattr(value, "_data", None)
    if data is None or data.dtype == dtype or not data.dtype.is_floating_point or data.dtype == memory.float64:
        return value
    if state.cache_enabled and not carries_tangents() and dtype != memory.float32 and data.dtype == memory.float32:
        base = value if value._base is None else value._base
        plain = base is value or (base.is_contiguous() and base.storage_offset() == 0 and not value._frozen_view)
        if base.is_leaf and base.requires_grad and base._data.dtype == memory.float32 and plain:
            cast = _kept(base, dtype)
            for view in value._specs:
                cast = view.apply(cast)
            return cast
    return value.to(dtype)


def _kept(parameter: Tensor, dtype: memory.dtype) -> Tensor:
    """The cast of a parameter, from the cache unless the parameter has changed since."""
    key = id(parameter), dtype, is_grad_enabled()
    kept, stamp = state.cache.get(key), memory.stamp(parameter._data)
    if kept is None or kept.version != parameter._version or kept.stamp != stamp or kept.data is not parameter._data:
        kept = _Kept(parameter, parameter._version, parameter._data, stamp, _copied(parameter, dtype))
        state.cache[key] = kept
    return kept.cast


def _copied(parameter: Tensor, dtype: memory.dtype) -> Tensor:
    """A parameter in half precision: what an optimizer's step left, or a cast, that the next step is to leave."""
    from tinyflow.autograd import half_copies

    if active.recording is not None:
        kept = half_copies.find_recorded(active.recording, parameter, dtype)
        return parameter.to(dtype) if kept is None else kept
    found = half_copies.find(parameter, dtype)
    if found is not None:
        return found
    if is_grad_enabled():
        half_copies.want(parameter, dtype)
    return parameter.to(dtype)
