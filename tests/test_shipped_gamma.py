"""The study `gamma`: gradient descent by hand, tables by loops, its verdicts."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import KL, ChiSquared, Tabular
from rlhfsim.learners import RLHF
from rlhfsim.studies.shipped.gamma import analyse


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("gamma", tmp_path_factory.mktemp("studies"))


def descended(scene, data, beta, gamma, steps):
    """Return the softmax policy after gradient descent on the mean loss, at rate 1."""
    p = scene.bandit.reference
    theta = np.zeros_like(p)
    x, win, lose = data.prompt, data.chosen, data.rejected
    for _ in range(steps):
        policy = p * np.exp(theta)
        policy /= policy.sum(axis=1, keepdims=True)
        w = policy / p
        link = w + gamma * np.log(w)
        pull = -beta / (1 + np.exp(beta * (link[x, win] - link[x, lose]))) / len(x)
        table = np.zeros_like(p)
        np.add.at(table, (x, win), pull * (w + gamma)[x, win])
        np.add.at(table, (x, lose), -pull * (w + gamma)[x, lose])
        theta -= table - policy * table.sum(axis=1, keepdims=True)
    policy = p * np.exp(theta)
    return policy / policy.sum(axis=1, keepdims=True)


def lost(scene, policy):
    r = scene.bandit.reward
    return float(scene.bandit.prompt_dist @ (r.max(axis=1) - (policy * r).sum(axis=1)))


@pytest.mark.parametrize(("gamma", "beta"), [(0.001, 0.0464), (1.0, 0.464)])
def test_a_trained_cell_is_plain_gradient_descent(run, gamma, beta):
    study, rows, _ = run
    label = f"chiPO, gamma {gamma:g}, beta {beta:.3g}"
    exact = next(m.beta for m in study.learners if m.label == label)
    row = rows[(rows["learner"] == label) & (rows["parameter_value"] == 300)].iloc[-1]
    scene, data = scene_and_data(study, row)
    assert row["regret"] == pytest.approx(
        lost(scene, descended(scene, data, exact, gamma, 300)), abs=1e-8
    )


def test_an_optimum_cell_is_the_learners(run):
    study, rows, _ = run
    for label, gamma in (("chi2", 0.0), ("chi2 + 0.1 KL", 0.1)):
        row = rows[rows["learner"] == label].iloc[-2]
        scene, data = scene_and_data(study, row)
        divergence = ChiSquared() + gamma * KL() if gamma else ChiSquared()
        learner = RLHF(row["parameter_value"], divergence, Tabular(ridge=0.1))
        bandit = scene.bandit
        policy = learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist).policy
        assert row["regret"] == pytest.approx(lost(scene, policy), abs=1e-12)


def test_tables_by_loops(run):
    _, rows, result = run
    best = result.tables["gamma_best"].set_index(["route", "gamma"])
    own = rows[rows["learner"] == "chi2 + 0.001 KL"]
    each = own.groupby(["environment", "parameter_value"])["regret"].mean().unstack()
    # Two environments: each is judged at the beta that the other one prefers.
    expected = [each.loc[0, each.loc[1].idxmin()], each.loc[1, each.loc[0].idxmin()]]
    assert best.loc[("optimum", 0.001), "regret"] == pytest.approx(np.mean(expected))
    assert set(best.index.get_level_values("route")) == {"optimum", "300 steps", "3000 steps"}
    curves = result.tables["gamma_curves"]
    chosen = curves[(curves["route"] == "optimum") & (curves["gamma"] == 0.001)]
    assert chosen["regret"].to_numpy() == pytest.approx(each.mean().to_numpy())


def test_other_cells_get_other_verdicts(run):
    study, rows, _ = run
    claim = "the optimum: the regret at gamma = 0 is that at gamma = 1"
    for shift, verdict in ((0.5, "higher"), (-0.5, "lower")):
        moved = rows["regret"] + shift * (rows["learner"] == "chi2")
        assert verdicts(analyse(rows.assign(regret=moved), study))[claim] == verdict
    same = rows["regret"].where(rows["learner"] != "chi2", 0.1)
    same = same.where(rows["learner"] != "chi2 + 1 KL", 0.1)
    assert verdicts(analyse(rows.assign(regret=same), study))[claim] == "no difference seen"
    trained = "chiPO trained for 3000 steps: the regret at gamma = 0.001 is that at gamma = 1"
    moved = rows["regret"] + 0.5 * rows["learner"].str.startswith("chiPO, gamma 0.001")
    assert verdicts(analyse(rows.assign(regret=moved), study))[trained] == "higher"


def test_without_kl_the_direct_method_is_refused(run):
    study, rows, result = run
    claim = "chiPO at gamma = 0 has no normalized optimum over all policies: its link is "
    assert verdicts(result)[claim + "bounded below"] == "holds"
    assert "refused in 4 of 4 datasets" in result.findings[-1].measured
    fine = rows.assign(error=rows["error"].where(rows.index != rows.index[-1]))
    assert rows["learner"].iloc[-1] == "chiPO, gamma 0"
    spared = analyse(fine.assign(regret=fine["regret"].fillna(0.0)), study)
    assert verdicts(spared)[claim + "bounded below"] == "VIOLATED"


def test_the_answer_has_the_numbers_of_the_tables(run):
    result = run[2]
    best = result.tables["gamma_best"].set_index(["route", "gamma"])
    for route, gamma in (("optimum", 0.0), ("3000 steps", 0.001)):
        assert f"{best.loc[(route, gamma), 'regret']:.3f} a" in result.answer
    assert result.answer.endswith("is refused in 4 of 4 datasets.")
    assert result.answer.count("gamma = 1") == 3


def test_the_figure_draws_everywhere(run):
    assert "2 environments" in draw_everywhere("gamma", run[2].tables).caption
