"""Device functions shared by the kernels for short and for long rows.

Element functions work on any broadcastable shapes, so that a short row's tile `(rows, responses)`
and a long row's tile `(responses,)` share them; row functions work on one number per row.

Scores are formed in float64, relative to a reward of the row, whatever the dtype of the arrays:
subtraction and scaling are cheap, and all that the score of a float32 problem can lose is lost
there.  Exponentials and logarithms are taken in the dtype of the arrays.
"""

# Device code: what it is compiled for is given at launch, and no type says it.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2 = tl.constexpr(0.6931471805599453)
#: Binary exponents are clipped to this: sums of two still fit int32.
FAR = tl.constexpr(1e9)
#: Added and taken away, it rounds a float64 to a whole number, left in its low bits.
ROUNDER = tl.constexpr(6755399441055744.0)


# ---- exponentials and logarithms -----------------------------------------------------------------


@triton.jit
def power_of_two(n, DTYPE: tl.constexpr):
    """Return `2^n` for int32 n, clipped to the normal range of DTYPE."""
    if DTYPE.primitive_bitwidth == 32:
        bits = (tl.minimum(tl.maximum(n, -126), 127) + 127) << 23
        return bits.to(tl.float32, bitcast=True)
    else:  # noqa: RET505 - the branch must not be compiled for float32
        bits = (tl.minimum(tl.maximum(n, -1022), 1023) + 1023).to(tl.int64) << 52
        return bits.to(tl.float64, bitcast=True)


@triton.jit
def exponent_of(x, DTYPE: tl.constexpr):
    """Return `floor(log2 x)` of normal numbers `x > 0` as an int32, at least it of subnormals."""
    if DTYPE.primitive_bitwidth == 32:
        return (x.to(tl.int32, bitcast=True) >> 23) - 127
    else:  # noqa: RET505 - the branch must not be compiled for float32
        return ((x.to(tl.int64, bitcast=True) >> 52) - 1023).to(tl.int32)


@triton.jit
def split_exp2(t, DTYPE: tl.constexpr):
    """Return `(m, n)`, `2^t = m 2^n`, for float64 t below FAR: m in DTYPE, n an int32.

    The fraction of t is taken in float64, so m carries no error from the size of t.
    """
    t = tl.maximum(t, -FAR)
    shifted = t + ROUNDER
    n = shifted.to(tl.int64, bitcast=True).to(tl.int32)
    return tl.exp2((t - (shifted - ROUNDER)).to(DTYPE)), n


@triton.jit
def times_power_of_two(x, n, DTYPE: tl.constexpr):
    """Return `x 2^n`; in halves, because `2^n` may overflow where it does not.

    Exact but for one rounding where the result is subnormal.
    """
    half = n >> 1
    return x * power_of_two(half, DTYPE) * power_of_two(n - half, DTYPE)


@triton.jit
def tail_series(x, DTYPE: tl.constexpr):
    """Return `(e^x - 1 - x) / x^2` for `|x| <= 1/2`, by its Taylor series."""
    y = x * 0.0 + (1.0 / 40320.0)
    if DTYPE.primitive_bitwidth == 64:
        y = x * (1.0 / 1307674368000.0) + (1.0 / 87178291200.0)
        y = y * x + (1.0 / 6227020800.0)
        y = y * x + (1.0 / 479001600.0)
        y = y * x + (1.0 / 39916800.0)
        y = y * x + (1.0 / 3628800.0)
        y = y * x + (1.0 / 362880.0)
        y = y * x + (1.0 / 40320.0)
    y = y * x + (1.0 / 5040.0)
    y = y * x + (1.0 / 720.0)
    y = y * x + (1.0 / 120.0)
    y = y * x + (1.0 / 24.0)
    y = y * x + (1.0 / 6.0)
    return y * x + 0.5


@triton.jit
def log_ratio(w, score):
    """Return `log w`, or the score it should equal where w left the floats."""
    inside = (w > 0) & (w < float("inf"))
    return tl.where(inside, tl.log(tl.where(inside, w, 1.0)), score.to(w.dtype))


@triton.jit
def kl_generator(w, log_w, DTYPE: tl.constexpr):
    """Return `w log w - w + 1`, near 1 as `w (e^x - 1 - x)` at `x = -log w`: no cancellation."""
    near = tl.abs(log_w) < 0.5
    x = tl.where(near, -log_w, 0.0)
    far = tl.where(w > 0, w * log_w, 0.0) - (w - 1.0)
    return tl.where(near, w * x * x * tail_series(x, DTYPE), far)


# ---- the ratio of the mixed divergence -----------------------------------------------------------


@triton.jit
def omega_change(omega, residual):
    """Return the relative step that solves `omega + log omega = z` to fourth order.

    `residual = z - omega - log omega`.  Source: Fritsch, Shafer and Crowley (1973), CACM
    algorithm 443.
    """
    slope = 1.0 + omega
    twice = 2.0 * slope * (slope + (2.0 / 3.0) * residual)
    return residual * (twice - residual) / (slope * (twice - 2.0 * residual))


@triton.jit
def omega_single(z):
    """Return Wright's omega of float64 z, in float32, to a few ulp, and `e^z` as `(m, n)`.

    Start: rational in `e^z` where z < 0, within 0.02 %, and `z - log(z + a) (z + b)/(z + c)`
    elsewhere, within 0.4 % (minimax fits); then one step of fourth order, its residual formed
    from `e^z` where omega is small and `log omega` would be large.
    """
    m, n = split_exp2(tl.minimum(z, 60.0) * LOG2_E, tl.float32)
    e = tl.where(n < -126, 0.0, m * power_of_two(n, tl.float32))
    high = z.to(tl.float32)
    low = (z - high.to(tl.float64)).to(tl.float32)
    small = high < 0.0
    over = tl.where(small, e + 0.90414227 * e * e, high - 0.997669)
    under = tl.where(small, 1.0 + e * (1.89787794 + 0.45998097 * e), high + 6.11596377)
    quotient = over / under
    start = tl.where(small, quotient, high - tl.log(32.748597 + tl.abs(high)) * quotient)
    # Below -18, where omega is e^z, to keep the discarded branch finite.
    start = tl.maximum(start, 1e-9)
    logarithm = tl.log(tl.where(small, tl.maximum(e, 1e-9) / start, start))
    residual = tl.where(small, logarithm - start, (high - start - logarithm) + low)
    omega = start + start * omega_change(start, residual)
    return tl.where(high < -18.0, e, omega), m, n


@triton.jit
def mixed_ratio(q, curvature, PRECISE: tl.constexpr):
    """Return the w that solves `log w + curvature (w - 1) = q`, in float64 if PRECISE else float32.

    `curvature w` is the Wright omega of `q + curvature + log curvature`.
    """
    z = q + (curvature + tl.log(curvature))
    omega, m, n = omega_single(z)
    if PRECISE:
        # e^z has left float32 long before the ratio leaves float64.
        tiny = m.to(tl.float64) * power_of_two(n, tl.float64)
        w = tl.where(n < -40, tiny, omega.to(tl.float64)) / curvature
        # In terms of w, not of omega, so that log(curvature) rounds nothing.
        residual = (q - curvature * (w - 1.0)) - tl.log(w)
        w += w * omega_change(curvature * w, residual)
        return tl.where(n < -1000, 0.0, w)
    else:  # noqa: RET505 - the branches differ in type
        return omega * (1.0 / curvature).to(tl.float32)


@triton.jit
def mixed_terms(p, w, curvature, DTYPE: tl.constexpr):
    """Return `p w`, minus its derivative in the multiplier, and its second derivative."""
    omega = w * curvature.to(DTYPE)
    i = 1.0 / (1.0 + omega)
    mass = p * w
    first = mass * i
    return mass, first, first * i * i


@triton.jit
def corrected_ratio(w, correction, curvature):
    """Return w after a small correction of the multiplier."""
    return w + w * omega_change(w * curvature.to(w.dtype), (-correction).to(w.dtype))


@triton.jit
def threshold_ratio(r, p, anchor, reach, inverse):
    """Return `(active, w, r - anchor)`, `w = (r - anchor + reach)_+ inverse`; 0 where p is 0."""
    d = tl.where(p > 0, r.to(tl.float64) - anchor.to(tl.float64), 0.0)
    above = d + reach
    active = (p > 0) & (above > 0)
    return active, tl.where(active, above.to(p.dtype) * inverse, 0.0), d


@triton.jit
def mixed_step(mass, first, second, at, low, high, tolerance):
    """Return `(next multiplier, correction, low, high, done)` of each row.

    `mass` is `H(at) = sum_y p w`, the others its derivatives up to sign; `[low, high]` holds the
    root of `H = 1`.  Near the root the correction solves the second-order Taylor expansion, up to
    its cube, and when it is below `tolerance` the row is done: it is then for the ratios, where no
    spacing of the multiplier rounds it.  Far away: Halley's step on `log H` (exact for exponential
    ratios, nearly so for affine ones), else Newton's, else the middle.
    """
    excess = mass - 1.0
    low = tl.where(excess >= 0, tl.maximum(low, at), low)
    high = tl.where(excess < 0, tl.minimum(high, at), high)
    inverse = 1.0 / first
    newton = excess * inverse
    taylor = newton
    for _ in tl.static_range(3):
        taylor = newton + taylor * taylor * (0.5 * second * inverse)
    near = tl.abs(newton) < 0.1
    # Far away float32 is enough for the logarithm.
    logarithm = tl.log(tl.maximum(mass, 1e-30).to(tl.float32)).to(tl.float64)
    bend = 2.0 * first * first - logarithm * (second * mass - first * first)
    halley = tl.where(bend > 0, 2.0 * logarithm * first * mass / bend, newton)
    trial = at + tl.where(near, taylor, halley)
    plain = at + newton
    middle = low + 0.5 * (high - low)
    trial = tl.where((trial > low) & (trial < high), trial, plain)
    trial = tl.where((trial > low) & (trial < high), trial, middle)
    stuck = (trial <= low) | (trial >= high) | (trial == at)
    done = (near & (tl.abs(taylor) <= tolerance)) | stuck
    return trial, tl.where(near, taylor, 0.0), low, high, done


# ---- certificate ---------------------------------------------------------------------------------


@triton.jit
def kl_terms(p, pi, score, DTYPE: tl.constexpr):
    """Return `(p f(w), p [f(w) + f*(s) - w s])` of KL, `w = pi/p`, for float64 scores."""
    w = pi / tl.where(p > 0, p, 1.0)
    log_w = log_ratio(w, score)
    rho = score.to(DTYPE) - log_w
    return p * kl_generator(w, log_w, DTYPE), pi * rho * rho


@triton.jit
def chi_squared_terms(p, pi, ratio):
    """Return the same of chi-squared; `ratio = (1 + s)_+`."""
    w = pi / tl.where(p > 0, p, 1.0)
    rho = tl.where(pi > 0, w - ratio, 0.0)
    return 0.5 * (pi - p) * (w - 1.0), p * rho * rho


@triton.jit
def mixed_certificate_terms(p, pi, score, curvature, DTYPE: tl.constexpr):
    """Return the same of `KL + curvature D_chi2`."""
    c = curvature.to(DTYPE)
    w = pi / tl.where(p > 0, p, 1.0)
    log_score = score - curvature * (w.to(tl.float64) - 1.0)
    log_w = log_ratio(w, log_score)
    rho = log_score.to(DTYPE) - log_w
    cost = p * kl_generator(w, log_w, DTYPE) + (0.5 * c) * (w - 1.0) * (pi - p)
    return cost, pi * rho * rho / (1.0 + c * w)


@triton.jit
def certificate(mass, gain, cost, missed, multiplier, anchor, beta, curvature, rounding):
    """Return `(multiplier, value, gap, feasibility, tolerance)` of each row, in reward units.

    For any policy `pi = p w` and any multiplier, with `s = (r - multiplier)/beta`,

        dual - primal = multiplier (1 - sum pi) + beta sum_y p [f(w) + f*(s) - w s],

    rewards and multiplier relative to the anchor.  No bracket is negative; the kernels compute
    twice its second-order value `(s - f'(w))^2 / f''(w)`, which bounds it while `s` and `f'(w)`
    are near each other and is large where they are not.

    `gain = sum pi (r - anchor)`, `cost = sum p f(w)`, `missed = sum p [...]`,
    `curvature = f''(1)`, `rounding` the relative error of a sum of the row.
    """
    penalty = beta * cost
    gap = multiplier * (1.0 - mass) + beta * missed
    scale = 3.0 * (tl.abs(gain) + tl.abs(multiplier)) + 2.0 * penalty
    tolerance = rounding * (scale + beta * curvature * rounding) + 2.3e-308
    return anchor + multiplier, anchor + (gain - penalty), gap, tl.abs(mass - 1.0), tolerance


@triton.jit
def store_certificate(fields, row, count, multiplier, value, gap, feasibility, tolerance):
    """Store the five numbers of each row in the `(5, count)` array `fields`."""
    tl.store(fields + row, multiplier)
    tl.store(fields + count + row, value)
    tl.store(fields + 2 * count + row, gap)
    tl.store(fields + 3 * count + row, feasibility)
    tl.store(fields + 4 * count + row, tolerance)
