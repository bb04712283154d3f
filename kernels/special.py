"""Special functions: logarithms and exponentials near 0, trigonometry, hyperbolics, error and gamma functions.

All are launchers of :mod:`tinyflow.kernels.elementwise`. Only ``exp``, ``log``, ``sin``, ``cos``, ``sqrt`` and ``erf`` come
from the compiler; everything else is written here from them, so that every backend and the interpreter compute the same.
The functions of a few operations work in the dtype of their operand. The error and gamma functions work in float64 whatever
it is, and round once.

Accuracy in float64, in units of the last place: 4 for elementary functions and ``erfc``, 8 for ``erfinv``; ``lgamma`` 8 and
``digamma`` and ``polygamma`` 16, where near a root of theirs the unit is that of 1.

Sources: rational approximations of atan and expm1 from Cephes (S. L. Moshier, 1989); the start of erfinv from M. Giles,
"Approximating the erfinv function" (2010); Stirling's and Euler–Maclaurin's series from Abramowitz and Stegun, 6.1.40,
6.3.18 and 23.2.25. The polynomials of lgamma and erfc are Chebyshev fits of these functions, made in 60 digits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.arithmetic import divide, inverse, square_root
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.elementwise import FLOAT, Pointwise
from tinyflow.kernels.memory import Buffer


@triton.jit
def polynomial(x, COEFFICIENTS: tl.constexpr, COUNT: tl.constexpr):
    """Σ cₖ·xⁿ⁻ᵏ by Horner's rule, the highest power's coefficient first."""
    result = x * COEFFICIENTS[0] + COEFFICIENTS[1]
    for k in tl.static_range(2, COUNT):
        result = result * x + COEFFICIENTS[k]
    return result


@triton.jit
def is_negative(x):
    """The sign bit: true of -0.0 too, and of a NaN that has it."""
    if x.dtype == tl.float64:
        negative = x.to(tl.int64, bitcast=True) < 0
    elif x.dtype == tl.float32:
        negative = x.to(tl.int32, bitcast=True) < 0
    else:
        negative = x < 0
    return negative


@triton.jit
def with_sign(magnitude, sign):
    """``magnitude`` (not negative) with the sign bit of ``sign``."""
    return tl.where(is_negative(sign), magnitude * -1.0, magnitude)  # in Triton 3.6 -x is 0 - x, which has no -0.0


# ---- logarithms and exponentials -----------------------------------------------------------------------------------

_ATANH_SERIES = tl.constexpr(tuple(1 / (2 * k + 1) for k in range(17, -1, -1)))
_EXPM1_P = tl.constexpr((1.2617719307481059087798e-4, 3.0299440770744196129956e-2, 9.9999999999999999991025e-1))
_EXPM1_Q = tl.constexpr(
    (3.0019850513866445504159e-6, 2.5244834034968410419224e-3, 2.2726554820815502876593e-1, 2.0000000000000000000897e0)
)


@triton.jit
def small_log1p(x):
    """log(1 + x) for -0.5 <= x <= 1, by the series of 2·atanh(x / (2 + x))."""
    s = divide(x, x + 2.0)
    return 2.0 * s * polynomial(s * s, _ATANH_SERIES, 18)


@triton.jit
def log1p_of(x):
    """log(1 + x)."""
    return tl.where((x >= -0.5) & (x <= 1.0), small_log1p(x), tl.log(1.0 + x))


@triton.jit
def expm1_of(x):
    """exp(x) - 1."""
    z = x * x
    p = x * polynomial(z, _EXPM1_P, 3)
    small = divide(2.0 * p, polynomial(z, _EXPM1_Q, 4) - p)
    small = tl.where(x == 0, x, small)
    return tl.where(tl.abs(x) < 0.5, small, tl.exp(x) - 1.0)


@triton.jit
def _exp2(x):
    return tl.exp2(x)


@triton.jit
def _expm1(x):
    return expm1_of(x)


@triton.jit
def _log2(x):
    return tl.log2(x)


@triton.jit
def _log10(x):
    return tl.log(x) * 0.43429448190325182


@triton.jit
def _log1p(x):
    return tl.where(x == 0, x, log1p_of(x))


@triton.jit
def _logaddexp(x, other):
    greater = tl.where((x > other) | (x != x), x, other)
    distance = tl.abs(x - other)
    return tl.where(x == other, x + 0.69314718055994531, greater + small_log1p(tl.exp(-distance)))


@triton.jit
def _logaddexp2(x, other):
    greater = tl.where((x > other) | (x != x), x, other)
    distance = tl.abs(x - other)
    return tl.where(x == other, x + 1.0, greater + small_log1p(tl.exp2(-distance)) * 1.4426950408889634)


@triton.jit
def _xlogy(x, other):
    return tl.where(other != other, other, tl.where(x == 0, 0.0, x * tl.log(other)))


exp2 = Pointwise("exp2", _exp2, FLOAT)
expm1 = Pointwise("expm1", _expm1, FLOAT, flops=16)
log2 = Pointwise("log2", _log2, FLOAT)
log10 = Pointwise("log10", _log10, FLOAT, flops=2)
log1p = Pointwise("log1p", _log1p, FLOAT, flops=40)
logaddexp = Pointwise("logaddexp", _logaddexp, FLOAT, flops=42)
logaddexp2 = Pointwise("logaddexp2", _logaddexp2, FLOAT, flops=43)
xlogy = Pointwise("xlogy", _xlogy, FLOAT, flops=2)

# ---- trigonometry --------------------------------------------------------------------------------------------------

_ATAN_P = tl.constexpr(
    (
        -8.750608600031904122785e-1,
        -1.615753718733365076637e1,
        -7.500855792314704667340e1,
        -1.228866684490136173410e2,
        -6.485021904942025371773e1,
    )
)
_ATAN_Q = tl.constexpr(
    (
        1.0,
        2.485846490142306297962e1,
        1.650270098316988542046e2,
        4.328810604912902668951e2,
        4.853903996359136964868e2,
        1.945506571482613964425e2,
    )
)


@triton.jit
def arctangent(x):
    """atan(x): by quarters of π to |x| <= 0.66, there a rational function of x²."""
    a = tl.abs(x)
    far = a > 2.414213562373095
    middle = a > 0.66
    z = tl.where(far, -inverse(a), tl.where(middle, divide(a - 1.0, a + 1.0), a))
    quarters = tl.where(far, 2.0, tl.where(middle, 1.0, 0.0)).to(x.dtype)
    w = z * z
    rest = z + z * (w * divide(polynomial(w, _ATAN_P, 5), polynomial(w, _ATAN_Q, 6)))
    rest = rest + quarters * 3.0616169978683829e-17  # what float64 leaves of π/4
    return with_sign(rest + quarters * 0.78539816339744831, x)


@triton.jit
def _tan(x):
    return divide(tl.sin(x), tl.cos(x))


@triton.jit
def _asin(x):
    return arctangent(divide(x, square_root((1.0 - x) * (1.0 + x))))


@triton.jit
def _acos(x):
    return 2.0 * arctangent(square_root(divide(1.0 - x, 1.0 + x)))


@triton.jit
def _atan(x):
    return arctangent(x)


@triton.jit
def _atan2(x, other):
    # the angle of the point (other, x): from the lesser coordinate over the greater, then by octants
    height = tl.abs(x)
    width = tl.abs(other)
    steep = height > width
    lesser = tl.where(steep, width, height)
    greater = tl.where(steep, height, width)
    ratio = tl.where(lesser == greater, tl.where(greater == 0, 0.0, 1.0).to(x.dtype), divide(lesser, greater))
    angle = arctangent(ratio)
    angle = tl.where(steep, 1.5707963267948966 - angle, angle)
    angle = tl.where(is_negative(other), 3.1415926535897931 - angle, angle)
    return tl.where((x != x) | (other != other), float("nan"), with_sign(angle, x))


@triton.jit
def _sinc(x):
    angle = x * 3.1415926535897931
    return tl.where(x == 0, 1.0, divide(tl.sin(angle), angle))


@triton.jit
def _hypot(x, other):
    a = tl.abs(x)
    b = tl.abs(other)
    greater = tl.where((a > b) | (a != a), a, b)
    lesser = tl.where((a > b) | (a != a), b, a)
    ratio = divide(lesser, greater)
    length = tl.where(greater == 0, greater, greater * square_root(1.0 + ratio * ratio))
    return tl.where((a == float("inf")) | (b == float("inf")), float("inf"), length)


tan = Pointwise("tan", _tan, FLOAT, flops=3)
asin = Pointwise("asin", _asin, FLOAT, flops=32)
acos = Pointwise("acos", _acos, FLOAT, flops=33)
atan = Pointwise("atan", _atan, FLOAT, flops=27)
atan2 = Pointwise("atan2", _atan2, FLOAT, flops=32)
sinc = Pointwise("sinc", _sinc, FLOAT, flops=3)
hypot = Pointwise("hypot", _hypot, FLOAT, flops=5)

# ---- hyperbolic functions ------------------------------------------------------------------------------------------


@triton.jit
def _sinh(x):
    a = tl.abs(x)
    e = expm1_of(a)
    half = tl.exp(0.5 * a)  # its square would overflow too early
    small = 0.5 * (e + divide(e, e + 1.0))
    return with_sign(tl.where(a < 1.0, small, 0.5 * half * half - 0.5 * inverse(half * half)), x)


@triton.jit
def _cosh(x):
    half = tl.exp(0.5 * tl.abs(x))
    return 0.5 * half * half + 0.5 * inverse(half * half)


@triton.jit
def _asinh(x):
    a = tl.abs(x)
    z = a * a
    near = log1p_of(a + divide(z, 1.0 + square_root(z + 1.0)))
    return with_sign(tl.where(a > 268435456.0, tl.log(a) + 0.69314718055994531, near), x)


@triton.jit
def _acosh(x):
    t = x - 1.0
    near = log1p_of(t + square_root(t * (t + 2.0)))
    return tl.where(x > 268435456.0, tl.log(x) + 0.69314718055994531, near)


@triton.jit
def _atanh(x):
    a = tl.abs(x)
    return with_sign(0.5 * log1p_of(divide(2.0 * a, 1.0 - a)), x)


sinh = Pointwise("sinh", _sinh, FLOAT, flops=26)
cosh = Pointwise("cosh", _cosh, FLOAT, flops=6)
asinh = Pointwise("asinh", _asinh, FLOAT, flops=48)
acosh = Pointwise("acosh", _acosh, FLOAT, flops=46)
atanh = Pointwise("atanh", _atanh, FLOAT, flops=44)

# ---- the error function --------------------------------------------------------------------------------------------

_ERFC_FIT = tl.constexpr(
    (
        6.9815526023123162255e-11,
        7.3175882675968682656e-10,
        -2.8519374969276517822e-9,
        -2.9866231968520681757e-9,
        2.4669651574190728227e-8,
        -2.0757735748006719282e-8,
        -9.1019593220063906905e-8,
        2.4409938743391382158e-7,
        2.5137976392224731566e-8,
        -1.1253539829844965039e-6,
        1.5573858393592501866e-6,
        2.5888988439409620727e-6,
        -9.9489485862699964278e-6,
        1.9984032080044712464e-6,
        3.8017808012915815316e-5,
        -5.1209647509324276378e-5,
        -9.9576754634302321939e-5,
        3.0827892445010622517e-4,
        1.3326775524083895780e-4,
        -1.4316031434087019837e-3,
        4.3779950099818543394e-4,
        6.5929036823029047008e-3,
        -5.1890628271450663895e-3,
        -3.9942324416959414340e-2,
        3.2864859357459002561e-2,
        6.3309826829401926479e-1,
        -6.2675486601084852910e-1,
    )
)


@triton.jit
def _erfc_of_positive(x):
    # erfc(x) = t·exp(-x² + fit), t = 2/(2 + x); x² in two parts, since exp amplifies its rounding
    t = 2.0 / (2.0 + x)
    high = x.to(tl.float32).to(tl.float64)
    low = (x - high) * (x + high)
    tail = t * tl.exp(polynomial((15.0 * t - 8.0) * 0.14285714285714285, _ERFC_FIT, 27) - low) * tl.exp(-high * high)
    return tl.where(x > 28.0, 0.0, tail)


@triton.jit
def complementary_error(x):
    """erfc of a float64."""
    tail = _erfc_of_positive(tl.abs(x))
    result = tl.where(x < 0, 2.0 - tail, tail)
    return tl.where(tl.abs(x) < 0.5, 1.0 - tl.erf(x), result)


@triton.jit
def _erf(x):
    return tl.erf(x)


@triton.jit
def _erfc(x):
    return complementary_error(x.to(tl.float64)).to(x.dtype)


_ERFINV_CENTRE = tl.constexpr(
    (
        2.81022636e-08,
        3.43273939e-07,
        -3.5233877e-06,
        -4.39150654e-06,
        0.00021858087,
        -0.00125372503,
        -0.00417768164,
        0.246640727,
        1.50140941,
    )
)
_ERFINV_TAIL = tl.constexpr(
    (
        -0.000200214257,
        0.000100950558,
        0.00134934322,
        -0.00367342844,
        0.00573950773,
        -0.0076224613,
        0.00943887047,
        1.00167406,
        2.83297682,
    )
)


@triton.jit
def _erfinv(x):
    # a single-precision start, then two of Halley's steps on erfc in the tails, on erf in the centre
    a = tl.abs(x.to(tl.float64))
    w = -tl.log((1.0 - a) * (1.0 + a))
    centre = polynomial(w - 2.5, _ERFINV_CENTRE, 9)
    y = a * tl.where(w < 5.0, centre, polynomial(tl.sqrt(w) - 3.0, _ERFINV_TAIL, 9))
    for _ in tl.static_range(2):
        excess = tl.where(a < 0.5, tl.erf(y) - a, (1.0 - a) - _erfc_of_positive(y))
        step = excess * 0.88622692545275801 * tl.exp(y * y)
        y = y - step / (1.0 + y * step)
    y = tl.where(a < 1.0, y, tl.where(a == 1.0, float("inf"), float("nan")))
    return with_sign(y.to(x.dtype), x)


erf = Pointwise("erf", _erf, FLOAT, flops=20)
erfc = Pointwise("erfc", _erfc, FLOAT, flops=66)
erfinv = Pointwise("erfinv", _erfinv, FLOAT, flops=200)

# ---- gamma functions -----------------------------------------------------------------------------------------------

_LGAMMA_FIT = tl.constexpr(
    (
        1.5818126337371086e-9,
        -3.0588517405592796e-9,
        -4.3588624090725151e-9,
        7.6328036749813888e-9,
        1.6327287432845005e-8,
        -2.9924693270498902e-8,
        5.6887379538575793e-9,
        -1.8782633004145103e-8,
        1.0444285443279689e-7,
        -2.1198058876068515e-7,
        3.95720794275161e-7,
        -8.4153143799540772e-7,
        1.8114769634727658e-6,
        -3.8517455893072979e-6,
        8.2212050921554237e-6,
        -1.7660513220920708e-5,
        3.8169083283134497e-5,
        -8.3095327798444881e-5,
        1.8255261441838105e-4,
        -4.0570737581328183e-4,
        9.1537692412389519e-4,
        -2.108130835268435e-3,
        4.9986411646232827e-3,
        -1.2384192193334375e-2,
        3.2965000621156977e-2,
        -1.0031730167435423e-1,
        4.2278433509846714e-1,
    )
)
_STIRLING = tl.constexpr((1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12))
_DIGAMMA_SERIES = tl.constexpr((-1 / 12, 691 / 32760, -1 / 132, 1 / 240, -1 / 252, 1 / 120, -1 / 12))


@triton.jit
def _sine_of_pi(x):
    """sin(πx) up to its sign, for x >= 0: exactly 0 at whole numbers."""
    return tl.sin(3.1415926535897931 * (x - tl.floor(x + 0.5)))


@triton.jit
def _lgamma_of_positive(x):
    t = tl.where(x < 1.0, x + 1.0, x)
    product = tl.where(x < 1.0, x, x * 0.0 + 1.0)
    for _ in tl.static_range(5):  # from below 8 down to below 3
        reduce = (t >= 3.0) & (x < 8.0)
        t = tl.where(reduce, t - 1.0, t)
        product = tl.where(reduce, product * t, product)
    t = t - 2.0
    fitted = t * (t + 1.0) * polynomial(t, _LGAMMA_FIT, 27)
    fitted = tl.where(x < 1.0, fitted - tl.log(product), fitted + tl.log(product))
    over = 1.0 / x
    far = (x - 0.5) * (tl.log(x) - 1.0) + 0.41893853320467274 + over * polynomial(over * over, _STIRLING, 7)
    return tl.where(x < 8.0, fitted, far)


@triton.jit
def _lgamma(x):
    wide = x.to(tl.float64)
    a = tl.abs(wide)
    result = _lgamma_of_positive(a)
    reflected = 1.1447298858494002 - tl.log(a * tl.abs(_sine_of_pi(a))) - result
    result = tl.where(wide < 0, reflected, result)
    result = tl.where((wide == 0) | (a == float("inf")), float("inf"), result)
    return result.to(x.dtype)


@triton.jit
def _digamma_of_positive(x):
    total = tl.zeros_like(x)
    for _ in tl.static_range(8):
        near = x < 8.0
        total = tl.where(near, total - 1.0 / x, total)
        x = tl.where(near, x + 1.0, x)
    over = 1.0 / (x * x)
    far = tl.where(x == float("inf"), x, tl.log(x) - 0.5 / x + over * polynomial(over, _DIGAMMA_SERIES, 7))
    return total + far


@triton.jit
def _digamma(x):
    wide = x.to(tl.float64)
    below = wide < 0.5
    result = _digamma_of_positive(tl.where(below, 1.0 - wide, wide))
    angle = 3.1415926535897931 * (wide - tl.floor(wide + 0.5))
    result = tl.where(below, result - 3.1415926535897931 * tl.cos(angle) / tl.sin(angle), result)
    result = tl.where((wide < 0) & (tl.floor(wide) == wide), float("nan"), result)
    result = tl.where(wide == 0, tl.where(is_negative(wide), float("inf"), float("-inf")), result)
    return result.to(x.dtype)


_BERNOULLI = tl.constexpr(
    (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600)
)


@triton.jit
def _hurwitz_zeta(s, q):
    """Σ (q + k)^-s for q > 0 and s >= 2, by Euler and Maclaurin from q + 12 on."""
    total = tl.zeros_like(q)
    for _ in tl.static_range(12):
        total += tl.exp(-s * tl.log(q))
        q = q + 1.0
    power = tl.exp(-s * tl.log(q))
    total += power * (q / (s - 1.0) + 0.5)
    factor = s * power / q
    rising = s
    for k in tl.static_range(7):
        total += factor * _BERNOULLI[k]
        factor = factor * (rising + 1.0) * (rising + 2.0) / (q * q)
        rising = rising + 2.0
    return total


@triton.jit
def _polygamma(x, order, factor):
    # factor: (-1)^(n+1)·n!; the first order is reflected to reach negative numbers
    q = x.to(tl.float64)
    order = order.to(tl.float64)
    reflects = (q < 0.5) & (order == 1.0)
    sine = tl.sin(3.1415926535897931 * (q - tl.floor(q + 0.5)))
    reflection = 3.1415926535897931 / sine
    zeta = _hurwitz_zeta(order + 1.0, tl.where(reflects, 1.0 - q, q))
    result = factor.to(tl.float64) * zeta
    result = tl.where(reflects, reflection * reflection - result, result)
    result = tl.where((q < 0) & (order > 1.0), float("nan"), result)
    result = tl.where(q == 0, factor.to(tl.float64) * float("inf"), result)
    return tl.where(q == float("inf"), 0.0, result).to(x.dtype)


lgamma = Pointwise("lgamma", _lgamma, FLOAT, flops=130)
digamma = Pointwise("digamma", _digamma, FLOAT, flops=90)
polygamma_of_order = Pointwise("polygamma", _polygamma, FLOAT, flops=200)


def polygamma(n: int, x: Buffer, *, out: Buffer | None = None) -> Buffer:
    """The n-th derivative of digamma, n >= 0. Of a negative number above order 1 it is NaN.

    Raises:
        RuntimeError: if ``n`` is negative.
    """
    if n < 0:
        raise RuntimeError(f"polygamma(n, x) does not support negative n, got n={n}")
    if n == 0:
        return digamma(x, out=out)
    factor: Scalar = 1.0 if n % 2 else -1.0
    for k in range(2, n + 1):
        factor *= k
    return polygamma_of_order(x, float(n), factor, out=out)


def logit(x: Buffer, eps: float | None = None, *, out: Buffer | None = None) -> Buffer:
    """log(x / (1 - x)), ``x`` first held between ``eps`` and 1 - ``eps`` where that is given."""
    return logit_within(x, -1.0 if eps is None else eps, out=out)


@triton.jit
def _logit(x, eps):
    held = tl.where(x < eps, eps, tl.where(x > 1.0 - eps, 1.0 - eps, x))
    x = tl.where(eps < 0, x, held)
    return tl.log(divide(x, 1.0 - x))


logit_within = Pointwise("logit", _logit, FLOAT, flops=3)
