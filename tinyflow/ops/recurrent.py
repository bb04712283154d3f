"""The cells of recurrent layers. Where a gradient is to be differentiated again it is composed of elementwise operations.

In an autocast region they run in half precision on a GPU; on the CPU, as torch's, in the wider dtype of gates and state.
"""

from __future__ import annotations

from typing import Any

from tinyflow.autocast_mode import half_on_gpu_else_widest
from tinyflow.autograd.grad_mode import is_grad_enabled
from tinyflow.kernels import recurrent as kernels
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import cat, chunk
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []

_lstm_cell_grad: Op = define(
    kernels.lstm_cell_grad, outputs=("dgates", "before"), dh=None, dc=None, active=None, c=None, c_out=None
)
_gru_cell_grad: Op = define(
    kernels.gru_cell_grad, outputs=("dinput", "dhidden", "before"), dh=None, active=None, hidden_gates=None, h=None
)


def _lstm_slopes(g_h: Any, g_c_out: Any, gates: Any, c: Any, active: Any, c_out: Any) -> tuple[Tensor, Tensor]:
    if not is_grad_enabled():
        return _lstm_cell_grad(g_h, g_c_out, active, c, c_out)
    i, f, g, o = chunk(gates, 4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    shown = (f * c + i * g).tanh()
    dc = g_c_out + g_h * o * (1 - shown * shown)
    slopes = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), g_h * shown * o * (1 - o)]
    return cat(slopes, 1), dc * f


_lstm_cell: Op = define(kernels.lstm_cell, outputs=("h", "c_out", "active"), joint={("gates", "c"): _lstm_slopes})


def _gru_slopes(g: Any, input_gates: Any, hidden_gates: Any, h: Any, active: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not is_grad_enabled():
        return _gru_cell_grad(g, active, hidden_gates, h)
    (xr, xz, xn), (hr, hz, hn) = chunk(input_gates, 3, 1), chunk(hidden_gates, 3, 1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + r * hn).tanh()
    dn = g * (1 - z) * (1 - n * n)
    dz = g * (h - n) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    return cat([dr, dz, dn], 1), cat([dr, dz, dn * r], 1), g * z


_gru_cell: Op = define(
    kernels.gru_cell,
    outputs=("y", "active"),
    joint={("input_gates", "hidden_gates", "h"): _gru_slopes},
)


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The next output and state of an LSTM from its gates (N, 4 H) and state (N, H): see the kernel of that name."""
    h, c_out, _ = _lstm_cell(*half_on_gpu_else_widest(gates, c))
    return h, c_out


def gru_cell(input_gates: Tensor, hidden_gates: Tensor, h: Tensor) -> Tensor:
    """The next state of a GRU from both kinds of gates (N, 3 H) and its state (N, H): see the kernel of that name."""
    return _gru_cell(*half_on_gpu_else_widest(input_gates, hidden_gates, h))[0]
