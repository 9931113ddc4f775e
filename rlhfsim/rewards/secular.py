"""Convex quadratics over a ball: the multiplier of a norm bound from the secular equation.

`argmin_z 1/2 z' H z + c' z` subject to `||z||_2 <= B`, with H positive semidefinite, is
`z(lambda) = -(H + lambda I)^{-1} c` for the least `lambda >= 0` with `||z(lambda)|| <= B`.  In the
eigenbasis of H that is one equation in one unknown.  `1/B - 1/||z(lambda)||` is increasing and
concave in lambda, so Newton's method from the left of its root rises to it without passing it.

Source: Conn, Gould and Toint 2000 (Trust Region Methods, section 7.3); More and Sorensen 1983.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray


def ball_multiplier(curvature: FloatArray, slope: FloatArray, radius: float) -> float:
    """Return the least `lambda >= 0` with `||slope / (curvature + lambda)||_2 <= radius`.

    Parameters
    ----------
    curvature : (d,) array
        Eigenvalues of H, not negative.
    slope : (d,) array
        c in the eigenbasis of H.
    radius : float
        Positive.

    Returns
    -------
    float
        In units of the curvature; 0 when the unconstrained minimiser lies in the ball.

    Source: Conn, Gould and Toint 2000, algorithm 7.3.1.
    """
    # The squares below must neither overflow nor vanish.
    scale = max(float(curvature.max()), float(np.abs(slope).max()) / radius)
    if scale == 0.0:
        return 0.0
    h, c = curvature / scale, slope / (scale * radius)
    # Each |c_i| / (h_i + lambda) alone is at most 1, so the root is not below this.
    multiplier = max(0.0, float((np.abs(c) - h).max()))
    while True:
        z = scaled_back(c, h + multiplier)
        norm = float(np.linalg.norm(z))
        if norm <= 1.0:
            return multiplier * scale
        fall = float((z * scaled_back(z, h + multiplier)).sum())
        step = (norm - 1.0) * norm**2 / fall
        if multiplier + step <= multiplier:
            return multiplier * scale
        multiplier += step


def scaled_back(slope: FloatArray, curvature: FloatArray) -> FloatArray:
    """Return `slope / curvature`, and 0 where the slope is 0 (also if the curvature is)."""
    return np.divide(slope, curvature, out=np.zeros_like(slope), where=slope != 0)
