"""What a divergence is: four members, and everything that follows from them.

Convention (fixed once, for all divergences): the generator `f` is convex with `f(1) = f'(1) = 0`.
Adding `c (t - 1)` to a generator changes no divergence, so this loses nothing; it makes every term
of `D_f` non-negative and puts the multiplier of every regularized problem in the range of r.
The direction is always (policy, reference); the unit is the nat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.inversion import SMALLEST, invert_decreasing, invert_increasing


class Divergence(ABC):
    """An f-divergence `D_f(policy || reference) = E_x sum_y p f(policy/p)`, `p = reference`.

    A new divergence is one subclass with the four members marked abstract; `f` is strictly convex.
    `perspective` rather than `f` itself is primitive because `p f(pi/p)` can be computed without
    cancellation near `pi = p` and without overflow where `pi/p` is large, and `f` follows from it
    at `p = 1`.  `inverse_link` is worth writing where it has a closed form, for speed; `tail`
    where `recession` is finite and references hold very rare responses.
    `rlhfsim.divergences.require_consistent` checks that the members belong together.
    """

    # Without it, `array * divergence` would be an array of objects, one divergence per entry.
    __array_ufunc__: ClassVar[None] = None

    @property
    @abstractmethod
    def recession(self) -> float:
        """`lim f(t)/t = lim f'(t)` as t grows: the cost of mass where the reference has none."""

    @abstractmethod
    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p f(pi/p)` elementwise, for `reference > 0`; `p f(0)` may be infinite."""

    @abstractmethod
    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return `f'(t)`."""

    @abstractmethod
    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return `f''(t)`."""

    # ---- derived once, for every divergence -------------------------------------------------

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return the t with `f'(t) = s`: 0 where `s <= f'(0+)`, `inf` where `s >= recession`.

        By Newton's method on `link`, unless a class has a closed form.
        """
        return invert_increasing(self.link, self.link_slope, score)

    def tail(self, ratio: ArrayLike) -> FloatArray:
        """Return `recession - f'(t)`, positive and falling, for a finite recession.

        This default has a relative error of `eps recession / tail(t)`, which grows with t (a
        large one ends in a `SolverError`); a class that has a formula should override it.
        """
        return self.recession - self.link(ratio)

    def inverse_tail(self, deficit: ArrayLike) -> FloatArray:
        """Return the t with `f'(t) = recession - u`, for a finite recession and `u > 0`.

        `inverse_link(recession - u)` with the digits of a small u; by Newton's method on `tail`.
        """
        return invert_decreasing(self.tail, self.link_slope, deficit)

    def generator(self, ratio: ArrayLike) -> FloatArray:
        """Return `f(t)`; at t = 0 its limit, which may be infinite."""
        # As arrays: a formula that divides by a plain 0.0 raises in place of giving infinity.
        t = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
            return self.perspective(t, np.asarray(1.0))

    def conjugate(self, score: ArrayLike) -> FloatArray:
        """Return `f*(s) = sup_{t >= 0} s t - f(t)`."""
        return self.conjugate_perspective(score, 1.0)

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p f*(s)` elementwise, for `reference > 0`; `inf` for `s > recession`.

        Evaluated at `t = inverse_link(s)`, plus `(s - f'(t))^2 / f''(t)`, twice what that t would
        cost to second order if it were not quite the maximiser: a poor `inverse_link` then shows
        as a duality gap instead of agreeing with itself.
        """
        s = np.asarray(score, dtype=np.float64)
        t = self.inverse_link(s)
        with np.errstate(all="ignore"):
            return self._attained(t, s, s - self.link(t), reference)

    def conjugate_tail(self, deficit: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p f*(recession - u)` elementwise, for a finite recession."""
        u = np.asarray(deficit, dtype=np.float64)
        t = self.inverse_tail(u)
        with np.errstate(all="ignore"):
            return self._attained(t, self.recession - u, self.tail(t) - u, reference)

    def _attained(
        self, t: FloatArray, s: FloatArray, missed: FloatArray, reference: ArrayLike
    ) -> FloatArray:
        """Return `p (s t - f(t) + missed^2/f''(t))`, `missed = s - f'(t)`."""
        p = np.asarray(reference, dtype=np.float64)
        if not np.isfinite(self.generator(0.0)):
            t = np.maximum(t, SMALLEST)
        with np.errstate(all="ignore"):
            mass = np.where(np.isinf(t), 0.0, p * t)
            # p t may underflow where t does not, and f(0) may be infinite.
            cost = np.where(mass > 0, self.perspective(mass, p), p * self.generator(t))
            extra = p * (missed**2 / self.link_slope(t))
            # At t = 0 (s below f'(0+), or underflow) and beyond the floats there is nothing to add.
            extra = np.where((t > 0) & np.isfinite(extra), extra, 0.0)
            value = np.where(t > 0, s * mass, 0.0) - cost + extra
        return np.where(np.isinf(t), np.inf, value)

    def per_prompt(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `D_f(policy(.|x) || reference(.|x))` for each prompt.

        Parameters
        ----------
        policy, reference : (..., Y) arrays of distributions
            The axes before the last are broadcast against each other.

        Returns
        -------
        (...) array, in nats; `inf` where the policy has mass that the reference lacks and
        `recession` is infinite, or lacks mass that the reference has and `f(0)` is infinite.
        """
        pi = checks.as_distributions("policy", policy)
        p = checks.as_distributions("reference", reference)
        checks.same_responses(policy=pi, reference=p)
        outside = np.where(p > 0, 0.0, pi).sum(axis=-1)
        inside = np.where(p > 0, self.perspective(pi, np.where(p > 0, p, 1.0)), 0.0).sum(axis=-1)
        extra = np.where(outside > 0, self.recession * np.where(outside > 0, outside, 1), 0)
        return np.asarray(inside + extra, dtype=np.float64)

    def __call__(
        self, policy: ArrayLike, reference: ArrayLike, prompt_dist: ArrayLike | None = None
    ) -> FloatArray:
        """Return `D_f(policy || reference) = sum_x rho(x) D_f(policy(.|x) || reference(.|x))`.

        Parameters
        ----------
        policy, reference : (..., X, Y) arrays, or (Y,) for a single prompt
        prompt_dist : (X,) array
            May be left out where there is a single prompt.

        Returns
        -------
        (...) array or number, in nats; `inf` where support fails on a prompt that occurs.
        """
        return average_over_prompts(self.per_prompt(policy, reference), prompt_dist)

    # ---- sums and positive multiples --------------------------------------------------------

    def terms(self) -> tuple[tuple[float, Divergence], ...]:
        """Return the divergence as `((weight, base), ...)`."""
        return ((1.0, self),)

    def __add__(self, other: Divergence) -> Divergence:
        from rlhfsim.divergences.combination import combine

        if not isinstance(other, Divergence):
            return NotImplemented
        return combine(*self.terms(), *other.terms())

    def __mul__(self, weight: float) -> Divergence:
        from rlhfsim.divergences.combination import combine

        if isinstance(weight, np.ndarray) and weight.ndim > 0:
            return NotImplemented
        weight = checks.positive_number("weight", weight)
        return combine(*((weight * w, base) for w, base in self.terms()))

    __rmul__ = __mul__


def average_over_prompts(values: FloatArray, prompt_dist: ArrayLike | None) -> FloatArray:
    """Return `sum_x rho(x) values[..., x]`, a number where no axis is left.

    Prompts of weight 0 do not count, even at `inf`.
    """
    if prompt_dist is None:
        if values.ndim and values.shape[-1] != 1:
            raise ValueError(
                f"prompt_dist is missing; with {values.shape[-1]} prompts it must be given"
            )
        return values[..., 0][()] if values.ndim else values[()]
    rho = checks.as_distributions("prompt_dist", prompt_dist)
    if values.ndim == 0 and rho.shape == (1,):
        return values[()]
    if rho.ndim != 1 or values.shape[-1:] != rho.shape:
        raise ValueError(
            f"prompt_dist has shape {rho.shape}; it must be ({(values.shape or (1,))[-1]},), "
            "one weight per prompt"
        )
    return np.asarray((np.where(rho > 0, values, 0.0) * rho).sum(axis=-1))[()]
