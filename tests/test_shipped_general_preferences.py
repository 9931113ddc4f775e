"""The study of preferences that no reward represents: its cells by hand, and its analysis."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, scene_and_data, verdicts

from rlhfsim import KL, ChiSquared, GeneralPreference
from rlhfsim.coverage import concentrability
from rlhfsim.games import (
    duality_gap,
    minimax_winner,
    pair_law,
    unilateral_concentrability,
)
from rlhfsim.learners import RLHF
from rlhfsim.learners.games import (
    IterativeChiPO,
    MinimaxWinner,
    NashMD,
    RegularizedNash,
    SelfPlay,
)
from rlhfsim.rewards import Tabular
from rlhfsim.studies.instances.games import ExplicitGame, RandomGame, TwoCycles, two_cycles
from rlhfsim.studies.shipped.general_preferences import (
    BETA,
    FLOOR,
    LEARNERS,
    SINGLE,
    UNILATERAL,
    analyse,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("general-preferences", tmp_path_factory.mktemp("studies"))


def learner_of(name, value):
    return {
        "minimax winner": lambda: MinimaxWinner(value),
        "KL Nash": lambda: RegularizedNash(value),
        "chi2 + KL Nash": lambda: RegularizedNash(value, ChiSquared() + KL()),
        "self-play": lambda: SelfPlay(int(value)),
        "Nash-MD": lambda: NashMD(BETA, int(value)),
        "iterative chiPO": lambda: IterativeChiPO(BETA, int(value)),
        "RLHF, KL": lambda: RLHF(value, KL(), Tabular(ridge=0.1)),
    }[name]()


def test_cells_are_what_a_fit_by_hand_gives(run):
    study, rows, _ = run
    assert rows["error"].isna().all()
    assert set(rows["learner"]) == set(LEARNERS)
    some = rows[(rows["n"] == 1000) & (rows["environment"] == 1)]
    picked = some.groupby(["instance", "learner"]).head(2)
    assert len(picked) == 2 * (2 * 7 - 1)
    for _, row in picked.iterrows():
        scene, data = scene_and_data(study, row)
        learner = learner_of(row["learner"], row["parameter_value"])
        policy = learner.fit(data, scene.bandit.reference).policy
        gap = duality_gap(policy, GeneralPreference(two_cycles())).mean()
        assert row["duality_gap"] == pytest.approx(gap, abs=1e-10)


def test_the_analysis_averages_and_chooses_on_the_other_half(run):
    _, rows, result = run
    learning = result.tables["games_learning"].set_index(["instance", "learner", "n"])
    own = rows[(rows["instance"] == UNILATERAL) & (rows["n"] == 10_000)]
    kl = own[own["learner"] == "KL Nash"].pivot(
        index="environment", columns="parameter_value", values="duality_gap"
    )
    even, odd = kl.iloc[::2], kl.iloc[1::2]
    chosen = np.concatenate([even[odd.mean().idxmin()], odd[even.mean().idxmin()]])
    found = learning.loc[(UNILATERAL, "KL Nash", 10_000)]
    assert found["gap"] == pytest.approx(chosen.mean(), rel=1e-12)
    assert found["count"] == 2
    play = own[(own["learner"] == "self-play") & (own["parameter_value"] == 1000)]
    found = learning.loc[(UNILATERAL, "self-play", 10_000)]
    assert found["gap"] == pytest.approx(play["duality_gap"].mean(), rel=1e-12)
    iterations = result.tables["games_iterations"]
    assert set(iterations["learner"]) == {"self-play", "Nash-MD", "iterative chiPO"}
    winner = own[own["learner"] == "minimax winner"]["duality_gap"].to_numpy()
    assert learning.loc[(UNILATERAL, "minimax winner", 10_000), "gap"] == pytest.approx(
        winner.mean()
    )
    slopes = result.tables["games_slopes"].set_index("learner")["slope"]
    paths = [
        rows[(rows["instance"] == UNILATERAL) & (rows["learner"] == "minimax winner")
             & (rows["environment"] == e)].sort_values("n")["duality_gap"]
        for e in range(2)
    ]  # fmt: skip
    by_hand = np.mean([np.polyfit(np.log([1e3, 1e4, 1e5]), np.log(p), 1)[0] for p in paths])
    assert slopes["minimax winner"] == pytest.approx(by_hand, rel=1e-9)


def test_what_is_found(run):
    result = run[2]
    found = verdicts(result)
    floors = [v for claim, v in found.items() if "single-policy" in claim]
    assert floors == ["holds"] * len(LEARNERS)
    learning = result.tables["games_learning"].set_index(["instance", "learner", "n"])["gap"]
    assert learning[UNILATERAL, "minimax winner", 100_000] < 0.07
    assert learning[SINGLE, "minimax winner", 100_000] > 0.2
    assert "no reward represents a cycle" in result.answer


def test_a_gap_that_falls_where_it_cannot_is_refused(run):
    study, rows, _ = run
    low = rows.copy()
    low["duality_gap"] = 0.5 + 0.001 * low["environment"]
    found = verdicts(analyse(low, study))
    assert [v for claim, v in found.items() if "single-policy" in claim] == ["VIOLATED"] * 7
    flat = rows.copy()
    flat["duality_gap"] = 0.5 + 0.01 * flat["environment"]
    found = verdicts(analyse(flat, study))
    assert [v for claim, v in found.items() if "n^(-1/2)" in claim] == ["another exponent"] * 3


def test_the_two_cycles_are_covered_as_they_say():
    game = GeneralPreference(two_cycles())
    scenes = {
        share: TwoCycles(decider=share).scene(np.random.default_rng(0), 0) for share in (0.0, 0.1)
    }
    np.testing.assert_array_equal(scenes[0.0].labels.tensor(), game.tensor())
    mix = minimax_winner(two_cycles()[0, :3, :3] * 2 - 1).policy
    policy = np.zeros((2, 7))
    policy[0, :3] = policy[1, 3:6] = mix
    np.testing.assert_allclose(duality_gap(policy, game), 0.0, atol=1e-15)
    for share, scene in scenes.items():
        covered = concentrability(policy, scene.bandit.reference, scene.bandit.prompt_dist)
        assert covered * (1 - share) < 3
        pairs = pair_law(scene.bandit.reference)
        assert np.isfinite(unilateral_concentrability(policy, pairs)).all() == (share > 0)
    # Without the decider both prompts have one law, and q on the first cycle has these gaps.
    np.testing.assert_array_equal(game.tensor()[0, :6, :6], game.tensor()[1, :6, :6])
    q = np.linspace(0, 1, 201)[:, None, None]
    both = np.zeros((201, 2, 7))
    both[:, :, :3], both[:, :, 3:6] = q * mix, (1 - q) * mix
    gaps = duality_gap(both, game)
    np.testing.assert_allclose(gaps[:, 0], 2 * np.maximum(0, 0.8 - q[:, 0, 0]), atol=1e-12)
    assert gaps.mean(axis=1).min() == pytest.approx(FLOOR, abs=1e-12)


def test_the_lower_bound_holds_for_every_policy_on_the_cycles():
    game = GeneralPreference(two_cycles())
    rng = np.random.default_rng(1)
    policy = np.zeros((2000, 1, 7))
    policy[:, 0, :6] = rng.dirichlet(np.full(6, 0.5), 2000)
    assert (duality_gap(policy, game).mean(axis=1) >= FLOOR - 1e-12).all()


def test_other_families_of_games():
    scene = RandomGame(prompts=2, responses=4).scene(np.random.default_rng(2), 0)
    p, tensor = scene.bandit.reference, scene.labels.tensor()
    np.testing.assert_allclose(scene.bandit.reward, np.einsum("xyz,xz->xy", tensor, p))
    wins = ((0.5, 0.8), (0.2, 0.5))
    scene = ExplicitGame(wins=wins, reference=(0.25, 0.75)).scene(np.random.default_rng(3), 0)
    np.testing.assert_array_equal(scene.labels.tensor(), [wins])
    for bad, message in (
        ({"wins": ((0.5, 0.8), (0.3, 0.5))}, "must sum to 1"),
        ({"wins": ((0.5, 0.8),)}, "square table"),
        ({"reference": (0.5, 0.75)}, "sums to 1.25"),
        ({"reference": (1.0,)}, "reference has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            ExplicitGame(**({"wins": wins, "reference": (0.25, 0.75)} | bad))


def test_the_figure_draws_for_every_venue(run):
    drawing = draw_everywhere("general_preferences", run[2].tables)
    assert "2 datasets" in drawing.caption
