"""Studies: a grid of cells as data, run anywhere, saved so that nothing finished is lost.

`Study` (or `load_study` of a TOML file) says what; `run_study` runs what is missing into a folder;
`read_results` reads the final table, one row per cell and metric.  `shipped.SHIPPED` lists the
studies that come with the package.
"""

from rlhfsim.studies.executors import Submitit, dask_cluster
from rlhfsim.studies.results import export, read_results, wide
from rlhfsim.studies.running import Status, StudyError, resume, run_study, status
from rlhfsim.studies.store import Store
from rlhfsim.studies.study import Geometric, Study, load_study

__all__ = [
    "Geometric",
    "Status",
    "Store",
    "Study",
    "StudyError",
    "Submitit",
    "dask_cluster",
    "export",
    "load_study",
    "read_results",
    "resume",
    "run_study",
    "status",
    "wide",
]
