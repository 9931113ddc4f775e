"""Time soft values of token trees against what people write: one process, accuracy first.

Prints a Markdown table and writes it to `benchmarks/mdp.md`.  Times are medians and only their
ratios within one run mean anything.  What is timed is `solve_steps` on a tree that is there: soft
values, policies and the certificate of every prefix.  The peers give values and policies: one pass
of numpy over each level (KL by `scipy.special.logsumexp`, chi-squared by sorting), and a recursion
in Python over a smaller tree, whose time is scaled up by the numbers of sequences.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import Wide, alternate, machine, wide_active_set
from scipy.special import logsumexp

from rlhfsim import KL, ChiSquared, Divergence
from rlhfsim.files import write_text
from rlhfsim.mdp import PrefixTree, TokenTree, random_token_tree, solve_steps
from rlhfsim.threads import get_threads

OUT = Path(__file__).parent / "mdp.md"
#: Vocabulary and length of the trees that are timed.
TREES = ((10, 7), (2, 23), (100, 3))
#: Of the tree that the recursion takes, by vocabulary.
SMALL = {10: 4, 2: 13, 100: 2}
REPEATS = 3
#: Of the speed bar, for 10^7 sequences on 2 cores.
BAR = 10.0
#: Largest error of a value or a probability, in units of 1 or of rewards.
TOLERANCE = 1e-12
Array = np.ndarray
Levels = list[Array]
Peer = Callable[[Array, Array], tuple[Array, Array]]


# ---- peers ---------------------------------------------------------------------------------------


def by_logsumexp(q: Array, p: Array) -> tuple[Array, Array]:
    """Return KL soft values and policies of rows, at beta = 1."""
    v = logsumexp(q, b=p, axis=-1)
    return v, p * np.exp(q - v[..., None])


def by_sorting(q: Array, p: Array) -> tuple[Array, Array]:
    """Return chi-squared soft values and policies of rows, at beta = 1."""
    order = np.argsort(-q, axis=-1)
    r, mass = np.take_along_axis(q, order, -1), np.take_along_axis(p, order, -1)
    held, gained = np.cumsum(mass, axis=-1), np.cumsum(mass * r, axis=-1)
    at = (gained + held - 1.0) / held
    last = (r - at > -1.0).sum(axis=-1, keepdims=True) - 1
    at = np.take_along_axis(at, last, -1)
    policy = p * np.maximum(1.0 + q - at, 0.0)
    excess = policy / p - 1.0
    return (policy * q).sum(axis=-1) - 0.5 * (p * excess**2).sum(axis=-1), policy


def by_levels(tree: TokenTree, rows: Peer) -> tuple[float, Levels]:
    """Return the value and the policies of a full tree, a level at a time."""
    value, policies = None, []
    for reward, p in zip(reversed(tree.reward), reversed(tree.reference), strict=True):
        q = reward if value is None else reward + value.reshape(reward.shape)
        value, policy = rows(q, p)
        policies.append(policy)
    assert value is not None
    return float(value[0, 0]), policies[::-1]


def by_recursion(tree: TokenTree, rows: Peer) -> float:
    """Return the value of a full tree, a prefix at a time."""
    size, horizon = tree.reward[0].shape[-1], tree.horizon

    def value(level: int, node: int) -> float:
        q = tree.reward[level][0, node]
        if level + 1 < horizon:
            q = q + [value(level + 1, node * size + token) for token in range(size)]
        return float(rows(q, tree.reference[level][0, node])[0])

    return value(0, 0)


# ---- accuracy ------------------------------------------------------------------------------------


def wide_value(tree: TokenTree, divergence: Divergence) -> float:
    """Return the value at the root in extended precision; KL over whole sequences."""
    if isinstance(divergence, KL):
        reward = tree.prefixes.sums_along([level.astype(Wide) for level in tree.reward])
        p = tree.prefixes.products_along([level.astype(Wide) for level in tree.reference])
        return float(np.log((p * np.exp(reward)).sum()))
    value = None
    for reward, reference in zip(reversed(tree.reward), reversed(tree.reference), strict=True):
        p = reference[0].astype(Wide)
        q = reward[0].astype(Wide)
        if value is not None:
            q = q + value.reshape(q.shape)
        policy = wide_active_set(q, p)
        value = (policy * q).sum(axis=1) - (p * (policy / p - 1) ** 2).sum(axis=1) / 2
    assert value is not None
    return float(value[0])


def check(tree: TokenTree, divergence: Divergence, rows: Peer) -> float:
    """Return the error at the root; assert it, and that policies are those of the peer."""
    found = solve_steps(tree, divergence, 1.0)
    known = wide_value(tree, divergence)
    error = abs(float(found.objective) - known)
    value, policies = by_levels(tree, rows)
    assert error < TOLERANCE, (divergence, error)
    assert abs(value - known) < TOLERANCE
    assert found.gap <= found.tolerance
    for ours, theirs in zip(found.policy, policies, strict=True):
        assert np.abs(ours - theirs).max() < TOLERANCE
    assert abs(by_recursion(tree, rows) - known) < TOLERANCE
    return error


# ---- table ---------------------------------------------------------------------------------------


def line(vocabulary: int, length: int, divergence: Divergence, rows: Peer) -> str:
    """Return one line of the table, after the errors on the small tree."""
    rng = np.random.default_rng(0)
    small = random_token_tree(PrefixTree.full(vocabulary, SMALL[vocabulary]), 1, rng)
    error = check(small, divergence, rows)
    tree = random_token_tree(PrefixTree.full(vocabulary, length), 1, rng)
    value = by_levels(tree, rows)[0]
    assert abs(float(solve_steps(tree, divergence, 1.0).objective) - value) < TOLERANCE
    seconds = alternate(
        {
            "ours": lambda: solve_steps(tree, divergence, 1.0),
            "numpy by level": lambda: by_levels(tree, rows),
            "recursion": lambda: by_recursion(small, rows),
        },
        REPEATS,
    )
    sequences = tree.prefixes.n_sequences
    mine = seconds["ours"]
    assert mine < BAR * max(1.0, sequences / 1e7), mine
    scale = sequences / small.prefixes.n_sequences
    return (
        f"| {divergence!r} | {vocabulary}^{length} = {sequences:.3g} | {mine:.3g} s | "
        f"numpy by level {seconds['numpy by level'] / mine:.3g}×; recursion "
        f"{seconds['recursion'] * scale / mine:.3g}× | {error:.0e} |"
    )


def main() -> None:
    """Run everything and write the table."""
    start = time.perf_counter()
    lines = [
        "Soft values and policies of all prefixes of full trees, one prompt, beta = 1.",
        "",
        "| divergence | sequences | `solve_steps` | peer's time / ours | error of the value |",
        "|---|---|---|---|---|",
    ]
    for vocabulary, length in TREES:
        for divergence, rows in ((KL(), by_logsumexp), (ChiSquared(), by_sorting)):
            lines.append(line(vocabulary, length, divergence, rows))
            print(lines[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "numba"))
    lines += [
        "",
        f"{machine()}; {get_threads()} threads; {packages}.  The error is that of the value at the "
        "root of the smaller tree that the recursion takes, in extended precision (KL over whole "
        "sequences); values of the larger trees are those of numpy by level, to "
        f"{TOLERANCE:g}.  Medians of {REPEATS} alternating runs; peak memory {peak:.2g} GiB, peers "
        f"included; {time.perf_counter() - start:.0f} s in all.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
