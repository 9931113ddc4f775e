"""The study of iterations on known games: its cells by hand, and its analysis."""

import numpy as np
import pytest
from shipped_runs import draw_everywhere, run_testing, verdicts

from rlhfsim import ContextualBandit, PreferenceData, population_pairs, random_preference
from rlhfsim.games import duality_gap, iterative_chi_po, nash_md, self_play
from rlhfsim.learners import Learner
from rlhfsim.learners.games import MinimaxWinner, OnLaw
from rlhfsim.randomness import generator_for
from rlhfsim.studies.shipped.self_play import AVERAGE, BETAS, LAST, RESPONSES, analyse, bound


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_testing("self-play", tmp_path_factory.mktemp("studies"))


def scene_of(study, environment):
    spec = study.instances[0]
    rng = generator_for(study.name, f"instance {spec.scene_key}/0", environment)
    return spec.scene(rng, 0)


def policy_of(name, game, p, iterations):
    if name in (AVERAGE, LAST):
        trace = self_play(game, p, iterations)
        return trace.average if name == AVERAGE else trace.policy
    method, beta = name.rsplit(" ", 1)
    return {"Nash-MD": nash_md, "iterative-chiPO": iterative_chi_po}[method](
        game, p, float(beta), iterations
    ).policy


def test_cells_are_what_the_known_game_gives(run):
    study, rows, _ = run
    assert rows["error"].isna().all()
    assert len(set(rows["learner"])) == 2 + 2 * len(BETAS)
    some = rows[(rows["environment"] == 1) & (rows["parameter_value"] <= 30)]
    scene = scene_of(study, 1)
    np.testing.assert_array_equal(scene.bandit.reference, np.full((1, RESPONSES), 0.1))
    for _, row in some.iterrows():
        policy = policy_of(
            row["learner"], scene.labels, scene.bandit.reference, int(row["parameter_value"])
        )
        gap = duality_gap(policy, scene.labels)[0]
        assert row["duality_gap"] == pytest.approx(gap, rel=1e-9, abs=1e-12)


def test_the_analysis(run):
    study, rows, result = run
    table = result.tables["self_play_gaps"].set_index(["learner", "iterations"])
    own = rows[(rows["learner"] == AVERAGE) & (rows["parameter_value"] == 3000)]
    assert table.loc[(AVERAGE, 3000), "gap"] == pytest.approx(own["duality_gap"].mean())
    assert table.loc[("Nash-MD 0.1", 1), "beta"] == 0.1
    assert table.loc[("iterative-chiPO 0.1", 1), "method"] == "iterative chiPO"
    assert bound(100) == pytest.approx(np.sqrt(8 * np.log(10) / 300))
    found = verdicts(result)
    assert [v for claim, v in found.items() if "at most" in claim] == ["holds"] * 4
    worse = rows.assign(duality_gap=3.0)
    worse = verdicts(analyse(worse, study))
    assert [v for claim, v in worse.items() if "at most" in claim] == ["VIOLATED"] * 4


def test_a_learner_on_a_law_looks_at_no_data():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 2)
    model = random_preference(rng, (2, 4))
    law = population_pairs(ContextualBandit([0.5, 0.5], p, np.zeros((2, 4))), model=model)
    learner = OnLaw(MinimaxWinner(0.0), law)
    assert isinstance(learner, Learner)
    assert learner.name == "minimax winner, infinite data"
    data = PreferenceData([0], [1], [2], (2, 4))
    learned = learner.fit(data, p)
    assert (duality_gap(learned.policy, model) < 1e-12).all()
    for bad, message in (((1, law), "learner is a int"), ((MinimaxWinner(), data), "law is a")):
        with pytest.raises(ValueError, match=message):
            OnLaw(*bad)


def test_the_figure_draws_for_every_venue(run):
    drawing = draw_everywhere("self_play", run[2].tables)
    assert "2 games" in drawing.caption
