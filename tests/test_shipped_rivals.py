"""The study `rivals`: finite classes by enumeration, aggregates, and its verdicts."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import trim_mean
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import KL, ChiSquared, solve
from rlhfsim.studies.shipped.rivals import analyse, verdict_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("rivals", tmp_path_factory.mktemp("studies"))


def logistic(link):
    return lambda w, beta: -np.log(1 / (1 + np.exp(-beta * (link(w[0]) - link(w[1])))))


LOSSES = {
    "dpo": logistic(np.log),
    "chipo": logistic(lambda w: w + np.log(w)),
    "ipo": lambda w, beta: (np.log(w[0] / w[1]) - 0.5 / beta) ** 2,
}


@pytest.mark.parametrize("key", LOSSES)
@pytest.mark.parametrize(
    ("policies", "divergence"), [("KL optima", KL()), ("mixed optima", ChiSquared() + KL())]
)
def test_a_cell_is_the_least_loss_of_sixteen_policies(run, key, policies, divergence):
    study, rows, _ = run
    mine = rows[(rows["learner"] == f"{key} / {policies}") & (rows["parameter_value"] > 0.1)]
    for _, row in mine.iloc[:4].iterrows():
        scene, data = scene_and_data(study, row)
        bandit, beta = scene.bandit, row["parameter_value"]
        options = solve(scene.reward_class(16, 1.0), bandit.reference, divergence, beta).policy
        ratios = options / bandit.reference
        pairs = [(w[data.prompt, data.chosen], w[data.prompt, data.rejected]) for w in ratios]
        losses = np.array([LOSSES[key](pair, beta).mean() for pair in pairs])
        best = options[losses.argmin()]
        assert np.sort(losses)[1] - losses.min() > 1e-12
        assert row["regret"] == pytest.approx(bandit.regret(best), abs=1e-10)


def tuned(rows, learner):
    """Return regrets at the beta that the other half of the environments prefers."""
    table = rows[rows["learner"] == learner].pivot_table(
        index="environment", columns="parameter_value", values="regret"
    ).to_numpy()  # fmt: skip
    found = np.empty(len(table))
    for half in (0, 1):
        chosen = table[1 - half :: 2].mean(axis=0).argmin()
        found[half::2] = table[half::2, chosen]
    return found


def test_scores_and_pairs_by_hand(run):
    _, rows, result = run
    scores, pairs = (result.tables[f"rivals_{name}"] for name in ("scores", "pairs"))
    for _, row in scores.iterrows():
        regret = tuned(rows, f"{row['learner']} / {row['policies']}")
        assert row["count"] == len(regret) == 8
        assert row["iqm"] == pytest.approx(trim_mean(regret, 0.25))
    for _, row in pairs.iterrows():
        theirs = tuned(rows, f"{row['rival']} / {row['policies']}")
        ours = tuned(rows, f"chipo / {row['policies']}")
        assert row["gain"] == pytest.approx((theirs - ours).mean(), abs=1e-12)
        assert (row["wins"], row["losses"]) == ((theirs > ours).sum(), (theirs < ours).sum())
    assert len(pairs) == 11


def test_environments_with_a_failure_are_left_out_for_all(run):
    study, rows, _ = run
    failed = (rows["environment"] == 3) & (rows["learner"] == "ipo / all")
    broken = rows.assign(
        error=np.where(failed, "no", None), regret=rows["regret"].where(~failed)
    )  # fmt: skip
    result = analyse(broken, study)
    assert result.settings["left out, as a learner failed"] == 1
    assert set(result.tables["rivals_scores"]["count"]) == {7}
    kept = analyse(rows[rows["environment"] != 3], study).tables["rivals_scores"]
    np.testing.assert_array_equal(result.tables["rivals_scores"]["mean"], kept["mean"])


def test_a_verdict_needs_an_interval_on_one_side():
    for low, high, verdict in (
        (0.1, 0.2, "chiPO is better"),
        (-0.2, -0.1, "the rival is better"),
        (-0.1, 0.1, "no difference seen"),
    ):
        assert verdict_of(pd.Series({"gain_low": low, "gain_high": high})) == verdict


def test_other_cells_get_other_verdicts(run):
    study, rows, result = run
    ours = rows["learner"] == "chipo / all"
    changed = analyse(rows.assign(regret=np.where(ours, -3.0, rows["regret"])), study)
    told = {c: v for c, v in verdicts(changed).items() if c.endswith("over all policies")}
    assert set(told.values()) == {"chiPO is better"}
    assert "lower mean regret in 4 of 11 comparisons" in changed.answer
    for _, row in result.tables["rivals_pairs"].iterrows():
        assert f"{row['rival']} {row['gain']:+.3f} [{row['gain_low']:+.3f}" in result.answer


def test_the_figure_draws_everywhere(run):
    assert "8 environments" in draw_everywhere("rivals", run[2].tables).caption
