"""Reward problems and independent routes to their answers, for the tests of reward fits."""

import itertools
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from rlhfsim.data import PreferenceData
from rlhfsim.rewards.compiled import launch


def from_wins(*tables, responses=None):
    """Return data in which prompt x repeats `(i beats j)` `tables[x][i][j]` times."""
    wins = np.stack([np.asarray(table, dtype=np.int64) for table in tables])
    prompt, chosen, rejected = np.repeat(np.nonzero(wins), wins[np.nonzero(wins)], axis=1)
    return PreferenceData(prompt, chosen, rejected, (len(tables), responses or len(tables[0])))


def random_wins(rng, size, mean):
    return rng.poisson(mean, (size, size)) * (1 - np.eye(size, dtype=np.int64))


def negative_log_likelihood(wins, r):
    """Return the loss and its gradient, straight from the definition."""
    margin = r[:, None] - r[None, :]
    lost = wins * expit(-margin)
    return (wins * np.logaddexp(0.0, -margin)).sum(), lost.sum(axis=0) - lost.sum(axis=1)


def declined(monkeypatch):
    """Let the compiled kernels vouch for nothing, so that the general route fits everything."""

    def declining(right):
        def declines(*arguments):
            fits = right(*arguments)
            return replace(fits, certified=np.zeros_like(fits.certified))

        return declines

    for name in ("fit_tables", "fit_boxed_tables"):
        monkeypatch.setattr(launch, name, declining(getattr(launch, name)))


def boxed_by_scipy(wins, r_max):
    size = len(wins)
    return minimize(
        lambda r: negative_log_likelihood(wins, r),
        np.full(size, r_max / 2),
        jac=True,
        bounds=[(0, r_max)] * size,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    ).x


def assert_exact(wins, r, r_max=None, ridge=0.0, atol=1e-10):
    """Solve the stationarity equations in high precision and check every multiplier's sign."""
    size, box = len(wins), (0.0, r_max)
    free = [i for i in range(size) if r_max is None or r[i] not in box]

    def gradient(values, i):
        total = ridge * values[i]
        for j in range(size):
            gap = mpmath.exp(values[i] - values[j])
            total += int(wins[j][i]) * gap / (1 + gap) - int(wins[i][j]) / (1 + gap)
        return total

    with mpmath.workdps(400):
        exact = [mpmath.mpf(float(v)) for v in r]
        for _ in range(40):
            if not free:
                break
            h = mpmath.mpf(10) ** -150
            slope = mpmath.matrix([gradient(exact, i) for i in free])
            hessian = mpmath.matrix(len(free))
            for b, j in enumerate(free):
                moved = [v + h if k == j else v for k, v in enumerate(exact)]
                for a, i in enumerate(free):
                    hessian[a, b] = (gradient(moved, i) - slope[a]) / h
            step = mpmath.lu_solve(hessian, -slope)
            for a, i in enumerate(free):
                exact[i] += step[a]
            if max(abs(s) for s in step) < mpmath.mpf(10) ** -100:
                break
        else:
            pytest.fail("the high-precision reference did not converge from the fit")
        np.testing.assert_allclose(r, [float(v) for v in exact], rtol=0, atol=atol)
        for i in set(range(size)) - set(free):
            sign = 1 if r[i] == 0.0 else -1
            assert sign * gradient(exact, i) >= 0, f"response {i} is held on the wrong bound"


def exists_by_brute_force(wins):
    """Return whether every split of the compared responses is crossed both ways (Ford 1957)."""
    played = [i for i in range(len(wins)) if wins[i].any() or wins[:, i].any()]
    splits = (
        (list(side), [i for i in played if i not in side])
        for k in range(1, len(played))
        for side in itertools.combinations(played, k)
    )
    return bool(played) and all(
        wins[np.ix_(a, b)].any() and wins[np.ix_(b, a)].any() for a, b in splits
    )
