"""The whole chi-squared path, beta from infinity to 0, from one sort.

One prompt, responses from the best, `p = reference`, `P_k = p_0 + ... + p_k`.  Response k has mass
exactly while its *exit* `T_k = sum_{i < k} p_i (r_i - r_k)` is below beta.  With K the last that
has, `w_i = (1 - T_K/beta)/P_K + (r_i - r_K)/beta` for i <= K: the policy is affine in
`tau = 1/beta` between the breakpoints `1/T_k`.

For any function g of the response let `gbar_k` be its mean under p over the responses 0..k and
`a_k = (p_k/P_k) (g_k - gbar_{k-1})`, `q_k = p_k/(P_k P_{k-1})`.  Then, over k >= 1,

    E_pi[g]      = E_p[g] - sum_k a_k min(tau T_k, 1)
    D_chi2(pi||p) = 1/2 sum_k q_k min(tau T_k, 1)^2

because one more active response k adds `p_k P_{k-1}/P_k (r_k - rbar_{k-1}) (g_k - gbar_{k-1})` to
the co-moment of r and g (West, 1979) and `P_{k-1} (rbar_{k-1} - r_k) = T_k`.  Every sum over
prompts, too, is a sum of such hinges; no difference of large numbers is taken.

Source: derived; the active set from stationarity, arXiv 2407.13399.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import ChiSquared
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.frozen import Frozen
from rlhfsim.solvers.path.function import PathFunction, over_beta, split_sums
from rlhfsim.solvers.path.sums import running_sum
from rlhfsim.solvers.solution import Solution, require_certified, rounding

Number = TypeVar("Number", np.float64, np.int64)

# Masses are counted in units of 2^-500 and rewards in units of about their range, so that neither
# masses of 1e-300 nor rewards of 1e300 under- or overflow in products.
_MASS_BITS = 500
#: Gold rewards that span more within a prompt would overflow in products.
LARGEST_RANGE = 1e150


def chi_squared_path(reward_hat: ArrayLike, reference: ArrayLike) -> ChiSquaredPath:
    """Return the optima of `E_pi[r^] - beta D_chi2(pi || p)` for every beta at once.

    Parameters
    ----------
    reward_hat : (..., Y) array
        Finite rewards; entries where `reference` is 0 do not matter.
    reference : (..., Y) array of distributions
        The sampling policy `p`; responses of mass 0 get mass 0.

    Returns
    -------
    ChiSquaredPath
        In `O(Y log Y)` per prompt; indexed by prompt.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; rewards of a prompt that span more than the
        largest float.

    Source: derived (the module's docstring).

    Examples
    --------
    >>> path = chi_squared_path([1.0, 0.0], [0.5, 0.5])
    >>> path.breakpoints
    array([2.])
    >>> path.policy(1.0)
    array([0.75, 0.25])
    """
    r = checks.as_real("reward_hat", reward_hat)
    p = checks.as_distributions("reference", reference)
    shape = checks.same_responses(reward_hat=r, reference=p)
    r = np.ascontiguousarray(np.broadcast_to(r, shape))
    p = np.ascontiguousarray(np.broadcast_to(p, shape))
    inside = p > 0
    order = np.argsort(np.where(inside, -r, np.inf), axis=-1, kind="stable")
    ranked = np.take_along_axis(r, order, axis=-1)
    chances = np.take_along_axis(p, order, axis=-1)
    bits = _range_bits(ranked, chances)
    lifted = np.ldexp(chances, _MASS_BITS)
    mass = running_sum(lifted)
    with np.errstate(over="ignore"):
        gaps = np.ldexp(ranked[..., :-1] - ranked[..., 1:], -bits)
    steps = np.where(chances[..., 1:] > 0, mass[..., :-1] * gaps, np.inf)
    start = np.zeros((*shape[:-1], 1))
    exits = np.concatenate([start, running_sum(steps)], axis=-1) if steps.size else start
    outside = running_sum(lifted[..., ::-1])[..., ::-1]
    outside = np.concatenate([outside[..., 1:], np.zeros((*shape[:-1], 1))], axis=-1)
    return ChiSquaredPath(
        reward=r,
        reference=p,
        order=order,
        exits=np.where(chances > 0, exits, np.inf),
        mass=mass,
        outside=outside,
        exponent=_MASS_BITS - bits,
    )


def _range_bits(ranked: FloatArray, chances: FloatArray) -> int:
    """Return the power of 2 just above the largest range of rewards within a prompt."""
    worst = np.where(chances > 0, ranked, np.inf).min(axis=-1)
    with np.errstate(over="ignore"):
        spread = np.asarray(ranked[..., 0] - worst)
    if not np.all(np.isfinite(spread)):
        where = [int(i[0]) for i in np.nonzero(~np.isfinite(spread))] if spread.ndim else ""
        raise ValueError(
            f"reward_hat{where} spans more than the largest float; "
            "the range of rewards within a prompt must be finite"
        )
    return int(np.frexp(spread.max())[1])


@dataclass(frozen=True, eq=False)
class ChiSquaredPath(Frozen):
    """All chi-squared-regularized optima of one prompt, or of a batch of prompts.

    Built by `chi_squared_path`; `path[x]` is the path of prompt x.  Beta may be any number from 0
    (the limit: p conditioned on the best responses) to `inf` (p itself) where a policy or an
    expectation is asked for.
    """

    #: (..., Y) learned reward r^.
    reward: FloatArray
    #: (..., Y) sampling policy p.
    reference: FloatArray
    #: (..., Y) responses from the best to the worst, those of mass 0 last.
    order: IntArray
    #: (..., Y) `2^exponent T_k` of `order[k]`, rising: 0 for the best, `inf` for mass 0.
    exits: FloatArray
    #: (..., Y) `2^500 P_k`, the reference mass of `order[:k + 1]`.
    mass: FloatArray
    #: (..., Y) `2^500` times the reference mass of `order[k + 1:]`.
    outside: FloatArray
    #: See `exits`.
    exponent: int

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        for name in ("reward", "reference", "order", "exits", "mass", "outside"):
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))

    def __getitem__(self, prompt: int | slice | tuple[int | slice, ...]) -> ChiSquaredPath:
        """Return the path of some prompts, by any index into the prompt axes."""
        index = prompt if isinstance(prompt, tuple) else (prompt,)
        if len(index) > self.reward.ndim - 1:
            raise IndexError(f"{len(index)} indices for {self.reward.ndim - 1} prompt axes")
        return ChiSquaredPath(
            reward=self.reward[index],
            reference=self.reference[index],
            order=self.order[index],
            exits=self.exits[index],
            mass=self.mass[index],
            outside=self.outside[index],
            exponent=self.exponent,
        )

    # ---- the path itself --------------------------------------------------------------------

    @property
    def betas(self) -> FloatArray:
        """(B,) decreasing beta at which some response of some prompt loses its last mass."""
        exits = np.unique(self.exits[(self.exits > 0) & (self.exits < np.inf)])
        with np.errstate(under="ignore"):
            return np.ldexp(exits, -self.exponent)[::-1]

    @property
    def breakpoints(self) -> FloatArray:
        """(B,) increasing `tau = 1/beta` of `betas`, ties merged; `inf` beyond the floats."""
        with np.errstate(over="ignore", divide="ignore"):
            return 1.0 / self.betas

    def active_size(self, beta: ArrayLike) -> IntArray:
        """Return how many responses have mass: the active set is `order[:active_size]`.

        `beta` broadcasts against the prompt axes, as in `rlhfsim.solve`; so does the result.
        """
        b = checks.as_non_negative("beta", beta, infinite=True)
        checks.broadcast(reward_hat=self.reward[..., 0], beta=b)
        with np.errstate(over="ignore", under="ignore"):
            scaled = np.ldexp(b, self.exponent)[..., None]
        # At beta = 0 the best stay, whose exits are 0; at inf those of mass 0 are out.
        staying = (self.exits < scaled) | (self.exits == 0)
        return np.asarray(staying.sum(axis=-1))

    def policy(self, beta: ArrayLike) -> FloatArray:
        """Return the optimal policy; shapes as in `rlhfsim.solve`, beta from 0 to `inf`."""
        return self._policy(checks.as_non_negative("beta", beta, infinite=True))[0]

    def multiplier(self, beta: ArrayLike) -> FloatArray:
        """Return lambda of `pi/p = max(0, 1 + (r - lambda)/beta)`, for positive finite beta."""
        b = checks.as_positive("beta", beta)
        _, worst, relative = self._policy(b)
        return np.asarray(worst + relative)[()]

    def solution(self, beta: ArrayLike) -> Solution[FloatArray]:
        """Return what `rlhfsim.solve(reward, reference, ChiSquared(), beta)` returns.

        The duality gap is the sum of `p (f(w) + f*(s) - s w) >= 0`, `s = (r - lambda)/beta`, and
        of `lambda (1 - sum pi)`, lambda relative to the worst active reward.

        Raises
        ------
        ValueError
            For a beta that is not positive and finite.
        SolverError
            The duality gap or the feasibility exceeds what rounding explains.
        """
        b = checks.as_positive("beta", beta)
        policy, worst, relative = self._policy(b)
        inside = self.reference > 0
        p = np.where(inside, self.reference, 1.0)
        d = np.where(inside, self.reward - worst[..., None], 0.0)
        with np.errstate(over="ignore", under="ignore"):
            score = (d - relative[..., None]) / b[..., None]
            ratio = policy / p
            loose = 0.5 * (ratio - np.maximum(1.0 + score, 0.0)) ** 2
            loose = loose + ratio * np.maximum(-1.0 - score, 0.0)
            loose = np.where(inside, p * loose, 0.0).sum(axis=-1)
        total = policy.sum(axis=-1)
        cost = np.where(inside, ChiSquared().perspective(policy, p), 0.0).sum(axis=-1)
        profit = (policy * d).sum(axis=-1)
        unit = rounding(policy.shape[-1])
        scale = np.abs(relative) + (policy * np.abs(d)).sum(axis=-1) + b * (cost + unit)
        return require_certified(
            Solution(
                policy=policy,
                multiplier=np.asarray(worst + relative)[()],
                value=np.asarray(worst + (profit - b * cost))[()],
                gap=np.asarray(relative * (1.0 - total) + b * loose)[()],
                feasibility=np.abs(total - 1.0)[()],
                tolerance=np.asarray(unit * scale + np.finfo(np.float64).tiny)[()],
            )
        )

    def _policy(self, b: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the policy, the worst active reward, and lambda relative to it."""
        last = self.active_size(b)[..., None] - 1

        def at_last(array: FloatArray) -> FloatArray:
            full = np.broadcast_to(array, (*last.shape[:-1], array.shape[-1]))
            return np.take_along_axis(full, last, axis=-1)

        worst = at_last(np.take_along_axis(self.reward, self.order, axis=-1))
        mass, outside = at_last(self.mass), at_last(self.outside)
        column = b[..., None]
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            # A part of beta, at most 1; 0/0 at beta = 0 means that only the best are left.
            spent = over_beta(at_last(self.exits), column, self.exponent)
            above = np.where(self.reference > 0, self.reward - worst, -1.0)
            tilt = np.where(above > 0, above / column, 0.0)
            base = (np.maximum(1.0 - spent, 0.0) / mass) * np.ldexp(self.reference, _MASS_BITS)
            policy = np.where(above >= 0, base + self.reference * tilt, 0.0)
            missing = np.ldexp(outside, -_MASS_BITS) + self._shortage()[..., None]
            # (T_K - beta (1 - P_K)) / P_K
            relative = column * (np.ldexp(spent - missing, _MASS_BITS) / mass)
        return policy, worst[..., 0], relative[..., 0]

    def _shortage(self) -> FloatArray:
        """Return `1 - sum_y p`, which is 0 to the tolerance of a distribution."""
        return 1.0 - np.ldexp(self.mass[..., -1], -_MASS_BITS)

    # ---- expectations along the path --------------------------------------------------------

    def value(self, reward: ArrayLike, prompt_dist: ArrayLike | None = None) -> PathFunction:
        """Return `J(tau) = E_{x ~ rho, y ~ pi_tau}[g]`, piecewise affine in `tau = 1/beta`.

        Parameters
        ----------
        reward : (X, Y) array, or (Y,) for a single prompt
            Any function g of prompt and response, such as the gold reward; entries where the
            reference is 0 do not matter.
        prompt_dist : (X,) array
            `rho`; may be left out where there is a single prompt.

        Returns
        -------
        PathFunction
            On the merged breakpoints of all prompts of positive weight, with `start` the value of
            the reference.

        Raises
        ------
        ValueError
            Bad input; more than one leading axis (index the path first).

        Source: derived (the module's docstring).
        """
        g = checks.as_real("reward", reward)
        checks.same_responses(reward=g, reference=self.reference)
        rho, rows = self._weighted_rows(prompt_dist)
        g = np.broadcast_to(g, self.reference.shape).reshape(-1, g.shape[-1])[rows]
        g = np.take_along_axis(g, self._rows(self.order, rows), axis=-1)
        exits, mass = self._rows(self.exits, rows), self._rows(self.mass, rows)
        chances = self._sorted_masses(rows)
        best = g[..., :1]
        with np.errstate(over="ignore"):
            relative = np.where(chances > 0, g - best, 0.0)
        if not np.abs(relative).max() <= LARGEST_RANGE:
            raise ValueError(
                f"reward spans more than {LARGEST_RANGE:g} within a prompt; "
                "products with it would overflow"
            )
        with np.errstate(under="ignore"):
            mean = running_sum(chances * relative) / mass
            share = chances[..., 1:] / mass[..., 1:]
            jumps = rho[:, None] * share * (relative[..., 1:] - mean[..., :-1])
        moving = (exits[..., 1:] > 0) & (exits[..., 1:] < np.inf)
        t, a = exits[..., 1:][moving], jumps[moving]
        with np.errstate(under="ignore"):
            betas, constant, slope = split_sums(t, -a, -a * t)
        spread = np.abs(relative).max(axis=-1) + np.abs(mean[..., -1])
        weight = 2.0 + share.sum(axis=-1)
        start = (rho * (best[..., 0] + mean[..., -1])).sum()
        return PathFunction(
            self._unscaled(betas),
            constant,
            slope,
            np.zeros_like(slope),
            float(start),
            float(8.0 * np.finfo(np.float64).eps * (rho * spread * weight).sum()),
            self.exponent,
        )

    def divergence(self, prompt_dist: ArrayLike | None = None) -> PathFunction:
        """Return `D_chi2(pi_tau || p)`, averaged over prompts, piecewise quadratic in `tau`.

        Parameters and errors as for `value`.  `1 + 2 D` is the concentrability `C^pi`.
        """
        rho, rows = self._weighted_rows(prompt_dist)
        exits, mass = self._rows(self.exits, rows), self._rows(self.mass, rows)
        t, before = exits[..., 1:], mass[..., :-1]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            share = self._sorted_masses(rows)[..., 1:] / mass[..., 1:]
            half = 0.5 * rho[:, None] * share
            cost = np.ldexp(half / before, _MASS_BITS)
            bend = np.ldexp(half * (t / before) * t, _MASS_BITS)
        moving = (t > 0) & (t < np.inf)
        # Of tied best responses all but one have an exit of 0: they cost nothing to keep.
        betas, constant, curvature = split_sums(t[moving], cost[moving], bend[moving])
        shortage = self._shortage().reshape(-1)[rows]
        start = 0.5 * (rho * shortage**2 / (1.0 - shortage)).sum()
        return PathFunction(
            self._unscaled(betas),
            constant,
            np.zeros_like(curvature),
            curvature,
            float(start),
            0.0,
            self.exponent,
        )

    def _weighted_rows(self, prompt_dist: ArrayLike | None) -> tuple[FloatArray, IntArray]:
        """Return the positive prompt weights and the rows that they belong to."""
        if self.reference.ndim > 2:
            raise ValueError(
                f"the path has prompt axes {self.reference.shape[:-1]}; "
                "index it down to (X, Y) before taking expectations"
            )
        count = 1 if self.reference.ndim == 1 else self.reference.shape[0]
        average_over_prompts(np.zeros(count), prompt_dist)  # the check of shapes
        rho = np.ones(1) if prompt_dist is None else np.asarray(prompt_dist, dtype=np.float64)
        rows = np.flatnonzero(rho > 0)
        return rho[rows], rows

    def _rows(self, array: NDArray[Number], rows: IntArray) -> NDArray[Number]:
        return array.reshape(-1, array.shape[-1])[rows]

    def _sorted_masses(self, rows: IntArray) -> FloatArray:
        p = np.take_along_axis(self._rows(self.reference, rows), self._rows(self.order, rows), -1)
        return np.ldexp(p, _MASS_BITS)

    def _unscaled(self, betas: FloatArray) -> FloatArray:
        with np.errstate(under="ignore"):
            return np.ldexp(betas, -self.exponent)
