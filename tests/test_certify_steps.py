"""Ball formulas of claims about tokens: they hold the floats of the claims' own sides."""

import numpy as np
import pytest
from flint import arb

from rlhfsim.certify.generic import over_numbers
from rlhfsim.certify.step_sides import STEP_SIDES
from rlhfsim.claims import CLAIMS


@pytest.mark.parametrize("name", STEP_SIDES)
def test_balls_agree_with_floats(name):
    claim = next(c for c in CLAIMS if c.name == name)
    drawn = claim.family.sample(30, np.random.default_rng(3))
    ratios = []
    for x in [claim.witness(), *(drawn.take(k) for k in range(30))]:
        balls = [float(arb(side).mid()) for side in STEP_SIDES[name](over_numbers(x))]
        floats = [float(np.ravel(side(x))[0]) for side in (claim.left, claim.right)]
        np.testing.assert_allclose(balls, floats, rtol=1e-9, atol=1e-11)
        ratios.append(balls[0] / balls[1] if balls[1] > 0 else 0.0)
    assert ratios[0] > 1.01  # the witness
    assert min(ratios) < 0.9
