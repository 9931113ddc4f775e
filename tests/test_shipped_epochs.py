"""The study `epochs`: gradient descent by hand, and its verdicts."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim.studies.shipped.epochs import analyse


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("epochs", tmp_path_factory.mktemp("studies"))


def by_hand(row, scene, data, beta, link):
    """Return the policy after gradient descent, and the slopes by finite formulas."""
    p = scene.bandit.reference
    theta = np.zeros_like(p)
    x, win, lose = data.prompt, data.chosen, data.rejected
    for _ in range(int(row["parameter_value"])):
        policy = p * np.exp(theta)
        policy /= policy.sum(axis=1, keepdims=True)
        w = policy / p
        value, slope = link(w)  # of the link, and of the link in log w
        margin = beta * (value[x, win] - value[x, lose])
        pull = -beta / (1 + np.exp(margin)) / len(x)
        table = np.zeros_like(p)
        np.add.at(table, (x, win), pull * slope[x, win])
        np.add.at(table, (x, lose), -pull * slope[x, lose])
        theta -= 4.0 * (table - policy * table.sum(axis=1, keepdims=True))
    policy = p * np.exp(theta)
    return policy / policy.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("learner", "link"),
    [
        ("dpo 0.1", lambda w: (np.log(w), np.ones_like(w))),
        ("chipo 0.03", lambda w: (w + np.log(w), w + 1.0)),
    ],
)
def test_a_cell_is_plain_gradient_descent(run, learner, link):
    study, rows, _ = run
    row = rows[rows["learner"] == learner].iloc[4]
    assert row["parameter_value"] == 10
    scene, data = scene_and_data(study, row)
    policy = by_hand(row, scene, data, float(learner.split()[1]), link)
    assert row["regret"] == pytest.approx(scene.bandit.regret(policy), abs=1e-10)
    different = data.chosen != data.rejected
    logs = np.log(policy / scene.bandit.reference)
    for name, responses in (("chosen_logp", data.chosen), ("rejected_logp", data.rejected)):
        mean = logs[data.prompt, responses][different].mean()
        assert row[name] == pytest.approx(mean, abs=1e-10)


def test_peaks_are_those_of_the_curves(run):
    _, rows, result = run
    curves, peaks = result.tables["epochs_curves"], result.tables["epochs_peaks"]
    for _, row in peaks.iterrows():
        mine = curves[curves["learner"] == row["learner"]].set_index("epochs")["regret"]
        assert row["best_regret"] == mine.min()
        assert row["best_epochs"] == mine.idxmin()
        assert row["last_regret"] == mine.loc[20_000.0]
    # The best epoch of one half is used for the other half.
    table = rows[rows["learner"] == "dpo 0.1"].pivot_table(
        index="environment", columns="parameter_value", values="regret"
    ).to_numpy()  # fmt: skip
    even, odd = table[0::2], table[1::2]
    rises = [*(even[:, -1] - even[:, odd.mean(axis=0).argmin()]),
             *(odd[:, -1] - odd[:, even.mean(axis=0).argmin()])]  # fmt: skip
    rise = peaks.set_index("learner").loc["dpo 0.1", "rise"]
    assert rise == pytest.approx(np.mean(rises), abs=1e-12)


def test_the_answer_has_the_numbers_of_the_tables(run):
    result = run[2]
    peaks = result.tables["epochs_peaks"].set_index("learner")
    for key in ("dpo 0.1", "chipo 0.1", "ipo 0.1", "rpo 0.1", "chipo 0.03"):
        row = peaks.loc[key]
        assert f"{row['rise']:+.3f} [{row['rise_low']:+.3f}, {row['rise_high']:+.3f}]" in (
            result.answer
        )


def test_other_cells_get_other_verdicts(run):
    study, rows, result = run
    late = rows["parameter_value"] == 20_000
    rising = rows["regret"] + np.where(late, 0.3, 0.0) * (rows["learner"] == "dpo 0.1")
    changed = analyse(rows.assign(regret=rising, chosen_logp=1.0), study)
    told = verdicts(changed)
    claim = "dpo, beta 0.1: regret after 20000 epochs less that at the best number of epochs"
    assert told[claim] == "overoptimizes"
    assert told["beta 0.1: chiPO's rise of regret less DPO's"] == "less"
    fell = "dpo, beta 0.1: in the end the log-probability of chosen responses is below the "
    assert verdicts(result)[fell + "reference's"] == "displaced"
    assert told[fell + "reference's"] == "not shown"
    rising = rows["regret"] + np.where(late, 0.3, 0.0) * (rows["learner"] == "chipo 0.1")
    assert analyse(rows.assign(regret=rising), study).answer.startswith("Yes")


def test_the_figure_draws_everywhere(run):
    assert "6 datasets" in draw_everywhere("epochs", run[2].tables).caption
