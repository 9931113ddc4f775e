"""What every claim on `Problems` has to survive, and what its mutations must not."""

from dataclasses import replace

import numpy as np

from rlhfsim.claims.problems import Problems

BATCHES = [Problems.sample(500, np.random.default_rng([7, seed])) for seed in range(4)]


def worst(claim):
    return max(claim.ratio(batch).max() for batch in BATCHES)


def scaled(claim, factor):
    """Return the claim with its right side times a constant."""
    return replace(claim, right=lambda x: factor * np.asarray(claim.right(x)))


def caught(claim):
    """Return the share of the instances on which the claim fails, the witness first."""
    ratios = np.concatenate([claim.ratio(x) for x in (claim.witness(), *BATCHES)])
    return ratios[0] > 1, (ratios > 1).mean()


def check_holds(claim):
    assert worst(claim) <= 1 + 1e-9
    at_witness = claim.ratio(claim.witness())
    assert at_witness.shape == (1,)
    assert at_witness[0] <= 1 + 1e-9


def check_tight(claim, supremum=1.0):
    """At the witness the sides meet, so that no constant can be better than `supremum`."""
    assert 0.99999 * supremum < claim.ratio(claim.witness())[0] <= supremum * (1 + 1e-9)


def check_mutation_is_caught(claim, supremum=1.0):
    if claim.kind == "identity":
        at_witness, share = caught(scaled(claim, 1.001))
        assert at_witness
        assert share > 0.3
    else:
        factor = 0.5 * supremum if claim.kind == "upper" else 2.0 / supremum
        assert caught(scaled(claim, factor))[0]


def check_refuted(claim):
    assert claim.kind == "false"
    assert claim.ratio(claim.witness())[0] > 1.3
