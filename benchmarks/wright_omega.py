"""Errors of the Wright omega function, in ulp against mpmath, over the whole real line.

Prints a Markdown table and writes it to `benchmarks/wright_omega.md`.  An ulp is the spacing of the
floats at the exact value, subnormal ones included; points are random in each interval, with a fixed
seed, together with its ends, the places where a formula changes, and one float either side of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
from scipy.special import wrightomega

from rlhfsim.files import write_text
from rlhfsim.special import wright_omega

TABLE = Path(__file__).with_suffix(".md")
POINTS = 4000
DIGITS = 50

#: Where scipy's formula or ours changes: its regions, the underflow of e^z, our two sides, the end
#: of the correction.
SWITCHES = (
    -745.1332191019412, -744.4400719213812, -708.3964185322641, -50.0, -2.0, 0.0, 1.0, 1.0 + np.pi,
    2.0**53, 1e20,
)  # fmt: skip

#: (first, last, whether points are spread over decades)
INTERVALS = (
    (-1.7e308, -1e3, True),
    (-1e3, -745.14, False),
    (-745.14, -708.4, False),
    (-708.4, -50.0, False),
    (-50.0, -20.0, False),
    (-20.0, -5.0, False),
    (-5.0, -2.0, False),
    (-2.0, -1.0, False),
    (-1.0, -1e-3, False),
    (-1e-3, -5e-324, True),
    (5e-324, 1e-3, True),
    (1e-3, 1.0, False),
    (1.0, 1.0 + np.pi, False),
    (1.0 + np.pi, 20.0, False),
    (20.0, 1e6, True),
    (1e6, 2.0**53, True),
    (2.0**53, 1e20, True),
    (1e20, 1.7e308, True),
)


def exact_omega(z: float) -> Any:
    """Return the root of `x + log x = z` as an mpmath number, by Newton's method.

    In `y = log x`, for which `e^y + y = z` has no underflow.
    """
    target = mp.mpf(float(z))
    y = target if target < 1 else mp.log(target)
    for _ in range(200):
        e = mp.exp(y)
        step = (target - y - e) / (1 + e)
        y += step
        # The next step is the square of this one.
        if abs(step) <= mp.mpf(10) ** (-DIGITS // 2):
            return mp.exp(y)
    raise ArithmeticError(f"no convergence at {z!r}")


def points(first: float, last: float, decades: bool, rng: np.random.Generator) -> np.ndarray:
    """Return floats of `[first, last]`, both ends and every switch in it among them."""
    if decades:
        sign = -1.0 if last < 0 else 1.0
        ends = np.log10(np.sort(np.abs([first, last])))
        z = sign * 10.0 ** rng.uniform(*ends, POINTS)
    else:
        z = rng.uniform(first, last, POINTS)
    special = np.array([first, last, *(s for s in SWITCHES if first <= s <= last)])
    near = [np.nextafter(special, -np.inf), special, np.nextafter(special, np.inf)]
    z = np.concatenate([z, *near])
    return z[(z >= first) & (z <= last)]


def worst(function: Callable[[np.ndarray], np.ndarray], z: np.ndarray, exact: list[Any]) -> Any:
    """Return the largest error in ulp, and where it is."""
    errors = [
        float(abs(mp.mpf(float(w)) - true) / mp.mpf(float(np.spacing(float(true)))))
        for w, true in zip(function(z), exact, strict=True)
    ]
    k = int(np.argmax(errors))
    return errors[k], float(z[k])


def main() -> None:
    """Measure, print and write the table."""
    rng = np.random.default_rng(0)
    lines = [
        "# Wright omega: largest errors in ulp",
        "",
        "Against mpmath in 50 digits; `python benchmarks/wright_omega.py` makes this table again.",
        "",
        "| from | to | points | `rlhfsim.special` | at | `scipy.special` | at |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with mp.workdps(DIGITS):
        for first, last, decades in INTERVALS:
            z = points(first, last, decades, rng)
            exact = [exact_omega(x) for x in z]
            ours, where = worst(wright_omega, z, exact)
            theirs, elsewhere = worst(wrightomega, z, exact)
            lines.append(
                f"| {first:.6g} | {last:.6g} | {z.size} | {ours:.2f} | {where:.6g} "
                f"| {theirs:.2f} | {elsewhere:.6g} |"
            )
            print(lines[-1], flush=True)
    write_text(TABLE, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
