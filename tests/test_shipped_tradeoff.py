"""The study `tradeoff`: every learner with a beta, windows by dense grids, its verdicts."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import KL, Tabular
from rlhfsim.learners import DPO, LEARNERS, RLHF, TabularPolicies, setting_for
from rlhfsim.studies.instances import Random
from rlhfsim.studies.shipped.tradeoff import TOLD, analyse


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("tradeoff", tmp_path_factory.mktemp("studies"))


def test_every_learner_of_the_list_with_a_beta_is_there():
    without = {"slic", "best-of-n", "soft-best-of-n", "matching-win-rate"}
    # Tokens, games and rounds have studies of their own.
    elsewhere = {
        "token-chi2", "token-demonstrations", "minimax-winner", "nash", "self-play", "nash-md",
        "iterative-chipo", "online-enhancer", "online-thompson", "xpo", "iterated-dpo",
    }  # fmt: skip
    assert set(TOLD) | without | elsewhere == {r.key for r in LEARNERS}
    assert not set(TOLD) & elsewhere
    assert not set(TOLD) & without
    scene = Random(responses=3).scene(np.random.default_rng(0), 0)
    settings = [setting_for(scene.bandit, scene.generator("s"), beta=b) for b in (0.1, 1.0)]
    for chosen in (r for r in LEARNERS if r.key in without):
        first, second = (repr(chosen.build(s)) for s in settings)
        assert first == second


def test_cells_by_hand(run):
    study, rows, _ = run
    for label, learner in (
        ("rlhf-kl", lambda b: RLHF(b, KL(), Tabular(ridge=0.1))),
        ("cdpo", lambda b: DPO(b, TabularPolicies(ridge=0.1), label_smoothing=0.1)),
    ):
        row = rows[rows["learner"] == label].iloc[4]
        scene, data = scene_and_data(study, row)
        fit = learner(row["parameter_value"]).fit(data, scene.bandit.reference)
        r = scene.bandit.reward[0]
        assert row["regret"] == pytest.approx(r.max() - fit.policy[0] @ r, abs=1e-10)


def test_bias_is_the_regret_with_the_truth_at_hand(run):
    study, rows, _ = run
    own = rows[rows["learner"] == "rlhf-kl"].sort_values("parameter_value")
    assert (own["bias"] + own["estimation_error"]).to_numpy() == pytest.approx(
        own["regret"].to_numpy()
    )
    # Weak regularization and expected counts: nothing but the ridge keeps it from the best.
    assert own["bias"].iloc[0] < 0.05
    assert study.bias


def test_best_betas_and_windows_by_dense_grids(run):
    _, rows, result = run
    best = result.tables["tradeoff_best"].set_index("learner")
    for name in ("rlhf-kl", "rlhf-chi2", "rpo", "kto"):
        mean = rows[rows["learner"] == name].groupby("parameter_value")["regret"].mean()
        assert best.loc[name, "beta"] == mean.idxmin()
        x = np.log(mean.index.to_numpy())
        dense = np.linspace(x[0], x[-1], 20_001)
        inside = np.interp(dense, x, mean.to_numpy()) <= 1.1 * mean.min()
        assert inside[np.abs(dense - np.log(best.loc[name, "beta"])).argmin()]
        low, high = np.log(best.loc[name, ["window_low", "window_high"]].astype(float))
        within = (dense >= low - 1e-3) & (dense <= high + 1e-3)
        assert inside[(dense >= low + 1e-3) & (dense <= high - 1e-3)].all()
        # One step beyond an end that is not the grid's, the regret is more.
        for k in (np.flatnonzero(within)[0] - 4, np.flatnonzero(within)[-1] + 4):
            assert not (0 <= k < dense.size) or not inside[k]
        assert best.loc[name, "width"] == pytest.approx((high - low) / np.log(10))


def test_verdicts_follow_the_cells(run):
    study, rows, result = run
    same = "rlhf-kl and dpo are the same policy at every beta (all policies, same ridge)"
    split = "with strong regularization the regret is bias, with weak it is mostly error of the "
    assert verdicts(result)[same] == "holds"
    moved = rows["regret"] + 1e-3 * (rows["learner"] == "dpo")
    broken = analyse(rows.assign(regret=moved), study)
    assert verdicts(broken)[same] == "VIOLATED"
    assert next(f for f in broken.findings if f.claim == same).expected is False
    swapped = analyse(
        rows.assign(bias=rows["estimation_error"], estimation_error=rows["bias"]), study
    )
    assert verdicts(swapped)[split + "data"] == "VIOLATED"
    worse = rows["regret"] + 2.0 * (rows["learner"] == "rlhf-chi2")
    told = verdicts(analyse(rows.assign(regret=worse), study))
    assert told["rlhf-chi2 loses less than rlhf-kl, each at its best beta"] == "higher"


def test_the_answer_has_the_numbers_of_the_tables(run):
    result = run[2]
    best = result.tables["tradeoff_best"].set_index("learner")
    assert len(best) == len(TOLD) == 30
    for name in ("rlhf-kl", "rlhf-chi2", "rlhf-mixed"):
        row = best.loc[name]
        assert f"regret {row['regret']:.3f} [{row['regret_low']:.3f}" in result.answer
        least = "at least " if row["open_low"] or row["open_high"] else ""
        assert f"over {least}{row['width']:.2f} decades" in result.answer


@pytest.mark.parametrize("name", ["tradeoff", "tradeoff_windows"])
def test_the_figures_draw_everywhere(run, name):
    assert "4 environments" in draw_everywhere(name, run[2].tables).caption
