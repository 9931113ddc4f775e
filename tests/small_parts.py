"""The main job with small settings, every part of it real: seconds instead of half a minute."""

from functools import cache

from rlhfsim import ContextualBandit, example_table
from rlhfsim.repro import claims, inequalities, overoptimization, proposition_a1, sharp_bound

#: Figures that the main job draws when it is given a table; the others are those of studies.
MAIN_FIGURES = (
    "proposition_a1",
    "sharp_bound",
    "overoptimization_random",
    "overoptimization_table",
    "inequalities",
)

SMALL = {
    "proposition_a1": lambda seed, table: proposition_a1.run(
        proposition_a1.Settings(
            sizes=(100, 1000, 10**4), beta_points=41, sampled_sizes=(100,), replications=100
        ),
        seed,
    ),
    "sharp_bound": lambda seed, table: sharp_bound.run(
        sharp_bound.Settings(random_instances=50, equality_instances=20, adversarial_instances=200),
        seed,
    ),
    "overoptimization": lambda seed, table: overoptimization.run(
        overoptimization.Settings(prompts=3, responses=10, beta_points=13, most_doublings=4),
        seed,
        table,
    ),
    "inequalities": lambda seed, table: inequalities.run(
        inequalities.Settings(instances=200, response_counts=(3,)), seed
    ),
    "claims": lambda seed, table: claims.run(
        claims.Settings(
            instances=50,
            claims=("KL below log of coverage", "KL below chi-squared", "Pinsker"),
        ),
        seed,
    ),
}


@cache
def small_results(seed=0):
    """Return the results of all parts, with the example table."""
    table = ContextualBandit.from_table(example_table())
    return [part(seed, table) for part in SMALL.values()]


def tables_of(results):
    """Return all tables of some results by name."""
    return {name: table for result in results for name, table in result.tables.items()}
