"""The study `practical-link`: distances, identities and verdicts."""

import numpy as np
import pytest
from scipy.stats import t
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import KL, AlphaDivergence, ChiSquared, Tabular, fit_reward, solve, total_variation
from rlhfsim.studies.shipped.practical_link import LINKS, analyse


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("practical-link", tmp_path_factory.mktemp("studies"))


@pytest.mark.parametrize("label", LINKS)
def test_a_cell_is_the_optimum_of_an_alpha_divergence(run, label):
    # The link w^alpha + gamma log w is, up to a constant, that of alpha D_{1 + alpha} + gamma KL.
    study, rows, _ = run
    alpha, gamma = LINKS[label]
    for _, row in rows[rows["learner"] == label].iloc[2::7].iterrows():
        scene, data = scene_and_data(study, row)
        bandit, beta = scene.bandit, row["parameter_value"]
        reward = fit_reward(data, Tabular(r_max=np.ptp(bandit.reward, axis=1).max())).reward
        divergence = alpha * AlphaDivergence(1.0 + alpha) + gamma * KL()
        mine = solve(reward, bandit.reference, divergence, beta).policy
        theirs = solve(reward, bandit.reference, ChiSquared() + KL(), beta).policy
        apart = total_variation(mine, theirs, prompt_dist=bandit.prompt_dist)
        assert row["apart"] == pytest.approx(apart, abs=1e-7)
        assert row["regret"] == pytest.approx(bandit.regret(mine), abs=1e-7)


def test_tables_average_environments(run):
    _, rows, result = run
    curves = result.tables["practical_link_curves"]
    row = curves[curves["learner"] == "alpha 1/4, gamma 0.1"].iloc[2]
    cells = rows[(rows["learner"] == row["learner"]) & (rows["parameter_value"] == row["beta"])]
    each = [cells.loc[cells["environment"] == e, "apart"].mean() for e in range(8)]
    assert row["count"] == 8
    assert row["apart"] == pytest.approx(np.mean(each))
    theirs = rows[(rows["learner"] == "chipo") & (rows["parameter_value"] == row["beta"])]
    gaps = cells.set_index("environment")["regret"] - theirs.set_index("environment")["regret"]
    assert row["gap"] == pytest.approx(gaps.mean(), abs=1e-12)
    assert row["gap_high"] - row["gap"] == pytest.approx(t.isf(0.025, 7) * gaps.sem())
    best = result.tables["practical_link_best"].set_index("learner")
    assert best.loc["alpha 1, gamma 1", "largest_apart"] < 1e-12
    assert best.loc["alpha 1/4, gamma 0.1", "largest_apart"] > 0.1


def test_the_answer_has_the_numbers_of_the_tables(run):
    result = run[2]
    best = result.tables["practical_link_best"].set_index("learner")
    for name in ("alpha 1/4, gamma 1", "alpha 1/4, gamma 0.1", "alpha 1, gamma 0.1"):
        row = best.loc[name]
        assert (
            f"with {name} the total variation reaches {row['largest_apart']:.2f}" in result.answer
        )
        assert f"{row['difference_low']:+.4f}" in result.answer
    assert [f.expected for f in result.findings[:2]] == [True, True]


def test_other_cells_get_other_verdicts(run):
    study, rows, result = run
    moved = rows["learner"].isin(["alpha 1, gamma 1", "alpha 1/4, gamma 1"])
    told = verdicts(analyse(rows.assign(regret=rows["regret"] + 0.5 * moved), study))
    same = "the practical link with alpha 1, gamma 1 is the link of chipo while ratios are below "
    assert verdicts(result)[same + "exp(20)"] == "holds"
    assert told[same + "exp(20)"] == "fails"
    against = "alpha 1/4, gamma 1 against chiPO: regret, each at a tuned beta, and policy"
    assert told[against] == "higher"


def test_the_figure_draws_everywhere(run):
    assert "8 datasets" in draw_everywhere("practical_link", run[2].tables).caption
