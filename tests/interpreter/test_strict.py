"""The strict interpreter reports a planted fault of each kind with its place and lets sound kernels pass in silence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

import tinyflow.kernels.interpreter as interpreter
from tinyflow.kernels import memory
from tinyflow.kernels.configs import Config
from tinyflow.kernels.interpreter import checks
from tinyflow.kernels.interpreter.checks import StrictError, fresh, strict

# Triton 3.6's own interpreter, of a loop whose bounds are tensors
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")


@pytest.fixture(params=["fast", "stock"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Any:
    """Every check works with this interpreter and with Triton's own."""
    with interpreter.use() if request.param == "fast" else interpreter.stock():
        yield request.param


def line_of(kernel: Any, text: str) -> int:
    """The line of a kernel's source that holds a text."""
    lines, first = inspect.getsourcelines(kernel.fn)
    return first + next(k for k, line in enumerate(lines) if text in line)


def report(launch: Callable[[], Any], check: str, kernel: Any, text: str, seed: int | None = None) -> StrictError:
    """The error of a launch, which must be of the given check and point to the line with the given text."""
    with pytest.raises(StrictError) as caught, strict(seed):
        launch()
    error = caught.value
    assert error.check == check, error
    assert error.kernel == kernel.__name__
    assert error.line == line_of(kernel, text), error
    assert error.file == __file__
    assert f"{__file__}:{error.line}" in str(error)
    return error


# ---- sound kernels ---------------------------------------------------------------------------------------------------


@triton.jit
def _add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    y = tl.load(y_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr + i, x + y, mask=i < n)


@triton.jit
def _transpose(x_ptr, out_ptr, rows, columns, x_stride, out_stride, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (r[:, None] < rows) & (c[None, :] < columns)
    x = tl.load(x_ptr + r[:, None] * x_stride + c[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + c[None, :] * out_stride + r[:, None], x, mask=inside)


@triton.jit
def _in_place(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(x_ptr + i, x * 2, mask=i < n)
    tl.store(x_ptr + i, x * 3, mask=i < n)


@triton.jit
def _unused_masked_lanes(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(out_ptr + i, tl.exp(x) + 1, mask=i < n)


@triton.jit
def _last_program_sums(x_ptr, partial_ptr, counter_ptr, out_ptr, n, programs, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    tl.store(partial_ptr + pid, tl.sum(tl.load(x_ptr + i, mask=i < n, other=0.0)))
    arrived = tl.atomic_add(counter_ptr, 1)
    if arrived == programs - 1:
        k = tl.arange(0, BLOCK)
        tl.store(out_ptr, tl.sum(tl.load(partial_ptr + k, mask=k < programs, other=0.0)))


@triton.jit
def _histogram_by_atomics(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out_ptr + tl.load(x_ptr + i, mask=i < n, other=0), 1, mask=i < n)


@triton.jit
def _wrapping_hash(out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    h = i * 1664525 + 1013904223
    h = h * 1664525 + 1013904223
    tl.store(out_ptr + i, h, mask=i < n)


@triton.jit
def _box_copy(x, out, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK
    out.store([r, 0], x.load([r, 0]) + 1)


def test_sound_kernels_pass_with_the_same_result() -> None:
    """One block too many lanes (100 of 128), several programs, every one in a shuffled order."""
    x, y, out = torch.randn(100), torch.randn(100), torch.empty(100)
    with strict():
        fresh(out)
        _add[(4,)](x, y, out, 100, BLOCK=32)
    assert torch.equal(out, x + y)


def test_a_strided_view_is_accessed_on_its_elements() -> None:
    """7x5 out of 7x9, so the rows have gaps between them."""
    whole, out = torch.randn(7, 9), torch.empty(5, 7)
    x = whole[:, 2:7]
    with strict():
        _transpose[(2, 2)](x, fresh(out), 7, 5, x.stride(0), 7, BLOCK=4)
    assert torch.equal(out, x.T)


def test_a_program_may_read_and_write_its_own_addresses() -> None:
    x = torch.randn(100)
    expected = x * 3
    with strict():
        _in_place[(4,)](x, 100, BLOCK=32)
    torch.testing.assert_close(x, expected)


def test_masked_lanes_that_nothing_uses_are_no_fault() -> None:
    x, out = torch.randn(100), torch.empty(100)
    with strict():
        _unused_masked_lanes[(1,)](x, fresh(out), 100, BLOCK=128)
    torch.testing.assert_close(out, x.exp() + 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_atomic_counter_orders_programs(seed: int) -> None:
    """The last of 7 programs to arrive reads what the others wrote."""
    x, out = torch.randn(100), torch.empty(1)
    with strict(seed):
        partial = fresh(torch.empty(7))
        _last_program_sums[(7,)](x, partial, torch.zeros(1, dtype=torch.int32), fresh(out), 100, 7, BLOCK=16)
    torch.testing.assert_close(out[0], x.sum())


def test_atomics_may_share_addresses() -> None:
    x, out = torch.randint(0, 5, (100,)), torch.zeros(5, dtype=torch.int32)
    with strict():
        _histogram_by_atomics[(4,)](x, out, 100, BLOCK=32)
    assert torch.equal(out, torch.bincount(x, minlength=5).int())


def test_integers_that_wrap_on_the_way_to_data_are_no_fault() -> None:
    out = torch.empty(30, dtype=torch.int32)
    with strict():
        _wrapping_hash[(1,)](fresh(out), 30, BLOCK=32)
    with interpreter.stock():
        expected = torch.empty(30, dtype=torch.int32)
        _wrapping_hash[(1,)](expected, 30, BLOCK=32)
    assert torch.equal(out, expected)


def test_descriptors_fill_what_lies_outside() -> None:
    """6x5 in boxes of 4x8: rows and columns beyond the tensor are neither read nor written."""
    x, out = torch.randn(6, 8), torch.empty(6, 8)
    with strict():
        boxes = [TensorDescriptor(t, [6, 8], [8, 1], [4, 8]) for t in (x, fresh(out))]
        _box_copy[(2,)](*boxes, BLOCK=4)
    assert torch.equal(out, x + 1)


# ---- one planted fault of each kind ----------------------------------------------------------------------------------


@triton.jit
def _reads_past_the_end(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n + 3, other=0.0)
    tl.store(out_ptr + i, x, mask=i < n)


def test_a_read_past_the_end() -> None:
    """Two tensors in one allocation: the neighbour's memory exists, and is still out of bounds."""
    both = torch.randn(200)
    launch = lambda: _reads_past_the_end[(4,)](both[:100], both[100:], 100, BLOCK=32)  # noqa: E731
    error = report(launch, "out-of-bounds", _reads_past_the_end, "i < n + 3")
    assert error.program == (3, 0, 0)
    assert "this load reads 1 element past the last of 'x_ptr'" in str(error)
    assert "3 of 7 active lanes are out of bounds" in str(error)
    assert "the address belongs to 'out_ptr'" in str(error)
    assert "'x_ptr' is a float32 tensor of shape (100,) with strides (1,)" in str(error)


@triton.jit
def _writes_before_the_start(out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i - 1, i, mask=i < n)


def test_a_write_before_the_start() -> None:
    whole = torch.zeros(16, dtype=torch.int32)
    launch = lambda: _writes_before_the_start[(1,)](whole[4:], 8, BLOCK=8)  # noqa: E731
    error = report(launch, "out-of-bounds", _writes_before_the_start, "tl.store")
    assert "this store writes 1 element before the start of 'out_ptr'" in str(error)
    assert not whole.any(), "the access is stopped before it happens"


def test_an_access_between_the_rows_of_a_strided_view() -> None:
    """Columns beyond the 5 of the view are memory of the tensor that it was cut from."""
    x, out = torch.randn(7, 9)[:, :5], torch.empty(9, 7)
    launch = lambda: _transpose[(2, 3)](x, out, 7, 9, x.stride(0), 7, BLOCK=4)  # noqa: E731
    error = report(launch, "out-of-bounds", _transpose, "x = tl.load")
    assert "between the elements of this strided view" in str(error)


def test_a_descriptor_with_the_wrong_shape() -> None:
    x, out = torch.randn(6, 8), torch.empty(8, 8)
    boxes = [TensorDescriptor(t, [8, 8], [8, 1], [4, 8]) for t in (x, out)]
    error = report(lambda: _box_copy[(2,)](*boxes, BLOCK=4), "out-of-bounds", _box_copy, "x.load")
    assert "'x'" in str(error)


@triton.jit
def _reads_its_output(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    before = tl.load(out_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr + i, before + tl.load(x_ptr + i, mask=i < n, other=0.0), mask=i < n)


def test_a_read_of_memory_that_nothing_wrote() -> None:
    x = torch.randn(100)
    launch = lambda: _reads_its_output[(1,)](x, fresh(torch.empty(100)), 100, BLOCK=128)  # noqa: E731
    error = report(launch, "unwritten-read", _reads_its_output, "before = ")
    assert "this load reads element [0] of 'out_ptr', which nothing wrote" in str(error)
    assert "no kernel wrote to this memory" in str(error)


def test_allocations_of_the_package_are_followed() -> None:
    """The output of one launcher, written but for its last element, is read by another."""
    x, cpu = torch.randn(100), memory.as_device("cpu")
    with strict():
        y = memory.empty((100,), torch.float32, cpu)
        z = memory.empty((100,), torch.float32, cpu)
        _add[(4,)](x, x, y, 99, BLOCK=32)
        with pytest.raises(StrictError, match=r"element \[99\] of 'x_ptr', which nothing wrote") as caught:
            _add[(4,)](y, x, z, 100, BLOCK=32)
    assert caught.value.line == line_of(_add, "x = tl.load")
    assert "the last kernel that wrote to this memory: _add" in str(caught.value)


def test_memory_that_the_host_filled_is_written() -> None:
    """A byte copy into fresh memory leaves no trace but its content; 13 bytes are no whole number of words."""
    source = torch.arange(13, dtype=torch.uint8)
    with strict():
        x = memory.empty((13,), torch.uint8, memory.as_device("cpu"))
        memory.copy_bytes(x, source)
        out = torch.empty(13, dtype=torch.uint8)
        _add[(1,)](x, source, fresh(out), 13, BLOCK=16)
    assert torch.equal(out, source * 2)


@triton.jit
def _leaves_a_tail(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr + i, x, mask=i < n - 1)


def test_an_output_that_is_not_wholly_written() -> None:
    x = torch.randn(100)
    out = torch.empty(10, 10)
    launch = lambda: _leaves_a_tail[(4,)](x, fresh(out), 100, BLOCK=32)  # noqa: E731
    error = report(launch, "incomplete-output", _leaves_a_tail, "tl.store")
    assert "1 of 100 are missing, the first is [9, 9]" in str(error)


def test_an_output_is_judged_when_the_host_reads_it() -> None:
    x = torch.randn(100)
    with strict():
        out = memory.empty((100,), torch.float32, memory.as_device("cpu"))
        _leaves_a_tail[(4,)](x, out, 100, BLOCK=32)
        with pytest.raises(StrictError, match=r"1 of 100 are missing, the first is \[99\]"):
            memory.to_numpy(out)


@triton.jit
def _two_lanes_one_address(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i // 2, tl.load(x_ptr + i, mask=i < n, other=0.0), mask=i < n)


def test_two_lanes_write_one_address() -> None:
    x, out = torch.randn(100), torch.empty(50)
    launch = lambda: _two_lanes_one_address[(1,)](x, out, 100, BLOCK=128)  # noqa: E731
    error = report(launch, "race", _two_lanes_one_address, "tl.store")
    assert "two lanes of this store write one address, element [0] of 'out_ptr'" in str(error)
    assert "lane [0]" in str(error)
    assert "lane [1]" in str(error)


@triton.jit
def _two_programs_one_address(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK * 2)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0.0), mask=i < n)


def test_two_programs_write_one_address() -> None:
    """Blocks of 32 that start every 16."""
    x, out = torch.randn(100), torch.empty(100)
    launch = lambda: _two_programs_one_address[(6,)](x, out, 100, BLOCK=16)  # noqa: E731
    error = report(launch, "race", _two_programs_one_address, "tl.store")
    assert "of 'out_ptr', which program" in str(error)
    assert "wrote in the same launch" in str(error)
    assert "wrote it here:" in str(error)


@triton.jit
def _accumulates(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    before = tl.load(out_ptr)
    tl.store(out_ptr, before + tl.sum(tl.load(x_ptr + i, mask=i < n, other=0.0)))


def test_a_program_reads_what_another_writes() -> None:
    x, out = torch.randn(100), torch.zeros(1)
    error = report(lambda: _accumulates[(4,)](x, out, 100, BLOCK=32), "race", _accumulates, "before = ")
    assert "reads element [0] of 'out_ptr', which program" in str(error)


@triton.jit
def _writes_what_others_read(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0) + tl.load(x_ptr + (i + 1) % n, mask=i < n, other=0.0)
    tl.store(x_ptr + i, x, mask=i < n)


def test_a_program_writes_what_another_has_read() -> None:
    """Seed 0 or not, one of the two orders happens; with each neighbour both do."""
    report(
        lambda: _writes_what_others_read[(4,)](torch.randn(100), 100, BLOCK=32),
        "race",
        _writes_what_others_read,
        "tl.store",
        seed=next(s for s in range(50) if _first_comes_before_its_neighbour(s)),
    )


def _first_comes_before_its_neighbour(seed: int) -> bool:
    """True if in the order of this seed each program of 4 runs before the next, so that reads come before writes."""
    return np.random.default_rng(seed).permutation(4).tolist() == [0, 1, 2, 3]


@triton.jit
def _relaxed_counter(x_ptr, partial_ptr, counter_ptr, out_ptr, programs, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    tl.store(partial_ptr + pid, tl.load(x_ptr + pid))
    arrived = tl.atomic_add(counter_ptr, 1, sem="relaxed")
    if arrived == programs - 1:
        k = tl.arange(0, BLOCK)
        tl.store(out_ptr, tl.sum(tl.load(partial_ptr + k, mask=k < programs, other=0.0)))


def test_a_relaxed_atomic_orders_nothing() -> None:
    x = torch.randn(4)
    launch = lambda: _relaxed_counter[(4,)](  # noqa: E731
        x, torch.zeros(4), torch.zeros(1, dtype=torch.int32), torch.empty(1), 4, BLOCK=4
    )
    report(launch, "race", _relaxed_counter, "tl.sum(tl.load(partial_ptr")


@triton.jit
def _overflowing_row(x_ptr, out_ptr, stride, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    offset = i * stride
    tl.store(out_ptr + i, tl.load(x_ptr + offset, mask=i < n, other=0.0), mask=i < n)


def test_an_index_that_overflows_out_of_the_tensor() -> None:
    """Strides that only an expanded tensor has; 3 times 2**30 does not fit int32."""
    x, out = torch.randn(1).expand(4), torch.empty(4)
    launch = lambda: _overflowing_row[(1,)](x, out, 2**30, 4, BLOCK=4)  # noqa: E731
    error = report(launch, "integer-overflow", _overflowing_row, "offset = ")
    assert "index arithmetic leaves int32: 2 * 1073741824 = 2147483648 wraps to -2147483648" in str(error)
    assert ".to(tl.int64)" in str(error)


@triton.jit
def _overflowing_inside(x_ptr, out_ptr, stride, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    offset = (i * stride) & 3
    tl.store(out_ptr + i, tl.load(x_ptr + offset, mask=i < n, other=0.0), mask=i < n)


def test_an_index_that_overflows_and_stays_in_bounds() -> None:
    launch = lambda: _overflowing_inside[(1,)](torch.randn(4), torch.empty(4), 2**30 + 1, 4, BLOCK=4)  # noqa: E731
    error = report(launch, "integer-overflow", _overflowing_inside, "offset = ")
    assert "decides which address the load" in str(error)


@triton.jit
def _sums_masked_lanes(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    y = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr, tl.max(x, 0) + tl.sum(y, 0))


def test_masked_lanes_that_reach_a_store() -> None:
    """All below zero: the zeros of the masked lanes win the maximum."""
    x, out = -torch.rand(100) - 1, torch.zeros(1)
    error = report(
        lambda: _sums_masked_lanes[(1,)](x, out, 100, BLOCK=128), "masked-lane-used", _sums_masked_lanes, "x = "
    )
    assert "they decide the value of a scalar access of the store" in str(error)
    assert "they reach this store:" in str(error)
    assert str(line_of(_sums_masked_lanes, "tl.store")) in str(error)


@triton.jit
def _addresses_by_masked_lanes(idx_ptr, x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    k = tl.load(idx_ptr + i, mask=i < n)
    tl.store(out_ptr + i, tl.load(x_ptr + k))


def test_masked_lanes_that_become_addresses() -> None:
    idx, x, out = torch.arange(5), torch.randn(8), torch.empty(8)
    launch = lambda: _addresses_by_masked_lanes[(1,)](idx, x, out, 5, BLOCK=8)  # noqa: E731
    error = report(launch, "masked-lane-used", _addresses_by_masked_lanes, "k = ")
    assert "they decide the address of lane [5]" in str(error)


@triton.jit
def _uses_masked_atomic(counter_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    old = tl.atomic_add(counter_ptr + i, 1, mask=i < n)
    tl.store(out_ptr, tl.sum(old, 0))


def test_masked_lanes_of_an_atomic() -> None:
    launch = lambda: _uses_masked_atomic[(1,)](  # noqa: E731
        torch.ones(5, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), 5, BLOCK=8
    )
    report(launch, "masked-lane-used", _uses_masked_atomic, "old = ")


def test_looking_again_leaves_memory_as_the_launch_left_it() -> None:
    """An update in place would be applied once for each look."""
    x = torch.ones(100)
    with strict():
        _doubles_without_other[(4,)](x, 100, BLOCK=32)
    assert torch.equal(x, torch.full((100,), 2.0))


@triton.jit
def _doubles_without_other(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.load(x_ptr + i, mask=i < n) * 2, mask=i < n)


@triton.jit
def _asserts(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0)
    tl.device_assert(x < 3, "x is at most 2")


def test_device_assert() -> None:
    x = torch.tensor([0, 1, 2, 5, 7])
    error = report(lambda: _asserts[(1,)](x, 5, BLOCK=8), "device-assert", _asserts, "tl.device_assert")
    assert "x is at most 2" in str(error)
    assert "2 of 8 lanes fail, the first is [3]" in str(error)
    _asserts[(1,)](x, 5, BLOCK=8)  # outside of strict mode it costs and says nothing


@triton.jit
def _waits_for_the_first(flag_ptr, out_ptr):
    if tl.program_id(0) == 0:
        tl.atomic_xchg(flag_ptr, 1)
    else:
        while tl.atomic_add(flag_ptr, 0) == 0:
            pass
        tl.store(out_ptr, 1)


def test_a_program_that_waits_for_one_that_has_not_run() -> None:
    flag, out = torch.zeros(1, dtype=torch.int32), torch.zeros(1)
    seed = next(s for s in range(20) if _second_comes_first(s))
    report(lambda: _waits_for_the_first[(2,)](flag, out), "endless-wait", _waits_for_the_first, "while", seed=seed)


def _second_comes_first(seed: int) -> bool:
    return np.random.default_rng(seed).permutation(2).tolist() == [1, 0]


@triton.jit
def _order(out_ptr, counter_ptr):
    tl.store(out_ptr + tl.program_id(0), tl.atomic_add(counter_ptr, 1))


def test_the_order_of_programs_is_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def order(seed: int | None) -> list[int]:
        out = torch.empty(8, dtype=torch.int32)
        with strict(seed):
            _order[(8,)](out, torch.zeros(1, dtype=torch.int32))
        return out.tolist()

    assert sorted(order(1)) == list(range(8))
    assert order(1) == order(1)
    assert order(1) != order(2)
    monkeypatch.setenv("TINYFLOW_STRICT_SEED", "2")
    assert order(None) == order(2)


@triton.jit
def _load_outside(x_ptr, i):
    return tl.load(x_ptr + i)


@triton.jit
def _calls_a_device_function(x_ptr, out_ptr):
    tl.store(out_ptr, _load_outside(x_ptr, 10))


def test_the_report_names_the_call_of_a_device_function() -> None:
    x, out = torch.randn(10), torch.empty(1)
    with pytest.raises(StrictError) as caught, strict():
        _calls_a_device_function[(1,)](x, out)
    assert caught.value.line == line_of(_load_outside, "tl.load")
    line = line_of(_calls_a_device_function, "tl.store")
    assert f"called from {__file__}:{line} in _calls_a_device_function" in str(caught.value)


@triton.jit
def _flag_by_all(out_ptr):
    tl.store(out_ptr, 1)  # strict: allow race every program writes the same value


def test_a_comment_allows_a_race() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with strict():
        _flag_by_all[(4,)](out)
    assert out.item() == 1


# ---- taking hold and letting go --------------------------------------------------------------------------------------


def test_everything_is_undone_at_the_end() -> None:
    from triton.runtime import interpreter as stock

    builder = stock.interpreter_builder
    before = dict(vars(builder)), dict(vars(memory)), stock.InterpretedFunction.run, list(memory.allocation_hooks)
    with strict(), strict():
        assert checks.enabled()
        assert vars(builder).keys() != before[0].keys()
    assert not checks.enabled()
    assert dict(vars(builder)) == before[0]
    assert dict(vars(memory)) == before[1]
    assert stock.InterpretedFunction.run is before[2]
    assert memory.allocation_hooks == before[3]


def test_the_checks_outlive_an_exchange_of_interpreters() -> None:
    launch = lambda: _reads_past_the_end[(4,)](torch.randn(100), torch.empty(100), 100, BLOCK=32)  # noqa: E731
    with strict():
        for context in (interpreter.stock, interpreter.use):
            with context(), pytest.raises(StrictError, match="past the last"):
                launch()
    launch_in_bounds = lambda: _add[(1,)](torch.ones(4), torch.ones(4), torch.empty(4), 4, BLOCK=4)  # noqa: E731
    launch_in_bounds()


def test_disable_without_enable() -> None:
    with pytest.raises(RuntimeError, match="the checks are not on"):
        checks.disable()


def test_fresh_outside_of_strict() -> None:
    with pytest.raises(RuntimeError, match="inside `with strict"):
        fresh(torch.empty(3))


def test_what_is_followed_goes_with_the_memory() -> None:
    """A long run under the checks must not collect what was freed long ago."""
    from tinyflow.kernels.interpreter.checks.mode import _mode

    with strict():
        for _ in range(20):
            kept = memory.empty((1000,), torch.float32, memory.as_device("cpu"))
        assert len(_mode.allocations._by_address) <= 2
        assert kept.isnan().all(), "fresh memory is filled with NaN"


def test_a_view_across_gigabytes() -> None:
    """Two rows with 2 GiB between them, of which two pages are ever touched."""
    n = 2**31
    whole = torch.empty(n, dtype=torch.uint8)
    ends = whole.as_strided((2, 3), (n - 3, 1))
    x = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)
    with strict():
        _copy_rows[(2,)](x, ends, 3, ends.stride(0), 3, BLOCK=4)
    assert torch.equal(ends, x)
    launch = lambda: _copy_rows[(2,)](x, ends, 3, 0, 3, BLOCK=4)  # noqa: E731
    report(launch, "race", _copy_rows, "tl.store")


@triton.jit
def _copy_rows(x_ptr, out_ptr, x_stride, out_stride, n, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_stride + i, mask=i < n, other=0)
    tl.store(out_ptr + row * out_stride + i, x, mask=i < n)


def test_memory_is_let_go_after_a_launch() -> None:
    """The checks of a launch refer to each other; what was launched must not wait for them to be collected."""
    import gc
    import weakref

    import tinyflow

    made: list[weakref.ref[torch.Tensor]] = []
    note = lambda buffer: made.append(weakref.ref(buffer))  # noqa: E731
    gc.disable()
    memory.allocation_hooks.append(note)
    try:
        with checks.strict():
            x = tinyflow.zeros(100, requires_grad=True)
            x.exp().sum().backward()
            del x
        assert made and all(known() is None for known in made)
    finally:
        memory.allocation_hooks.remove(note)
        gc.enable()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pointers_whose_base_came_with_an_array(seed: int) -> None:
    """Places that are read from memory, added to a pointer: a sort digit by digit, in tiles that programs share."""
    from tinyflow.kernels import sorting

    keys = torch.randint(0, 2**9 - 1, (515,), generator=torch.Generator().manual_seed(seed))
    with sorting.digit_configs.forced(Config({"BITS": 2, "BLOCK": 16})), checks.strict(seed):
        found = sorting.radix_order(keys, 9)
    assert torch.equal(found, keys.argsort(stable=True))
