"""Hypothesis profiles, and how the tests are collected and shared out among workers.

Hypothesis is deterministic by default; `RLHFSIM_HYPOTHESIS=thorough` searches longer.
"""

import gc
import os
from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("default", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("RLHFSIM_HYPOTHESIS", "default"))

#: Files that several workers take first, so that none is left with a long one at the end.  The
#: first few load different kernels: what one worker has compiled the others read from the disk.
FIRST = (
    "test_kernels.py",
    "test_rewards_kernels.py",
    "test_solve_divergences.py",
    "test_online_linear.py",
    "test_claims_mutations.py",
    "test_repro.py",
    "test_studies_faults.py",
    "test_solve_triton.py",
    "test_solve_torch.py",
    "test_confidence_coverage.py",
    "test_falsify.py",
    "test_solve_dask.py",
    "test_studies_running.py",
    "test_solve_streaming.py",
    "test_doctor.py",
    "test_strategies_quality.py",
    "test_shipped_coverage.py",
    "test_shipped_noise.py",
    "test_studies_cli.py",
    "test_plots_gallery.py",
    "test_papers.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without looking for garbage, of which modules and tests are none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config, items):
    """Put long files first for several workers, then those of many tests; within one, as it is."""
    if not hasattr(config, "workerinput"):
        return
    rank = {name: place for place, name in enumerate(FIRST)}
    size = Counter(item.path for item in items)
    items.sort(key=lambda item: (rank.get(item.path.name, len(FIRST)), -size[item.path]))
