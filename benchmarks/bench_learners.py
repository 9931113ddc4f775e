"""Time global fits of tabular DPO and chiPO against descents on logits: same process, same loss.

Prints a Markdown table and writes it to `benchmarks/learners.md`.  Times are medians and only
their ratios within one run mean anything.  What is timed of ours is the whole call
`DPO(beta).fit(data, reference)`: counting, existence, the estimate, its certificate, the policy and
its divergences.  The peers minimise the same mean loss over the logits of a softmax policy,
from the reference on.  They start from the distinct comparisons with their counts, which are made
beforehand; so they are spared the pass over all rows.  A peer is stopped, by somebody who knows
the answer, at the first step at which its loss is within `GAP` of the minimum, and it need not
prove that: what it would take to know where to stop is not counted.

Adam is tuned: of a grid of learning rates, each constant or with a cosine schedule, the best
is reported.  L-BFGS is scipy's with the same gradient, and torch's with a strong Wolfe search.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measure import alternate, machine
from scipy.optimize import minimize
from scipy.special import expit

from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.files import write_text
from rlhfsim.learners import Learner
from rlhfsim.learners.direct import DPO, ChiPO
from rlhfsim.rewards import mle_exists
from rlhfsim.threads import get_threads

OUT = Path(__file__).parent / "learners.md"
PROMPTS, RESPONSES, ROWS = 100, 50, 50_000
BETA = 0.1
#: Mean loss above the minimum that counts as solved, in nats.
GAP = 1e-8
REPEATS = 15
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = (300, 1000, 3000)
MOST_STEPS = 3000

torch.set_default_dtype(torch.float64)


class Reached(NamedTuple):
    """Where a peer ended."""

    seconds: float
    steps: int
    gap: float


class Solved(Exception):  # noqa: N818
    """Raised where the loss is within the gap, to leave a library's loop."""


def problem() -> tuple[PreferenceData, np.ndarray]:
    """Return preferences between uniform pairs, of normal rewards, and a random reference."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        reward = 0.3 * rng.standard_normal((PROMPTS, RESPONSES))
        prompt = np.repeat(np.arange(PROMPTS), ROWS // PROMPTS)
        first, second = rng.integers(0, RESPONSES, (2, ROWS))
        wins = rng.random(ROWS) < expit(reward[prompt, first] - reward[prompt, second])
        columns = prompt, np.where(wins, first, second), np.where(wins, second, first)
        data = PreferenceData(*columns, (PROMPTS, RESPONSES))
        if mle_exists(data).all():
            return data, rng.dirichlet(np.full(RESPONSES, 2.0), size=PROMPTS)
    raise RuntimeError("no instance with an estimate was found")


class Loss:
    """The mean loss of a softmax policy in torch, over the distinct comparisons."""

    def __init__(self, data: PreferenceData, reference: np.ndarray, mixed: bool) -> None:
        counts = count_pairs(data)
        self.up = torch.from_numpy(counts.prompt * RESPONSES + counts.winner)
        self.down = torch.from_numpy(counts.prompt * RESPONSES + counts.loser)
        self.weight = torch.from_numpy(counts.count / counts.total)
        self.tied = counts.equal_pairs / counts.total * math.log(2.0)
        self.start = torch.from_numpy(np.log(reference))
        self.mixed = mixed

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        u = (torch.log_softmax(logits, 1) - self.start).reshape(-1)
        score = u.exp() + u if self.mixed else u
        h = BETA * (score[self.up] - score[self.down])
        return (self.weight * torch.nn.functional.softplus(-h)).sum() + self.tied


def choose_threads(loss: Loss) -> int:
    """Let torch run on one thread if that is faster for this loss, and return how many it has."""

    def pass_over() -> None:
        logits = loss.start.clone().requires_grad_()
        loss(logits).backward()

    seconds = {}
    for threads in {1, get_threads()}:
        torch.set_num_threads(threads)
        seconds[threads] = alternate({"pass": pass_over}, REPEATS)["pass"]
    torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))
    return torch.get_num_threads()


# ---- peers ---------------------------------------------------------------------------------------


def adam(loss: Loss, target: float, rate: float, steps: int | None) -> Reached:
    """Return where Adam gets, with a constant rate or a cosine schedule over so many steps."""
    logits = loss.start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    most = MOST_STEPS if steps is None else steps
    best, start = math.inf, time.perf_counter()
    for step in range(most):
        if steps is not None:
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        value = loss(logits)
        best = min(best, value.item() - target)
        if best <= GAP:
            return Reached(time.perf_counter() - start, step, best)
        value.backward()
        optimizer.step()
    return Reached(time.perf_counter() - start, most, best)


def torch_lbfgs(loss: Loss, target: float) -> Reached:
    """Return where torch's L-BFGS gets."""
    logits = loss.start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=MOST_STEPS,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    return _closed(loss, target, logits, lambda closure: optimizer.step(closure))


def _closed(
    loss: Loss,
    target: float,
    logits: torch.Tensor,
    run: Callable[[Callable[[], torch.Tensor]], object],
) -> Reached:
    """Return where a loop over a closure gets."""
    best, calls = math.inf, 0

    def closure() -> torch.Tensor:
        nonlocal best, calls
        logits.grad = None
        value = loss(logits)
        best, calls = min(best, value.item() - target), calls + 1
        if best <= GAP:
            raise Solved
        value.backward()
        return value

    start = time.perf_counter()
    with contextlib.suppress(Solved):
        run(closure)
    return Reached(time.perf_counter() - start, calls, best)


def scipy_lbfgs(loss: Loss, target: float) -> Reached:
    """Return where scipy's L-BFGS gets."""
    logits = loss.start.clone().requires_grad_()

    def run(closure: Callable[[], torch.Tensor]) -> object:
        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            with torch.no_grad():
                logits.copy_(torch.from_numpy(flat.reshape(logits.shape)))
            value = closure().item()
            assert logits.grad is not None
            return value, logits.grad.numpy().reshape(-1).copy()

        options = {
            "maxiter": MOST_STEPS, "maxfun": MOST_STEPS, "maxcor": 20, "ftol": 0.0, "gtol": 0.0,
        }  # fmt: skip
        start = loss.start.numpy().reshape(-1)
        return minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)

    return _closed(loss, target, logits, run)


def tuned_adam(loss: Loss, target: float) -> tuple[str, Callable[[], Reached]]:
    """Return the fastest setting of Adam that solves the problem, and a call of it.

    Cosine schedules are tried from the shortest on, up to the shortest that solves.
    """
    runs: dict[tuple[float, int | None], Reached] = {}
    for rate in RATES:
        runs[rate, None] = adam(loss, target, rate, None)
    for steps in STEPS:
        for rate in RATES:
            runs[rate, steps] = adam(loss, target, rate, steps)
        if any(runs[rate, steps].gap <= GAP for rate in RATES):
            break
    solved = {key: run for key, run in runs.items() if run.gap <= GAP}
    if solved:
        rate, steps = min(solved, key=lambda key: solved[key].steps)
    else:
        rate, steps = min(runs, key=lambda key: runs[key].gap)
    schedule = "constant" if steps is None else f"cosine over {steps}"
    return f"torch Adam, rate {rate:g}, {schedule}", functools.partial(
        adam, loss, target, rate, steps
    )


# ---- the table -----------------------------------------------------------------------------------


def lines_of(learner: Learner, data: PreferenceData, reference: np.ndarray) -> list[str]:
    """Return the rows of one learner."""
    learned = learner.fit(data, reference)
    target, residual = learned.objective, learned.residual
    assert target is not None
    assert learned.diagnostics["global"]
    loss = Loss(data, reference, isinstance(learner, ChiPO))
    ours = loss(torch.from_numpy(np.log(learned.policy))).item()
    assert abs(ours - target) < 1e-13, (ours, target)
    threads = choose_threads(loss)
    name, tuned = tuned_adam(loss, target)
    peers: dict[str, Callable[[], Reached]] = {
        name: tuned,
        "torch L-BFGS": functools.partial(torch_lbfgs, loss, target),
        "scipy L-BFGS": functools.partial(scipy_lbfgs, loss, target),
    }
    ends = {peer: call() for peer, call in peers.items()}
    assert all(end.gap >= -1e-12 for end in ends.values()), ends
    fit = functools.partial(learner.fit, data, reference)
    seconds = alternate({"ours": fit, **peers}, REPEATS)
    own = seconds.pop("ours")
    lines = [
        f"| {learner.name} (torch: {threads} threads) | ours, global | {1e3 * own:.3g} ms | – "
        f"| {residual:.0e} | 1 |"
    ]
    for peer, end in ends.items():
        gap = f"{end.gap:.0e}" + ("" if end.gap <= GAP else " (not solved)")
        ratio = f"{seconds[peer] / own:.3g}×"
        lines.append(
            f"| {learner.name} | {peer} | {1e3 * seconds[peer]:.3g} ms | {end.steps} | {gap} "
            f"| {ratio} |"
        )
    return lines


def main() -> None:
    """Run everything and write the table."""
    data, reference = problem()
    rows = [
        "| loss | method | time | steps | gap (ours: residual) | time / ours |",
        "|---|---|---|---|---|---|",
    ]
    for learner in (DPO(BETA), ChiPO(BETA)):
        rows += lines_of(learner, data, reference)
    names = ("numpy", "scipy", "numba", "torch")
    note = (
        f"{machine()}; {get_threads()} threads; "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f". {PROMPTS} prompts, {RESPONSES} responses, {ROWS} rows, beta = {BETA:g}, float64. "
        f"Peers stop at a mean loss {GAP:g} above the minimum, on the distinct comparisons; ours "
        "starts from the rows. Steps are evaluations of loss and gradient. Medians of "
        f"{REPEATS} alternating runs (3 of those slower than half a second)."
    )
    text = "\n".join([*rows, "", note, ""])
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
