"""Sums of products by equation, against torch in float64: values, gradients, the order of contraction, errors."""

from __future__ import annotations

import math

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.kernels import launch

DEVICE = tinyflow.get_default_device()

EQUATIONS = [
    ("ij,jk->ik", (3, 4), (4, 5)),
    ("ij,jk", (3, 4), (4, 5)),
    ("ba,ca", (3, 4), (5, 4)),  # without an output, letters in alphabetical order
    ("bij, bjk -> bki", (2, 3, 4), (2, 4, 5)),
    ("i,i", (7,), (7,)),
    ("i,j->ij", (3,), (4,)),
    ("ii->", (4, 4)),
    ("ii->i", (4, 4)),
    ("ijji->j", (3, 4, 4, 3)),
    ("ij->", (3, 4)),
    ("ij->ji", (3, 4)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 3)),
    ("...i,ij->...j", (2, 3, 4), (4, 5)),
    ("i...,j...->ij", (3, 2), (4, 2)),  # an ellipsis that the output does not have is summed over
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("ij,ij,j->i", (3, 4), (3, 4), (4,)),
    ("ab,bc,cd,de->ae", (2, 3), (3, 4), (4, 2), (2, 3)),
    ("ij,jk->ik", (3, 1), (4, 5)),  # a size of 1 broadcasts
    ("ij,kj->ik", (3, 0), (2, 0)),
    (",ij->ij", (), (2, 3)),
]


def _draw(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shapes) + sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize(("equation", "shapes"), [(e, s) for e, *s in EQUATIONS], ids=[str(e) for e in EQUATIONS])
def test_values_and_gradients(equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    theirs = [x.requires_grad_() for x in _draw(shapes)]
    ours = [tinyflow.from_torch(x.detach().to(DEVICE)).requires_grad_() for x in theirs]
    expected, found = torch.einsum(equation, *theirs), tinyflow.einsum(equation, *ours)
    assert_close(found.to_torch(), expected, 64)
    wanted = torch.autograd.grad(expected.square().sum(), theirs)
    for mine, their in zip(tinyflow.autograd.grad(found.square().sum(), ours), wanted):
        assert_close(mine.to_torch(), their, 64)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "ijji->j", "...ij,...jk->...ik"])
def test_two_derivatives_numerically(equation: str) -> None:
    shapes = next(tuple(s) for e, *s in EQUATIONS if e == equation)
    inputs = [tinyflow.from_torch(x.to(DEVICE)).requires_grad_() for x in _draw(shapes)]
    assert gradcheck(lambda *xs: tinyflow.einsum(equation, *xs), inputs, fast_mode=True)
    assert gradgradcheck(lambda *xs: tinyflow.einsum(equation, *xs), inputs, fast_mode=True)


def test_lists_of_numbers_for_letters() -> None:
    a, b = _draw(((3, 2, 4), (2, 4, 5)))
    x, y = (tinyflow.from_torch(t.to(DEVICE)) for t in (a, b))
    found = tinyflow.einsum(x, [0, ..., 30], y, [..., 30, 51], [51, ...])
    assert_close(found.to_torch(), torch.einsum(a, [0, ..., 30], b, [..., 30, 51], [51, ...]), 16)
    assert_close(tinyflow.einsum("ab...,b...c", [x, y]).to_torch(), torch.einsum("ab...,b...c", a, b), 16)


def test_half_precision_and_integers() -> None:
    a, b = _draw(((3, 4), (4, 5)), torch.bfloat16)
    found = tinyflow.einsum("ij,jk->ki", tinyflow.from_torch(a.to(DEVICE)), tinyflow.from_torch(b.to(DEVICE)))
    assert found.dtype == torch.bfloat16
    assert_close(found.to_torch(), (a.double() @ b.double()).T, 4)
    n = torch.arange(6).reshape(2, 3)
    ours = tinyflow.from_torch(n.to(DEVICE))
    assert tinyflow.einsum("ij,kj->ik", ours, ours).tolist() == (n @ n.T).tolist()


def test_small_results_are_made_first() -> None:
    """A long chain that ends in a vector is contracted from the vector on: 3·n² products, not n³."""
    n = 32
    a, b, v = (tinyflow.zeros(s) for s in ((n, n), (n, n), (n,)))
    with launch.count() as records:
        tinyflow.einsum("ij,jk,k->i", a, b, v)
    assert sum(r.cost.flops for r in records) <= 2 * 2 * n * n


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("ij,jk", (2, 3)), RuntimeError, r"'ij,jk' names 2 operands, got 1"),
        (("ij", (2, 3, 4)), RuntimeError, r"'ij' in 'ij' has 2 letters, got an operand of shape \(2, 3, 4\)"),
        (("i1", (2, 3)), RuntimeError, r"expected letters .* got '1'"),
        (("ij,jk", (2, 3), (4, 5)), RuntimeError, r"'j' in 'ij,jk' has sizes 3 and 4"),
        (("ij->ik", (2, 3)), RuntimeError, r"the output of 'ij->ik' has 'k', which no operand has"),
        (("ij->ii", (2, 3)), RuntimeError, r"has 'i' more than once"),
    ],
)
def test_what_does_not_fit_is_named(arguments, error: type[Exception], message: str) -> None:
    equation, *shapes = arguments
    with pytest.raises(error, match=message):
        tinyflow.einsum(equation, *[tinyflow.zeros(s) for s in shapes])


def test_wrong_arguments() -> None:
    x = tinyflow.zeros(2, 3)
    with pytest.raises(TypeError, match=r"expected an equation and tensors, .* got \['Tensor'\]"):
        tinyflow.einsum(x)
    with pytest.raises(ValueError, match=r"numbers from 0 to 51 or an Ellipsis, got 52"):
        tinyflow.einsum(x, [0, 52])
    with pytest.raises(RuntimeError, match=r"tensordot: expected equal sizes in dimensions \[1\] .* and \[0\]"):
        tinyflow.tensordot(x, x, 1)
    with pytest.raises(RuntimeError, match=r"tensordot: expected dims from 0 to 2 .* got 3"):
        tinyflow.tensordot(x, x, 3)
    with pytest.raises(RuntimeError, match=r"bilinear: expected inputs .* got shapes \(2, 3\), \(2, 3\) and \(4, 3, 2\)"):
        tinyflow.nn.functional.bilinear(x, x, tinyflow.zeros(4, 3, 2))


def test_what_is_added_to_a_product_must_fit() -> None:
    a, b = tinyflow.ones(2, 3), tinyflow.ones(3, 4)
    for beta in (0, 2):  # torch looks at an addend that is not read, too
        with pytest.raises(RuntimeError, match=r"broadcasts to the product \(2, 4\), got \(5, 2, 4\)"):
            tinyflow.addmm(tinyflow.ones(5, 2, 4), a, b, beta=beta)
        with pytest.raises(RuntimeError, match="addend of the product's torch.float32, got torch.float64"):
            tinyflow.addmm(tinyflow.ones(2, 4).double(), a, b, beta=beta)


@pytest.mark.parametrize("shapes", [((0, 2, 3), (0, 3, 4)), ((2, 2, 0), (2, 0, 4)), ((2, 0, 3), (2, 3, 4))], ids=str)
def test_products_of_nothing_in_a_batch(shapes) -> None:
    a, b = _draw(shapes)
    start = torch.ones(a.shape[1], 4, dtype=a.dtype)
    found = tinyflow.addbmm(*(tinyflow.from_torch(t.to(DEVICE)) for t in (start, a, b)))
    assert_close(found.to_torch(), torch.addbmm(start, a, b), 4)


@pytest.mark.parametrize("shapes", [((3, 1, 4), (4, 5, 3)), ((3, 2, 4), (1, 2, 3)), ((1, 2, 1), (4, 2, 5))], ids=str)
def test_dimensions_of_size_one_broadcast_in_tensordot(shapes) -> None:
    a, b = _draw(shapes)
    dims = ([2, 0], [0, 2])
    found = tinyflow.tensordot(tinyflow.from_torch(a.to(DEVICE)), tinyflow.from_torch(b.to(DEVICE)), dims)
    assert_close(found.to_torch(), torch.tensordot(a, b, dims), 16)


def test_norms_and_products_of_linalg() -> None:
    a, b, c = _draw(((3, 4), (4, 2), (2, 5)))
    x, y, z = (tinyflow.from_torch(t.to(DEVICE)) for t in (a, b, c))
    ours, theirs = tinyflow.linalg, torch.linalg
    for order in ("fro", 1, -1, math.inf, -math.inf):
        assert_close(ours.norm(x, order).to_torch(), theirs.norm(a, order), 12)
        kept = theirs.matrix_norm(a, order, keepdim=True)
        assert_close(ours.matrix_norm(x, order, keepdim=True).to_torch(), kept, 12)
    for order in (0, 0.5, 1, 2, 3, math.inf):
        assert_close(ours.vector_norm(x, order, dim=1).to_torch(), theirs.vector_norm(a, order, dim=1), 12)
    assert_close(ours.multi_dot([x, y, z]).to_torch(), theirs.multi_dot([a, b, c]), 16)
    assert_close(ours.multi_dot([x[0], y, z[:, 0]]).to_torch(), theirs.multi_dot([a[0], b, c[:, 0]]), 16)
    assert_close(ours.vecdot(x, x).to_torch(), theirs.vecdot(a, a), 4)
    assert_close(ours.cross(x[:, :2].T, y[:3].T).to_torch(), theirs.cross(a[:, :2].T, b[:3].T), 2)
    assert_close(ours.vander(x[0], N=3).to_torch(), theirs.vander(a[0], N=3), 2)
    with pytest.raises(NotImplementedError, match="singular values"):
        ours.norm(x, "nuc")
    with pytest.raises(NotImplementedError, match=r"linalg.svd: tinyflow has products and norms"):
        ours.svd(x)


def test_switches_of_tf32() -> None:
    from tinyflow.kernels.precision import tf32

    before = tf32.matmul, tf32.convolution
    try:
        tinyflow.backends.cuda.matmul.allow_tf32 = True
        assert tf32.matmul and tinyflow.get_float32_matmul_precision() == "high"
        tinyflow.set_float32_matmul_precision("highest")
        assert not tinyflow.backends.cuda.matmul.allow_tf32
        tinyflow.backends.cudnn.allow_tf32 = False
        assert not tf32.convolution
        with pytest.raises(ValueError, match="'best'"):
            tinyflow.set_float32_matmul_precision("best")
        with pytest.raises(TypeError, match="expected True or False, got 1"):
            tinyflow.backends.cuda.matmul.allow_tf32 = 1
    finally:
        tf32.matmul, tf32.convolution = before
