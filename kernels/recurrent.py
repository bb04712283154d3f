"""The elementwise part of recurrent cells in one pass each way: what a step does between its matrix products.

Gates lie beside each other, (N, gates · H), as the products leave them. The forward pass writes the activated gates too,
which is all that the backward pass needs of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.activation import hyperbolic_tangent, logistic
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, check_same_device, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def _place(numel, hidden, GATES: tl.constexpr, BLOCK: tl.constexpr):
    """A tile of state elements: their numbers, whether they exist, and where their first gate is."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = i // hidden
    return i, i < numel, row * (GATES * hidden) + (i - row * hidden)


@triton.jit
def _lstm_cell_kernel(
    gates_ptr,  # (N, 4 H): input, forget, candidate, output
    c_ptr,  # (N, H)
    h_out_ptr,
    c_out_ptr,
    active_ptr,  # (N, 4 H)
    numel,
    hidden,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, exists, first = _place(numel, hidden, 4, BLOCK)
    i = logistic(tl.load(gates_ptr + first, mask=exists, other=0).to(COMPUTE))
    f = logistic(tl.load(gates_ptr + first + hidden, mask=exists, other=0).to(COMPUTE))
    g = hyperbolic_tangent(tl.load(gates_ptr + first + 2 * hidden, mask=exists, other=0).to(COMPUTE))
    o = logistic(tl.load(gates_ptr + first + 3 * hidden, mask=exists, other=0).to(COMPUTE))
    c = f * tl.load(c_ptr + at, mask=exists, other=0).to(COMPUTE) + i * g
    OUT: tl.constexpr = h_out_ptr.dtype.element_ty
    tl.store(c_out_ptr + at, c.to(OUT), mask=exists)
    tl.store(h_out_ptr + at, (o * hyperbolic_tangent(c)).to(OUT), mask=exists)
    tl.store(active_ptr + first, i.to(OUT), mask=exists)
    tl.store(active_ptr + first + hidden, f.to(OUT), mask=exists)
    tl.store(active_ptr + first + 2 * hidden, g.to(OUT), mask=exists)
    tl.store(active_ptr + first + 3 * hidden, o.to(OUT), mask=exists)


@triton.jit
def _lstm_cell_grad_kernel(
    dh_ptr,  # (N, H)
    dc_ptr,  # (N, H)
    active_ptr,  # (N, 4 H)
    c_ptr,  # (N, H), before
    c_out_ptr,  # (N, H), after
    dgates_ptr,  # (N, 4 H)
    dc_before_ptr,  # (N, H)
    numel,
    hidden,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, exists, first = _place(numel, hidden, 4, BLOCK)
    i = tl.load(active_ptr + first, mask=exists, other=0).to(COMPUTE)
    f = tl.load(active_ptr + first + hidden, mask=exists, other=0).to(COMPUTE)
    g = tl.load(active_ptr + first + 2 * hidden, mask=exists, other=0).to(COMPUTE)
    o = tl.load(active_ptr + first + 3 * hidden, mask=exists, other=0).to(COMPUTE)
    dh = tl.load(dh_ptr + at, mask=exists, other=0).to(COMPUTE)
    shown = hyperbolic_tangent(tl.load(c_out_ptr + at, mask=exists, other=0).to(COMPUTE))
    dc = tl.load(dc_ptr + at, mask=exists, other=0).to(COMPUTE) + dh * o * (1.0 - shown * shown)
    before = tl.load(c_ptr + at, mask=exists, other=0).to(COMPUTE)
    OUT: tl.constexpr = dgates_ptr.dtype.element_ty
    tl.store(dc_before_ptr + at, (dc * f).to(OUT), mask=exists)
    tl.store(dgates_ptr + first, (dc * g * i * (1.0 - i)).to(OUT), mask=exists)
    tl.store(dgates_ptr + first + hidden, (dc * before * f * (1.0 - f)).to(OUT), mask=exists)
    tl.store(dgates_ptr + first + 2 * hidden, (dc * i * (1.0 - g * g)).to(OUT), mask=exists)
    tl.store(dgates_ptr + first + 3 * hidden, (dh * shown * o * (1.0 - o)).to(OUT), mask=exists)


@triton.jit
def _gru_cell_kernel(
    input_gates_ptr,  # (N, 3 H): reset, update, candidate
    hidden_gates_ptr,  # (N, 3 H)
    h_ptr,  # (N, H)
    h_out_ptr,
    active_ptr,  # (N, 3 H)
    numel,
    hidden,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, exists, first = _place(numel, hidden, 3, BLOCK)
    xr = tl.load(input_gates_ptr + first, mask=exists, other=0).to(COMPUTE)
    xz = tl.load(input_gates_ptr + first + hidden, mask=exists, other=0).to(COMPUTE)
    xn = tl.load(input_gates_ptr + first + 2 * hidden, mask=exists, other=0).to(COMPUTE)
    r = logistic(xr + tl.load(hidden_gates_ptr + first, mask=exists, other=0).to(COMPUTE))
    z = logistic(xz + tl.load(hidden_gates_ptr + first + hidden, mask=exists, other=0).to(COMPUTE))
    hn = tl.load(hidden_gates_ptr + first + 2 * hidden, mask=exists, other=0).to(COMPUTE)
    n = hyperbolic_tangent(xn + r * hn)
    h = tl.load(h_ptr + at, mask=exists, other=0).to(COMPUTE)
    OUT: tl.constexpr = h_out_ptr.dtype.element_ty
    tl.store(h_out_ptr + at, (n + z * (h - n)).to(OUT), mask=exists)
    tl.store(active_ptr + first, r.to(OUT), mask=exists)
    tl.store(active_ptr + first + hidden, z.to(OUT), mask=exists)
    tl.store(active_ptr + first + 2 * hidden, n.to(OUT), mask=exists)


@triton.jit
def _gru_cell_grad_kernel(
    dh_ptr,  # (N, H)
    active_ptr,  # (N, 3 H)
    hidden_gates_ptr,  # (N, 3 H)
    h_ptr,  # (N, H)
    dinput_gates_ptr,  # (N, 3 H)
    dhidden_gates_ptr,  # (N, 3 H)
    dh_before_ptr,  # (N, H)
    numel,
    hidden,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, exists, first = _place(numel, hidden, 3, BLOCK)
    r = tl.load(active_ptr + first, mask=exists, other=0).to(COMPUTE)
    z = tl.load(active_ptr + first + hidden, mask=exists, other=0).to(COMPUTE)
    n = tl.load(active_ptr + first + 2 * hidden, mask=exists, other=0).to(COMPUTE)
    hn = tl.load(hidden_gates_ptr + first + 2 * hidden, mask=exists, other=0).to(COMPUTE)
    h = tl.load(h_ptr + at, mask=exists, other=0).to(COMPUTE)
    dh = tl.load(dh_ptr + at, mask=exists, other=0).to(COMPUTE)
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dz = dh * (h - n) * z * (1.0 - z)
    dr = dn * hn * r * (1.0 - r)
    OUT: tl.constexpr = dh_before_ptr.dtype.element_ty
    tl.store(dh_before_ptr + at, (dh * z).to(OUT), mask=exists)
    tl.store(dinput_gates_ptr + first, dr.to(OUT), mask=exists)
    tl.store(dinput_gates_ptr + first + hidden, dz.to(OUT), mask=exists)
    tl.store(dinput_gates_ptr + first + 2 * hidden, dn.to(OUT), mask=exists)
    tl.store(dhidden_gates_ptr + first, dr.to(OUT), mask=exists)
    tl.store(dhidden_gates_ptr + first + hidden, dz.to(OUT), mask=exists)
    tl.store(dhidden_gates_ptr + first + 2 * hidden, (dn * r).to(OUT), mask=exists)


_GPU = Config({"BLOCK": 256})


def _choose(numel: int) -> Config:
    return _GPU


def _interpreter(numel: int) -> Config:
    return Config({"BLOCK": block(numel, MAX_BLOCK)})


lstm_configs = Configs("_lstm_cell_kernel", (_GPU,), _choose, _interpreter)
lstm_grad_configs = Configs("_lstm_cell_grad_kernel", (_GPU,), _choose, _interpreter)
gru_configs = Configs("_gru_cell_kernel", (_GPU,), _choose, _interpreter)
gru_grad_configs = Configs("_gru_cell_grad_kernel", (_GPU,), _choose, _interpreter)


def _check(op: str, state: Buffer, per_state: int, **others: Buffer) -> None:
    """States of one shape, and gates ``per_state`` times as wide; one dtype and device."""
    dtypes.check_floating(op, state=state)
    check_same_device(op, state=state, **others)
    for name, x in others.items():
        wanted = (state.shape[0], per_state * state.shape[1]) if "gates" in name else tuple(state.shape)
        if tuple(x.shape) != wanted or x.dtype != state.dtype:
            raise RuntimeError(
                f"{op}: expected {name} of shape {wanted} and {state.dtype} beside a state {tuple(state.shape)}, "
                f"got {tuple(x.shape)} {x.dtype}"
            )


def _like(x: Buffer, *shape: int) -> Buffer:
    return memory.empty(shape or tuple(x.shape), x.dtype, x.device)


def _run(kernel: object, configs: Configs, flops: int, state: Buffer, *buffers: Buffer) -> None:
    numel = state.numel()
    if not numel:
        return
    config = configs(state.dtype, numel=numel)
    launch(
        kernel,
        (cdiv(numel, config.blocks["BLOCK"]),),
        *buffers,
        numel,
        state.shape[1],
        config=config,
        cost=Cost(flops * numel, nbytes(*buffers)),
        device=state.device,
        COMPUTE=dtypes.compute_dtype(state.dtype),
    )


def lstm_cell(gates: Buffer, c: Buffer) -> tuple[Buffer, Buffer, Buffer]:
    """``c' = σ(f) c + σ(i) tanh(g); h' = σ(o) tanh(c')`` for gates i, f, g, o (Hochreiter and Schmidhuber 1997).

    Args:
        gates: (N, 4 H), before their activations.
        c: (N, H), of one floating-point dtype with the gates; half precision computes in float32.

    Returns:
        h' and c' (N, H), and the activated gates (N, 4 H).

    FLOPs: about 60 an element of the state. Bytes: gates and state read once, gates and two states written.

    Raises:
        RuntimeError: if shapes, dtypes or devices do not fit.
    """
    _check("lstm_cell", c, 4, gates=gates)
    h_out, c_out, active = _like(c), _like(c), _like(gates)
    _run(_lstm_cell_kernel, lstm_configs, 60, c, contiguous(gates), contiguous(c), h_out, c_out, active)
    return h_out, c_out, active


def lstm_cell_grad(dh: Buffer, dc: Buffer, active: Buffer, c: Buffer, c_out: Buffer) -> tuple[Buffer, Buffer]:
    """The gradients of gates (N, 4 H) and state (N, H) of :func:`lstm_cell`, from those of h' and c'.

    FLOPs: about 40 an element of the state. Bytes: activated gates and four states read once, gates and a state written.
    """
    _check("lstm_cell_grad", c, 4, dh=dh, dc=dc, active_gates=active, c_out=c_out)
    dgates, before = _like(active), _like(c)
    operands = [contiguous(x) for x in (dh, dc, active, c, c_out)]
    _run(_lstm_cell_grad_kernel, lstm_grad_configs, 40, c, *operands, dgates, before)
    return dgates, before


def gru_cell(input_gates: Buffer, hidden_gates: Buffer, h: Buffer) -> tuple[Buffer, Buffer]:
    """``h' = (1 − z) n + z h`` with ``n = tanh(xₙ + r hₙ)``, ``r = σ(xᵣ + hᵣ)``, ``z = σ(x_z + h_z)`` (Cho et al. 2014).

    Args:
        input_gates, hidden_gates: (N, 3 H): r, z and n of the input's and the state's product, before activations.
        h: (N, H), of one floating-point dtype with the gates; half precision computes in float32.

    Returns:
        h' (N, H), and the activated gates (N, 3 H).

    FLOPs: about 50 an element of the state. Bytes: gates and state read once, activated gates and a state written.

    Raises:
        RuntimeError: if shapes, dtypes or devices do not fit.
    """
    _check("gru_cell", h, 3, input_gates=input_gates, hidden_gates=hidden_gates)
    h_out, active = _like(h), _like(input_gates)
    operands = [contiguous(x) for x in (input_gates, hidden_gates, h)]
    _run(_gru_cell_kernel, gru_configs, 50, h, *operands, h_out, active)
    return h_out, active


def gru_cell_grad(dh: Buffer, active: Buffer, hidden_gates: Buffer, h: Buffer) -> tuple[Buffer, Buffer, Buffer]:
    """The gradients of both kinds of gates (N, 3 H) and of the state (N, H) of :func:`gru_cell`, from that of h'.

    FLOPs: about 20 an element of the state. Bytes: gates twice and two states read once, gates twice and a state written.
    """
    _check("gru_cell_grad", h, 3, dh=dh, active_gates=active, hidden_gates=hidden_gates)
    dinput, dhidden, before = _like(active), _like(active), _like(h)
    operands = [contiguous(x) for x in (dh, active, hidden_gates, h)]
    _run(_gru_cell_grad_kernel, gru_grad_configs, 20, h, *operands, dinput, dhidden, before)
    return dinput, dhidden, before
