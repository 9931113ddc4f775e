"""Time sampling of Bradley-Terry preferences against numpy and torch: same process, alternating.

Prints a Markdown table and writes it to `benchmarks/sampling.md`.  The law of our draw, its
independence of the number of threads and its memory are asserted first.  Times are medians and only
their ratios within one run mean anything.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from measure import alternate, machine, triad
from scipy.special import expit

from rlhfsim.bandit import ContextualBandit
from rlhfsim.data import PreferenceData
from rlhfsim.files import write_text
from rlhfsim.sampling import sample_preferences
from rlhfsim.threads import get_threads, set_threads

OUT = Path(__file__).parent / "sampling.md"
PROMPTS = RESPONSES = 1000
N = 10**7
REPEATS = 5
#: Rows that the slowest peer draws; its time is scaled up.
SAMPLE = 10**5
#: Standard deviations within which the test statistics must lie.
FAR = 5.0
#: Bytes a response, beyond the three columns, that a draw may hold.
BYTES_PER_RESPONSE = 16
Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def problem() -> ContextualBandit:
    """Return a bandit with Dirichlet references and prompts, and normal rewards."""
    rng = np.random.default_rng(0)
    reference = rng.dirichlet(np.ones(RESPONSES), PROMPTS)
    reward = rng.standard_normal((PROMPTS, RESPONSES))
    return ContextualBandit(rng.dirichlet(np.full(PROMPTS, 10.0)), reference, reward)


# ---- what must hold ------------------------------------------------------------------------------


def assert_law(bandit: ContextualBandit, data: PreferenceData) -> None:
    """Assert that responses and labels have their law, within five standard deviations."""
    n = len(data)
    seen = np.zeros(bandit.shape)
    for column in (data.chosen, data.rejected):
        seen += np.bincount(data.prompt * RESPONSES + column, minlength=seen.size).reshape(
            seen.shape
        )
    # Given the prompts, all responses of a prompt are independent draws.
    drawn = seen.sum(axis=1)
    expected = drawn[:, None] * bandit.reference
    usual = expected >= 5
    score = ((seen - expected)[usual] ** 2 / expected[usual]).sum()
    spread = np.sqrt((2 + 1 / expected[usual]).sum())
    assert abs(score - (1 - bandit.reference)[usual].sum()) < FAR * spread
    rho = bandit.prompt_dist
    z = (drawn / 2 - n * rho) / np.sqrt(n * rho * (1 - rho))
    assert abs((z**2).sum() - len(z)) < FAR * np.sqrt(2 * len(z))
    assert not seen[bandit.reference == 0].any()
    margin = bandit.reward[data.prompt, data.chosen] - bandit.reward[data.prompt, data.rejected]
    win = expit(np.abs(margin))
    excess = ((margin > 0) - win)[margin != 0].sum()
    assert abs(excess) < FAR * np.sqrt((win * (1 - win))[margin != 0].sum())


def assert_threads_change_nothing(draw: Callable[[], PreferenceData]) -> None:
    """Assert that one thread draws what several do."""
    threads, several = get_threads(), draw()
    set_threads(1)
    one = draw()
    set_threads(threads)
    for name in ("prompt", "chosen", "rejected"):
        assert np.array_equal(getattr(one, name), getattr(several, name))


def memory(draw: Callable[[], PreferenceData]) -> float:
    """Return the bytes a response that a draw holds beyond its result; assert that they are few."""
    tracemalloc.start()
    data = draw()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = data.prompt.nbytes + data.chosen.nbytes + data.rejected.nbytes
    extra = (peak - result) / (PROMPTS * RESPONSES)
    assert extra < BYTES_PER_RESPONSE, extra
    return extra


# ---- peers ---------------------------------------------------------------------------------------


def labelled(
    reward: np.ndarray, x: np.ndarray | int, y: np.ndarray, z: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return chosen and rejected responses."""
    first = u < expit(reward[x, y] - reward[x, z])
    return np.where(first, y, z), np.where(first, z, y)


def numpy_grouped(bandit: ContextualBandit, rng: np.random.Generator) -> Columns:
    """Draw prompt by prompt with `Generator.choice`; the rows stay in the order of prompts."""
    counts = rng.multinomial(N, bandit.prompt_dist)
    chosen, rejected = np.empty(N, dtype=np.int64), np.empty(N, dtype=np.int64)
    at = 0
    for x, k in enumerate(counts):
        y, z = rng.choice(RESPONSES, (2, k), p=bandit.reference[x])
        part = slice(at, at + k)
        chosen[part], rejected[part] = labelled(bandit.reward, x, y, z, rng.random(k))
        at += k
    return np.repeat(np.arange(PROMPTS), counts), chosen, rejected


def numpy_flat(bandit: ContextualBandit, rng: np.random.Generator) -> Columns:
    """Draw all rows at once by binary search in one cumulative sum over prompts and responses."""
    steps = bandit.reference.cumsum(axis=1)
    steps /= steps[:, -1:]
    flat = (steps + np.arange(PROMPTS)[:, None]).reshape(-1)
    prompt = rng.choice(PROMPTS, N, p=bandit.prompt_dist)
    y, z = (
        np.minimum(
            np.searchsorted(flat, prompt + rng.random(N), side="right") - prompt * RESPONSES,
            RESPONSES - 1,
        )
        for _ in range(2)
    )
    return prompt, *labelled(bandit.reward, prompt, y, z, rng.random(N))


def torch_multinomial(bandit: ContextualBandit, generator: torch.Generator) -> None:
    """Draw `SAMPLE` rows with `torch.multinomial` over gathered rows of the reference."""
    reference, reward = (torch.tensor(a) for a in (bandit.reference, bandit.reward))
    rho = torch.tensor(bandit.prompt_dist)
    prompt = torch.multinomial(rho, SAMPLE, replacement=True, generator=generator)
    pair = torch.multinomial(reference[prompt], 2, replacement=True, generator=generator)
    y, z = pair[:, 0], pair[:, 1]
    odds = reward[prompt, y] - reward[prompt, z]
    first = torch.rand(SAMPLE, generator=generator, dtype=torch.float64) < torch.sigmoid(odds)
    torch.where(first, y, z), torch.where(first, z, y)


def main() -> None:
    """Run everything and write the table."""
    start = time.perf_counter()
    bandit = problem()
    lines = [
        "| rows of ours | rows a second | of the triad | numpy by prompt | numpy at once | "
        "torch.multinomial | memory beyond the result |",
        "|---|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(1)
    generator = torch.Generator().manual_seed(1)
    copies = np.zeros((3, N))
    for grouped in (False, True):

        def draw(grouped: bool = grouped) -> PreferenceData:
            return sample_preferences(bandit, N, np.random.default_rng(2), grouped=grouped)

        assert_law(bandit, draw())
        assert_threads_change_nothing(draw)
        extra = memory(draw)
        seconds = alternate(
            {
                "ours": draw,
                "triad": triad(*copies),
                "grouped": lambda: numpy_grouped(bandit, rng),
                "flat": lambda: numpy_flat(bandit, rng),
                "torch": lambda: torch_multinomial(bandit, generator),
            },
            REPEATS,
        )
        seconds["torch"] *= N / SAMPLE
        ours = seconds["ours"]
        order = "in the order of prompts" if grouped else "independent"
        ratios = " | ".join(f"{seconds[k] / ours:.3g}×" for k in ("grouped", "flat", "torch"))
        lines.append(
            f"| {order} | {N / ours / 1e6:.0f} million | {100 * seconds['triad'] / ours:.0f} % | "
            f"{ratios} | {extra:.1f} bytes a response |"
        )
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "torch"))
    note = (
        f"{N:.0e} rows, {PROMPTS} prompts × {RESPONSES} responses; a peer's time over ours. "
        f"{machine()}; {get_threads()} threads; {versions}. The triad moves the 24 bytes a row of "
        f"the result. Rows of numpy by prompt stay in the order of prompts; torch draws {SAMPLE} "
        f"rows, scaled. Medians of {REPEATS} alternating runs (3 of those slower than half a "
        f"second); {time.perf_counter() - start:.0f} s in all."
    )
    text = "\n".join([*lines, "", note, ""])
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
