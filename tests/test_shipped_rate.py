"""The study `rate`: cells in closed form, planted power laws, schedules of beta."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import KL, Linear
from rlhfsim.learners import RLHF
from rlhfsim.statistics import Interval
from rlhfsim.studies.shipped.rate import RANDOM, STUDY, WORST, _followed, analyse, named
from rlhfsim.studies.tuning import Along


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("rate", tmp_path_factory.mktemp("studies"))


def test_worst_cells_in_closed_form(run):
    _, rows, _ = run
    some = rows[(rows["instance"] == WORST) & (rows["learner"] == "rlhf-kl")]
    wrong = 0
    for _, row in some.iterrows():
        n, beta = row["n"], row["parameter_value"]
        gap = 1 / (2 * np.log(n))
        p, true = np.array([0.5, 0.5 - 1 / n, 1 / n]), np.array([0.5, 0.5 - gap, 0.0])
        losses = []
        for last in (0.0, 1.0):
            w = p * np.exp((np.array([0.5, 0.5 - gap, last]) - 1.0) / beta)
            losses.append(0.5 - true @ w / w.sum())
        assert np.abs(np.array(losses) - row["regret"]).min() < 1e-9
        wrong += abs(losses[1] - row["regret"]) < 1e-9
    assert 0 < wrong < len(some)


def test_a_linear_cell_is_the_learners(run):
    study, rows, _ = run
    own = rows[(rows["learner"] == "KL, linear reward") & (rows["instance"] == RANDOM)]
    for _, row in own.iloc[[3, 40]].iterrows():
        scene, data = scene_and_data(study, row)
        model = Linear(scene.features, norm_bound=8.0)
        bandit = scene.bandit
        learner = RLHF(row["parameter_value"], KL(), model)
        policy = learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist).policy
        lost = bandit.prompt_dist @ (bandit.reward.max(axis=1) - (policy * bandit.reward).sum(1))
        assert row["regret"] == pytest.approx(lost, abs=1e-12)


@pytest.mark.parametrize(
    ("power", "rate"), [(-0.5, "slow, 1/sqrt(n)"), (-1.0, "fast, 1/n"), (-0.1, "slower")]
)
def test_planted_rates_are_found(run, power, rate):
    study, rows, _ = run
    noise = np.random.default_rng(0).uniform(0.8, 1.25, size=len(rows))
    planted = analyse(rows.assign(regret=rows["n"] ** power * noise), study)
    slopes = planted.tables["rate_slopes"]
    assert (slopes["slope"] - power).abs().max() < 0.15
    inside = (slopes["slope_low"] <= power) & (power <= slopes["slope_high"])
    # 16 groups at 95% (less for so few units): more than half would miss with probability 1e-7.
    assert inside.mean() > 0.5
    assert slopes["rate"].str.startswith(rate).mean() > 0.5
    claim = "KL at its best beta is slower than 1/sqrt(n) on Proposition A.1"
    assert verdicts(planted)[claim] == ("holds" if power == -0.1 else "VIOLATED")
    fast = "chi2 at its best beta falls at least as 1/sqrt(n) on Proposition A.1"
    if power != -0.5:  # Where the claim is at its border, noise decides.
        assert verdicts(planted)[fast] == ("holds" if power < -0.5 else "VIOLATED")


def test_rates_have_names():
    def around(x, reach=0.1):
        return Interval(x, x - reach, x + reach, 0.95, "")

    names = [named(around(s), around(0.5)) for s in (-2, -1.05, -0.7, -0.45, 0)]
    assert names == [
        "faster than 1/n", "fast, 1/n", "between 1/sqrt(n) and 1/n", "slow, 1/sqrt(n)",
        "slower than 1/sqrt(n)",
    ]  # fmt: skip
    assert named(around(-0.99, 1e-4), around(0.0)) == "fast, 1/n"
    assert named(around(-0.97, 1e-4), around(0.0)) == "between 1/sqrt(n) and 1/n"
    assert {named(around(-1.0), around(d)) for d in (0.9, -0.9)} == {"no power of n"}


def test_schedules_of_beta():
    grid = 2.0 ** np.arange(-9, 2)
    units = np.arange(6)[:, None]
    # The regret at size k is least at beta = 2^-(1 + 2k), below what the schedule reaches.
    tables = [
        Along(grid, np.tile(np.abs(np.log2(grid) + 1 + 2 * k), (6, 1)), units) for k in range(4)
    ]
    expected = {"fixed": [0.5] * 4, "1/sqrt(n)": [0.5, 0.25, 0.125, 0.0625],
                "best": [0.5, 0.125, 2.0**-5, 2.0**-7]}  # fmt: skip
    for schedule, betas in expected.items():
        found, runs = _followed(tables, schedule)
        assert found.tolist() == betas
        lost = [abs(np.log2(b) + 1 + 2 * k) for k, b in enumerate(betas)]
        assert runs.tolist() == [lost] * 6
    # A start from which the grid ends too soon is not taken.
    low = [Along(grid, np.tile(np.abs(np.log2(grid) + 9), (6, 1)), units)] * 4
    assert _followed(low, "1/sqrt(n)")[0].tolist() == [2.0**-6, 2.0**-7, 2.0**-8, 2.0**-9]
    assert sorted(STUDY.grid(STUDY.learners[0])) == grid.tolist()


def test_what_has_no_slope_is_said(run):
    study, rows, result = run
    left = result.tables["rate_left_out"]
    told = left[(left["instance"] == WORST) & (left["learner"] == "dpo-log-linear")]
    assert "has no features" in told["reason"].iloc[0]
    nothing = analyse(rows.assign(regret=0.0), study)
    assert nothing.tables["rate_slopes"].empty
    assert "no slope" in nothing.answer
    assert {f.verdict for f in nothing.findings} == {"not measured"}


def test_the_answer_has_the_numbers_of_the_tables(run):
    study, rows, _ = run
    noise = np.random.default_rng(1).uniform(0.5, 1.5, size=len(rows))
    result = analyse(rows.assign(regret=rows["n"] ** -0.5 * noise), study)
    slopes = result.tables["rate_slopes"].set_index(["instance", "learner", "schedule"])
    for place in (
        (RANDOM, "KL, linear reward", "best"), (RANDOM, "chi2, linear reward", "fixed"),
        (WORST, "rlhf-kl", "best"), (WORST, "rlhf-chi2", "best"),
    ):  # fmt: skip
        assert f"slope {slopes.loc[place, 'slope']:.2f} [" in result.answer


def test_the_figure_draws_everywhere(run):
    assert "8 on random environments" in draw_everywhere("rate", run[2].tables).caption
