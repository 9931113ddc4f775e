r"""Compiled logistic maximum likelihood in d dimensions, warm-started.

Minimises `sum_i won_i log(1 + e^-m_i) + lost_i log(1 + e^m_i) + (ridge/2) ||theta - centre||^2`,
`m_i = <theta, d_i>`, by Newton's method with the damped step of `rewards.logistic`.  Differences
are stored by column, `(d, n)`, so that loops run over comparisons.

The iteration ends where every entry of the gradient is within `SLOPE` of the sum of the sizes of
its terms: the estimate is its own certificate.
"""

from __future__ import annotations

import math

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.kernels.elementary import exp

#: Largest gradient, as a share of the sizes of its terms.
SLOPE = 1e-11

_MOST_STEPS = 400


@SUMS
def dot(a: FloatArray, b: FloatArray) -> float:
    """Return `<a, b>`."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@SUMS
def _weighted_size(weights: FloatArray, x: FloatArray) -> float:
    total = 0.0
    for i in range(weights.size):
        total += weights[i] * abs(x[i])
    return total


@EXACT
def fill(out: FloatArray, value: float) -> None:
    """Set every entry; slices that are assigned to take seconds to compile."""
    for i in range(out.size):
        out[i] = value


@EXACT
def copy(source: FloatArray, out: FloatArray) -> None:
    """Copy one row."""
    for i in range(out.size):
        out[i] = source[i]


@EXACT
def copy_rows(source: FloatArray, out: FloatArray) -> None:
    """Copy a matrix."""
    for x in range(out.shape[0]):
        copy(source[x], out[x])


@EXACT
def combine(rows: FloatArray, weights: FloatArray, out: FloatArray) -> None:
    """Set `out` to `sum_k weights_k rows_k`."""
    fill(out, 0.0)
    for k in range(weights.size):
        weight, row = weights[k], rows[k]
        for i in range(out.size):
            out[i] += weight * row[i]


@EXACT
def _residuals(
    margin: FloatArray, won: FloatArray, lost: FloatArray, net: FloatArray, weight: FloatArray
) -> None:
    """Set the slope and the curvature of each comparison's loss in its margin."""
    for i in range(margin.size):
        m = margin[i]
        e = exp(-abs(m))
        near = 1.0 / (1.0 + e)
        far = e * near
        above = near if m >= 0.0 else far
        below = far if m >= 0.0 else near
        net[i] = lost[i] * above - won[i] * below
        weight[i] = (won[i] + lost[i]) * near * far


@EXACT
def _hessian(
    rows: FloatArray, weight: FloatArray, ridge: float, product: FloatArray, out: FloatArray
) -> None:
    """Set the lower triangle of `sum_i weight_i d_i d_i' + ridge I`, over the weighted rows."""
    for k in range(rows.shape[0]):
        row = rows[k]
        for i in range(weight.size):
            product[i] = weight[i] * row[i]
        for j in range(k + 1):
            out[k, j] = dot(product, rows[j])
        out[k, k] += ridge


@EXACT
def factorise(matrix: FloatArray, out: FloatArray) -> bool:
    """Set the lower triangular L with `L L' = matrix`; return whether it is positive definite."""
    for k in range(matrix.shape[0]):
        for j in range(k + 1):
            rest = matrix[k, j]
            for i in range(j):
                rest -= out[k, i] * out[j, i]
            if j < k:
                out[k, j] = rest / out[j, j]
            elif not rest > 0.0:
                return False
            else:
                out[k, k] = math.sqrt(rest)
    return True


@EXACT
def solve_lower(factor: FloatArray, x: FloatArray) -> None:
    """Replace x by `L^-1 x`."""
    for k in range(x.size):
        rest = x[k]
        for j in range(k):
            rest -= factor[k, j] * x[j]
        x[k] = rest / factor[k, k]


@EXACT
def solve_upper(factor: FloatArray, x: FloatArray) -> None:
    """Replace x by `L'^-1 x`."""
    for back in range(x.size):
        k = x.size - 1 - back
        rest = x[k]
        for j in range(k + 1, x.size):
            rest -= factor[j, k] * x[j]
        x[k] = rest / factor[k, k]


@EXACT
def maximise_likelihood(
    rows: FloatArray, won: FloatArray, lost: FloatArray, ridge: float, centre: FloatArray,
    theta: FloatArray, curvature: bool, numbers: FloatArray, vectors: FloatArray,
    matrices: FloatArray,
) -> float:  # fmt: skip
    """Move theta, the start, to the estimate; return its largest gradient, or -1 without one.

    The gradient as a share of the sizes of its terms, which is at most `SLOPE`.

    With `curvature`, `matrices[1]` then has the Cholesky factor of the Hessian there.

    `rows` is (d, N) and `numbers` (4, N), of which the first n are in use, as many as `won` has;
    `numbers`, `vectors` (3, d) and `matrices` (2, d, d) are workspace.
    """
    n = won.size
    margin, net = numbers[0][:n], numbers[1][:n]
    weight, product = numbers[2][:n], numbers[3][:n]
    gradient, step, size = vectors[0], vectors[1], vectors[2]
    for i in range(won.size):
        product[i] = won[i] + lost[i]
    for k in range(theta.size):
        size[k] = _weighted_size(product, rows[k])
    for _ in range(_MOST_STEPS):
        combine(rows, theta, margin)
        _residuals(margin, won, lost, net, weight)
        worst, flat = 0.0, True
        for k in range(theta.size):
            pull = ridge * (theta[k] - centre[k])
            gradient[k] = dot(net, rows[k]) + pull
            scale = size[k] + ridge * (abs(theta[k]) + abs(centre[k]))
            flat = flat and abs(gradient[k]) <= SLOPE * scale
            worst = max(worst, abs(gradient[k]) / scale) if scale > 0.0 else worst
        if flat and not curvature:
            return worst
        _hessian(rows, weight, ridge, product, matrices[0])
        if not factorise(matrices[0], matrices[1]):
            return -1.0
        if flat:
            return worst
        for k in range(theta.size):
            step[k] = -gradient[k]
        solve_lower(matrices[1], step)
        solve_upper(matrices[1], step)
        combine(rows, step, product)
        reach = 0.0
        for i in range(product.size):
            reach = max(reach, abs(product[i]))
        share = math.log1p(reach) / reach if reach > 1e-8 else 1.0
        for k in range(theta.size):
            theta[k] += share * step[k]
    return -1.0


@EXACT
def theory_radius(
    factor: FloatArray, regularization: float, ridge: float, norm_bound: float, log_level: float,
    theta: FloatArray, margin: float,
) -> float:  # fmt: skip
    """Return the radius of `rewards.confidence.ellipsoid`; `factor` is that of Sigma."""
    log_determinant, norm = 0.0, 0.0
    for k in range(theta.size):
        log_determinant += 2.0 * math.log(factor[k, k]) - math.log(regularization)
        norm += theta[k] * theta[k]
    noise = math.sqrt(0.5 * (0.5 * max(log_determinant, 0.0) + log_level))
    kappa = 1.0 / (2.0 + math.exp(margin) + math.exp(-margin))
    half = (noise + ridge * norm_bound / math.sqrt(regularization)) / (2.0 * kappa)
    left = math.sqrt(max(regularization - ridge / kappa, 0.0))
    return half + math.hypot(half, (math.sqrt(norm) + norm_bound) * left)


@EXACT
def largest_margin(rows: FloatArray, theta: FloatArray, margin: FloatArray) -> float:
    """Return the largest `|<theta, d_i>|`."""
    combine(rows, theta, margin)
    reach = 0.0
    for i in range(margin.size):
        reach = max(reach, abs(margin[i]))
    return reach
