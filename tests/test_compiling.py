"""Compiled code that is kept on the disk."""

import os
import subprocess
import sys
from pathlib import Path

from rlhfsim import compiling


def test_code_older_than_a_source_that_it_may_inline_is_forgotten(tmp_path):
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.mkdir()
    kept.mkdir()
    (source / "callee.py").touch()
    newest = (source / "callee.py").stat().st_mtime
    for name, age in (("older.nbi", -1.0), ("younger.nbi", 1.0)):
        (kept / name).touch()
        os.utime(kept / name, (newest + age, newest + age))
    compiling._forget_stale_code(source, kept)
    assert [path.name for path in kept.iterdir()] == ["younger.nbi"]


def test_it_is_looked_for_where_numba_keeps_it(tmp_path):
    """In the folder that `NUMBA_CACHE_DIR` names, too."""
    program = "from rlhfsim.kernels.elementary import exp; exp(0.0); print(exp._cache.cache_path)"
    places = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        (place,) = {Path(line) for line in run.stdout.split()}
        assert tmp_path in place.parents
        indices = list(place.glob("elementary.exp-*.nbi"))
        places.append([path.stat().st_mtime_ns for path in indices])
        # As if a source had changed since.
        for path in indices:
            os.utime(path, (0, 0))
    assert len(places[0]) == len(places[1]) == 1
    assert 0 not in places[1]
