import numpy as np
import pytest
from shipped_runs import extreme_layouts

from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.laws import population_pairs
from rlhfsim.learners import DPO, IPO, RLHF, RPO, LogLinearPolicies
from rlhfsim.plots import FIGURES
from rlhfsim.randomness import generator_for
from rlhfsim.rewards import Linear
from rlhfsim.sampling import sample_preferences
from rlhfsim.studies import read_results, run_study, wide
from rlhfsim.studies.shipped import conclude
from rlhfsim.studies.shipped.base import plain
from rlhfsim.studies.shipped.misspecification import STUDY, analyse
from rlhfsim.studies.shipped.noise import LEARNERS

SMALL = STUDY.for_testing()
N = STUDY.n[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("misspecification") / "out"
    run_study(SMALL, place, workers=1)
    return place


@pytest.fixture(scope="module")
def result(folder):
    return conclude(folder)


@pytest.fixture(scope="module")
def rows(folder):
    return plain(wide(read_results(folder)))


def learner_of(name, beta, features):
    model, policies = Linear(features, norm_bound=8.0), LogLinearPolicies(features)
    return {
        "rlhf-kl": RLHF(beta, KL(), model),
        "rlhf-chi2": RLHF(beta, ChiSquared(), model),
        "rlhf-mixed": RLHF(beta, ChiSquared() + KL(), model),
        "ipo": IPO(beta, policies),
        "cdpo": DPO(beta, policies, label_smoothing=0.1),
        "rpo": RPO(beta, 0.005, policies),
    }[name]


def scene_of(environment):
    (spec,) = SMALL.instances
    return spec, spec.scene(
        generator_for(STUDY.name, f"instance {spec.scene_key}/0", environment), N
    )


@pytest.mark.parametrize("kept", [8, 2])
def test_cells_are_what_a_fit_by_hand_gives(rows, kept):
    spec, scene = scene_of(1)
    bandit, features = scene.bandit, scene.features[..., :kept]
    data = sample_preferences(bandit, N, generator_for(STUDY.name, f"data {spec.key}/1/{N}", 0))
    pairs = population_pairs(bandit)
    expected = type(pairs)(
        pairs.prompt, pairs.winner, pairs.loser, N * pairs.count, N * pairs.equal_pairs,
        pairs.shape,
    )  # fmt: skip
    mine = rows[rows["environment"] == 1]
    for name in LEARNERS:
        own = mine[mine["learner"] == f"{name}, {kept} features"]
        row = own.sort_values("parameter_value").to_dict("records")[-1]
        rng = np.random.default_rng(0)
        for metric, seen in (("regret", data), ("bias", expected)):
            learner = learner_of(name, row["parameter_value"], features)
            policy = learner.fit(
                seen, bandit.reference, prompt_dist=bandit.prompt_dist, rng=rng
            ).policy
            assert row[metric] == pytest.approx(float(bandit.regret(policy)), abs=1e-5), name


def test_the_table_is_what_the_cells_say(rows, result):
    best = result.tables["misspecification_best"]
    assert len(best) == 4 * 6
    for row in best.to_dict("records"):
        mine = rows[rows["learner"] == f"{row['learner']}, {row['features']} features"]
        regret, bias = (
            mine.pivot(index="environment", columns="parameter_value", values=metric)
            for metric in ("regret", "bias")
        )
        beta = regret.mean().idxmin()
        assert row["beta"] == beta
        chosen = [regret.loc[0, regret.loc[1].idxmin()], regret.loc[1, regret.loc[0].idxmin()]]
        assert row["regret"] == pytest.approx(np.mean(chosen), rel=1e-12)
        assert row["bias"] == pytest.approx(bias[beta].mean(), rel=1e-12, abs=1e-15)
        assert row["bias"] + row["estimation_error"] == pytest.approx(regret[beta].mean())
        share = bias[beta].mean() / regret[beta].mean()
        assert row["share_of_bias"] == pytest.approx(share, rel=1e-9, abs=1e-12)
    assert rows["error"].isna().all()


def test_all_features_have_no_bias_and_few_have_much(result):
    best = result.tables["misspecification_best"].set_index(["features", "learner"])
    for name in LEARNERS[:3]:
        assert best.loc[(8, name), "bias"] < 0.01
        assert best.loc[(2, name), "bias"] > 0.3


def test_answer_has_the_numbers_of_the_table(result):
    best = result.tables["misspecification_best"].set_index(["features", "learner"])
    for name in LEARNERS:
        all_of_them, few = best.loc[(8, name)], best.loc[(2, name)]
        assert f"{name} loses {all_of_them['regret']:.3f} with all features" in result.answer
        assert f"with 2, of which {few['bias']:.3f} is bias" in result.answer


def test_a_bias_that_does_not_vanish_would_be_seen(rows, result):
    said = [f for f in result.findings if f.expected is not None]
    assert len(said) == 3
    assert all(f.expected and f.verdict == "holds" for f in said)
    wrong = rows.copy()
    mine = rows["learner"] == "rlhf-mixed, 8 features"
    wrong.loc[mine, "bias"] += 0.05 * (rows["gain"] + rows["regret"])[mine].mean()
    seen = [f for f in analyse(wrong, SMALL).findings if f.expected is not None]
    assert [f.verdict for f in seen] == ["holds", "holds", "VIOLATED"]
    assert [f.expected for f in seen] == [True, True, False]


def test_figure_draws_for_every_venue(result):
    figure = FIGURES["misspecification"]
    for layout in extreme_layouts():
        assert figure.draw(result.tables, layout).figure.axes
    assert "8 features of the true reward" in figure.caption_of(result.tables)
