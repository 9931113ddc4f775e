"""The study `xpo`: cells made again by the engine, planted regrets, and what it says."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, verdicts

from rlhfsim import KL, solve
from rlhfsim.online.xpo import DecreasingAlpha, FiniteXPO, Protocol, hidden_best
from rlhfsim.randomness import generator_for
from rlhfsim.studies.shipped.xpo import (
    ALPHA,
    BETA,
    ON_POLICY,
    PASSIVE,
    RANDOM,
    RARE,
    SELF,
    SLOWLY,
    XPO,
    analyse,
    label_of,
)

REGRET = "cumulative_regularized_regret"
SETTINGS = {
    XPO: {"alpha": ALPHA},
    SLOWLY: {"alpha": DecreasingAlpha(BETA)},
    SELF: {"alpha": ALPHA, "opponent": "policy"},
    PASSIVE: {},
    ON_POLICY: {"opponent": "policy"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("xpo", tmp_path_factory.mktemp("studies"))


@pytest.mark.parametrize("learner", SETTINGS)
def test_a_hidden_cell_is_the_engines(run, learner):
    study, rows, _ = run
    mass = 1e-3
    own = rows[(rows["learner"] == learner) & (rows["instance"] == label_of(mass))]
    row = own[own["parameter_value"] == 3000].iloc[2]
    example = hidden_best(BETA, mass, rare=RARE)
    bandit = example.bandit
    engine = FiniteXPO(Protocol(bandit, BETA, 3000, **SETTINGS[learner]), example.policies)
    instance = study.instances[study.labels[0].index(label_of(mass))]
    method = study.learners[study.labels[1].index(learner)]
    cell = f"fit {instance.key}/{row['environment']}/0/{method.key}"
    record = engine.run(generator_for(study.name, cell, 0)).record
    assert row["regret"] == pytest.approx(float(bandit.regret(record.policy)), abs=1e-12)
    assert row[REGRET] == pytest.approx(record.regularized_regret.sum(), rel=1e-9)


def test_random_environments_have_their_optimum_in_the_class(run):
    study, rows, _ = run
    own = rows[(rows["instance"] == RANDOM) & (rows["learner"] == PASSIVE)]
    last = own[own["parameter_value"] == own["parameter_value"].max()]
    instance = study.instances[study.labels[0].index(RANDOM)]
    for _, row in last.iterrows():
        name = f"instance {instance.scene_key}/0"
        scene = instance.scene(generator_for(study.name, name, row["environment"]), 0)
        best = solve(scene.bandit.reward, scene.bandit.reference, KL(), BETA).policy
        least = float(scene.bandit.regret(best))
        assert row["regret"] == pytest.approx(least, abs=1e-9)


def test_regret_along_the_rounds_is_that_of_one_run(run):
    _, rows, _ = run
    along = rows.pivot_table(
        index=["instance", "learner", "environment"], columns="parameter_value", values=REGRET
    )
    assert (np.diff(along.to_numpy(), axis=1) >= 0).all()


def test_the_testing_subset_shows_what_the_whole_does(run):
    told = verdicts(run[2])
    rarest = label_of(1e-6)
    assert told[f"cumulative regret of {PASSIVE} grows like T, {rarest}"] == "holds"
    assert (
        told[f"cumulative regret of {XPO} grows slower than sqrt(T), {label_of(1e-4)}"] == "holds"
    )
    assert told[f"cumulative regret of {SELF}, {label_of(1e-4)}"] == "never settles"
    assert told[f"cumulative regret of {SLOWLY}, {RANDOM}"] == "settles"
    assert f"{1.0:.2g} [" in run[2].answer


def test_planted_regrets_turn_the_verdicts(run):
    study, rows, _ = run
    noise = np.random.default_rng(0).uniform(0.9, 1.1, size=len(rows))
    rounds = rows["parameter_value"]
    planted = analyse(rows.assign(**{REGRET: rounds**0.7 * noise, "regret": 1.0}), study)
    slopes = planted.tables["xpo_slopes"]
    assert (slopes["slope"] - 0.7).abs().max() < 0.05
    assert planted.tables["xpo_found"]["found"].max() == 0.0
    told = verdicts(planted)
    assert told[f"cumulative regret of {XPO} grows slower than sqrt(T), {label_of(1e-4)}"] == (
        "VIOLATED"
    )
    assert told[f"cumulative regret of {PASSIVE} grows like T, {label_of(1e-6)}"] == "VIOLATED"
    assert told["XPO finds the best response at every mass within 30000 rounds"] == "VIOLATED"
    every = analyse(rows.assign(regret=0.0), study)
    assert every.tables["xpo_found"]["found"].min() == 1.0
    claim = f"{PASSIVE} does not find it within 30000 rounds, {label_of(1e-6)}"
    assert verdicts(every)[claim] == "VIOLATED"


def test_the_figure_draws_everywhere(run):
    assert "6 runs for each point" in draw_everywhere("xpo", run[2].tables).caption
