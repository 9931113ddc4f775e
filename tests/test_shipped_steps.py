"""The studies `steps` and `demonstrations`: cells made by hand, and their verdicts."""

import numpy as np
import pytest
from scipy.special import logsumexp
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import ChiSquared, Tabular, fit_reward, sample_demonstrations, solve
from rlhfsim.studies.instances import RarePath, TokenSequences
from rlhfsim.studies.methods import TokenDemonstrationsMethod, TokenRLHFMethod
from rlhfsim.studies.shipped.demonstrations import analyse as analyse_demonstrations
from rlhfsim.studies.shipped.steps import RANDOM, analyse


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return run_testing("steps", tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return run_testing("demonstrations", tmp_path_factory.mktemp("studies"))


# ---- instances and methods -----------------------------------------------------------------------


def test_a_rare_path_is_rare_at_every_token():
    bandit = RarePath(length=3, size=1000).scene(np.random.default_rng(0), 1).bandit
    p = bandit.reference[0]
    np.testing.assert_allclose(p[0], 1e-3, rtol=1e-12)
    # 1 - 0.1, then (0.1)(1 - 0.1), ... at the first places where the path is left.
    np.testing.assert_allclose(p[4:], 0.9 / 4, rtol=1e-12)
    np.testing.assert_allclose(p[2:4], 0.09 / 2, rtol=1e-12)
    np.testing.assert_allclose(p[1], 0.009, rtol=1e-12)
    gap = 0.5 / np.log(1000)
    np.testing.assert_allclose(bandit.reward[0], [0, *[0.5, 0.5 - gap] * 3, 0.5], rtol=1e-14)
    assert bandit.proxy_reward[0, 0] == 1.0
    np.testing.assert_array_equal(bandit.proxy_reward[0, 1:], bandit.reward[0, 1:])


def test_token_sequences_add_up():
    spec = TokenSequences(vocabulary=3, length=2, reward_scale=2.0, noise=0.5, prompts=2)
    bandit = spec.scene(np.random.default_rng(1), 1).bandit
    assert bandit.shape == (2, 9)
    assert np.ptp(bandit.reward - bandit.proxy_reward) > 0.1
    plain = spec.model_copy(update={"noise": 0.0}).scene(np.random.default_rng(1), 1).bandit
    np.testing.assert_array_equal(plain.reward, plain.proxy_reward)
    np.testing.assert_array_equal(plain.reference, bandit.reference)


def test_sequences_that_are_too_many():
    with pytest.raises(ValueError, match=r"vocabulary \*\* length must be at most 16384"):
        TokenSequences(vocabulary=2, length=15)


def test_methods_cut_responses_into_digits():
    scene = RarePath(length=3, size=10).scene(np.random.default_rng(0), 1)
    prefixes = TokenRLHFMethod(vocabulary=3, grid=(1.0,)).learner(1.0, scene).prefixes
    assert (prefixes.horizon, prefixes.n_sequences) == (2, 8)
    method = TokenDemonstrationsMethod(vocabulary=2, beta=1.0, temperature=0.1, grid=(4, 8))
    few, more = (method.learner(n, scene).demonstrations for n in (4, 8))
    np.testing.assert_array_equal(few.response, more.response[:4])


# ---- cells ---------------------------------------------------------------------------------------


def test_kl_by_token_on_a_rare_path_in_closed_form(steps):
    """Over whole responses, which KL cannot tell from their tokens."""
    study, rows, result = steps
    best = result.tables["steps_regret"]
    row = best[(best["learner"] == "KL, 6 tokens") & (best["size"] == 10**4)].iloc[0]
    place = rows[(rows["instance"].str.contains("rare")) & (rows["learner"] == "KL, 6 tokens")]
    scene, _ = scene_and_data(study, place.iloc[0])
    p, r = scene.bandit.reference[0], scene.bandit.proxy_reward[0]
    own = place[place["instance"] == place["instance"].iloc[0]].iloc[0]
    beta = own["parameter_value"]
    logs = np.log(p) + r / beta
    policy = np.exp(logs - logsumexp(logs))
    expected = float(scene.bandit.regret(policy[None], scene.comparator))
    assert own["regret"] == pytest.approx(expected, abs=1e-12)
    assert row["regret"] < 0.03


def test_a_cell_of_chi_squared_by_token(steps):
    """Backward over six levels of pairs, by `solve` on each."""
    study, rows, _ = steps
    of = (rows["instance"] == RANDOM) & (rows["learner"] == "chi2, 6 tokens (table)")
    row = rows[of].iloc[5]
    scene, data = scene_and_data(study, row)
    bandit, beta = scene.bandit, row["parameter_value"]
    reward = fit_reward(data, Tabular(r_max=scene.reward_range)).reward[0]
    value, mass, policy = reward, bandit.reference[0], np.ones(1)
    levels = []
    for _ in range(6):
        pairs = mass.reshape(-1, 2)
        node = pairs.sum(axis=1)
        best = solve(value.reshape(-1, 2), pairs / node[:, None], ChiSquared(), beta)
        levels.append(best.policy)
        value, mass = best.value, node
    for level in reversed(levels):
        policy = (policy[:, None] * level).ravel()
    assert row["regret"] == pytest.approx(float(bandit.regret(policy[None])), abs=1e-9)
    assert row["concentrability"] == pytest.approx((policy**2 / bandit.reference[0]).sum())


def test_a_cell_of_demonstrations(demonstrations):
    """A clone by response and no more, as good as without preferences."""
    study, rows, _ = demonstrations
    row = rows[(rows["learner"] == "clone, by response") & (rows["parameter_value"] == 16)].iloc[0]
    scene, _ = scene_and_data(study, row)
    bandit, best = scene.bandit, scene.bandit.optimal_policy()
    shown = sample_demonstrations(bandit, 16, scene.generator("demonstrations"), expert=best)
    assert (shown.response == best.argmax()).all()
    clone = (16.0 * best + 1.0) / 80.0
    assert row["regret"] == pytest.approx(float(bandit.regret(clone)), abs=1e-7)
    token = rows[(rows["learner"] == "clone, by token") & (rows["parameter_value"] == 16)].iloc[0]
    right = np.array([[int(bit) for bit in f"{y:06b}"] for y in range(64)])
    right = right == right[best.argmax()]
    followed = np.logical_and.accumulate(right, axis=1)
    reached = np.column_stack([np.ones(64, dtype=bool), followed[:, :-1]])
    clone = np.where(reached, np.where(right, 17 / 18, 1 / 18), 0.5).prod(axis=1)
    assert token["regret"] == pytest.approx(float(bandit.regret(clone[None])), abs=1e-7)


# ---- what they say -------------------------------------------------------------------------------


def test_kl_does_not_see_tokens_and_others_do(steps):
    _, rows, result = steps
    told = verdicts(result)
    assert told["KL by token and by response learn the same policy"] == "holds"
    assert told["chi2 by response at its best beta falls at least as 1/sqrt(n) on rare paths of "
                "size n"] == "holds"  # fmt: skip
    slopes = result.tables["steps_slopes"].set_index("learner")["slope"]
    order = ["chi2, by response", "chi2, 3 tokens", "chi2, 6 tokens", "KL, by response"]
    assert (np.diff(slopes[order]) > 0).all()
    assert slopes["KL, by response"] == pytest.approx(slopes["KL, 6 tokens"], abs=1e-9)
    apart = rows[(rows["instance"] == RANDOM) & (rows["learner"] == "KL, 6 tokens (table)")]
    assert result.tables["steps_equal"]["largest"].max() == apart["apart"].max()
    for text in ("slope", "times the coverage"):
        assert text in result.answer


def test_other_cells_get_other_verdicts(steps, demonstrations):
    study, rows, _ = steps
    told = verdicts(analyse(rows.assign(apart=1e-3), study))
    assert told["KL by token and by response learn the same policy"] == "VIOLATED"
    slow = rows.assign(regret=np.where(rows["learner"].str.startswith("chi2"), 0.1, rows["regret"]))
    told = verdicts(analyse(slow.assign(regret=slow["regret"] + 1e-3 * rows["n"] ** 0.01), study))
    assert told["chi2 by response at its best beta falls at least as 1/sqrt(n) on rare paths of "
                "size n"] == "VIOLATED"  # fmt: skip
    study, rows, result = demonstrations
    claim = "clone, n = 3000: a clone by token needs fewer demonstrations of one response"
    assert verdicts(result)[claim] == "holds"
    worse = rows["regret"] + 9.0 * rows["learner"].str.endswith("by token")
    changed = analyse_demonstrations(rows.assign(regret=worse), study)
    assert verdicts(changed)[claim] == "VIOLATED"


def test_regret_falls_with_demonstrations(demonstrations):
    _, _, result = demonstrations
    slopes = result.tables["demonstrations_slopes"].set_index(["learner", "n"])["slope"]
    assert slopes["clone, by token", 100] == pytest.approx(-1.0, abs=0.05)
    assert slopes["with preferences, by token", 3000] < -0.5
    assert "preferences alone" in result.answer


@pytest.mark.parametrize("name", ["steps", "demonstrations"])
def test_the_figures_draw_everywhere(name, request):
    result = request.getfixturevalue(name)[2]
    assert "tokens" in draw_everywhere(name, result.tables).caption
