"""Time Bradley-Terry fits against what people use today: same process, alternating, accuracy first.

Prints Markdown tables and writes them to `benchmarks/rewards.md`.  Times are medians and only their
ratios within one run mean anything.  What is timed is the whole call `fit_reward(data)`: counting,
existence, the estimate, its certificate and the log-likelihood.  Every peer starts from the same
rows as it wants them (built beforehand): the numpy peers from the three columns, scikit-learn from
a sparse matrix of differences, choix from a list of tuples.  None of them tests for existence.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import choix
import numpy as np
from measure import alternate, machine
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from rlhfsim.data import PreferenceData
from rlhfsim.files import write_text
from rlhfsim.rewards import RewardFit, fit_reward, mle_exists
from rlhfsim.threads import get_threads

OUT = Path(__file__).parent / "rewards.md"
#: Largest gradient of the total log-likelihood that counts as solved.
GRADIENT = 1e-8
REPEATS = 15
#: Prompts of the batch on which a loop is timed; its time is scaled up.
SAMPLE = 20
Peers = dict[str, Callable[[], np.ndarray]]


def problem(prompts: int, responses: int, n: int) -> PreferenceData:
    """Return preferences between uniform pairs, of normal rewards; the estimate exists."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        reward = rng.standard_normal((prompts, responses))
        prompt = np.repeat(np.arange(prompts), n // prompts)
        first, second = rng.integers(0, responses, (2, n))
        wins = rng.random(n) < expit(reward[prompt, first] - reward[prompt, second])
        order = rng.permutation(n)
        columns = prompt, np.where(wins, first, second), np.where(wins, second, first)
        data = PreferenceData(*(c[order] for c in columns), (prompts, responses))
        if mle_exists(data).all():
            return data
    raise RuntimeError("no instance with an estimate was found")


def wins_of(data: PreferenceData) -> np.ndarray:
    """Return the (X, Y, Y) numbers of times i beat j."""
    x, y = data.n_prompts, data.n_responses
    key = (data.prompt * y + data.chosen) * y + data.rejected
    wins = np.bincount(key, minlength=x * y * y).reshape(x, y, y).astype(np.float64)
    wins[:, np.arange(y), np.arange(y)] = 0.0
    return wins


def gradient_of(data: PreferenceData, reward: np.ndarray) -> float:
    """Return the largest entry of the gradient of the total log-likelihood, row by row."""
    lost = expit(reward[data.prompt, data.rejected] - reward[data.prompt, data.chosen])
    gradient = np.zeros_like(reward)
    np.add.at(gradient, (data.prompt, data.chosen), lost)
    np.add.at(gradient, (data.prompt, data.rejected), -lost)
    return float(np.abs(gradient).max())


def centred(reward: np.ndarray) -> np.ndarray:
    """Return rewards with mean 0 for each prompt."""
    return reward - reward.mean(axis=-1, keepdims=True)


# ---- peers ---------------------------------------------------------------------------------------


def lapack_newton(data: PreferenceData) -> np.ndarray:
    """Return the estimate of one prompt by Newton's method on the counts, with Cholesky."""
    wins = wins_of(data)[0]
    both, won = wins + wins.T, wins.sum(axis=1)
    r = np.zeros(len(wins))
    for _ in range(50):
        s = expit(r[:, None] - r[None, :])
        gradient = (both * s).sum(axis=1) - won
        if np.abs(gradient).max() <= GRADIENT:
            break
        weight = both * s * (1 - s)
        hessian = np.diag(weight.sum(axis=1)) - weight
        factor = cho_factor(hessian[1:, 1:], overwrite_a=True, check_finite=False)
        r[1:] -= cho_solve(factor, gradient[1:], check_finite=False)
    return centred(r)[None]


def batched_newton(data: PreferenceData) -> np.ndarray:
    """Return the estimates of all prompts by Newton's method on stacked arrays."""
    wins = wins_of(data)
    both, won = wins + wins.transpose(0, 2, 1), wins.sum(axis=2)
    r = np.zeros(won.shape)
    diagonal = np.arange(won.shape[1])
    for _ in range(50):
        s = expit(r[:, :, None] - r[:, None, :])
        gradient = (both * s).sum(axis=2) - won
        if np.abs(gradient).max() <= GRADIENT:
            break
        weight = both * s * (1 - s)
        hessian = -weight
        hessian[:, diagonal, diagonal] += weight.sum(axis=2)
        step = np.linalg.solve(hessian[:, 1:, 1:], gradient[:, 1:, None])[..., 0]
        r[:, 1:] -= step
    return centred(r)


def sklearn_newton_cg(data: PreferenceData) -> Callable[[], np.ndarray]:
    """Return a call of scikit-learn's newton-cg on differences of indicator features."""
    n, sign = len(data), np.where(np.arange(len(data)) % 2 == 0, 1.0, -1.0)
    rows = np.repeat(np.arange(n), 2)
    columns = np.stack((data.chosen, data.rejected), axis=1).reshape(-1)
    values = np.stack((sign, -sign), axis=1).reshape(-1)
    differences = csr_array((values, (rows, columns)), shape=(n, data.n_responses))

    def call() -> np.ndarray:
        model = LogisticRegression(
            C=np.inf, solver="newton-cg", fit_intercept=False, tol=1e-9, max_iter=1000
        )
        with warnings.catch_warnings():
            # Its line search stops before so small a tolerance is met.
            warnings.simplefilter("ignore")
            model.fit(differences, sign > 0)
        return centred(model.coef_)

    return call


def choix_ilsr(data: PreferenceData, prompts: int) -> Callable[[], np.ndarray]:
    """Return a loop of choix over the first prompts."""
    rows = [
        list(zip(data.chosen[at].tolist(), data.rejected[at].tolist(), strict=True))
        for at in (
            np.nonzero((data.prompt == x) & (data.chosen != data.rejected))[0]
            for x in range(prompts)
        )
    ]

    def call() -> np.ndarray:
        return np.stack([centred(choix.ilsr_pairwise(data.n_responses, r)) for r in rows])

    return call


# ---- tables --------------------------------------------------------------------------------------


def asserted(data: PreferenceData, peers: Peers) -> tuple[RewardFit, dict[str, float]]:
    """Return our fit and the peers' gradients, after all have been found to agree."""
    fit = fit_reward(data)
    assert gradient_of(data, fit.reward) <= GRADIENT
    gradients = {}
    for name, peer in peers.items():
        theirs = peer()
        some = slice(0, len(theirs))
        assert np.abs(theirs - fit.reward[some]).max() < 1e-3, name
        whole = fit.reward.copy()
        whole[some] = theirs
        gradients[name] = gradient_of(data, whole)
    return fit, gradients


def line(title: str, data: PreferenceData, peers: Peers, scale: dict[str, float]) -> str:
    """Return one line of the table; the times of some peers are scaled up."""
    fit, gradients = asserted(data, peers)
    seconds = alternate({"ours": lambda: fit_reward(data), **peers}, REPEATS)
    ours = seconds.pop("ours")
    ratios = "; ".join(
        f"{name} {scale.get(name, 1.0) * t / ours:.3g}× (gradient {gradients[name]:.0e})"
        for name, t in seconds.items()
    )
    own = gradient_of(data, fit.reward)
    return f"| {title} | {1e3 * ours:.3g} ms | {own:.0e} | {ratios} |"


def main() -> None:
    """Run everything and write the table."""
    start = time.perf_counter()
    lines = ["| problem | `fit_reward` | gradient | peer's time / ours |", "|---|---|---|---|"]
    for n in (10**5, 10**6):
        data = problem(1, 1000, n)
        peers: Peers = {
            "LAPACK Newton on counts": lambda data=data: lapack_newton(data),
            "scikit-learn newton-cg": sklearn_newton_cg(data),
            "choix.ilsr_pairwise": choix_ilsr(data, 1),
        }
        lines.append(line(f"1 prompt × 1000 responses, n = {n:.0e}", data, peers, {}))
    data = problem(1000, 20, 10**6)
    peers = {
        "batched numpy Newton": lambda: batched_newton(data),
        f"loop over choix.ilsr_pairwise ({SAMPLE} prompts, scaled)": choix_ilsr(data, SAMPLE),
    }
    scale = {name: 1000 / SAMPLE for name in peers if "scaled" in name}
    lines.append(line("1000 prompts × 20 responses × 1000 comparisons", data, peers, scale))
    names = ("numpy", "scipy", "numba", "scikit-learn", "choix")
    note = (
        f"{machine()}; {get_threads()} threads; "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + ". Uniform pairs of normal rewards, rows in random order. The gradient is that of the "
        f"total log-likelihood, its largest entry. Medians of {REPEATS} alternating runs (3 of "
        f"those slower than half a second); {time.perf_counter() - start:.0f} s in all."
    )
    text = "\n".join([*lines, "", note, ""])
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
