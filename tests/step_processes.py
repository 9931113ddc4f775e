"""Processes of several steps for tests, and their trajectories written out one by one."""

import itertools

import numpy as np

from rlhfsim.mdp import FiniteHorizonMDP


def ragged_mdp(rng, masked=False):
    """Three steps of other sizes, a deterministic one that may end, a stochastic one."""
    shapes = ((2, 3), (3, 2), (4, 3))
    masks = [np.ones(shape, dtype=bool) for shape in shapes]
    if masked:
        masks[0][0, 1] = masks[2][3, 0] = masks[2][3, 2] = False
    reference = [rng.dirichlet(np.ones(s[1]), s[0]) * m for s, m in zip(shapes, masks, strict=True)]
    reference = [level / level.sum(axis=1, keepdims=True) for level in reference]
    return FiniteHorizonMDP(
        rng.dirichlet(np.ones(2)),
        (np.array([[0, 1, 2], [2, -1, 0]]), rng.dirichlet(np.ones(4), (3, 2))),
        tuple(rng.standard_normal(shape) for shape in shapes),
        tuple(reference),
        tuple(masks) if masked else None,
    )


def random_policy(mdp, rng):
    """A policy on the support of the reference."""
    weights = [(p > 0) * rng.gamma(1.0, size=p.shape) for p in mdp.reference]
    return tuple(w / w.sum(axis=1, keepdims=True) for w in weights)


def trajectories(mdp, *policies):
    """Yield `(probability of the moves, [factor of each policy], reward)` of every trajectory."""

    def go(h, state, chance, factors, reward):
        if h == mdp.horizon or state < 0:
            yield chance, factors, reward
            return
        for a in range(mdp.shapes[h][1]):
            grown = [f * pi[h][state, a] for f, pi in zip(factors, policies, strict=True)]
            total = reward + mdp.reward[h][state, a]
            if h + 1 == mdp.horizon:
                yield chance, grown, total
                continue
            move = mdp.transitions[h][state, a]
            for p, s in (
                [(1.0, int(move))]
                if np.ndim(move) == 0
                else zip(move, itertools.count(), strict=False)
            ):
                yield from go(h + 1, s, chance * p, grown, total)

    for s, p in enumerate(mdp.initial):
        yield from go(0, s, p, [1.0] * len(policies), 0.0)


def laws(mdp, *policies):
    """Arrays over all trajectories: the probability under each policy, and the reward."""
    rows = [
        (*[chance * f for f in factors], reward)
        for chance, factors, reward in trajectories(mdp, *policies)
    ]
    return np.array(rows).T
