"""Importing the package is light."""

import subprocess
import sys


def test_import_brings_no_heavy_library():
    heavy = (
        "torch",
        "cvxpy",
        "matplotlib",
        "pandas",
        "pyarrow",
        "numba",
        "flint",
        "mpmath",
        "typer",
        "dask",
        "distributed",
        "triton",
    )
    code = f"import sys, rlhfsim; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_in_all_exists():
    import rlhfsim

    assert sorted(rlhfsim.__all__, key=str.lower) == sorted(set(rlhfsim.__all__), key=str.lower)
    for name in rlhfsim.__all__:
        assert getattr(rlhfsim, name).__doc__ or name.endswith("DIVERGENCES")
