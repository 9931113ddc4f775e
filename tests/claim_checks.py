"""What every claim with two sides must pass: it holds, is tight or is refuted; what families are.

That no claim made false passes is in `claim_mutations`.
"""

from dataclasses import fields
from functools import cache

import numpy as np


@cache
def sampled(family, n, seed):
    """Return a batch; those of one family keep what is expensive, such as optima, for all."""
    return family.sample(n, np.random.default_rng([seed, 7]))


def batches(claim, total=2000, seeds=3):
    """Yield batches of sampled instances, about `total` in all or as many as the claim takes."""
    total = min(total, claim.most_instances or total)
    for seed in range(seeds):
        yield sampled(claim.family, -(-total // seeds), seed)


def assert_holds(claim, total=2000):
    for x in batches(claim, total):
        ratio = claim.ratio(x)
        assert ratio.shape == (len(x),)
        k = int(ratio.argmax())
        assert ratio[k] <= 1 + 1e-9, (claim.name, k, x.take(k))


def assert_tight(claim, least=0.999):
    """At the witness; an identity must have sides there that are not 0."""
    x = claim.witness()
    ratio = claim.ratio(x).max()
    assert ratio <= 1 + 1e-9
    if claim.kind == "identity":
        assert np.abs(claim.right(x)).max() > 1e-3
    else:
        assert ratio >= least


def assert_refuted(claim, by=1.05):
    assert claim.kind == "false"
    assert claim.ratio(claim.witness()).max() > by


def assert_family(family, simplices):
    """Sampled instances are as documented, and the same for the same seed."""
    sizes, shares = set(), []
    for seed in range(12):
        x, again = (family.sample(300, np.random.default_rng(seed)) for _ in range(2))
        assert len(x) == 300
        assert len(x.take(5)) == 1
        for f in fields(x):
            value = getattr(x, f.name)
            assert len(value) == 300
            np.testing.assert_array_equal(value, getattr(again, f.name))
            np.testing.assert_array_equal(getattr(x.take(5), f.name)[0], value[5])
            assert np.isfinite(value).all()
            if f.name in simplices:
                assert (value > 0).all()
                np.testing.assert_allclose(value.sum(axis=-1), 1.0, rtol=1e-12)
        p = x.reference if "reference" in simplices else x.opponents
        sizes.add(p.shape[-1])
        # Uniform rows, rare responses, and rows that are nearly uniform.
        spread = np.ptp(p, axis=-1)
        shares.append([
            (spread == 0).mean(), (p < 1e-7).any(axis=-1).mean(),
            ((spread > 0) & (spread < 1e-5)).mean(),
        ])  # fmt: skip
    assert len(sizes) > 2
    assert (np.mean(shares, axis=0) > 0.03).all()
