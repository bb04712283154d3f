"""Sums over products of tensors: ``einsum``, ``tensordot`` and ``bilinear``, each a sequence of matrix products."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from tinyflow.operands import check_tensors
from tinyflow.ops.arithmetic import add, mul
from tinyflow.ops.matmul import matmul
from tinyflow.ops.reduction import sum as sum_over
from tinyflow.ops.shape import diagonal, movedim, permute, reshape, squeeze
from tinyflow.tensor import Tensor

METHODS: list[str] = []
FUNCTIONAL = ["bilinear"]
__all__ = ["einsum", "tensordot"]

#: A letter, or a place of the ellipsis counted from its end (1 is the last).
Label = str | int
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class _Labelled(NamedTuple):
    """A tensor and a label for each of its dimensions, none twice."""

    tensor: Tensor
    labels: tuple[Label, ...]


def einsum(equation: str, *operands: Any) -> Tensor:
    """The sum of products that ``equation`` writes in Einstein's notation: ``einsum("bij,bjk->bik", a, b)``.

    Each operand has a letter for every dimension. A letter that the output does not have is summed over; one that an
    operand has twice walks along its diagonal; ``...`` stands for dimensions that broadcast. Without ``->`` the output has
    the letters that occur once, in alphabetical order, after the ellipsis. Dimensions of size 1 broadcast. The form
    ``einsum(a, [0, 1], b, [1, 2], [0, 2])`` has numbers below 52 for letters.

    Pairs of operands are contracted one after another, the pair with the smallest result first.

    Raises:
        RuntimeError: if the equation cannot be read, or does not fit the operands.
        ValueError: for numbers in place of letters that are none.
    """
    if not isinstance(equation, str):
        equation, operands = _from_sublists((equation, *operands))
    elif len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    check_tensors("einsum()", "operands", operands)
    inputs, output = _read(equation, operands)
    sizes = _sizes(equation, inputs)
    _check_output(equation, output, sizes)
    terms = [_simplify(x, sizes, inputs, i, output) for i, x in enumerate(inputs)]
    while len(terms) > 1:
        i, j = _cheapest(terms, sizes, output)
        right, left = terms.pop(j), terms.pop(i)
        terms.append(_contract(left, right, {*output}.union(*(t.labels for t in terms))))
    term = _sum_except(terms[0], output)
    return permute(term.tensor, [term.labels.index(k) for k in output])


def _from_sublists(arguments: Sequence[Any]) -> tuple[str, tuple[Tensor, ...]]:
    """The equation and operands of ``einsum(a, [0, 1], b, [1, 2], [0, 2])``."""
    pairs, rest = arguments[: len(arguments) // 2 * 2], arguments[len(arguments) // 2 * 2 :]
    if not pairs or not all(isinstance(x, Tensor) for x in pairs[::2]):
        raise TypeError(
            "einsum: expected an equation and tensors, or tensors each followed by a list of numbers, "
            f"got {[type(x).__name__ for x in arguments]}"
        )
    equation = ",".join(_letters(x) for x in pairs[1::2])
    return equation + (f"->{_letters(rest[0])}" if rest else ""), tuple(pairs[::2])


def _letters(sublist: Sequence[Any]) -> str:
    if not isinstance(sublist, (list, tuple)):
        raise TypeError(f"einsum: expected a list of numbers after each tensor, got {type(sublist).__name__}")
    wrong = [k for k in sublist if k is not Ellipsis and not (isinstance(k, int) and 0 <= k < len(_LETTERS))]
    if wrong:
        raise ValueError(f"einsum: expected numbers from 0 to {len(_LETTERS) - 1} or an Ellipsis, got {wrong[0]!r}")
    return "".join("..." if k is Ellipsis else _LETTERS[k] for k in sublist)


def _read(equation: str, operands: Sequence[Tensor]) -> tuple[list[_Labelled], tuple[Label, ...]]:
    """The operands with their labels (a label may still occur twice), and the output's labels."""
    written = equation.replace(" ", "")
    left, arrow, right = written.partition("->")
    subscripts = left.split(",")
    if len(subscripts) != len(operands):
        raise RuntimeError(f"einsum: equation '{equation}' names {len(subscripts)} operands, got {len(operands)}")
    inputs = [_label(equation, s, x) for s, x in zip(subscripts, operands)]
    ellipsis = max((sum(isinstance(k, int) for k in x.labels) for x in inputs), default=0)
    dots = tuple(range(ellipsis, 0, -1))
    if arrow:
        before, found, after = _parts(equation, right)
        return inputs, (*before, *(dots if found else ()), *after)
    letters = [k for x in inputs for k in x.labels if isinstance(k, str)]
    return inputs, (*dots, *sorted(k for k in set(letters) if letters.count(k) == 1))


def _parts(equation: str, subscript: str) -> tuple[str, str, str]:
    """The letters before the ellipsis, the ellipsis, and those behind it."""
    before, found, after = subscript.partition("...")
    wrong = [k for k in before + after if k not in _LETTERS]
    if wrong:
        raise RuntimeError(f"einsum: expected letters and at most one '...' an operand, got {wrong[0]!r} in '{equation}'")
    return before, found, after


def _label(equation: str, subscript: str, operand: Tensor) -> _Labelled:
    before, found, after = _parts(equation, subscript)
    spare = operand.dim() - len(before) - len(after)
    if spare < 0 or (spare > 0 and not found):
        raise RuntimeError(
            f"einsum: '{subscript}' in '{equation}' has {len(before) + len(after)} letters, "
            f"got an operand of shape {tuple(operand.shape)}"
        )
    return _Labelled(operand, (*before, *range(spare, 0, -1), *after))


def _sizes(equation: str, inputs: Sequence[_Labelled]) -> dict[Label, int]:
    """The size of every label; where it broadcasts, not 1."""
    sizes: dict[Label, int] = {}
    for tensor, labels in inputs:
        for label, size in zip(labels, tensor.shape):
            if sizes.get(label, 1) == 1:
                sizes[label] = size
            elif size not in (1, sizes[label]):
                raise RuntimeError(
                    f"einsum: '{label if isinstance(label, str) else '...'}' in '{equation}' has sizes "
                    f"{sizes[label]} and {size}, which do not broadcast"
                )
    return sizes


def _check_output(equation: str, output: Sequence[Label], sizes: Collection[Label]) -> None:
    for label in output:
        if label not in sizes:
            raise RuntimeError(f"einsum: the output of '{equation}' has '{label}', which no operand has")
        if output.count(label) > 1:
            raise RuntimeError(f"einsum: the output of '{equation}' has '{label}' more than once")


def _simplify(
    x: _Labelled, sizes: dict[Label, int], inputs: Sequence[_Labelled], position: int, output: Collection[Label]
) -> _Labelled:
    """``x`` with diagonals taken, broadcast dimensions dropped, and summed over what it alone has."""
    tensor, labels = x
    for label in dict.fromkeys(k for k in labels if labels.count(k) > 1):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            tensor = diagonal(tensor, 0, first, second)
            labels = (*(k for d, k in enumerate(labels) if d not in (first, second)), label)
    dropped = [d for d, k in enumerate(labels) if tensor.shape[d] == 1 != sizes[k]]
    if dropped:
        tensor, labels = squeeze(tensor, dropped), tuple(k for d, k in enumerate(labels) if d not in dropped)
    elsewhere = {k for i, other in enumerate(inputs) if i != position for k in other.labels}
    return _sum_except(_Labelled(tensor, labels), elsewhere.union(output))


def _sum_except(x: _Labelled, kept: Collection[Label]) -> _Labelled:
    dims = [d for d, k in enumerate(x.labels) if k not in kept]
    return _Labelled(sum_over(x.tensor, dims), tuple(k for k in x.labels if k in kept)) if dims else x


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(i + 1, count))


def _cheapest(terms: Sequence[_Labelled], sizes: dict[Label, int], output: Collection[Label]) -> tuple[int, int]:
    """The two terms whose contraction is smallest, then takes the fewest products; the first of equals."""

    def cost(pair: tuple[int, int]) -> tuple[int, int]:
        labels = {*terms[pair[0]].labels, *terms[pair[1]].labels}
        kept = {*output}.union(*(t.labels for k, t in enumerate(terms) if k not in pair))
        return math.prod(sizes[k] for k in labels & kept), math.prod(sizes[k] for k in labels)

    return min(_pairs(len(terms)), key=cost)


def _contract(a: _Labelled, b: _Labelled, kept: Collection[Label]) -> _Labelled:
    """The products of two terms, summed over the labels that are not kept."""
    summed = [k for k in a.labels if k in b.labels and k not in kept]
    batch = [k for k in a.labels if k in b.labels and k in kept]
    rows = [k for k in a.labels if k not in b.labels]
    columns = [k for k in b.labels if k not in a.labels]
    if not summed:
        return _Labelled(mul(_arrange(a, batch, rows, columns), _arrange(b, batch, rows, columns)),
                         (*batch, *rows, *columns))  # fmt: skip
    left = _matrices(a, batch, rows, summed)
    right = _matrices(b, batch, summed, columns)
    shape = [n for x, ks in ((a, batch), (a, rows), (b, columns)) for n in _shape(x, ks)]
    return _Labelled(reshape(matmul(left, right), shape), (*batch, *rows, *columns))


def _shape(x: _Labelled, labels: Sequence[Label]) -> list[int]:
    return [x.tensor.shape[x.labels.index(k)] for k in labels]


def _arrange(x: _Labelled, *groups: Sequence[Label]) -> Tensor:
    """``x`` with the dimensions of the groups in order, of size 1 where it has none."""
    order = [k for group in groups for k in group]
    present = permute(x.tensor, [x.labels.index(k) for k in order if k in x.labels])
    return reshape(present, [_shape(x, [k])[0] if k in x.labels else 1 for k in order])


def _matrices(x: _Labelled, batch: Sequence[Label], rows: Sequence[Label], columns: Sequence[Label]) -> Tensor:
    """``x`` as (batch, rows, columns), each a product of its labels' sizes but for the batch."""
    ordered = permute(x.tensor, [x.labels.index(k) for k in (*batch, *rows, *columns)])
    return reshape(ordered, [*_shape(x, batch), math.prod(_shape(x, rows)), math.prod(_shape(x, columns))])


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """The products of ``a`` and ``b`` summed over pairs of dimensions, as one matrix product.

    Args:
        dims: so many last dimensions of ``a`` with as many first ones of ``b``; or a list of dimensions of each. One of
            size 1 broadcasts.

    Raises:
        RuntimeError: if the dimensions do not pair up or differ in size.
    """
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.dim(), b.dim()):
            raise RuntimeError(
                f"tensordot: expected dims from 0 to {min(a.dim(), b.dim())} for shapes {tuple(a.shape)} and "
                f"{tuple(b.shape)}, got {dims}"
            )
        dims = (range(a.dim() - dims, a.dim()), range(dims))
    of_a, of_b = ([d] if isinstance(d, int) else list(d) for d in dims)
    if len(of_a) != len(of_b):
        raise RuntimeError(f"tensordot: expected as many dimensions of both, got {of_a} and {of_b}")
    if not all(1 in sizes or sizes[0] == sizes[1] for sizes in ((a.shape[i], b.shape[j]) for i, j in zip(of_a, of_b))):
        raise RuntimeError(
            f"tensordot: expected equal sizes in dimensions {of_a} of {tuple(a.shape)} and {of_b} of {tuple(b.shape)}"
        )
    a, b = _summed_where_alone(a, of_a, b, of_b), _summed_where_alone(b, of_b, a, of_a)
    count = len(of_a)
    left = movedim(a, of_a, list(range(a.dim() - count, a.dim())))
    right = movedim(b, of_b, list(range(count)))
    shape = [*left.shape[: a.dim() - count], *right.shape[count:]]
    k = math.prod(right.shape[:count])
    m, n = math.prod(left.shape[: a.dim() - count]), math.prod(right.shape[count:])
    return reshape(matmul(reshape(left, m, k), reshape(right, k, n)), shape)


def _summed_where_alone(x: Tensor, dims: Sequence[int], other: Tensor, dims_of_other: Sequence[int]) -> Tensor:
    """``x`` summed over the dimensions that the other tensor has with size 1."""
    alone = [d for d, e in zip(dims, dims_of_other) if other.shape[e] == 1 != x.shape[d]]
    return sum_over(x, alone, True) if alone else x


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y[…, o] = Σᵢⱼ input1[…, i] · weight[o, i, j] · input2[…, j] + bias[o]``.

    Args:
        input1: (\\*, in1 features).
        input2: (\\*, in2 features), with the same \\*.
        weight: (out features, in1 features, in2 features).
        bias: (out features,).

    Raises:
        RuntimeError: if the shapes do not fit.
    """
    if (
        weight.dim() != 3
        or input1.shape[:-1] != input2.shape[:-1]
        or (input1.shape[-1], input2.shape[-1]) != tuple(weight.shape[1:])
    ):
        raise RuntimeError(
            "bilinear: expected inputs (*, in1 features) and (*, in2 features) and a weight (out features, in1 features, "
            f"in2 features), got shapes {tuple(input1.shape)}, {tuple(input2.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise RuntimeError(f"bilinear: expected a bias of shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    y = einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else add(y, bias)
