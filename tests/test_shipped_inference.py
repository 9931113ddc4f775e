"""The shipped study of choosing among draws at inference time, on its testing subset."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from rlhfsim import Tabular, fit_reward
from rlhfsim.studies.shipped import inference
from tests.shipped_checks import concluded, draw_for_venues, finding, scene_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return concluded("inference", tmp_path_factory.mktemp("inference"))


def best_of(p, r, n):
    """Return the law of the best of n draws, ties shared, from the law of the largest reward."""
    below = np.array([p[r < value].sum() for value in r])
    upto = np.array([p[r <= value].sum() for value in r])
    same = np.array([p[r == value].sum() for value in r])
    return p / same * (upto**n - below**n)


def pessimistic(p, r, n, beta):
    """Return rejection sampling of the chi-squared optimum, draw after draw."""
    level = brentq(
        lambda m: p @ np.maximum((r - m) / beta, 0.0) - 1.0, r.min() - 2 * beta, r.max(),
        xtol=1e-15, rtol=1e-15,
    )  # fmt: skip
    ratio = np.maximum((r - level) / beta, 0.0)
    accept = ratio / ratio.max()
    left, law = 1.0, np.zeros_like(p)
    for _ in range(n):
        law += left * p * accept
        left *= 1.0 - p @ accept
    return law + left * p


@pytest.mark.parametrize("instance", [1, 3])
def test_gains_by_hand(run, instance):
    scene, data = scene_of(run.study, instance, 2, 1000)
    p, truth = scene.bandit.reference[0], scene.bandit.reward[0]
    fitted = fit_reward(data, Tabular(r_max=scene.reward_range)).reward[0]
    rows = run.rows[
        (run.rows["instance"] == run.study.labels[0][instance]) & (run.rows["environment"] == 2)
    ].set_index(["learner", "parameter_value"])["gain"]
    for n in (16, 256):
        gain = (best_of(p, fitted, n) - p) @ truth
        assert rows["best-of-n", n] == pytest.approx(gain, abs=1e-9)
        gain = (pessimistic(p, fitted, n, 0.01) - p) @ truth
        assert rows["pessimism, beta 0.01", n] == pytest.approx(gain, abs=1e-7)


def test_tuned_regrets_by_hand(run):
    rows = run.rows[run.rows["instance"] == run.study.labels[0][3]]
    tuned = run.result.tables["inference_tuned"]
    row = tuned[(tuned["coverage"] == 128) & (tuned["method"] == inference._PESSIMISM)]
    row = row[row["chosen"] == "most draws"].iloc[0]
    own = rows[rows["learner"].str.startswith("pessimism") & (rows["parameter_value"] == 65536)]
    regret = {
        k: g.sort_values("environment")["regret"].to_numpy() for k, g in own.groupby("learner")
    }
    found = []
    for environment in range(6):
        others = [e for e in range(6) if e % 2 != environment % 2]
        best = min(regret, key=lambda k: regret[k][others].mean())
        found.append(regret[best][environment])
    assert row["regret"] == pytest.approx(np.mean(found), rel=1e-12)
    assert row["count"] == 6
    greedy = rows[(rows["learner"] == "best-of-n") & (rows["parameter_value"] == 65536)]
    own = tuned[(tuned["coverage"] == 128) & (tuned["method"] == "best-of-n")]
    own = own.set_index("chosen").loc["most draws"]
    assert own["regret"] == pytest.approx(greedy["regret"].mean(), rel=1e-12)
    assert own["difference"] > 0.5


def test_findings_of_theory_hold_and_can_fail(run):
    ratio, limit = "no density ratio", "with many draws pessimism"
    assert finding(run.result, ratio).expected is True
    assert finding(run.result, limit).expected is True
    rows = inference._described(run.rows, run.study)
    broken = rows.copy()
    at = broken.index[(broken["method"] == "best-of-n") & (broken["draws"] == 16)][0]
    broken.loc[at, "max_concentrability"] = 16.1
    assert inference._ratios(broken).verdict == "VIOLATED"
    broken = rows.copy()
    at = broken.index[broken["method"] == "rlhf-chi2"][0]
    broken.loc[at, "gain"] += 1e-5
    assert inference._limit(broken).expected is False


def planted(run, gain):
    """Return the rows with a gain of best-of-N that is a function of coverage and draws."""
    rows = inference._described(run.rows, run.study)
    own = rows["method"] == "best-of-n"
    noise = 0.01 * rows["environment"]
    return rows.assign(gain=rows["gain"].where(~own, gain(rows["coverage"], rows["draws"]) + noise))


def test_planted_peaks_and_falls_are_found(run):
    rows = planted(run, lambda c, n: -np.abs(np.log2(n) - 8.0))
    own = rows[(rows["method"] == "best-of-n") & (rows["coverage"] == 8)]
    peak = inference._peak(own, "planted", run.study)
    assert peak["peak"] == peak["peak_low"] == peak["peak_high"] == 256
    assert peak["fall"] == pytest.approx(8.0)
    assert peak["gain"] == pytest.approx(0.01 * np.mean(range(6)))
    still = inference._growth(rows, run.study)
    assert still.low == still.high == 0.0
    moving = planted(run, lambda c, n: -np.abs(np.log2(n) - 2.0 * np.log2(c)))
    # Draws are powers of 16 here: the peaks at 4, 64, 1024, ... are ties between two neighbours,
    # of which the first counts.
    assert inference._growth(moving, run.study).estimate == pytest.approx(2.0, abs=0.4)


def test_a_plateau_peaks_where_it_begins():
    gain = np.array([[0.0, 1.0, 1.0 + 1e-12, 1.0], [3.0, 2.0, 3.0, 3.1]])
    assert inference._first_best(gain).tolist() == [1, 3]


def test_the_answer_has_the_numbers_of_the_tables(run):
    peaks, tuned = (run.result.tables[f"inference_{name}"] for name in ("peaks", "tuned"))
    best = peaks[peaks["method"] == "best-of-n"].set_index("coverage")
    assert f"peaks at N = {best.loc[2, 'peak']:.0f} " in run.result.answer
    assert f"at {best.loc[512, 'peak']:.0f} where it has 512" in run.result.answer
    own = tuned[(tuned["method"] == "best-of-n") & (tuned["chosen"] == "with the draws")]
    assert f"at a tuned N {own['regret'].mean():.3f}" in run.result.answer
    curves = run.result.tables["inference_curves"]
    assert np.isinf(curves.loc[curves["method"].str.startswith("rlhf"), "draws"]).all()
    assert isinstance(curves, pd.DataFrame)


def test_figure_at_every_width(run):
    assert (run.folder / "figures" / "inference.png").is_file()
    draw_for_venues(run)
