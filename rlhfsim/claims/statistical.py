"""Statements about data: rates in the sample size, and events of small probability.

A rate is checked by the slope of `log value` against `log n`, a probability by a count of
violations or by an exact sum over datasets.  Neither verdict is a bare "holds": each states what
was measured, its interval, and the range of sizes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.claims.checking import CheckResult
from rlhfsim.claims.slopes import fit_slope
from rlhfsim.randomness import generator_for

# A slope known no better than this cannot tell n^-1/2 from n^-1 or from a constant.
_WIDEST = 0.25
_ROUNDING = 1e-12


Measure = Callable[[float, np.random.Generator], float]


@dataclass(frozen=True)
class RateClaim:
    """`value(n) ~ n^exponent`: the exponent is fitted and compared, from both sides.

    Parameters
    ----------
    name, formula, source : str
    exponent : float
        Of the variable.
    measure : function `(n, rng) -> value`
        Positive; called `replications` times for each size, each time with its own generator.
    sizes : tuple of numbers
        At least 3, positive, increasing.
    variable : str
        What the sizes are: "n", or "ln n" for rates in the logarithm.
    replications : int
        1 for values that are exact.
    floor, ceiling : functions of the size, optional
        Bounds on the mean value that must hold at every size: the constant of the rate.
    tolerance : float
        Deviation of the exponent that terms of lower order may cause on these sizes.
    confidence : float
        Of the interval.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.
    """

    name: str
    formula: str
    source: str
    exponent: float
    measure: Measure
    sizes: tuple[float, ...]
    variable: str = "n"
    replications: int = 1
    floor: Callable[[float], float] | None = None
    ceiling: Callable[[float], float] | None = None
    tolerance: float = 0.05
    confidence: float = 0.99
    kind: Literal["rate"] = "rate"

    def __post_init__(self) -> None:
        """Validate."""
        sizes = checks.as_positive("sizes", self.sizes)
        if sizes.ndim != 1 or sizes.size < 3 or not (np.diff(sizes) > 0).all():
            raise ValueError(f"sizes is {self.sizes!r:.80}; it must be 3 or more increasing sizes")
        checks.whole_number("replications", self.replications, least=1)
        checks.positive_number("tolerance", self.tolerance, zero=True)
        _probability("confidence", self.confidence)

    def check(self, instances: int = 0, seed: int = 0) -> CheckResult:
        """Return the fitted exponent against the claimed one.

        The claim is confirmed where the claimed exponent is inside the interval widened by
        `tolerance`, and every bound holds; an interval too wide to tell exponents 1/2 apart
        confirms nothing.

        Parameters
        ----------
        instances : int
            Ignored: the sizes and replications are those of the claim.
        seed : int

        Raises
        ------
        ValueError
            If a measured value is not positive and finite.
        """
        start = time.perf_counter()
        sizes = np.asarray(self.sizes, dtype=np.float64)
        values = self.values(seed)
        slope = fit_slope(sizes, values, self.confidence)
        allowed = slope.half_width + self.tolerance
        off = abs(slope.value - self.exponent) / max(allowed, _ROUNDING)
        used = self._bounds_used(values.mean(axis=0))
        if allowed > _WIDEST:
            outcome = "undecided: the interval is too wide"
        elif off > 1.0:
            outcome = "VIOLATED: another exponent"
        elif used > 1.0 + _ROUNDING:
            outcome = "VIOLATED: a bound fails"
        else:
            outcome = "holds"
        span = f"{self.variable} = {_short(sizes[0])}..{_short(sizes[-1])}"
        verdict = (
            f"slope {slope.value:.4f} [{slope.low:.4f}, {slope.high:.4f}] for {span}, "
            f"claimed {self.exponent:g}: {outcome}"
        )
        scaled = values.mean(axis=0) * sizes**-self.exponent
        variable = f"({self.variable})" if " " in self.variable else self.variable
        details = (
            f"value x {variable}^({-self.exponent:g}) from {scaled.min():.4g} to {scaled.max():.4g}"
        )
        if self.floor is not None or self.ceiling is not None:
            details += f", at most {used:.4g} of its bounds"
        return CheckResult(
            claim=self.name, source=self.source, kind=self.kind, formula=self.formula,
            instances=values.size, worst=max(off, used), verdict=verdict,
            passed=outcome == "holds", details=details, measured=slope.value,
            seconds=time.perf_counter() - start,
        )  # fmt: skip

    def values(self, seed: int = 0) -> FloatArray:
        """Return the (replications, sizes) measured values; raises as `check`."""
        values = np.array(
            [
                [
                    self.measure(n, generator_for("check", f"{self.name}/{n!r}/{k}", seed))
                    for n in self.sizes
                ]
                for k in range(self.replications)
            ],
            dtype=np.float64,
        )
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            k, i = (int(axis[0]) for axis in np.nonzero(bad))
            raise ValueError(
                f"measure({self.sizes[i]!r}) is {values[k, i].item()!r} for claim "
                f"{self.name!r}; it must be positive and finite"
            )
        return values

    def _bounds_used(self, means: FloatArray) -> float:
        """Return the largest of `value/ceiling` and `floor/value`; 0 without bounds."""
        used = [0.0]
        if self.ceiling is not None:
            used += [v / self.ceiling(n) for n, v in zip(self.sizes, means.tolist(), strict=True)]
        if self.floor is not None:
            used += [self.floor(n) / v for n, v in zip(self.sizes, means.tolist(), strict=True)]
        return max(used)


@dataclass(frozen=True)
class ProbabilityClaim:
    """`P(event) <= delta` (or `>= delta`), by counting datasets or by an exact sum over them.

    Parameters
    ----------
    name, formula, source : str
    delta : float in (0, 1)
    violations : function `(replications, rng) -> count`, optional
        How many of so many independent datasets are in the event.
    exact : function `() -> probability`, optional
        Exactly one of the two is given.
    replications : int
        Datasets that are counted.
    bound : "at most" or "at least"
    confidence : float
        Of the Clopper-Pearson interval.
    with_constant : function `factor -> claim`, optional
        The same claim with the bound inside the event multiplied.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.
    """

    name: str
    formula: str
    source: str
    delta: float
    violations: Callable[[int, np.random.Generator], int] | None = None
    exact: Callable[[], float] | None = None
    replications: int = 2000
    bound: Literal["at most", "at least"] = "at most"
    confidence: float = 0.999
    with_constant: Callable[[float], ProbabilityClaim] | None = None
    kind: Literal["high_probability"] = "high_probability"

    def __post_init__(self) -> None:
        """Validate."""
        _probability("delta", self.delta)
        _probability("confidence", self.confidence)
        checks.whole_number("replications", self.replications, least=1)
        if (self.violations is None) == (self.exact is None):
            raise ValueError("violations and exact: exactly one of them must be given")
        if self.bound not in ("at most", "at least"):
            raise ValueError(f"bound is {self.bound!r:.80}; it must be 'at most' or 'at least'")

    def check(self, instances: int = 0, seed: int = 0) -> CheckResult:
        """Return the measured probability against `delta`.

        Confirmed where the whole interval is on the claimed side, violated where it is on the
        other, undecided between.

        Parameters
        ----------
        instances : int
            Ignored: the number of datasets is that of the claim.
        seed : int

        Raises
        ------
        ValueError
            If the claim counts more violations than datasets, or has no probability.
        """
        start = time.perf_counter()
        if self.exact is not None:
            share = low = high = _exact(self.name, self.exact())
            runs, measured = 1, f"probability {share:.4g} (exact)"
        else:
            runs = self.replications
            count = self._count(seed)
            interval = binomtest(count, runs).proportion_ci(self.confidence, method="exact")
            share, low, high = count / runs, float(interval.low), float(interval.high)
            measured = f"{count} of {runs} = {share:.4g} [{low:.4g}, {high:.4g}]"
        most = self.bound == "at most"
        slack = self.delta * _ROUNDING
        if (high <= self.delta + slack) if most else (low >= self.delta - slack):
            outcome = "holds"
        elif (low > self.delta) if most else (high < self.delta):
            outcome = "VIOLATED"
        else:
            outcome = "undecided"
        worst = _share(high, self.delta) if most else _share(self.delta, low)
        return CheckResult(
            claim=self.name, source=self.source, kind=self.kind, formula=self.formula,
            instances=runs, worst=worst,
            verdict=f"{measured}, claimed {self.bound} {self.delta:.4g}: {outcome}",
            passed=outcome == "holds", details=f"{share / self.delta:.4g} of delta",
            measured=share, seconds=time.perf_counter() - start,
        )  # fmt: skip

    def _count(self, seed: int) -> int:
        if self.violations is None:
            raise ValueError("violations is None; an exact claim counts nothing")
        rng = generator_for("check", self.name, seed)
        found = self.violations(self.replications, rng)
        count = checks.whole_number("violations(...)", found, least=0)
        if count > self.replications:
            raise ValueError(
                f"violations({self.replications}, rng) is {count} for claim {self.name!r}; "
                "it must be a number of datasets"
            )
        return count


def _share(smaller: float, larger: float) -> float:
    return smaller / larger if larger > 0 else math.inf


def _exact(name: str, value: float) -> float:
    if not -_ROUNDING <= value <= 1.0 + _ROUNDING:
        raise ValueError(f"exact() is {value!r} for claim {name!r}; it must be a probability")
    return float(value)


def _probability(name: str, value: float) -> None:
    if not 0 < checks.positive_number(name, value) < 1:
        raise ValueError(f"{name} is {value!r}; it must be in (0, 1)")


def _short(size: float) -> str:
    power = round(math.log10(size))
    return f"10^{power}" if math.isclose(10.0**power, size) and power >= 3 else f"{size:g}"
