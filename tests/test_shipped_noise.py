import numpy as np
import pytest
from scipy import stats
from shipped_runs import extreme_layouts

from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.laws import population_pairs
from rlhfsim.learners import DPO, IPO, RLHF, RPO, TabularPolicies
from rlhfsim.plots import FIGURES
from rlhfsim.preferences import BradleyTerry, LabelNoise, RaterMixture
from rlhfsim.randomness import generator_for
from rlhfsim.rewards import Tabular
from rlhfsim.sampling import sample_preferences
from rlhfsim.studies import read_results, run_study, wide
from rlhfsim.studies.shipped import conclude
from rlhfsim.studies.shipped.base import plain
from rlhfsim.studies.shipped.noise import LEARNERS, STUDY, analyse

SMALL = STUDY.for_testing()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("noise") / "out"
    run_study(SMALL, place, workers=1)
    return place


@pytest.fixture(scope="module")
def result(folder):
    return conclude(folder)


@pytest.fixture(scope="module")
def rows(folder):
    return plain(wide(read_results(folder)))


def learner_of(name, beta):
    policies = TabularPolicies(ridge=0.1)
    return {
        "rlhf-kl": RLHF(beta, KL(), Tabular(ridge=0.1)),
        "rlhf-chi2": RLHF(beta, ChiSquared(), Tabular(ridge=0.1)),
        "rlhf-mixed": RLHF(beta, ChiSquared() + KL(), Tabular(ridge=0.1)),
        "ipo": IPO(beta, policies),
        "cdpo": DPO(beta, policies, label_smoothing=0.1),
        "rpo": RPO(beta, 0.005, TabularPolicies()),
    }[name]


def scene_of(label):
    spec = SMALL.instances[SMALL.labels[0].index(label)]
    return spec, spec.scene(generator_for("noise", f"instance {spec.scene_key}/0", 1), 1000)


@pytest.mark.parametrize("label", ["noise 0.3", "raters 4"])
def test_cells_are_what_a_fit_by_hand_gives(rows, label):
    spec, scene = scene_of(label)
    bandit = scene.bandit
    if label == "noise 0.3":
        law = LabelNoise(BradleyTerry(bandit.reward), 0.3)
    else:
        raters = BradleyTerry(bandit.reward, 0.25), BradleyTerry(bandit.reward, 4.0)
        law = RaterMixture(raters, np.array([0.5, 0.5]))
    data = sample_preferences(
        bandit, 1000, generator_for("noise", f"data {spec.key}/1/1000", 0), model=law
    )
    pairs = population_pairs(bandit, model=law)
    expected = type(pairs)(
        pairs.prompt, pairs.winner, pairs.loser, 1000 * pairs.count, 1000 * pairs.equal_pairs,
        pairs.shape,
    )  # fmt: skip
    mine = rows[(rows["instance"] == label) & (rows["environment"] == 1)]
    beta = sorted(mine["parameter_value"].unique())[1]
    for name in LEARNERS:
        (row,) = mine[(mine["learner"] == name) & (mine["parameter_value"] == beta)].to_dict(
            "records"
        )
        learner = learner_of(name, beta)
        regret, bias = (
            float(bandit.regret(learner.fit(d, bandit.reference, prompt_dist=bandit.prompt_dist)
                                .policy))
            for d in (data, expected)
        )  # fmt: skip
        assert row["regret"] == pytest.approx(regret, abs=1e-7), name
        assert row["bias"] == pytest.approx(bias, abs=1e-7), name
        assert row["estimation_error"] == pytest.approx(regret - bias, abs=1e-7), name


def test_smoothed_labels_are_flipped_labels_when_data_are_infinite():
    _, scene = scene_of("noise 0")
    bandit = scene.bandit
    clean, flipped = (
        population_pairs(bandit, model=LabelNoise(BradleyTerry(bandit.reward), rate))
        for rate in (0.0, 0.1)
    )
    policies = TabularPolicies(r_max=8.0)
    smoothed = DPO(0.1, policies, label_smoothing=0.1).fit(clean, bandit.reference).policy
    noisy = DPO(0.1, policies).fit(flipped, bandit.reference).policy
    np.testing.assert_allclose(smoothed, noisy, atol=1e-6)


def test_the_table_is_what_the_cells_say(rows, result):
    best = result.tables["noise_best"]
    assert len(best) == (5 + 3 + 1) * 6
    for row in best.to_dict("records"):
        name = f"{row['varies']} {row['level']:g}" if row["level"] != 1.0 else "noise 0"
        mine = rows[(rows["instance"] == name) & (rows["learner"] == row["learner"])]
        regret, bias = (
            mine.pivot(index="environment", columns="parameter_value", values=metric)
            for metric in ("regret", "bias")
        )
        beta = regret.mean().idxmin()
        assert row["beta"] == beta
        # With two environments each takes the beta that the other one prefers.
        chosen = [regret.loc[0, regret.loc[1].idxmin()], regret.loc[1, regret.loc[0].idxmin()]]
        assert row["regret"] == pytest.approx(np.mean(chosen), rel=1e-12)
        half = stats.t.ppf(0.975, 1) * np.std(chosen, ddof=1) / np.sqrt(2)
        assert row["regret_high"] - row["regret"] == pytest.approx(half, rel=1e-9, abs=1e-12)
        assert row["bias"] == pytest.approx(bias[beta].mean(), rel=1e-12)
        assert row["bias"] + row["estimation_error"] == pytest.approx(regret[beta].mean())
        clean = rows[(rows["instance"] == "noise 0") & (rows["learner"] == row["learner"])]
        known = clean.groupby("parameter_value")["regret"].mean().idxmin()
        if name != "noise 0":
            assert row["untuned"] == pytest.approx(regret[known].mean(), rel=1e-12)
    assert (best["count"] == 2).all()


def test_answer_has_the_numbers_of_the_table(result):
    best = result.tables["noise_best"].set_index(["varies", "level", "learner"])
    for name in LEARNERS:
        first, last = (best.loc[("noise", level, name), "regret"] for level in (0.0, 0.4))
        assert f"{name} from {first:.3f} to {last:.3f} [" in result.answer
    against = result.tables["noise_against_kl"].set_index(["varies", "level", "learner"])
    row = against.loc[("noise", 0.4, "rlhf-chi2")]
    assert f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] at 0.4" in (
        result.answer
    )
    assert f"it is {best.loc[('raters', 8.0, 'rlhf-kl'), 'regret']:.3f} for KL" in result.answer


def test_verdicts_follow_the_numbers(rows, result):
    by_claim = {f.claim: f for f in result.findings}
    rising = next(f for claim, f in by_claim.items() if claim.startswith("the fitted reward"))
    assert rising.expected is True
    assert rising.verdict == "holds"
    wrong = rows.copy()
    one = (
        (rows["learner"] == "rlhf-chi2")
        & (rows["instance"] == "noise 0.2")
        & (rows["environment"] == 0)
        & (rows["parameter_value"] == rows["parameter_value"].max())
    )
    assert one.sum() == 1
    wrong.loc[one, "fitted_gain"] = 1.01 * rows["fitted_gain"].max()
    # A learner that is made better everywhere is seen to be better than KL.
    wrong["regret"] = rows["regret"].where(rows["learner"] != "ipo", rows["regret"] - 10.0)
    again = analyse(wrong, SMALL)
    seen = {f.claim: f for f in again.findings}
    assert seen[rising.claim].verdict == "VIOLATED"
    assert seen[rising.claim].expected is False
    told = seen["ipo against rlhf-kl, under each law of the labels"]
    assert told.verdict == "lower under 8, higher under 0 of 8"
    table = again.tables["noise_against_kl"].set_index(["varies", "level", "learner"])
    before = result.tables["noise_against_kl"].set_index(["varies", "level", "learner"])
    shift = table["difference"] - before["difference"]
    np.testing.assert_allclose(shift, np.where(shift.index.get_level_values(2) == "ipo", -10, 0),
                               atol=1e-12)  # fmt: skip


def test_differences_from_kl_are_paired(rows, result):
    table = result.tables["noise_against_kl"]
    assert len(table) == 8 * 5
    for row in table.to_dict("records"):
        mine = rows[rows["instance"] == f"{row['varies']} {row['level']:g}"]
        chosen = []
        for name in (row["learner"], "rlhf-kl"):
            own = mine[mine["learner"] == name]
            r = own.pivot(index="environment", columns="parameter_value", values="regret")
            chosen.append([r.loc[0, r.loc[1].idxmin()], r.loc[1, r.loc[0].idxmin()]])
        apart = np.subtract(*chosen)
        half = stats.t.ppf(0.975, 1) * np.std(apart, ddof=1) / np.sqrt(2)
        assert row["difference"] == pytest.approx(apart.mean(), abs=1e-12)
        assert row["high"] - row["difference"] == pytest.approx(half, rel=1e-9, abs=1e-12)
        wanted = "lower" if row["high"] < 0 else "higher" if row["low"] > 0 else "no difference"
        assert row["verdict"].startswith(wanted)


def test_figure_draws_for_every_venue(result):
    for layout in extreme_layouts():
        assert FIGURES["noise"].draw(result.tables, layout).figure.axes
    assert "2 environments" in FIGURES["noise"].caption_of(result.tables)
