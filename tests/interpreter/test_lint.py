"""The lint: each rule finds its planted fault at its place, and kernels as they should be pass without a word."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tinyflow
from tinyflow.kernels.interpreter.lint import RULES, lint_paths, lint_source
from tinyflow.kernels.interpreter.lint.__main__ import main

_HEADER = """\
import triton
import triton.language as tl

SIZE = 8
WIDTH = tl.constexpr(8)

"""

_ROOT = Path(tinyflow.__file__).resolve().parent.parent


def findings(
    body: str, parameters: str = "x_ptr, y_ptr, n, BLOCK: tl.constexpr", decorator: str = "@triton.jit"
) -> list[tuple[str, int]]:
    """Rule and line, counted in the body from 1, of each finding in a kernel with the given body."""
    source = (
        _HEADER
        + f"{decorator}\ndef kernel({parameters}):\n"
        + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        + "\n"
    )
    before = source[: source.index("def kernel")].count("\n") + 1
    return [(f.rule, f.line - before) for f in lint_source(source)]


# ---- a fault for each rule -------------------------------------------------------------------------------------------

_FAULTS = {
    "loop-control": [
        "for k in range(n):\n    if k == 3:\n        continue\n    tl.store(x_ptr + k, k)",
        "for k in tl.range(n):\n    if k == 3:\n        break",
        "while n > 0:\n    n -= 1\n    if n == 3:\n        return",
        "for k in tl.static_range(4):\n    if k == 3:\n        continue",
    ],
    "unsupported-syntax": [
        "f = lambda a: a + 1",
        "table = {'a': 1}",
        "try:\n    pass\nexcept ValueError:\n    pass",
        "for k in range(n):\n    pass\nelse:\n    tl.store(x_ptr, 0)",
        "for a, b in zip(x_ptr, y_ptr):\n    pass",
        "for k in (1, 2, 3):\n    pass",
        "del n",
        "if n in (1, 2):\n    pass",
        "def inner(a):\n    return a",
        "x = tl.load(x_ptr) @ tl.load(y_ptr)",
    ],
    "chained-comparison": ["inside = 0 <= n < 4"],
    "block-truth": [
        "i = tl.arange(0, BLOCK)\nm = (i < n) and (i > 2)",
        "i = tl.arange(0, BLOCK)\nm = (i < n) or (n > 2)",
        "i = tl.arange(0, 16)\nm = not (i < n)",
        "i = tl.arange(0, BLOCK)\nif i < n:\n    pass",
        "i = tl.arange(0, BLOCK)[:, None]\nx = 1 if i < n else 2",
    ],
    "global-constant": ["i = tl.arange(0, SIZE)", "tl.store(x_ptr, SIZE * 2)"],
    "masked-load": [
        "i = tl.arange(0, BLOCK)\nx = tl.load(x_ptr + i, mask=i < n)",
        "i = tl.arange(0, BLOCK)\nx = tl.load(x_ptr + i, i < n)",
    ],
    "small-dot": [
        "a = tl.zeros((16, 8), tl.float16)\nb = tl.zeros((8, 16), tl.float16)\nc = tl.dot(a, b)",
        "i = tl.arange(0, WIDTH)\nj = tl.arange(0, 16)\na = tl.load(x_ptr + i[:, None] + j[None, :])\n"
        "c = tl.dot(a, tl.zeros((16, 32), tl.float16), input_precision='ieee')",
    ],
    "dot-precision": [
        "a = tl.zeros((16, 16), tl.float32)\nc = tl.dot(a, a)",
        "i = tl.arange(0, 16)\na = tl.load(x_ptr + i[:, None] + i[None, :])\n"
        "c = tl.dot(a, a, tl.zeros((16, 16), tl.float32))",
    ],
    "loop-type": [
        "acc = 0\nfor k in range(n):\n    acc += 1.5",
        "acc = tl.zeros((BLOCK,), tl.float32)\nfor k in range(n):\n    acc = (acc + k).to(tl.float16)",
        "acc = 0.0\nfor k in range(n):\n    acc += tl.arange(0, BLOCK).to(tl.float32)",
        "acc = tl.zeros((16,), tl.float32)\nwhile n > 0:\n    n -= 1\n    acc = tl.sum(acc, axis=0)",
        "k = tl.program_id(0)\nwhile k < n:\n    k = k.to(tl.int64) + 1",
    ],
    "negative-offset": [
        "i = tl.arange(0, BLOCK)\nx = tl.load(x_ptr + i - 1, mask=i < n, other=0.0)",
        "i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\nm = i < n\np = x_ptr + (i - 3)\ntl.store(p, 1.0, mask=m)",
        "r = tl.arange(0, 16) - 1\nc = tl.arange(0, 16)\nm = (r < n)[:, None] & (c < n)[None, :]\n"
        "x = tl.load(x_ptr + r[:, None] * 16 + c[None, :], mask=m, other=0.0)",
    ],
}


@pytest.mark.parametrize(("rule", "body"), [(rule, body) for rule, bodies in _FAULTS.items() for body in bodies])
def test_a_fault_is_found(rule: str, body: str) -> None:
    assert rule in {found for found, _ in findings(body)}


def test_every_rule_has_a_planted_fault() -> None:
    assert set(_FAULTS) == set(RULES)


def test_place_and_sentence() -> None:
    source = (
        _HEADER
        + "@triton.jit\ndef kernel(x_ptr, n):\n    i = tl.arange(0, 16)\n    x = tl.load(x_ptr + i, mask=i < n)\n"
    )
    (finding,) = lint_source(source, "my.py")
    assert (finding.line, finding.column) == (10, 9)
    assert str(finding).startswith("my.py:10:9: masked-load: lanes that the mask leaves out are undefined on a GPU")
    assert "other=" in finding.message


def test_sizes_come_from_defaults_and_configs() -> None:
    body = "a = tl.zeros((BLOCK, K), tl.float16)\nb = tl.zeros((K, BLOCK), tl.float16)\nc = tl.dot(a, b)"
    assert findings(body, "BLOCK: tl.constexpr, K: tl.constexpr") == []
    assert findings(body, "BLOCK: tl.constexpr, K: tl.constexpr = 8") == [("small-dot", 3)]
    computed = '[triton.Config({"BLOCK": 64, "K": k}) for k in (32,)]'
    tuned = f'@triton.autotune({computed} + [triton.Config({{"K": 4}})], key=[])\n@triton.jit'
    assert findings(body, "BLOCK: tl.constexpr, K: tl.constexpr", tuned) == [("small-dot", 3)]
    fine = '@triton.autotune([triton.Config({"BLOCK": 64, "K": 32})], key=[])\n@triton.jit'
    assert findings(body, "BLOCK: tl.constexpr, K: tl.constexpr", fine) == []


def test_only_kernels_are_looked_at() -> None:
    source = """
    import triton
    from numba import jit
    import torch

    def host(n):
        for k in range(n):
            if k in (1, 2):
                continue

    @jit
    def of_another_compiler(n):
        for k in range(n):
            continue

    @torch.jit.script
    def of_yet_another(n: int):
        for k in range(n):
            continue
    """
    assert lint_source(textwrap.dedent(source)) == []


def test_kernels_are_known_by_every_name_of_the_decorator() -> None:
    body = "def kernel(n):\n    for k in range(n):\n        break\n"
    for imports, decorator in [
        ("import triton", "@triton.jit"),
        ("import triton as t", "@t.jit"),
        ("from triton import jit", "@jit"),
        ("from triton import jit as kernel_of", "@kernel_of"),
        ("import triton", "@triton.jit(do_not_specialize=['n'])"),
        ("import triton", "@triton.heuristics({})\n@triton.jit"),
    ]:
        assert [f.rule for f in lint_source(f"{imports}\n\n{decorator}\n{body}")] == ["loop-control"], decorator


# ---- kernels as they should be ---------------------------------------------------------------------------------------

_SOUND = """
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def softmax(x_ptr, out_ptr, rows, columns, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    best = -float("inf")
    total = 0.0
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * stride + c, mask=c < columns, other=-float("inf")).to(tl.float32)
        new = tl.maximum(best, tl.max(x, axis=0))
        total = total * tl.exp2((best - new) * LOG2E) + tl.sum(tl.exp2((x - new) * LOG2E), axis=0)
        best = new
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * stride + c, mask=c < columns, other=0.0).to(tl.float32)
        tl.store(out_ptr + row * stride + c, tl.exp2((x - best) * LOG2E) / total, mask=c < columns)


@triton.autotune(configs=[triton.Config({"BLOCK_M": m, "BLOCK_K": 32}) for m in (64, 128)], key=["M"])
@triton.jit
def matmul(
    a_ptr, b_ptr, c_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr = 64,
    ACT: tl.constexpr = None,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a_at = a_ptr + m[:, None] * K + k[None, :]
    b_at = b_ptr + k[:, None] * N + n[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for left in range(K, 0, -BLOCK_K):
        a = tl.load(a_at, mask=(m[:, None] < M) & (k[None, :] < left), other=0.0)
        b = tl.load(b_at, mask=(k[:, None] < left) & (n[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        a_at += BLOCK_K
        b_at += BLOCK_K * N
    if ACT is not None and ACT == "relu":
        acc = tl.maximum(acc, 0.0)
    c = acc.to(c_ptr.dtype.element_ty)
    tl.store(c_ptr + m[:, None] * N + n[None, :], c, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def convolution(x_ptr, w_ptr, out_ptr, H, W, PAD: tl.constexpr, R: tl.constexpr = 3, BLOCK: tl.constexpr = 64):
    h = tl.program_id(0)
    w = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for r in tl.static_range(R):
        for s in range(R):
            y = h + r - 1
            x = w + s - 1
            inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
            acc += tl.load(x_ptr + y * W + x, mask=inside, other=0.0) * tl.load(w_ptr + r * R + s)
    tl.store(out_ptr + h * W + w, acc, mask=w < W)


@triton.jit
def shifted(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    before = tl.load(x_ptr + i - 1, mask=(i > 0) & (i < n), other=0.0)
    clamped = tl.load(x_ptr + tl.maximum(i - 1, 0), mask=i < n, other=0.0)
    later = tl.load(x_ptr + 1 + i - 1, mask=i < n, other=0.0)
    tl.store(out_ptr + i, before + clamped + later, mask=i < n)


@triton.jit
def mixed(a_ptr, out_ptr, n, FLAG: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i[:, None] * BLOCK + i[None, :]).to(tl.float16)
    acc = tl.dot(a, a)
    count = 0
    while count < n and FLAG:
        count += 1
    if n > 3 and not FLAG:
        return
    value = acc if FLAG else -acc
    for k in tl.static_range(2):
        value = tl.sum(value, axis=0)
    tl.store(out_ptr, value)
"""


def test_sound_kernels_pass() -> None:
    assert lint_source(_SOUND) == []


def test_our_own_kernels_pass() -> None:
    assert [str(f) for f in lint_paths([_ROOT / "kernels"])] == []


# ---- comments that allow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("x = tl.load(x_ptr, mask=n > 3)  # lint: allow masked-load never used when masked", []),
        ("# lint: allow masked-load never used when masked\nx = tl.load(x_ptr, mask=n > 3)", []),
        ("x = tl.load(x_ptr, mask=n > 3)  # lint: allow loop-control wrong rule", ["masked-load", "allow-comment"]),
        ("x = tl.load(x_ptr, mask=n > 3)  # lint: allow masked-load", ["allow-comment"]),
        ("x = tl.load(x_ptr, mask=n > 3)  # lint: allow no-such-rule because", ["masked-load", "allow-comment"]),
        ("x = tl.load(x_ptr)  # lint: allow masked-load no longer true", ["allow-comment"]),
        ('x = "# lint: allow masked-load in a string"', []),
    ],
)
def test_allow_comments(body: str, expected: list[str]) -> None:
    assert sorted(rule for rule, _ in findings(body)) == sorted(expected)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "kernels" / "inner"
    folder.mkdir(parents=True)
    (folder / "good.py").write_text(_SOUND)
    assert main([str(tmp_path)]) == 0
    bad = folder / "bad.py"
    body = "    x = tl.load(x_ptr, mask=n > 3)\n    tl.store(x_ptr, x * SIZE)\n"
    bad.write_text(_HEADER + "@triton.jit\ndef kernel(x_ptr, n):\n" + body)
    capsys.readouterr()
    assert main([str(tmp_path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{bad}:9:9: masked-load: ")
    assert second.startswith(f"{bad}:10:25: global-constant: ")
    assert main([str(bad), "--ignore", "masked-load,global-constant"]) == 0
    assert main([str(bad), "--select", "masked-load"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_command_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n")
    assert main([str(broken)]) == 2
    assert "broken.py" in capsys.readouterr().err
    assert main([str(tmp_path / "missing.py")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main([str(broken), "--select", "no-such-rule"])
    assert "no rule named no-such-rule" in capsys.readouterr().err


def test_the_command_lists_its_rules() -> None:
    """As a person runs it."""
    command = [sys.executable, "-m", "tinyflow.kernels.interpreter.lint", "--rules"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, timeout=120, check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(RULES)
