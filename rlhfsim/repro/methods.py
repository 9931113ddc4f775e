"""The regularizers that the studies compare, by the name that tables and figures use."""

from rlhfsim.divergences import KL, ChiSquared, Divergence

METHODS: dict[str, Divergence] = {"KL": KL(), "chi2": ChiSquared(), "mixed": ChiSquared() + KL()}
