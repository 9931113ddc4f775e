"""Hypothesis profiles: deterministic by default; `RLHFSIM_HYPOTHESIS=thorough` searches longer."""

import os

from hypothesis import settings

settings.register_profile("default", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("RLHFSIM_HYPOTHESIS", "default"))
