"""Statistics for studies: intervals, comparisons, rates, overoptimization forms, more seeds.

Arrays in, frozen results out; every interval says its level and how it was made.
"""

from rlhfsim.statistics.aggregates import interquartile_mean
from rlhfsim.statistics.bootstrap import bootstrap_distribution, stratified_bootstrap
from rlhfsim.statistics.comparing import (
    FormComparison,
    FormOfRuns,
    compare_forms,
    fit_form_to_runs,
)
from rlhfsim.statistics.fitting import FormError, FormFit, fit_form
from rlhfsim.statistics.forms import (
    BEST_OF_N,
    CUBIC,
    FORMS,
    POWER,
    PROPORTIONAL,
    RL,
    SATURATING,
    Form,
    Shape,
)
from rlhfsim.statistics.intervals import Interval, mean_interval, proportion_interval
from rlhfsim.statistics.paired import PairedComparison, paired_comparison
from rlhfsim.statistics.residuals import ResidualChecks
from rlhfsim.statistics.sequential import (
    SequentialResult,
    next_seeds,
    run_until,
    stein_interval,
)
from rlhfsim.statistics.slopes import (
    SlopeFit,
    bootstrap_slope,
    fit_slope,
    fit_slope_of_runs,
)

__all__ = [
    "BEST_OF_N",
    "CUBIC",
    "FORMS",
    "POWER",
    "PROPORTIONAL",
    "RL",
    "SATURATING",
    "Form",
    "FormComparison",
    "FormError",
    "FormFit",
    "FormOfRuns",
    "Interval",
    "PairedComparison",
    "ResidualChecks",
    "SequentialResult",
    "Shape",
    "SlopeFit",
    "bootstrap_distribution",
    "bootstrap_slope",
    "compare_forms",
    "fit_form",
    "fit_form_to_runs",
    "fit_slope",
    "fit_slope_of_runs",
    "interquartile_mean",
    "mean_interval",
    "next_seeds",
    "paired_comparison",
    "proportion_interval",
    "run_until",
    "stein_interval",
    "stratified_bootstrap",
]
