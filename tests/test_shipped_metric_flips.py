"""The shipped study of metrics that flip rankings, on its testing subset."""

from itertools import combinations

import numpy as np
import pytest

from rlhfsim import Tabular, fit_reward
from rlhfsim.statistics import proportion_interval
from rlhfsim.studies.shipped import metric_flips
from tests.shipped_checks import concluded, draw_for_venues, finding, scene_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return concluded("metric-flips", tmp_path_factory.mktemp("metric-flips"))


@pytest.fixture(scope="module")
def chosen(run):
    return run.result.tables["metric_flips_chosen"]


@pytest.fixture(scope="module")
def shares(run):
    return run.result.tables["metric_flips_shares"]


def test_a_policy_by_hand(run, chosen):
    scene, data = scene_of(run.study, 1, 3, 500)
    p, truth, rho = scene.bandit.reference, scene.bandit.reward, scene.bandit.prompt_dist
    row = chosen[
        (chosen["instance"] == "Zipf") & (chosen["environment"] == 3)
        & (chosen["learner"] == "rlhf-kl")
    ].iloc[0]  # fmt: skip
    fitted = fit_reward(data, Tabular(ridge=0.1)).reward
    weight = p * np.exp((fitted - fitted.max(axis=1, keepdims=True)) / row["parameter"])
    pi = weight / weight.sum(axis=1, keepdims=True)
    gain = ((pi - p) * truth).sum(axis=1) @ rho
    kl = (pi * np.log(pi / p)).sum(axis=1) @ rho
    beats = np.sign(truth[:, :, None] - truth[:, None, :]) / 2 + 0.5
    by_hand = {
        "regret": rho @ truth.max(axis=1) - (pi * truth).sum(axis=1) @ rho,
        "win_rate": np.einsum("x,xy,xyz,xz->", rho, pi, beats, p),
        "constrained": gain - 0.1 * kl,
        "gain_per_kl": gain / kl,
        "fitted_gain": ((pi - p) * fitted).sum(axis=1) @ rho,
        "coverage": -(pi**2 / p).sum(axis=1) @ rho,
    }
    for name, value in by_hand.items():
        assert row[name] == pytest.approx(value, rel=1e-7), name


def test_every_learner_is_at_what_the_other_half_prefers(run, chosen):
    for (instance, learner), own in run.rows.groupby(["instance", "learner"]):
        for environment in range(4):
            others = own[own["environment"] % 2 != environment % 2]
            best = others.groupby("parameter_value")["regret"].mean().idxmin()
            row = chosen[
                (chosen["instance"] == instance) & (chosen["learner"] == learner)
                & (chosen["environment"] == environment)
            ]  # fmt: skip
            assert row["parameter"].tolist() == [best]


def test_shares_by_counting(run, chosen, shares):
    units = chosen.set_index(["learner", "instance", "environment"])
    learners = ["rlhf-kl", "rlhf-chi2", "best-of-n", "ctrl", "ipo"]
    per_dataset = {metric: {} for metric in metric_flips.METRICS}
    for first, second in combinations(learners, 2):
        for metric in metric_flips.METRICS:
            flips = decided = 0
            for place in units.loc["rlhf-kl"].index:
                a, b = units.loc[first, *place], units.loc[second, *place]
                regret, other = b["regret"] - a["regret"], a[metric] - b[metric]
                if abs(regret) > 1e-9 and abs(other) > 1e-9:
                    decided += 1
                    flips += (regret > 0) != (other > 0)
                    both = per_dataset[metric].setdefault(place, [])
                    both.append((regret > 0) != (other > 0))
            row = shares[
                (shares["first"] == first) & (shares["second"] == second)
                & (shares["metric"] == metric)
            ]  # fmt: skip
            if metric == "fitted_gain" and second == "ipo":
                assert row.empty
                continue
            assert (row["flips"].item(), row["decided"].item()) == (flips, decided)
            interval = proportion_interval(int(flips), decided)
            assert row["share_high"].item() == pytest.approx(interval.high)
    overall = run.result.tables["metric_flips_overall"].set_index("metric")["share"]
    for metric, datasets in per_dataset.items():
        assert overall[metric] == pytest.approx(np.mean([np.mean(v) for v in datasets.values()]))


def test_planted_metrics(chosen):
    planted = chosen.assign(
        win_rate=-chosen["regret"], constrained=chosen["regret"], coverage=0.0,
        gain_per_kl=np.nan,
    )  # fmt: skip
    found = metric_flips._shares(planted, metric_flips.METRICS).set_index("metric")
    assert (found.loc["win_rate", "share"] == 0.0).all()
    assert (found.loc["constrained", "share"] == 1.0).all()
    assert not {"coverage", "gain_per_kl"} & set(found.index)  # ties only, and never defined
    rows = found.loc["constrained"]
    assert (rows["for_first"] + rows["first_by_regret"] == rows["decided"]).all()


def test_findings_of_theory_hold_and_can_fail(run, chosen):
    assert finding(run.result, "the value flips").expected is True
    assert finding(run.result, "no learner with the same fit").expected is True
    wrong = chosen.copy()
    wrong.loc[wrong["learner"] == "ctrl", "value"] = 100.0
    assert metric_flips._control(wrong).verdict == "VIOLATED"
    rows = metric_flips._with_shared_fit(run.rows, run.study)
    rows.loc[rows["learner"] == "best-of-n", "fitted_gain"] += 0.5
    assert metric_flips._optimal(rows).expected is False


def test_the_answer_has_the_numbers_of_the_tables(run, shares):
    for _, row in run.result.tables["metric_flips_overall"].iterrows():
        assert f"{100 * row['share']:.0f} % [{100 * row['share_low']:.0f}, " in run.result.answer
    worst = shares.loc[shares["share"].idxmax()]
    assert f"most is {worst['first']} and {worst['second']}" in run.result.answer
    assert f"of {worst['decided']} datasets." in run.result.answer


def test_figure_at_every_width(run):
    assert (run.folder / "figures" / "metric_flips.png").is_file()
    draw_for_venues(run)
