"""The shipped study of forms of overoptimization curves, on its testing subset."""

import numpy as np
import pytest

from rlhfsim import Tabular, fit_reward
from rlhfsim.statistics import BEST_OF_N, FORMS, RL
from rlhfsim.studies.shipped import forms
from tests.shipped_checks import concluded, draw_for_venues, finding, scene_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return concluded("forms", tmp_path_factory.mktemp("forms"))


def test_a_curve_and_its_fits_by_hand(run):
    scene, data = scene_of(run.study, 0, 0, 1000)
    p, truth, rho = scene.bandit.reference, scene.bandit.reward, scene.bandit.prompt_dist
    fitted = fit_reward(data, Tabular(ridge=0.1)).reward
    d, gain = [], []
    for beta in run.study.grid(run.study.learners[1])[::-1]:
        weight = p * np.exp((fitted - fitted.max(axis=1, keepdims=True)) / beta)
        policy = weight / weight.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            kl = np.where(policy > 0, policy * np.log(policy / p), 0.0).sum(axis=1) @ rho
        d.append(np.sqrt(kl))
        gain.append(((policy - p) * truth).sum(axis=1) @ rho)
    d, gain = np.array(d), np.array(gain)
    last, kept = -np.inf, []
    for k, one in enumerate(d):
        if one - last >= d[-1] / 40:
            kept.append(k)
            last = one
    d, gain = d[kept], gain[kept]
    table = run.result.tables["forms_fits"]
    own = table[(table["instance"] == "uniform rewards") & (table["learner"] == "rlhf-kl")]
    own = own.set_index("form")
    assert (own["points"] == d.size).all()
    squares = {}
    for name, other in (("best-of-n", d), ("RL", np.log(d)), ("cubic", d**2)):
        design = np.stack([d, d * other], axis=1)
        left = gain - design @ np.linalg.lstsq(design, gain, rcond=None)[0]
        squares[name] = left @ left
        largest = np.abs(left).max() / np.ptp(gain)
        assert own.loc[name, "largest_residual"] == pytest.approx(largest, rel=1e-6)
        spread = ((gain - gain.mean()) ** 2).sum()
        assert own.loc[name, "r_squared"] == pytest.approx(1 - squares[name] / spread, rel=1e-9)
    # With as many parameters AICc orders by the squares, and weights are ratios of them.
    ratio = (squares["RL"] / squares["cubic"]) ** (-d.size / 2)
    assert own.loc["RL", "weight"] / own.loc["cubic", "weight"] == pytest.approx(ratio, rel=1e-6)
    assert own["falls_by"].iloc[0] == pytest.approx((gain.max() - gain[-1]) / np.ptp(gain))


def test_one_form_wins_each_curve(run):
    fits, summary = (run.result.tables[f"forms_{name}"] for name in ("fits", "summary"))
    curves = fits.groupby(["instance", "environment", "learner"])
    assert (curves["wins"].sum() == 1).all()
    assert curves["weight"].sum().to_numpy() == pytest.approx(1.0)
    assert curves.ngroups == 16
    assert len(fits) == 16 * len(FORMS)
    for (method, form), own in fits.groupby(["learner", "form"]):
        row = summary[(summary["learner"] == method) & (summary["form"] == form)].iloc[0]
        assert row["wins"] == pytest.approx(own["wins"].mean())
        assert row["close"] == pytest.approx((own["largest_residual"] <= forms.CLOSE).mean())
        assert row["residual"] == pytest.approx(np.nanmedian(own["largest_residual"]))
        assert row["wins_low"] <= row["wins"] <= row["wins_high"]


@pytest.mark.parametrize("form", [BEST_OF_N, RL], ids=lambda form: form.name)
def test_a_planted_form_is_found(run, form):
    kl = run.rows["kl"].to_numpy()
    rows = run.rows.assign(gain=form(np.sqrt(kl), 1.0, 0.4))
    compared = [(c, forms.compare_forms(c.d, c.gain)) for c in list(forms._curves(rows))[:2]]
    for curve, found in compared:
        fits = {row["form"]: row for row in forms._fits(curve, found)}
        assert fits[form.name]["largest_residual"] < 1e-9
        assert fits[form.name]["ahead"] < 1e-9
        assert fits["proportional"]["largest_residual"] > forms.CLOSE
        assert fits[form.name]["wins"] or fits["power"]["wins"]  # c = 1 is best-of-n


def test_better_is_counted_curve_by_curve(run):
    fits = run.result.tables["forms_fits"]
    own = fits[fits["learner"] == "rlhf-chi2"].set_index(["instance", "form"])["r_squared"]
    places = own.index.get_level_values("instance").unique()
    better = [own[place, "best-of-n"] > own[place, "RL"] for place in places]
    assert forms._better(fits, "rlhf-chi2").estimate == np.mean(better)
    assert f"share {np.mean(better):.2f} " in finding(
        run.result, "d (a - b d) fits curves of rlhf-chi2 better"
    ).measured  # fmt: skip


def test_thinning_keeps_points_apart():
    d = np.array([0.0, 0.01, 0.1, 0.15, 0.2, 0.2, 1.0])
    assert forms.thinned(d, 0.1) == [0, 2, 4, 6]
    assert forms.thinned(d, 0.0) == list(range(7))


def test_findings_of_theory_hold_and_can_fail(run):
    assert finding(run.result, "the KL of best-of-N").expected is True
    assert finding(run.result, "KL, chi2 and their sum").expected is True
    more = run.rows.copy()
    one = (more["learner"] == "best-of-n") & (more["parameter_value"] == 1)
    more.loc[more.index[one][0], "kl"] = 1e-6
    assert forms._kl_bound(more).verdict == "VIOLATED"
    weak = (run.rows["learner"] == "rlhf-chi2") & (run.rows["parameter_value"] == 1000)
    steeper = run.rows.assign(gain=run.rows["gain"].where(~weak, 1.02 * run.rows["gain"]))
    assert forms._slopes(steeper).expected is False


def test_the_answer_has_the_numbers_of_the_tables(run):
    summary = run.result.tables["forms_summary"]
    for method, form in (("best-of-n", "best-of-n"), ("rlhf-kl", "RL")):
        row = summary[(summary["learner"] == method) & (summary["form"] == form)].iloc[0]
        assert f"share {row['close']:.2f} [{row['close_low']:.2f}" in run.result.answer
        assert f"residual {100 * row['residual']:.1f} %" in run.result.answer
    fits = run.result.tables["forms_fits"]
    largest = fits.loc[fits["wins"], "largest_residual"].max()
    assert f"at most {100 * largest:.0f} % of the range." in run.result.answer


def test_figure_at_every_width(run):
    assert (run.folder / "figures" / "forms.png").is_file()
    draw_for_venues(run)
