"""An exact simulator for the theory of RLHF, offline and beyond.

The model.  Prompts `x ~ rho` and responses `y`, both finite; a reference (sampling) policy
`p = pi_ref(.|x)`; a true reward `r*(x, y)`.  Preference data are n triples `(x, y+, y-)`:
`x ~ rho`, `y1, y2 ~ p` iid, labelled by Bradley-Terry, `P(y1 beats y2 | x) = sigma(r*(x, y1) -
r*(x, y2))`.  A learner fits a reward `r^` to them and maximises, for each prompt,
`E_pi[r^] - beta D(pi || p)`.  What it loses is the regret `J(pi*) - J(pi)`,
`J(pi) = E_{x ~ rho, y ~ pi}[r*]`.

Conventions.  Policies, references and rewards are arrays `(..., X, Y)`; leading axes broadcast.
Logarithms are natural (nats).  `D_chi2(pi || p) = 1/2 E_p[(pi/p - 1)^2]`, with the 1/2, so that
`C^pi = E_pi[pi/p] = 1 + 2 D_chi2`.  The direction of a divergence is (policy, reference).
Nothing is renormalised: distributions must sum to 1 within 1e-9.  Values are exact, randomness
comes only from a `numpy.random.Generator` that is passed in.

Where things are, in the order data flow.  Imports point only to earlier lines, but for two made
when called: `ContextualBandit.from_table`, and `+` of divergences.

==================  ==============================================================================
module              what is in it
==================  ==============================================================================
`checks`            checks of input, and the wording of every `ValueError`
`files`             atomic writes, result folders
`special`           Wright omega and `(1+u) log(1+u) - u`, accurate to a few ulp
`frozen`            dataclasses that stay frozen when copied or pickled
`randomness`        one generator per (study, cell, seed)
`threads`           how many threads a solve may use
`compiling`         how loops are compiled by numba
`statistics`        intervals, bootstrap, paired comparisons, slopes, overoptimization forms, more
                    seeds
`divergences`       `KL`, `ChiSquared` and any other f-divergence; sums, multiples; TV, Renyi
`coverage`          `concentrability` and its relatives
`bandit`            `ContextualBandit`: value, regret, optimal policy
`table`             a bandit from a table of scored responses
`instances`         named families: random, Zipf, log-linear, Proposition A.1
`data`              datasets, frozen: pairs, rankings, scores, demonstrations; tables of texts;
                    sufficient statistics
`preferences`       who beats whom, exactly: Bradley-Terry, noise, raters, cycles, trajectories;
                    winners and transitivity
`sampling`          drawing datasets from a bandit; compiled, the same for any number of threads
`rewards`           `fit_reward`: tabular, linear, finite class, Plackett-Luce, least squares;
                    existence of the MLE; gauges; confidence sets (`rewards.confidence`)
`laws`              exact laws over datasets; the limit of infinite data
`kernels`           compiled passes over rows, behind `solve`
`solvers`           `solve` -> `Solution` with its duality gap: numpy, torch, dask, streamed; with
                    constraints (`solve_convex`); the path in beta; the mpmath reference solver
`inference`         exact best-of-N with ties, soft best-of-N, rejection sampling; win rates
`games`             general preferences as games: minimax winners, regularized Nash, duality gaps,
                    self-play, Nash-MD, iterative chiPO; unilateral coverage
`mdp`               more than one step: finite-horizon processes and trees of tokens, soft values,
                    trajectories and their preferences
`online`            rounds of collection: main agent and enhancer over linear rewards, XPO; the
                    exact regret of every round
`bounds`            right-hand sides of theorems, every constant explicit
`losses`            direct losses (DPO, chiPO, IPO, ...), exact values and gradients
`learners`          from data and a reference to a policy: RLHF, direct (`learners.direct`),
                    pessimistic, at inference time, InfAlign, of games (`learners.games`), online
                    (`learners.online`), by token (`learners.steps`), ...; the list `LEARNERS`;
                    `choose_beta`; many learners on one dataset (`learners.together`)
`metrics`           `Yardstick`: regret, win rates, coverage, distance from the regularized optimum,
                    of many policies at once
`comparison`        all learners on one instance
`dynamics`          paths of policies under training on a direct loss: gold, proxy, KL, likelihoods
`golden`, `doctor`  losses and gradients to 17 digits (JSON); a user's loss against them
`strategies`        Hypothesis strategies for users' property tests (needs hypothesis)
`claims`            statements of the literature as objects that can be checked: `CLAIMS`
`certify`           claims in ball arithmetic, by formulas or by running their own functions;
                    Proposition A.1 for every beta (needs python-flint)
`falsify`           searches for an instance that violates a claim, and shrinks it
`findings`          what was found: tables, and sentences drawn from them
`notation`, `plots` formulas in Unicode, HTML and LaTeX; tables -> figures, laid out for a venue
`report`, `repro`   the HTML page, from saved results; the main job `rlhfsim repro`
`studies`           grids of cells as data: `Study`, `run_study`; the studies that are shipped
`papers`, `cli`     expected numbers of papers; the command line
==================  ==============================================================================

Every line of the report names the function that computed it (in `repro`) and the table that
holds its numbers.
"""

from rlhfsim.bandit import ContextualBandit
from rlhfsim.coverage import (
    all_policy_concentrability,
    concentrability,
    max_concentrability,
)
from rlhfsim.data import (
    DataError,
    DemonstrationData,
    NamedPairs,
    PreferenceData,
    RankingData,
    ScoreData,
    read_pairs,
)
from rlhfsim.divergences import (
    ALL_DIVERGENCES,
    DIVERGENCES,
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
    renyi,
    squared_hellinger,
    total_variation,
)
from rlhfsim.inference import (
    best_of_n,
    best_of_n_kl_formula,
    calibrated_reward,
    inference_time_pessimism,
    soft_best_of_n,
    win_rate,
    worst_of_n,
)
from rlhfsim.instances import log_linear_bandit, proposition_a1, random_bandit, zipf_bandit
from rlhfsim.laws import (
    dataset_law,
    dataset_of,
    error_split,
    multinomial_counts,
    population_pairs,
    population_rankings,
    population_scores,
)
from rlhfsim.preferences import (
    BradleyTerry,
    GeneralPreference,
    LabelNoise,
    PreferenceModel,
    RaterMixture,
    TrajectoryPreference,
    borda_scores,
    borda_winners,
    condorcet_winner,
    copeland_scores,
    copeland_winners,
    cyclic_preference,
    is_bradley_terry,
    moderate_transitivity,
    observed_preference,
    random_preference,
    strong_transitivity,
    weak_transitivity,
)
from rlhfsim.rewards import (
    FiniteClass,
    LeastSquares,
    Linear,
    MLEDoesNotExistError,
    PlackettLuce,
    Tabular,
    fit_reward,
    mle_exists,
)
from rlhfsim.sampling import (
    sample_demonstrations,
    sample_preferences,
    sample_rankings,
    sample_scores,
)
from rlhfsim.solvers import (
    BestBeta,
    ChiSquaredPath,
    ConvexSolution,
    Solution,
    SolverError,
    StreamedSolution,
    best_beta,
    chi_squared_path,
    solve,
    solve_convex,
    solve_streaming,
)
from rlhfsim.table import example_table
from rlhfsim.threads import get_threads, set_threads

__all__ = [
    "ALL_DIVERGENCES",
    "DIVERGENCES",
    "KL",
    "AlphaDivergence",
    "BestBeta",
    "BradleyTerry",
    "ChiSquared",
    "ChiSquaredPath",
    "ContextualBandit",
    "ConvexSolution",
    "DataError",
    "DemonstrationData",
    "Divergence",
    "FiniteClass",
    "ForwardKL",
    "GeneralPreference",
    "JensenShannon",
    "LabelNoise",
    "LeastSquares",
    "Linear",
    "MLEDoesNotExistError",
    "NamedPairs",
    "PlackettLuce",
    "PreferenceData",
    "PreferenceModel",
    "RankingData",
    "RaterMixture",
    "ScoreData",
    "Solution",
    "SolverError",
    "SquaredHellinger",
    "StreamedSolution",
    "Tabular",
    "TrajectoryPreference",
    "all_policy_concentrability",
    "best_beta",
    "best_of_n",
    "best_of_n_kl_formula",
    "borda_scores",
    "borda_winners",
    "calibrated_reward",
    "chi_squared_path",
    "concentrability",
    "condorcet_winner",
    "copeland_scores",
    "copeland_winners",
    "cyclic_preference",
    "dataset_law",
    "dataset_of",
    "error_split",
    "example_table",
    "fit_reward",
    "get_threads",
    "inference_time_pessimism",
    "is_bradley_terry",
    "log_linear_bandit",
    "max_concentrability",
    "mle_exists",
    "moderate_transitivity",
    "multinomial_counts",
    "observed_preference",
    "population_pairs",
    "population_rankings",
    "population_scores",
    "proposition_a1",
    "random_bandit",
    "random_preference",
    "read_pairs",
    "renyi",
    "sample_demonstrations",
    "sample_preferences",
    "sample_rankings",
    "sample_scores",
    "set_threads",
    "soft_best_of_n",
    "solve",
    "solve_convex",
    "solve_streaming",
    "squared_hellinger",
    "strong_transitivity",
    "total_variation",
    "weak_transitivity",
    "win_rate",
    "worst_of_n",
    "zipf_bandit",
]
