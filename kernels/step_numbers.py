"""The numbers of an optimiser's step where the device alone knows which step it is.

A step that a gradient scaler leaves out counts for nothing, and whether one was left out is known on the device. So the
counts of a history of steps lie there too, and one small program in front of the update moves them on, unless ``found_inf``
says otherwise, and makes of them and of the optimiser's settings the words that the update reads (see ``update.words``).

A rule takes the number of the step, two further counts, the factor that decoupled decay leaves of a parameter, and six
settings, all float64 scalars. It gives the two counts as they are after the step, that factor, and the six numbers of its
update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.addressing import float_from_bits
from tinyflow.kernels.launch import Config, Cost, check_same_device, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.optimizer import WORDS


@triton.jit
def _power(base, exponent):
    """base to the exponent, for a base from 0 to 1 and an exponent from 0 on."""
    powered = tl.exp(exponent * tl.log(tl.where(base > 0, base, 1.0)))
    return tl.where(base > 0, powered, tl.where(exponent == 0, 1.0, 0.0))


# ---- the rules -----------------------------------------------------------------------------------------------------


@triton.jit
def _constant(step, a, b, shrink, h0, h1, h2, h3, h4, h5):
    return a, b, shrink, h0, h1, h2, h3, h4, h5


@triton.jit
def _adam(step, a, b, shrink, lr, beta1, beta2, eps, h4, h5):
    size = lr / (1.0 - _power(beta1, step))
    return a, b, shrink, beta1, beta2, eps, size, tl.sqrt(1.0 - _power(beta2, step)), h5


@triton.jit
def _nadam_momentum(beta1, step, decay):
    return beta1 * (1.0 - 0.5 * tl.exp(step * decay * -0.040821994520255166))  # the logarithm of 0.96


@triton.jit
def _nadam(step, product, b, shrink, lr, beta1, beta2, eps, decay, h5):
    now, following = _nadam_momentum(beta1, step, decay), _nadam_momentum(beta1, step + 1.0, decay)
    product *= now
    gradient_size = lr * (1.0 - now) / (1.0 - product)
    mean_size = lr * following / (1.0 - product * following)
    return product, b, shrink, beta1, beta2, eps, gradient_size, mean_size, 1.0 - _power(beta2, step)


@triton.jit
def _radam(step, a, b, shrink, lr, beta1, beta2, eps, h4, h5):
    power = _power(beta2, step)
    correction = 1.0 - power
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * step * power / correction
    ratio = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
    bounded = length > 5.0
    rectification = tl.where(bounded, tl.sqrt(tl.where(bounded, ratio * correction, 1.0)), 0.0)
    return a, b, shrink, beta1, beta2, eps, lr / (1.0 - _power(beta1, step)), rectification, h5


@triton.jit
def _adamax(step, a, b, shrink, lr, beta1, beta2, eps, h4, h5):
    return a, b, shrink, beta1, beta2, eps, lr / (1.0 - _power(beta1, step)), h4, h5


@triton.jit
def _adagrad(step, a, b, shrink, lr, lr_decay, eps, h3, h4, h5):
    return a, b, shrink, lr / (1.0 + (step - 1.0) * lr_decay), eps, h3, h4, h5, h5


@triton.jit
def _asgd(step, eta, mu, shrink, lr, lambd, alpha, t0, h4, h5):
    now = tl.where(step == 1, lr, eta)
    after = lr * tl.exp(-alpha * tl.log(1.0 + lambd * lr * step))
    averaging = 1.0 / tl.maximum(1.0, step - t0)
    return after, averaging, 1.0 - lambd * now, now, mu, h4, h5, h4, h5


@triton.jit
def _lamb(step, a, b, shrink, beta1, beta2, eps, decay, h4, h5):
    return a, b, shrink, beta1, beta2, eps, 1.0 - _power(beta1, step), 1.0 - _power(beta2, step), decay


# ---- the kernel ----------------------------------------------------------------------------------------------------


@triton.jit
def _put(words_ptr, place, number):
    tl.store(words_ptr + place, tl.cast(number, tl.int64, bitcast=True))


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"])
def _step_numbers_kernel(
    step_ptr,  # one float64 each, which the program changes: how many steps were taken,
    a_ptr,  # and further counts, or None
    b_ptr,
    w0,
    w1,
    w2,
    w3,
    w4,
    w5,
    w6,
    w7,
    given_ptr,  # (8,): the same eight in device memory, or None
    found_inf_ptr,  # a float32 that is not 0 where this step is to be left out, or None
    words_ptr,  # (8,): what the update reads
    RULE: tl.constexpr,
):
    if given_ptr is not None:
        w0 = tl.load(given_ptr)
        w1 = tl.load(given_ptr + 1)
        w2 = tl.load(given_ptr + 2)
        w3 = tl.load(given_ptr + 3)
        w4 = tl.load(given_ptr + 4)
        w5 = tl.load(given_ptr + 5)
        w6 = tl.load(given_ptr + 6)
        w7 = tl.load(given_ptr + 7)
    step = tl.load(step_ptr) + 1.0
    a = step
    b = step
    if a_ptr is not None:
        a = tl.load(a_ptr)
    if b_ptr is not None:
        b = tl.load(b_ptr)
    a, b, shrink, n0, n1, n2, n3, n4, n5 = RULE(
        step,
        a,
        b,
        float_from_bits(w1),
        float_from_bits(w2),
        float_from_bits(w3),
        float_from_bits(w4),
        float_from_bits(w5),
        float_from_bits(w6),
        float_from_bits(w7),
    )
    tl.store(words_ptr, w0)
    _put(words_ptr, 1, shrink)
    _put(words_ptr, 2, n0)
    _put(words_ptr, 3, n1)
    _put(words_ptr, 4, n2)
    _put(words_ptr, 5, n3)
    _put(words_ptr, 6, n4)
    _put(words_ptr, 7, n5)
    taken = True
    if found_inf_ptr is not None:
        taken = tl.load(found_inf_ptr) == 0
    tl.store(step_ptr, step, mask=taken)
    if a_ptr is not None:
        tl.store(a_ptr, a, mask=taken)
    if b_ptr is not None:
        tl.store(b_ptr, b, mask=taken)


_ONE = Config({}, num_warps=1)


@dataclass(frozen=True, eq=False)
class StepNumbers:
    """A rule as a launcher that moves counts on in place; ``counts`` is how many it has beside the step."""

    name: str
    rule: Any
    counts: int = 0

    def __call__(self, counts: Sequence[Buffer], given: Sequence[int] | Buffer, found_inf: Buffer | None) -> Buffer:
        """What the update reads during the step that begins: int64 (8,), new memory.

        Args:
            counts: float64 () each: how many steps were taken, and the rule's own.
            given: what ``update.words`` makes of weight decay, its factor and the rule's settings; or that in device memory.
            found_inf: a float32 on the device; where it is not 0 the counts stay.

        One program, of which neither FLOPs nor the few bytes weigh.

        Raises:
            ValueError: for another number of counts.
            RuntimeError: if the devices differ.
        """
        if len(counts) != 1 + self.counts:
            raise ValueError(f"{self.name}: expected {1 + self.counts} counts, got {len(counts)}")
        placed = given if isinstance(given, Buffer) else None
        named = {f"count {k}": count for k, count in enumerate(counts)}
        device = check_same_device(self.name, **named, settings=placed, found_inf=found_inf)
        found = memory.empty((WORDS,), memory.int64, device)
        launch(
            _step_numbers_kernel,
            (1,),
            *counts,
            *[None] * (2 - self.counts),
            *(given if placed is None else (0,) * WORDS),
            placed,
            found_inf,
            found,
            config=_ONE,
            cost=Cost(0, 2 * nbytes(*counts) + nbytes(placed, found_inf, found)),
            device=device,
            RULE=self.rule,
        )
        return found


#: For updates whose numbers do not depend on the step.
constant = StepNumbers("constant", _constant)
adam = StepNumbers("adam", _adam)
nadam = StepNumbers("nadam", _nadam, counts=1)
radam = StepNumbers("radam", _radam)
adamax = StepNumbers("adamax", _adamax)
adagrad = StepNumbers("adagrad", _adagrad)
asgd = StepNumbers("asgd", _asgd, counts=2)
lamb = StepNumbers("lamb", _lamb)
