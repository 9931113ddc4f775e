"""Time training dynamics against loops that people write: one process, alternating, equality first.

Prints Markdown tables and writes them to `benchmarks/dynamics.md`.  Times are medians and only
their ratios within one run mean anything.  What is timed is the whole call `train(...)`, checks and
counting of the datasets included, with all quantities recorded in every step.  The peers record the
same quantities; they start from grouped counts, which are built beforehand.  The slow one runs for
fewer steps or seeds, and its time is scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from measure import alternate, machine
from scipy.special import expit

from rlhfsim import random_bandit, sample_preferences
from rlhfsim.bandit import ContextualBandit
from rlhfsim.data import PreferenceData
from rlhfsim.dynamics import RECORDED, Trajectory, train
from rlhfsim.files import write_text
from rlhfsim.losses import DirectLoss, chipo, dpo
from rlhfsim.threads import get_threads

OUT = Path(__file__).parent / "dynamics.md"
SEEDS, RESPONSES, STEPS = 1000, 20, 2000
ROWS = (100, 1000)
RATE, BETA, R_MAX = 0.5, 0.1, 1.0
REPEATS = 5
#: Steps of a short run: for equality, and of the peers, whose times are scaled up.
SHORT = 50
#: Seeds that the loop of numpy takes.
FEW = 10
#: Largest difference of a recorded quantity, relative to 1 or to itself if larger.
TOLERANCE = 1e-10
Array = np.ndarray


def problem(rows: int) -> tuple[ContextualBandit, list[PreferenceData]]:
    """Return a bandit with one prompt, and a dataset for each seed."""
    bandit = random_bandit(1, RESPONSES, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    return bandit, [sample_preferences(bandit, rows, rng) for _ in range(SEEDS)]


def ours(
    loss: DirectLoss, bandit: ContextualBandit, data: list[PreferenceData], steps: int
) -> Trajectory:
    """Return the trajectories."""
    return train(
        loss, data, bandit.reference, steps=steps, learning_rate=RATE, gold=bandit.reward,
        proxy=-bandit.reward,
    )  # fmt: skip


def wins_of(data: list[PreferenceData]) -> tuple[Array, Array]:
    """Return (S, Y, Y) shares of rows in which i beat j, and (S,) shares of pairs of equals."""
    wins = np.zeros((len(data), RESPONSES, RESPONSES))
    for table, one in zip(wins, data, strict=True):
        np.add.at(table, (one.chosen, one.rejected), 1 / len(one))
    equal = np.trace(wins, axis1=1, axis2=2)
    wins[:, np.arange(RESPONSES), np.arange(RESPONSES)] = 0.0
    return wins, equal


# ---- peers ---------------------------------------------------------------------------------------


def batched_torch(
    loss: DirectLoss, bandit: ContextualBandit, wins: Array, equal: Array, steps: int
) -> dict[str, Array]:
    """Return what is recorded by a loop over steps of tensors over seeds, derivatives by autograd.

    The shares are dense `(S, Y, Y)`: gathers over lists of comparisons are slower here.
    """
    log_p = torch.log(torch.from_numpy(np.array(bandit.reference[0])))
    p, gold = torch.exp(log_p), torch.from_numpy(np.array(bandit.reward[0]))
    share, tied = torch.from_numpy(wins), torch.from_numpy(equal) * np.log(2)
    informative = share.sum((1, 2))
    won, lost = share.sum(2) / informative[:, None], share.sum(1) / informative[:, None]
    theta = torch.zeros((len(wins), RESPONSES), dtype=torch.float64, requires_grad=True)
    records = []
    for step in range(steps + 1):
        log_pi = torch.log_softmax(log_p + theta, dim=1)
        u = log_pi - log_p
        score = u if loss.name == "DPO" else u + u.exp()
        h = BETA * (score[:, :, None] - score[:, None, :])
        if loss.clip is not None:
            h = h.clamp(-loss.clip, loss.clip)
        mean = -(share * torch.nn.functional.logsigmoid(h)).sum((1, 2)) + tied
        (gradient,) = torch.autograd.grad(mean.sum(), theta)
        with torch.no_grad():
            pi = log_pi.exp()
            value = pi @ gold
            records.append(
                torch.stack([
                    mean, gradient.norm(dim=1), value, -value, (pi * u).sum(1),
                    0.5 * (p * torch.expm1(u) ** 2).sum(1), (won * log_pi).sum(1),
                    (lost * log_pi).sum(1),
                ])
            )  # fmt: skip
            if step < steps:
                theta -= RATE * gradient
    table = torch.stack(records, dim=2).detach().numpy()
    return dict(zip(RECORDED, table, strict=True))


def numpy_loop(
    loss: DirectLoss, bandit: ContextualBandit, wins: Array, equal: Array, steps: int
) -> dict[str, Array]:
    """Return what is recorded by a loop over seeds and steps, with derivatives by hand."""
    p, gold = bandit.reference[0], bandit.reward[0]
    log_p = np.log(p)
    table = np.empty((len(RECORDED), len(wins), steps + 1))
    for s, one in enumerate(wins):
        i, j = np.nonzero(one)
        share = one[i, j]
        weight = share / share.sum()
        theta = np.zeros(RESPONSES)
        for step in range(steps + 1):
            logits = log_p + theta
            top = logits.max()
            log_pi = logits - top - np.log(np.exp(logits - top).sum())
            u, pi = log_pi - log_p, np.exp(log_pi)
            mixed = loss.name != "DPO"
            score, steep = (u + np.exp(u), 1 + np.exp(u)) if mixed else (u, np.ones_like(u))
            h = BETA * (score[i] - score[j])
            inside = 1.0
            if loss.clip is not None:
                inside = np.abs(h) <= loss.clip
                h = np.clip(h, -loss.clip, loss.clip)
            slope = -share * inside * BETA * expit(-h)
            pull = np.bincount(i, slope, RESPONSES) - np.bincount(j, slope, RESPONSES)
            pull *= steep
            gradient = pull - pi * pull.sum()
            mean = share @ np.logaddexp(0.0, -h) + equal[s] * np.log(2)
            value = pi @ gold
            table[:, s, step] = (
                mean, np.sqrt(gradient @ gradient), value, -value, pi @ u,
                0.5 * p @ np.expm1(u) ** 2, weight @ log_pi[i], weight @ log_pi[j],
            )  # fmt: skip
            theta -= RATE * gradient
    return dict(zip(RECORDED, table, strict=True))


# ---- tables --------------------------------------------------------------------------------------


def differences(mine: Trajectory, theirs: dict[str, Array]) -> float:
    """Return the largest difference, relative to 1 or to the quantity if larger."""
    largest = 0.0
    for name, values in theirs.items():
        own = getattr(mine, name)[: len(values)]
        largest = max(largest, float((np.abs(own - values) / np.maximum(1, np.abs(own))).max()))
    return largest


def line(loss: DirectLoss, rows: int) -> str:
    """Return one line of the table, after all have been found to agree."""
    bandit, data = problem(rows)
    wins, equal = wins_of(data)
    peers: dict[str, tuple[Callable[[], dict[str, Array]], float]] = {
        "batched torch": (
            lambda: batched_torch(loss, bandit, wins, equal, SHORT),
            STEPS / SHORT,
        ),
        "numpy loop": (
            lambda: numpy_loop(loss, bandit, wins[:FEW], equal[:FEW], SHORT),
            STEPS / SHORT * SEEDS / FEW,
        ),
    }
    short, errors = ours(loss, bandit, data, SHORT), {}
    for name, (peer, _) in peers.items():
        errors[name] = differences(short, peer())
        assert errors[name] < TOLERANCE, (name, errors[name])
    calls = {name: peer for name, (peer, _) in peers.items()}
    seconds = alternate({"ours": lambda: ours(loss, bandit, data, STEPS), **calls}, REPEATS)
    mine = seconds.pop("ours")
    distinct = float(np.mean([np.count_nonzero(w) for w in wins]))
    ratios = "; ".join(
        f"{name} {t * peers[name][1] / mine:.3g}× (difference {errors[name]:.0e})"
        for name, t in seconds.items()
    )
    return f"| {loss.name} | {rows} | {distinct:.0f} | {mine:.3g} s | {ratios} |"


def main() -> None:
    """Run everything and write the table."""
    start = time.perf_counter()
    torch.set_num_threads(get_threads())
    lines = [
        f"{SEEDS} seeds × {STEPS} full-batch steps, 1 prompt × {RESPONSES} responses, "
        f"{len(RECORDED)} quantities in every step.",
        "",
        "| loss | rows per seed | distinct comparisons | `train` | peer's time / ours |",
        "|---|---|---|---|---|",
    ]
    for rows in ROWS:
        for loss in (dpo(BETA), chipo(BETA, r_max=R_MAX)):
            lines.append(line(loss, rows))
    names = ("numpy", "scipy", "numba", "torch")
    note = (
        f"{machine()}; {get_threads()} threads (torch too); "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f". The peers run {SHORT} steps, and the loop {FEW} seeds; their times are scaled up. "
        f"Differences are the largest of any recorded quantity over {SHORT} steps. Medians of "
        f"{REPEATS} alternating runs (3 of those slower than half a second); "
        f"{time.perf_counter() - start:.0f} s in all."
    )
    text = "\n".join([*lines, "", note, ""])
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
