"""Random games of three kinds."""

import numpy as np


def skew(upper):
    upper = np.triu(upper, 1)
    return upper - np.swapaxes(upper, -1, -2)


def games(kind, n, size, rng):
    """Return random games: of any numbers, of few numbers (with ties), of any sizes."""
    shape = (n, size, size)
    if kind == "generic":
        return skew(rng.uniform(-1, 1, shape))
    if kind == "ties":
        return skew(rng.integers(-1, 2, shape).astype(float))
    return skew(rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-9, 0, shape))


KINDS = ("generic", "ties", "scales")
