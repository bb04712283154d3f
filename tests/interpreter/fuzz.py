"""Random kernels, run by Triton's own interpreter and by this one: both must leave the same bytes in memory.

    python -m tests.interpreter.fuzz --kernels 10000          # writes tests/interpreter/fuzz_results.json
    python -m tests.interpreter.fuzz --show 17 --seed 3       # prints one kernel
    python -m tests.interpreter.fuzz --shrink 17 --seed 3     # prints the lines of it that make the difference

A kernel is a list of random statements: index arithmetic of every kind, masks of every shape, loads, arithmetic in
eight dtypes, casts, reductions, scans, shape changes, products, loops, device functions, descriptors, atomics, and
stores that may overlap what was loaded. Each expression carries its bounds, so that no address leaves the buffers.
Triton's own interpreter has bfloat16 wrong: it gets the same kernels with float32 in its place, rounded after each
operation.
"""

# ruff: noqa: I001  (tinyflow settles how kernels are loaded, so its import comes before triton's)
from __future__ import annotations

import tinyflow.kernels.interpreter as interpreter

import argparse
import contextlib
import importlib.util
import json
import platform
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton

RESULTS = Path(__file__).with_name("fuzz_results.json")

#: Elements on either side of the pointer that a kernel gets.
_REACH = 6_000
_PROGRAMS = 3
_N, _M = 11, 5

_FLOATS = ("float32", "float16", "float64")
_INTEGERS = ("int32", "int64", "int8", "uint8", "int16")
_DTYPES = _FLOATS + _INTEGERS

_HEADER = """
import triton
import triton.language as tl


@triton.jit
def blend(a, b, flag):
    return tl.where(flag, a, b)


@triton.jit
def ramp(i, q):
    return i * q + (i & 1)


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def half(x, NATIVE: tl.constexpr):
    # a value in bfloat16, or the float32 that is nearest among the numbers of bfloat16
    if NATIVE:
        result = x.to(tl.bfloat16)
    else:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        result = ((bits + 32767 + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return result


@triton.jit
def load_half(pointer, mask, other, NATIVE: tl.constexpr):
    if NATIVE:
        result = tl.load(pointer, mask=mask, other=other)
    else:
        bits = tl.load(pointer, mask=mask, other=0).to(tl.int32) << 16
        result = tl.where(mask, bits.to(tl.float32, bitcast=True), other)
    return result


@triton.jit
def store_half(pointer, value, mask, NATIVE: tl.constexpr):
    if NATIVE:
        tl.store(pointer, value, mask=mask)
    else:
        tl.store(pointer, (value.to(tl.int32, bitcast=True) >> 16).to(tl.int16), mask=mask)

"""


@dataclass(frozen=True)
class Index:
    """An integer vector expression and its least and greatest value."""

    text: str
    low: int
    high: int


@dataclass(frozen=True)
class Tile:
    """A block of values with a name."""

    name: str
    shape: tuple[str, ...]
    dtype: str


@dataclass
class _Writer:
    """Writes one kernel."""

    rng: random.Random
    rows: int
    columns: int
    lines: list[str] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    halves: list[str] = field(default_factory=list)
    depth: int = 1

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def name(self, tile_shape: tuple[str, ...], dtype: str, text: str) -> Tile:
        tile = Tile(f"v{len(self.tiles)}", tile_shape, dtype)
        self.line(f"{tile.name} = {text}")
        self.tiles.append(tile)
        return tile

    # ---- indices and masks

    def index(self, v: str, size: int, depth: int = 0) -> Index:
        here = Index(v, 0, size - 1)
        if depth > 2 or self.rng.random() < 0.3:
            return here
        e, q = self.index(v, size, depth + 1), self.rng.randint(1, 7)
        kind = self.rng.randrange(14)
        low, high = e.low, e.high
        if kind == 0:
            return Index(f"({e.text} + {q})", low + q, high + q)
        if kind == 1:
            return Index(f"({e.text} - {q})", low - q, high - q)
        if kind == 2:
            k = self.rng.choice([-3, -1, 0, 1, 2, 5])
            return Index(f"({e.text} * {k})", min(low * k, high * k), max(low * k, high * k))
        if kind == 3:
            return Index(f"({e.text} // {q})", -(abs(low) // q), max(high, 0) // q)
        if kind == 4:
            return Index(f"({e.text} % {q})", -q, q)
        if kind == 5:
            return Index(f"(n - {e.text})", _N - high, _N - low)
        if kind == 6:
            return Index(f"tl.minimum({e.text}, {q})", min(low, q), min(high, q))
        if kind == 7:
            return Index(f"tl.maximum({e.text}, {q})", max(low, q), max(high, q))
        if kind == 8:
            return Index(f"tl.where({v} < {q}, {e.text}, {q})", min(low, q), max(high, q))
        if kind == 9:
            return Index(f"({e.text} & {q})", 0, q)
        if kind == 10:
            return Index(f"({e.text} >> 1)", low >> 1, high >> 1)
        if kind == 11:
            return Index(f"ramp({e.text}, {q})", min(low * q, low), high * q + 1 if high > 0 else 1)
        if kind == 12:
            return Index(f"({e.text} ^ {q})", -(max(abs(low), abs(high)) + 8), max(abs(low), abs(high)) + 8)
        return Index(f"tl.load(idx + {v})", 0, 39)

    def comparison(self, a: str) -> str:
        sign = self.rng.choice(["<", "<=", ">", ">=", "==", "!="])
        return f"({a} {sign} {self.rng.choice(['n', '3', '0', '-2', 'm', '7'])})"

    def mask(self, r: str, c: str) -> str:
        kind = self.rng.randrange(10)
        if kind < 4:
            return f"({self.comparison(r)} & {self.comparison(c)})"
        if kind == 4:
            return f"({self.comparison(r)} & ({c} >= 0))" if self.rng.random() < 0.5 else self.comparison(r)
        if kind == 5:
            return self.comparison(f"({r} * 2 + {c})")
        if kind == 6:
            return f"({self.comparison(r)} | {self.comparison(c)})"
        if kind == 7:
            return f"({self.comparison(r)} & {self.comparison(c)} & {self.comparison(c)} & {self.comparison(r)})"
        if kind == 8:
            return f"(~{self.comparison(c)} & {self.comparison(r)})"
        return f"(({r} >= {c}) & {self.comparison(c)})"

    def offset(self) -> tuple[str, str, str]:
        """An offset that stays in reach, with the row and column indices that a mask may use."""
        while True:
            a, b = self.index("i", self.rows), self.index("j", self.columns)
            s = self.rng.choice([1, 2, self.columns, 0, -4, self.columns + 3, self.columns])
            t = self.rng.choice([1, 1, 1, 2, -1, 0, self.rows])
            ends = [x * s + y * t for x in (a.low, a.high) for y in (b.low, b.high)]
            if max(map(abs, ends)) < _REACH - _PROGRAMS * 64:
                r, c = f"({a.text})[:, None]", f"({b.text})[None, :]"
                return f"{r} * {s} + {c} * {t} + p", r, c

    # ---- statements

    @property
    def grid_shape(self) -> tuple[str, str]:
        return ("R", "C")

    def load(self) -> None:
        dtype = self.rng.choice(_DTYPES)
        offset, r, c = self.offset()
        mask = self.mask(r, c)
        k = len(self.tiles)
        self.line(f"m{k} = {mask}")
        fill = self.rng.choice(["0", "-2", "1"] if dtype in _INTEGERS else ["0.", "-1.5", "float('nan')", "7"])
        fill = fill.lstrip("-") if dtype.startswith("u") else fill
        masked = self.rng.choice([f", mask=m{k}", f", mask=m{k}, other={fill}", f", mask=m{k}, other={fill}", ""])
        text = f"tl.load({dtype}_ptr + {offset}{masked})"
        # whatever the offset and the mask have become, the tile is a whole one
        self.name(self.grid_shape, dtype, f"tl.broadcast_to({text}, ({self.rows}, {self.columns}))")

    def pick(self, *dtypes: str, shape: tuple[str, ...] = ("R", "C")) -> Tile | None:
        found = [t for t in self.tiles if t.shape == shape and (not dtypes or t.dtype in dtypes)]
        return self.rng.choice(found) if found else None

    def arithmetic(self) -> None:
        a = self.pick()
        assert a is not None
        b = self.pick(a.dtype)
        assert b is not None
        if a.dtype in _FLOATS:
            q = self.rng.choice(["2", "0.5", "-3.0"])
            text = self.rng.choice(
                [
                    f"{a.name} + {b.name}",
                    f"{a.name} * {b.name} - {a.name}",
                    f"{a.name} * {q}",
                    f"tl.maximum({a.name}, {b.name})",
                    f"tl.minimum({a.name}, {q})",
                    f"tl.where({a.name} > {b.name}, {a.name}, {b.name})",
                    f"tl.abs({a.name}) - {b.name}",
                    f"-{a.name}",
                    f"{a.name} / ({b.name} * {b.name} + 1.0)",
                    f"blend({a.name}, {b.name}, {self.mask('i[:, None]', 'j[None, :]')} & (j[None, :] > -1))",
                    f"larger({a.name}, {b.name})",
                    f"tl.fma({a.name}, {b.name}, {a.name})" if a.dtype != "float16" else f"{a.name} + 1",
                ]
            )
        else:
            q = self.rng.randint(1, 7)
            text = self.rng.choice(
                [
                    f"{a.name} + {b.name}",
                    f"{a.name} * {q} - {b.name}",
                    f"{a.name} & {b.name}",
                    f"{a.name} | {q}",
                    f"{a.name} ^ {b.name}",
                    f"{a.name} >> {q % 4}",
                    f"{a.name} << {q % 3}",
                    f"{a.name} // {q}",
                    f"{a.name} % {q}",
                    f"tl.where({a.name} > {b.name}, {a.name}, {b.name})",
                    f"larger({a.name}, {b.name})",
                ]
            )
        self.name(a.shape, a.dtype, f"({text}).to(tl.{a.dtype})")

    def function(self) -> None:
        a = self.pick("float32", "float64")
        if a is not None:
            text = self.rng.choice(
                [
                    f"tl.sqrt(tl.abs({a.name}))",
                    f"tl.floor({a.name})",
                    f"tl.ceil({a.name})",
                    f"tl.exp(tl.minimum({a.name}, 3.0))",
                ]
            )
            self.name(a.shape, a.dtype, text)

    def cast(self) -> None:
        a = self.pick()
        assert a is not None
        to = self.rng.choice(_DTYPES)
        if a.dtype in _FLOATS and to in _INTEGERS:
            low = 0 if to.startswith("u") else -100
            self.name(a.shape, to, f"tl.minimum(tl.maximum({a.name}, {low}.0), 100.0).to(tl.{to})")
        else:
            self.name(a.shape, to, f"{a.name}.to(tl.{to})")

    def from_indices(self) -> None:
        a, b = self.index("i", self.rows), self.index("j", self.columns)
        self.name(self.grid_shape, "int32", f"({a.text})[:, None] + ({b.text})[None, :] * {self.rng.randint(-3, 3)}")

    def reduction(self) -> None:
        a = self.pick()
        assert a is not None
        axis = self.rng.randrange(2)
        back = "[None, :]" if axis == 0 else "[:, None]"
        kind = self.rng.choice(["sum", "max", "min", "sum"])
        text = f"tl.{kind}({a.name}, axis={axis}){back}"
        if self.rng.random() < 0.3:
            text = f"tl.{kind}({a.name}, axis={axis}, keep_dims=True)"
        self.name(a.shape, a.dtype, f"(tl.broadcast_to({text}, ({self.rows}, {self.columns}))).to(tl.{a.dtype})")

    def scan(self) -> None:
        a = self.pick("float32", "float64", "int32", "int64")
        if a is not None:
            self.name(a.shape, a.dtype, f"tl.cumsum({a.name}, axis={self.rng.randrange(2)}).to(tl.{a.dtype})")

    def shape_change(self) -> None:
        a = self.pick()
        assert a is not None
        size = self.rows * self.columns
        text = self.rng.choice(
            [
                f"tl.trans(tl.trans({a.name}))",
                f"tl.reshape({a.name}, ({size},)).reshape({self.rows}, {self.columns})",
                f"tl.reshape(tl.trans({a.name}), ({self.rows}, {self.columns}))",
                f"tl.expand_dims({a.name}, 0).reshape({self.rows}, {self.columns})",
                f"tl.permute(tl.expand_dims({a.name}, 2), (1, 2, 0)).reshape({self.rows}, {self.columns})",
                f"{a.name} - {a.name} + {a.name}",
            ]
        )
        self.name(a.shape, a.dtype, f"({text}).to(tl.{a.dtype})")

    def vector(self) -> None:
        """A row or column of its own, and back."""
        a = self.pick("float32", "int32", "float16", "int8")
        if a is None:
            return
        axis, back = self.rng.choice([(0, "[None, :]"), (1, "[:, None]")])
        v = self.rng.choice("ij") if self.rows == self.columns else "ji"[axis]
        self.line(f"u = tl.{self.rng.choice(['max', 'sum', 'min'])}({a.name}, axis={axis}).to(tl.{a.dtype})")
        self.line(
            self.rng.choice(
                [
                    "u = tl.where(" + v + " < m, u, 2)",
                    "u = u + " + v,
                    "u = -u",
                    f"u = u + tl.load({a.dtype}_ptr + {v} * 3, mask={v} < n, other=1)",
                ]
            )
        )
        self.line(f"u = u.to(tl.{a.dtype})")
        if self.rng.random() < 0.5:
            self.line(f"tl.store({a.dtype}_out + {v} * {self.rng.choice([1, 2, -3])} + p, u, mask={v} != m)")
        self.name(a.shape, a.dtype, f"({a.name} - u{back}).to(tl.{a.dtype})")

    def cube(self) -> None:
        """Three dimensions and back."""
        a = self.pick()
        if a is None or self.columns < 4:
            return
        full, half = f"({self.rows}, {self.columns})", self.columns // 2
        pairs = f"{a.name}.reshape({self.rows}, {half}, 2)"
        halves = f"{a.name}.reshape({self.rows}, 2, {half})"
        text = self.rng.choice(
            [
                f"tl.permute({pairs}, (0, 2, 1)).reshape{full}",
                f"tl.permute({halves}, (1, 0, 2)).reshape{full}",
                f"tl.broadcast_to(tl.sum({pairs}, axis=1)[:, None, :], ({self.rows}, {half}, 2)).reshape{full}",
                f"tl.broadcast_to(tl.max({halves}, axis=1)[:, None, :], ({self.rows}, 2, {half})).reshape{full}",
                f"({pairs} + tl.arange(0, 2)[None, None, :].to(tl.{a.dtype})).reshape{full}",
            ]
        )
        self.name(a.shape, a.dtype, f"({text}).to(tl.{a.dtype})")

    def split(self) -> None:
        a = self.pick()
        if a is None or self.columns < 4:
            return
        self.line(f"a, b = tl.split({a.name}.reshape({self.rows}, {self.columns // 2}, 2))")
        joined = f"tl.join({self.rng.choice(['b, a', 'a + b, b', 'a, a'])})"
        self.name(a.shape, a.dtype, f"{joined}.reshape({self.rows}, {self.columns}).to(tl.{a.dtype})")

    def position(self) -> None:
        a = self.pick("float32", "int32", "float64", "int8")
        if a is None:
            return
        axis, back = self.rng.choice([(0, "[None, :]"), (1, "[:, None]")])
        source = f"tl.where({a.name} == {a.name}, {a.name}, 0)"  # NaN has no position
        text = f"tl.{self.rng.choice(['argmax', 'argmin'])}({source}, axis={axis}){back}"
        self.name(a.shape, "int32", f"tl.broadcast_to({text}, ({self.rows}, {self.columns}))")

    def gather(self) -> None:
        a = self.pick()
        assert a is not None
        axis = self.rng.randrange(2)
        size = (self.rows, self.columns)[axis]
        index = f"((i[:, None] * {self.rng.randint(0, 3)} + j[None, :] * {self.rng.randint(0, 3)}) % {size})"
        self.name(a.shape, a.dtype, f"tl.gather({a.name}, {index}, {axis})")

    def histogram(self) -> None:
        a = self.pick("int32")
        if a is not None:
            bins = self.rng.choice([4, 16])
            self.line(f"h = tl.histogram(({a.name} & {bins - 1}).reshape({self.rows * self.columns}), {bins})")
            self.line(f"tl.store(int32_out + 100 + tl.arange(0, {bins}), h)")

    def product(self) -> None:
        if min(self.rows, self.columns) < 4:
            return
        a = self.pick("float32", "float16")
        if a is None:
            return
        # whole numbers below 8: every order of summation gives the same bits
        small = f"tl.floor(tl.minimum(tl.maximum({a.name}.to(tl.float32), -7.0), 7.0))"
        self.line(f"w{len(self.tiles)} = {small}.to(tl.{a.dtype})")
        w = f"w{len(self.tiles)}"
        square = f"tl.dot({w}, tl.trans({w}), input_precision='ieee')"
        self.name(self.grid_shape, "float32", f"tl.dot({square}, {w}.to(tl.float32), input_precision='ieee')")

    def loop(self) -> None:
        a = self.pick("float32", "int32")
        if a is None:
            return
        offset, r, c = self.offset()
        out = self.name(a.shape, a.dtype, a.name)
        bound = self.rng.choice(["m", "3", "n // 4"])
        which = self.rng.choice(["range", "tl.range", "tl.static_range"])
        self.line(f"for k in {which}({bound if which != 'tl.static_range' else 3}):")
        self.depth += 1
        self.line(f"t = tl.load({a.dtype}_ptr + {offset} + k, mask={self.mask(r, c)}, other=0)")
        self.line(f"{out.name} = ({out.name} + t * (k + 1)).to(tl.{a.dtype})")
        self.depth -= 1

    def condition(self) -> None:
        a = self.pick("float32", "int32")
        if a is None:
            return
        out = self.name(a.shape, a.dtype, a.name)
        self.line(f"if {self.rng.choice(['n > 5', 'tl.program_id(0) == 1', 'm < 3'])}:")
        self.line(f"    {out.name} = {out.name} + {out.name}")
        if self.rng.random() < 0.5:
            self.line("else:")
            self.line(f"    {out.name} = {out.name} * 3")

    def descriptor(self) -> None:
        if self.columns < 4:
            return
        dtype = self.rng.choice(["float32", "int32"])
        k, height, width = len(self.tiles), self.rng.randint(1, 40), self.rng.randint(1, 40)
        self.line(
            f"d{k} = tl.make_tensor_descriptor({dtype}_ptr, shape=[{height}, {width}], strides=[40, 1], "
            f"block_shape=[{self.rows}, {self.columns}])"
        )
        at = f"[{self.rng.randint(-5, 30)}, {4 * self.rng.randint(-2, 8)}]"
        tile = self.name(self.grid_shape, dtype, f"d{k}.load({at})")
        if self.rng.random() < 0.4:
            self.line(f"d{k}.store([{self.rng.randint(-5, 30)}, {4 * self.rng.randint(-2, 8)}], {tile.name} + 1)")

    def atomic(self) -> None:
        a = self.pick("int32", "int64", "float32")
        if a is None:
            return
        offset, r, c = self.offset()
        kind = self.rng.choice(["add", "max", "min", "xchg"] if a.dtype != "float32" else ["add"])
        if a.dtype != "float32" and self.rng.random() < 0.3:
            kind = self.rng.choice(["and", "or", "xor"])
        value = f"tl.floor({a.name})" if a.dtype == "float32" else a.name
        full, on = f"({self.rows}, {self.columns})", f"m{len(self.tiles)}"
        self.line(f"{on} = tl.broadcast_to({self.mask(r, c)}, {full})")
        pointers = f"{a.dtype}_out + tl.broadcast_to({offset}, {full})"
        # what an atomic returns for masked lanes is undefined
        self.name(
            self.grid_shape,
            a.dtype,
            f"tl.where({on}, tl.atomic_{kind}({pointers}, {value}, mask={on}), 1).to(tl.{a.dtype})",
        )

    def store(self) -> None:
        a = self.pick()
        assert a is not None
        offset, r, c = self.offset()
        plain = f"i[:, None] * {self.columns} + j[None, :]"
        offset = self.rng.choice(
            [
                offset,
                plain + " + p",
                f"j[None, :] * {self.rows} + i[:, None] + p",
                f"i[:, None] * {2 * self.columns} - j[None, :] * 2 + p",
            ]
        )
        pointer = f"{a.dtype}_{self.rng.choice(['out', 'out', 'ptr'])}"
        full = f"({self.rows}, {self.columns})"
        mask = self.rng.choice(["", f", mask={self.mask('i[:, None]', 'j[None, :]')}", f", mask={self.mask(r, c)}"])
        if mask:
            mask = f", mask=tl.broadcast_to({mask[7:]}, {full})"
        self.line(f"tl.store({pointer} + tl.broadcast_to({offset}, {full}), {a.name}{mask})")

    def bfloat16(self) -> None:
        """A load, a few operations, each rounded, and a store."""
        offset, r, c = self.offset()
        mask, full = self.mask(r, c), f"({self.rows}, {self.columns})"
        fill = self.rng.choice(["0.0", "-1.5", "7.0"])
        h = f"h{len(self.halves)}"
        self.line(f"on_{h} = tl.broadcast_to({mask}, {full})")
        self.line(f"{h} = load_half(bfloat16_ptr + tl.broadcast_to({offset}, {full}), on_{h}, {fill}, NATIVE)")
        self.halves.append(h)
        for _ in range(self.rng.randint(1, 4)):
            a, axis = self.rng.choice(self.halves), self.rng.randrange(2)
            tile = self.pick("float32", "float16", "int8")
            text = self.rng.choice(
                [
                    f"{h} + {a}",
                    f"{h} * {a}",
                    f"{a} - {h}",
                    f"{h} / half(half({a} * {a}, NATIVE) + 1.0, NATIVE)",
                    f"tl.maximum({h}, {a})",
                    f"tl.where({a} < {h}, {h}, {a})",
                    f"-{h}",
                    f"tl.abs({h})",
                    f"{h} * half(i[:, None] - j[None, :], NATIVE)",
                    f"tl.broadcast_to(tl.sum({h}, axis={axis}, keep_dims=True), {full})",
                    f"tl.trans(tl.trans({h}))",
                    *([f"half(tl.where({tile.name} == {tile.name}, {tile.name}, 0), NATIVE)"] if tile else []),
                ]
            )
            # two roundings, where the first has none to do, are one
            self.line(f"{h} = half({text}, NATIVE)")
        if self.rng.random() < 0.6:
            at = self.rng.choice([offset, f"i[:, None] * {self.columns} + j[None, :] + p"])
            pointers = f"bfloat16_{self.rng.choice(['out', 'ptr'])} + tl.broadcast_to({at}, {full})"
            self.line(f"store_half({pointers}, {h}, on_{h}, NATIVE)")
        self.name(self.grid_shape, "float32", f"{h}.to(tl.float32)")

    def scalar_store(self) -> None:
        a = self.pick("float32", "int32")
        if a is not None:
            self.line(f"tl.store({a.dtype}_out + 7 + tl.program_id(0), tl.max(tl.max({a.name}, axis=0), axis=0))")


def write_kernel(rng: random.Random, name: str) -> str:
    """The source of one random kernel."""
    writer = _Writer(rng, 2 ** rng.randint(0, 5), 2 ** rng.randint(0, 5))
    pointers = ", ".join(f"{d}_ptr, {d}_out" for d in (*_DTYPES, "bfloat16"))
    writer.line(f"i = tl.arange(0, {writer.rows})")
    writer.line(f"j = tl.arange(0, {writer.columns})")
    writer.line(f"p = tl.program_id(0) * {rng.choice([0, 1, 3, writer.rows])}")
    writer.load()
    steps = [
        *[writer.load] * 5,
        *[writer.arithmetic] * 6,
        *[writer.store] * 4,
        *[writer.cast] * 2,
        *[writer.reduction] * 2,
        *[writer.shape_change] * 2,
        writer.from_indices,
        writer.vector,
        writer.cube,
        writer.split,
        writer.position,
        writer.gather,
        writer.histogram,
        writer.function,
        writer.scan,
        writer.product,
        writer.loop,
        writer.condition,
        writer.descriptor,
        writer.atomic,
        writer.scalar_store,
        writer.bfloat16,
        writer.bfloat16,
    ]
    for _ in range(rng.randint(3, 12)):
        rng.choice(steps)()
    writer.store()
    return "\n".join(
        ["@triton.jit", f"def {name}({pointers}, idx, n, m, NATIVE: tl.constexpr):", *writer.lines, "", ""]
    )


def write_module(count: int, seed: int) -> str:
    """The source of ``count`` kernels ``kernel_0`` … drawn by a seed."""
    rng = random.Random(seed)
    return _HEADER + "\n".join(write_kernel(rng, f"kernel_{k}") for k in range(count))


@contextlib.contextmanager
def load_module(source: str) -> Iterator[ModuleType]:
    """Imports kernels from a file of their own, as Triton needs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed_kernels.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("fuzzed_kernels", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


class Buffers:
    """The tensors that every kernel gets, the same values each time; numpy fills them, without waiting for threads."""

    def __init__(self) -> None:
        values = np.random.default_rng(0).integers(-9, 10, 2 * _REACH)
        self._inputs = {}
        for name in _DTYPES:
            scaled = values * 0.37 if name in _FLOATS else np.abs(values) if name == "uint8" else values
            self._inputs[name] = scaled.astype(name)
        self._inputs["bfloat16"] = torch.from_numpy(values * 0.37).to(torch.bfloat16).view(torch.int16).numpy()
        self._arrays = {name: (a.copy(), a.copy()) for name, a in self._inputs.items()}
        self._tensors = [torch.from_numpy(a)[_REACH:] for pair in self._arrays.values() for a in pair]
        self._idx = torch.from_numpy(np.random.default_rng(1).integers(0, 40, 64, dtype=np.int32))

    def run(self, kernel: Any) -> bytes | str:
        """The bytes that a kernel leaves in all tensors, or the kind of error that it raises."""
        for name, (given, out) in self._arrays.items():
            np.copyto(given, self._inputs[name])
            out.fill(0)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy's about slices of NaN
                native = interpreter.installed()
                halves = [t.view(torch.bfloat16) if native else t for t in self._tensors[-2:]]
                kernel[(_PROGRAMS,)](*self._tensors[:-2], *halves, self._idx, _N, _M, native)
        except Exception as error:
            return f"raises {type(error).__name__}: {error}"[:300]
        return b"".join(a.tobytes() for pair in self._arrays.values() for a in pair)


@dataclass
class Outcome:
    """What a run of many kernels showed."""

    kernels: int = 0
    both_raise: int = 0
    different: list[dict[str, Any]] = field(default_factory=list)


def compare(count: int, seed: int, seconds: float = float("inf"), first: int = 0) -> Outcome:
    """Runs kernels ``first`` to ``count`` of a seed in both interpreters until the time is up."""
    outcome, buffers, start = Outcome(), Buffers(), time.monotonic()
    with load_module(write_module(count, seed)) as module:
        for k in range(first, count):
            if time.monotonic() - start > seconds:
                break
            kernel = getattr(module, f"kernel_{k}")
            with interpreter.stock():
                expected = buffers.run(kernel)
            with interpreter.use():
                got = buffers.run(kernel)
            outcome.kernels += 1
            raised = isinstance(expected, str), isinstance(got, str)
            if all(raised):
                outcome.both_raise += 1
            elif any(raised) or expected != got:
                said = [x if isinstance(x, str) else "runs" for x in (expected, got)]
                outcome.different.append({"seed": seed, "kernel": k, "stock": said[0], "ours": said[1]})
    return outcome


def _differs(kernel_source: str, buffers: Buffers) -> bool:
    try:
        with load_module(_HEADER + kernel_source) as module:
            kernel = next(f for name, f in vars(module).items() if name.startswith("kernel_"))
            with interpreter.stock():
                expected = buffers.run(kernel)
            with interpreter.use():
                got = buffers.run(kernel)
    except SyntaxError:
        return False
    return isinstance(expected, bytes) and isinstance(got, bytes) and expected != got


def shrink(seed: int, k: int) -> str:
    """A kernel that differs, without the lines that it can do without."""
    source = write_module(k + 1, seed)
    lines, buffers = source[source.rindex("@triton.jit") :].strip().split("\n"), Buffers()
    changed = True
    while changed:
        changed = False
        for n in range(len(lines) - 1, 1, -1):
            fewer = lines[:n] + lines[n + 1 :]
            if _differs("\n".join(fewer) + "\n", buffers):
                lines, changed = fewer, True
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=500, help="kernels a module")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--show", type=int, help="print this kernel of the seed and stop")
    parser.add_argument(
        "--shrink", type=int, help="print what is left of this kernel of the seed without needless lines"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.show is not None:
        source = write_module(options.show + 1, options.seed)
        print(source[source.rindex("@triton.jit") :])
        return 0
    if options.shrink is not None:
        print(shrink(options.seed, options.shrink))
        return 0
    total, start = Outcome(), time.monotonic()
    seed = options.seed
    while total.kernels < options.kernels and time.monotonic() - start < options.seconds:
        left = options.seconds - (time.monotonic() - start)
        found = compare(min(options.batch, options.kernels - total.kernels), seed, left)
        total.kernels += found.kernels
        total.both_raise += found.both_raise
        total.different += found.different
        _write(options.output, total, options.seed, seed, time.monotonic() - start)
        print(
            f"seed {seed}: {total.kernels} kernels, {total.both_raise} raise in both, {len(total.different)} differ",
            flush=True,
        )
        seed += 1
    for item in total.different[:20]:
        print(item)
    return 1 if total.different else 0


def _write(path: Path, total: Outcome, first_seed: int, last_seed: int, seconds: float) -> None:
    result = {
        "kernels": total.kernels,
        "both_raise": total.both_raise,
        "different": total.different,
        "seeds": [first_seed, last_seed],
        "seconds": round(seconds),
        "triton": triton.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
