"""Recurrent layers: RNN, LSTM and GRU, over whole sequences or one step at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tinyflow
from tinyflow.autocast_mode import half
from tinyflow.nn import functional as F
from tinyflow.nn import init
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.nn.utils.rnn import PackedSequence
from tinyflow.operands import guarded
from tinyflow.ops.recurrent import gru_cell, lstm_cell
from tinyflow.tensor import Tensor

State = tuple[Tensor, ...]
#: The next state from what the input contributes to the gates of a step and the state before.
Step = Callable[[Tensor, State], State]

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


def _input_gates(mode: str, x: Tensor, w_ih: Tensor, b_ih: Tensor | None, b_hh: Tensor | None) -> Tensor:
    """What an input contributes to the gates, with the state's bias where that is merely added."""
    bias = b_ih if b_hh is None or b_ih is None or mode == "GRU" else b_ih + b_hh
    return F.linear(x, w_ih, bias)


def _step(mode: str, w_hh: Tensor, b_hh: Tensor | None, w_hr: Tensor | None = None) -> Step:
    """A step with these weights."""
    transposed = w_hh.t()

    def lstm(gates: Tensor, state: State) -> State:
        h, c = lstm_cell(tinyflow.addmm(gates, state[0], transposed), state[1])
        return h if w_hr is None else F.linear(h, w_hr), c

    def gru(gates: Tensor, state: State) -> State:
        return (gru_cell(gates, F.linear(state[0], w_hh, b_hh), state[0]),)

    def tanh(gates: Tensor, state: State) -> State:
        return (tinyflow.addmm(gates, state[0], transposed).tanh(),)

    def relu(gates: Tensor, state: State) -> State:
        return (tinyflow.addmm(gates, state[0], transposed).relu(),)

    return {"LSTM": lstm, "GRU": gru, "RNN_TANH": tanh, "RNN_RELU": relu}[mode]


def _forwards(gates: Sequence[Tensor], state: State, step: Step) -> tuple[list[Tensor], State]:
    """The outputs of all steps and the last state; where sequences end, the batch shrinks from its end."""
    outputs: list[Tensor] = []
    ended: list[State] = []
    for x in gates:
        count = x.shape[0]
        if count < state[0].shape[0]:
            ended.append(tuple(s[count:] for s in state))
            state = tuple(s[:count] for s in state)
        state = step(x, state)
        outputs.append(state[0])
    if ended:
        state = tuple(tinyflow.cat([s, *(e[k] for e in reversed(ended))]) for k, s in enumerate(state))
    return outputs, state


def _backwards(gates: Sequence[Tensor], state: State, step: Step) -> tuple[list[Tensor], State]:
    """As :func:`_forwards` from the last step to the first; where sequences begin, the batch grows."""
    first = state
    state = tuple(s[: gates[-1].shape[0]] if s.shape[0] != gates[-1].shape[0] else s for s in first)
    outputs: list[Tensor] = []
    for x in reversed(gates):
        here, count = state[0].shape[0], x.shape[0]
        if count > here:
            state = tuple(tinyflow.cat([s, f[here:count]]) for s, f in zip(state, first))
        state = step(x, state)
        outputs.append(state[0])
    return outputs[::-1], state


def _elman(nonlinearity: str) -> str:
    """The mode of an RNN with this nonlinearity."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return f"RNN_{nonlinearity.upper()}"


class _Recurrent(Module):
    """What layers and cells share."""

    hidden_size: int

    def reset_parameters(self) -> None:
        """Draws all weights anew from U(−1/√hidden_size, 1/√hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)


class RNNBase(_Recurrent):
    """What RNN, LSTM and GRU share.

    Args:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
        input_size, hidden_size: features of the input and of the state.
        num_layers: layers on top of each other.
        bias: whether there are biases.
        batch_first: (N, T, features) in place of (T, N, features), for input and output.
        dropout: probability for the outputs of every layer but the last, in training.
        bidirectional: a second pass from the end, whose outputs stand beside the first one's.
        proj_size: features that an LSTM's output is projected to.

    Raises:
        ValueError, TypeError: for settings out of range.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_settings(mode, input_size, hidden_size, num_layers, dropout, proj_size)
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        for layer in range(num_layers):
            for direction in range(self._directions):
                self._add_weights(layer, direction, device, dtype)
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def _add_weights(self, layer: int, direction: int, device: Any, dtype: Any) -> None:
        rows = _GATES[self.mode] * self.hidden_size
        inputs = self.input_size if layer == 0 else self._output_size * self._directions
        shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, self._output_size)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}  # type: ignore[dict-item]
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            setattr(
                self, self._name(name, layer, direction), Parameter(tinyflow.empty(shape, device=device, dtype=dtype))
            )

    def _name(self, name: str, layer: int, direction: int) -> str:
        return f"{name}_l{layer}{'_reverse' if direction else ''}"

    def _weight(self, name: str, layer: int, direction: int) -> Any:
        return getattr(self, self._name(name, layer, direction), None)

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        places = [(k, d) for k in range(self.num_layers) for d in range(self._directions)]
        found = [[self._weight(name, *place) for name in names] for place in places]
        return [[w for w in weights if w is not None] for weights in found]

    def flatten_parameters(self) -> None:
        """Nothing: weights are used where they are."""

    # ---- running ----------------------------------------------------------------------------------------------------

    def _sizes(self) -> tuple[int, ...]:
        """The features of each part of the state."""
        return (self._output_size, self.hidden_size) if self.mode == "LSTM" else (self._output_size,)

    def _first_state(self, hx: State | None, batch: int, like: Tensor) -> State:
        layers = self.num_layers * self._directions
        if hx is None:
            hx = tuple(like.new_zeros((layers, batch, size)) for size in self._sizes())
        for part, size in zip(hx, self._sizes()):
            expected = (layers, batch, size)
            if tuple(part.shape) != expected:
                raise RuntimeError(f"{type(self).__name__}: expected hidden size {expected}, got {tuple(part.shape)}")
        return half(*hx) if self.mode == "LSTM" else hx

    def _run(self, data: Tensor, counts: list[int], state: State) -> tuple[list[Tensor], State]:
        """The last layer's output of every step, and the last state of every layer.

        ``data`` has the elements of step 0, then of step 1, …, and ``counts`` says how many each has.
        """
        last: list[State] = []
        steps: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer:
                data = tinyflow.cat(steps)
                if self.dropout and self.training:
                    data = F.dropout(data, self.dropout)
            found = [self._run_direction(data, counts, state, layer, d) for d in range(self._directions)]
            last += [s for _, s in found]
            steps = found[0][0]
            if self.bidirectional:
                steps = [tinyflow.cat([a, b], -1) for a, b in zip(steps, found[1][0])]
        return steps, tuple(tinyflow.stack([s[k] for s in last]) for k in range(len(state)))

    def _run_direction(
        self, data: Tensor, counts: list[int], state: State, layer: int, direction: int
    ) -> tuple[list[Tensor], State]:
        def weight(name: str) -> Any:
            return self._weight(name, layer, direction)

        b_hh = weight("bias_hh")
        gates = _input_gates(self.mode, data, weight("weight_ih"), weight("bias_ih"), b_hh).split(counts)
        step = _step(self.mode, weight("weight_hh"), b_hh, weight("weight_hr"))
        place = layer * self._directions + direction
        return (_backwards if direction else _forwards)(gates, tuple(s[place] for s in state), step)

    def _check_input(self, x: Tensor, dims: tuple[int, ...]) -> None:
        if x.dim() not in dims:
            raise ValueError(
                f"{type(self).__name__}: Expected input to be {' or '.join(f'{n}D' for n in dims)}, got {x.dim()}D instead"
            )
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )

    def _forward(self, input: Any, hx: State | None) -> tuple[Any, State]:
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        self._check_input(input, (2, 3))
        batched = input.dim() == 3
        if hx is not None and any(part.dim() != input.dim() for part in hx):
            raise RuntimeError(
                f"{type(self).__name__}: For {'batched 3-D' if batched else 'unbatched 2-D'} input, hx should also be "
                f"{input.dim()}-D but got {[part.dim() for part in hx]}-D tensors"
            )
        if not batched:
            input, hx = input.unsqueeze(1), None if hx is None else tuple(part.unsqueeze(1) for part in hx)
        elif self.batch_first:
            input = input.transpose(0, 1)
        length, batch, features = input.shape
        if not length:
            raise RuntimeError(f"{type(self).__name__}: Expected sequence length to be larger than 0 in RNN")
        data = input.reshape(length * batch, features)
        steps, state = self._run(data, [batch] * length, self._first_state(hx, batch, input))
        output = tinyflow.stack(steps)
        if not batched:
            return output.squeeze(1), tuple(part.squeeze(1) for part in state)
        return output.transpose(0, 1) if self.batch_first else output, state

    def _forward_packed(self, packed: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        self._check_input(packed.data, (2,))
        counts = packed.batch_sizes.tolist()
        if hx is not None and packed.sorted_indices is not None:
            hx = tuple(part.index_select(1, packed.sorted_indices) for part in hx)
        steps, state = self._run(packed.data, counts, self._first_state(hx, counts[0], packed.data))
        if packed.unsorted_indices is not None:
            state = tuple(part.index_select(1, packed.unsorted_indices) for part in state)
        return packed._replace(data=tinyflow.cat(steps)), state

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0,
            "bidirectional": False,
        }
        return shown + "".join(f", {k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v)


def _check_settings(
    mode: str, input_size: int, hidden_size: int, num_layers: int, dropout: float, proj_size: int
) -> None:
    if mode not in _GATES:
        raise ValueError(f"Unrecognized RNN mode: {mode}; expected one of {list(_GATES)}")
    if isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed, "
            f"got {dropout}"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            f"dropout={dropout} has no effect on one layer: it applies to the outputs of all but the last", stacklevel=4
        )
    if not isinstance(hidden_size, int):
        raise TypeError(f"hidden_size should be of type int, got: {type(hidden_size).__name__}")
    if hidden_size <= 0:
        raise ValueError(f"hidden_size must be greater than zero, got {hidden_size}")
    if input_size <= 0:
        raise ValueError(f"input_size must be greater than zero, got {input_size}")
    if num_layers <= 0:
        raise ValueError(f"num_layers must be greater than zero, got {num_layers}")
    if proj_size < 0 or proj_size >= hidden_size:
        raise ValueError(f"proj_size has to be from 0 to below hidden_size {hidden_size}, got {proj_size}")
    if proj_size and mode != "LSTM":
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class RNN(RNNBase):
    """hₜ = tanh(W_ih xₜ + b_ih + W_hh hₜ₋₁ + b_hh), or ReLU with ``nonlinearity="relu"`` (Elman 1990).

    Called with x (T, N, input_size), (N, T, …) with ``batch_first``, (T, …) without a batch, or a PackedSequence, and
    optionally a first state (layers · directions, N, hidden_size); returns outputs and the last state. Settings and errors
    are those of :class:`RNNBase`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__(
            _elman(nonlinearity), input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    @guarded
    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        output, state = self._forward(input, None if hx is None else (hx,))
        return output, state[0]


class GRU(RNNBase):
    """Gated recurrent units (Cho et al. 2014); see :func:`tinyflow.kernels.recurrent.gru_cell`.

    Called as :class:`RNN`. Settings and errors are those of :class:`RNNBase`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip

    @guarded
    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        output, state = self._forward(input, None if hx is None else (hx,))
        return output, state[0]


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); see :func:`tinyflow.kernels.recurrent.lstm_cell`.

    Called as :class:`RNN`, with pairs (h, c) for states. With ``proj_size`` (Sak et al. 2014) h has that many features.
    Settings and errors are those of :class:`RNNBase`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype,
        )  # fmt: skip

    @guarded
    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        output, (h, c) = self._forward(input, hx)
        return output, (h, c)


class RNNCellBase(_Recurrent):
    """One step: what the cells share."""

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self._mode = mode
        rows = _GATES[mode] * hidden_size

        def empty(*shape: int) -> Parameter:
            return Parameter(tinyflow.empty(shape, device=device, dtype=dtype))

        self.weight_ih = empty(rows, input_size)
        self.weight_hh = empty(rows, hidden_size)
        self.register_parameter("bias_ih", empty(rows) if bias else None)
        self.register_parameter("bias_hh", empty(rows) if bias else None)
        self.reset_parameters()

    def _run(self, input: Tensor, hx: State | None, parts: int) -> State:
        if input.dim() not in (1, 2):
            raise ValueError(f"{type(self).__name__}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{type(self).__name__}: expected {self.input_size} input features, got shape {tuple(input.shape)}"
            )
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if hx is None:
            hx = (x.new_zeros((x.shape[0], self.hidden_size)),) * parts
        elif not batched:
            hx = tuple(part.unsqueeze(0) for part in hx)
        for part in hx:
            if tuple(part.shape) != (x.shape[0], self.hidden_size):
                raise RuntimeError(
                    f"{type(self).__name__}: expected a state of shape {(x.shape[0], self.hidden_size)}, "
                    f"got {tuple(part.shape)}"
                )
        gates = _input_gates(self._mode, x, self.weight_ih, self.bias_ih, self.bias_hh)
        state = _step(self._mode, self.weight_hh, self.bias_hh)(gates, hx)
        return state if batched else tuple(part.squeeze(0) for part in state)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}{'' if self.bias else ', bias=False'}"


class RNNCell(RNNCellBase):
    """One step of an :class:`RNN`: input (N, input_size) and state (N, hidden_size) to the next state; or all without N."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__(_elman(nonlinearity), input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    @guarded
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run(input, None if hx is None else (hx,), 1)[0]

    def extra_repr(self) -> str:
        kind = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + kind


class GRUCell(RNNCellBase):
    """One step of a :class:`GRU`, as :class:`RNNCell`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__("GRU", input_size, hidden_size, bias, device, dtype)

    @guarded
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run(input, None if hx is None else (hx,), 1)[0]


class LSTMCell(RNNCellBase):
    """One step of an :class:`LSTM`, as :class:`RNNCell` with pairs (h, c) for states."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__("LSTM", input_size, hidden_size, bias, device, dtype)

    @guarded
    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._run(input, hx, 2)
        return h, c
