"""Bandits and preference data."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import DrawFn

from rlhfsim.bandit import ContextualBandit
from rlhfsim.data import PreferenceData
from rlhfsim.strategies.arguments import check, check_flag, check_integer, check_interval
from rlhfsim.strategies.rows import draw_rows
from rlhfsim.strategies.sizes import SMALLEST_PROBABILITY, ShapeLike, draw_matrix_shape
from rlhfsim.strategies.tables import rewards


@st.composite
def bandits(
    draw: DrawFn,
    shape: ShapeLike | None = None,
    *,
    min_reward: float = -10.0,
    max_reward: float = 10.0,
    reference_zeros: bool = False,
    prompt_zeros: bool = True,
    proxy_reward: bool = False,
    allow_unavailable: bool = False,
    min_positive: float = SMALLEST_PROBABILITY,
) -> ContextualBandit:
    """Return a strategy for bandits: prompts, reference and rewards drawn as by the others.

    They shrink towards one prompt, a uniform reference and rewards 0.

    Parameters
    ----------
    shape : tuple (X, Y), or strategy for one, optional
        `shapes()` by default.
    min_reward, max_reward : float
        The range of `reward`, and of `proxy_reward`.
    reference_zeros, prompt_zeros : bool
        Whether the reference, and the distribution of prompts, may have zeros.
    proxy_reward : bool
        Whether the bandits have a proxy reward.
    allow_unavailable : bool
        Whether prompts may lack responses; there the reference is 0.
    min_positive : float
        No positive probability is smaller; at most `1/X` and `1/Y`.
    """
    sides = draw_matrix_shape(draw, shape, min_positive=min_positive)
    check_interval("min_reward", min_reward, "max_reward", max_reward)
    flags = {
        "reference_zeros": reference_zeros,
        "prompt_zeros": prompt_zeros,
        "proxy_reward": proxy_reward,
        "allow_unavailable": allow_unavailable,
    }
    for name, value in flags.items():
        check_flag(name, value)
    tables = rewards(sides, min_value=min_reward, max_value=max_reward)
    rho = draw_rows(draw, sides[:1], prompt_zeros, min_positive)
    with_mask = allow_unavailable and draw(st.booleans())
    reference = draw_rows(draw, sides, reference_zeros or with_mask, min_positive)
    available = None
    if with_mask:
        # Without zeros of the reference where responses exist, these are the ones it has.
        unused = draw(arrays(np.bool_, sides)) if reference_zeros else np.zeros(sides, np.bool_)
        available = (reference > 0) | unused
    reward = draw(tables)
    return ContextualBandit(
        rho, reference, reward, draw(tables) if proxy_reward else None, available
    )


@st.composite
def preference_data(
    draw: DrawFn,
    shape: ShapeLike | None = None,
    *,
    min_size: int = 1,
    max_size: int | None = None,
    allow_equal: bool = True,
) -> PreferenceData:
    """Return a strategy for `PreferenceData`: any comparisons, whether or not a model fits.

    They shrink towards a single comparison of the first response with itself, or with the second
    one if `allow_equal` is False.

    Parameters
    ----------
    shape : tuple (X, Y), or strategy for one, optional
        `shapes()` by default.
    min_size, max_size : int
        How many comparisons; at least 1, and without an upper limit by default.
    allow_equal : bool
        Whether a response may be compared with itself; otherwise there are at least 2 responses.
    """
    check_flag("allow_equal", allow_equal)
    check_integer("min_size", min_size, 1)
    if max_size is not None:
        check_integer("max_size", max_size, 1)
        check(min_size <= max_size, f"min_size={min_size!r} must be at most max_size={max_size!r}")
    prompts, responses = draw_matrix_shape(draw, shape, least_responses=1 if allow_equal else 2)
    response = st.integers(0, responses - 1)
    row = st.tuples(st.integers(0, prompts - 1), response, response)
    drawn = draw(st.lists(row, min_size=min_size, max_size=max_size))
    prompt, chosen, rejected = np.array(drawn, dtype=np.int64).T
    if not allow_equal:
        rejected = np.where(rejected == chosen, (chosen + 1) % responses, rejected)
    return PreferenceData(prompt, chosen, rejected, (prompts, responses))
