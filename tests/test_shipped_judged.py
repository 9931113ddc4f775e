import shutil

import numpy as np
import pandas as pd
import pytest
from shipped_runs import extreme_layouts

from rlhfsim.bandit import ContextualBandit
from rlhfsim.coverage import concentrability
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.inference import best_of_n
from rlhfsim.plots import FIGURES
from rlhfsim.randomness import generator_for
from rlhfsim.repro.overoptimization import standardised_proxy
from rlhfsim.rewards import Tabular, fit_reward
from rlhfsim.sampling import sample_preferences
from rlhfsim.solvers import solve
from rlhfsim.studies import Study, read_results, run_study, wide
from rlhfsim.studies.shipped import conclude
from rlhfsim.studies.shipped.base import plain
from rlhfsim.studies.shipped.judged import STUDY, analyse
from rlhfsim.studies.tables import with_table
from rlhfsim.table import example_table

SMALL = STUDY.for_testing()
DIVERGENCES = {"rlhf-kl": KL(), "rlhf-chi2": ChiSquared(), "rlhf-mixed": ChiSquared() + KL()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("judged") / "out"
    run_study(SMALL, place, workers=1)
    return place


@pytest.fixture(scope="module")
def result(folder):
    return conclude(folder)


@pytest.fixture(scope="module")
def rows(folder):
    return plain(wide(read_results(folder)))


def policy_of(learner, value, bandit, reward):
    if learner == "best-of-n":
        return best_of_n(bandit.reference, reward, int(value))
    return solve(reward, bandit.reference, DIVERGENCES[learner], value).policy


def test_curves_of_the_proxy_are_those_of_the_bandit_by_hand(result):
    bandit = ContextualBandit.from_table(example_table())
    proxy = standardised_proxy(bandit)
    curves = result.tables["judged_curves"]
    mine = curves[curves["source"] == "proxy"]
    assert set(mine["n"]) == {0}
    assert len(mine) == 4 * 9
    for row in mine.to_dict("records"):
        policy = policy_of(row["learner"], row["parameter_value"], bandit, proxy)
        gain = float(bandit.value(policy) - bandit.value(bandit.reference))
        kl = float(KL()(policy, bandit.reference, bandit.prompt_dist))
        cover = float(concentrability(policy, bandit.reference, bandit.prompt_dist))
        assert row["gain"] == pytest.approx(gain, abs=1e-12)
        assert row["gain_low"] == row["gain"] == row["gain_high"]
        assert row["kl"] == pytest.approx(kl, abs=1e-12)
        assert row["sqrt_kl"] == pytest.approx(np.sqrt(kl), abs=1e-7)
        assert row["concentrability"] == pytest.approx(cover, rel=1e-12)


def test_peaks_are_the_largest_gains_and_what_is_spent_there(result):
    curves = result.tables["judged_curves"]
    peaks = result.tables["judged_peaks"]
    assert len(peaks) == 4 * 3
    for row in peaks.to_dict("records"):
        mine = curves[
            (curves["source"] == row["source"])
            & (curves["n"] == row["n"])
            & (curves["learner"] == row["learner"])
        ]
        (best,) = mine[mine["parameter_value"] == row["parameter"]].to_dict("records")
        assert best["gain"] == pytest.approx(mine["gain"].max(), rel=1e-12)
        assert row["largest_mean"] == pytest.approx(best["gain"], rel=1e-12)
        assert row["kl"] == pytest.approx(best["kl"], rel=1e-12)
        assert row["concentrability"] == pytest.approx(best["concentrability"], rel=1e-12)
        # The end is the strongest optimization: the smallest beta, or the largest N.
        end = mine.iloc[-1]
        wanted = min if row["learner"] != "best-of-n" else max
        assert end["parameter_value"] == wanted(mine["parameter_value"])
        assert row["gain_at_end"] == pytest.approx(end["gain"], rel=1e-12)
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        assert row["gain"] <= row["largest_mean"] + 1e-12
    bandit = ContextualBandit.from_table(example_table())
    best = float(bandit.value(bandit.optimal_policy()) - bandit.value(bandit.reference))
    np.testing.assert_allclose(peaks["best_gain"], best, rtol=1e-12)


def test_learned_gains_are_those_of_a_loop_by_hand(result):
    bandit = ContextualBandit.from_table(example_table())
    key = SMALL.instances[0].key
    peaks = result.tables["judged_peaks"].set_index(["source", "n", "learner"])
    for n, learner in ((100, "rlhf-chi2"), (10_000, "best-of-n")):
        grid = np.unique(
            [v for k, v in SMALL.points if SMALL.labels[1][k] == f"{learner}, learned"]
        )
        gains = np.empty((2, grid.size))
        for seed in range(2):
            rng = generator_for("judged", f"data {key}/0/{n}", seed)
            data = sample_preferences(bandit, n, rng)
            reward = fit_reward(data, Tabular(ridge=0.1)).reward
            for k, value in enumerate(grid):
                policy = policy_of(learner, value, bandit, reward)
                gains[seed, k] = bandit.value(policy) - bandit.value(bandit.reference)
        # Each seed takes what the other one prefers.
        chosen = [gains[0, gains[1].argmax()], gains[1, gains[0].argmax()]]
        row = peaks.loc[("learned", n, learner)]
        assert row["gain"] == pytest.approx(np.mean(chosen), rel=1e-9)
        assert row["count"] == 2


def test_length_is_gamed_and_the_answer_says_so(result):
    peaks = result.tables["judged_peaks"]
    proxy = peaks[peaks["source"] == "proxy"].set_index("learner")
    assert (proxy["gain"] > 0.1).all()
    assert (proxy["gain_at_end"] < 0).all()
    falls = [f for f in result.findings if "falls when the proxy" in f.claim]
    assert [f.verdict for f in falls] == ["falls"] * 4
    learned = peaks[(peaks["source"] == "learned") & (peaks["n"] == 10_000)]
    assert (learned["gain"] > 0.9 * learned["best_gain"]).all()
    for name in ("rlhf-kl", "rlhf-chi2", "best-of-n"):
        row = proxy.loc[name]
        told = f"peaks at {row['gain']:.3f} (KL {row['kl']:.3f}, C {row['concentrability']:.2f})"
        assert told in result.answer
        assert f"ends at {row['gain_at_end']:.3f}" in result.answer


def test_theory_holds_and_a_violation_would_be_seen(rows, result):
    expected = [f for f in result.findings if f.expected is not None]
    assert len(expected) == 3
    assert all(f.expected and f.verdict == "holds" for f in expected)
    proxy = (rows["learner"] == "best-of-n, proxy") & (rows["parameter_value"] == 1024)
    for column, change, says in [
        ("concentrability", 1.0e4, "best-of-N"),
        ("kl", 10.0, "best-of-N"),
        ("fitted_gain", 1e-3, "no policy beats rlhf"),
    ]:
        wrong = rows.copy()
        if column == "fitted_gain":
            # Above the greedy policy nothing can be, whatever the price.
            wrong.loc[proxy, column] = rows[column].max() + change
        else:
            wrong.loc[proxy, column] += change
        verdicts = {f.claim: f for f in analyse(wrong, SMALL).findings if f.expected is not None}
        bad = [f for claim, f in verdicts.items() if claim.startswith(says)]
        assert bad
        assert any(f.verdict == "VIOLATED" and f.expected is False for f in bad)


@pytest.mark.parametrize(("learner", "cost"), [("rlhf-kl", "kl"), ("rlhf-chi2", "chi_squared")])
def test_a_policy_barely_better_than_the_optimum_is_seen(rows, learner, cost):
    some = rows[rows["learner"] == f"{learner}, proxy"].sort_values("parameter_value")
    same = rows.index[(rows["learner"] == "rlhf-mixed, proxy")][0]
    optimum = some[(some["n"] == rows.loc[same, "n"]) & (some["seed"] == rows.loc[same, "seed"])]
    optimum = optimum.iloc[len(optimum) // 2]
    assert optimum["parameter_value"] * optimum[cost] > 0.01
    for more, verdict in ((0.0, "holds"), (1e-4, "VIOLATED")):
        changed = rows.copy()
        changed.loc[same, ["kl", "chi_squared"]] = optimum[["kl", "chi_squared"]].astype(float)
        changed.loc[same, "fitted_gain"] = optimum["fitted_gain"] + more
        findings = {f.claim: f for f in analyse(changed, SMALL).findings}
        claim = next(c for c in findings if c.startswith(f"no policy beats {learner} "))
        assert findings[claim].verdict == verdict


def test_figure_draws_for_every_venue(result):
    for layout in extreme_layouts():
        drawing = FIGURES["judged"].draw(result.tables, layout)
        assert len(drawing.figure.axes) >= 4
    caption = FIGURES["judged"].caption_of(result.tables)
    assert "2 datasets for each n" in caption


def test_conclude_writes_what_a_report_needs(folder, result):
    for name in ("judged_curves", "judged_peaks"):
        saved = pd.read_parquet(folder / "tables" / f"{name}.parquet")
        assert len(saved) == len(result.tables[name])
    assert (folder / "figures" / "judged.pdf").is_file()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert result.title in page
    assert result.findings[0].measured.split(";")[0].split(", ")[0] in page


# ---- a table of one's own ---------------------------------------------------------------------


def test_another_table_takes_the_place_of_the_small_one(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        [
            {"q": f"q{x}", "a": y, "score": rng.normal(), "proxy_reward": rng.normal()}
            for x in range(4)
            for y in range(5)
        ]
    )
    path = tmp_path / "mine.parquet"
    table.to_parquet(path)
    columns = {"prompt": "q", "response": "a", "reward": "score"}
    study = with_table(SMALL, path, columns)
    assert study.instances[0].path == str(path)
    assert study.instances[0].sha256 not in {"", SMALL.instances[0].sha256}
    assert study.learners == SMALL.learners
    assert study.name == "judged"
    changes = {"n": [50], "seeds": 2, "beta": [0.1, 1.0], "testing": {}}
    small = Study.from_dict(study.model_dump() | changes)
    run_study(small, tmp_path / "out", workers=1)
    answer = conclude(tmp_path / "out").answer
    best = table.groupby("q")["score"].max().mean() - table["score"].mean()
    assert f"gains {best:.3f} in judged reward" in answer
    # The table that is named counts, and not where it is.
    copy = tmp_path / "copy.parquet"
    shutil.copy(path, copy)
    assert with_table(SMALL, copy, columns).instances[0].key == study.instances[0].key


def test_tables_that_will_not_do_are_refused_before_anything_runs(tmp_path):
    rows = [{"prompt_id": x, "response_id": y, "reward": x * y} for x in (1, 2) for y in (0, 1)]
    plain_table = pd.DataFrame(rows)
    for name, table, says in [
        ("none.csv", plain_table, r"instances\[0\]: .*has no proxy reward"),
        ("flat.csv", plain_table.assign(length=7), "the proxy is constant at every prompt"),
        ("empty.csv", plain_table.head(0).assign(length=7), "is empty"),
        ("odd.csv", plain_table.drop(columns="reward"), "reward"),
    ]:
        path = tmp_path / name
        table.to_csv(path, index=False)
        with pytest.raises(ValueError, match=says):
            with_table(STUDY, path)
    with pytest.raises(ValueError, match="there is no such file"):
        with_table(STUDY, tmp_path / "missing.csv")
    other = Study.from_dict(
        {
            "name": "other", "instances": [{"family": "random", "responses": 3}], "n": [0],
            "learners": [{"method": "RLHF", "reward": {"model": "truth"}}], "beta": [1.0],
        }
    )  # fmt: skip
    with pytest.raises(ValueError, match="'other' has no instance of the family 'table'"):
        with_table(other, example_table())


def test_a_standardised_proxy_has_mean_0_and_deviation_1():
    learner = next(m for m in STUDY.learners if m.label == "rlhf-kl, proxy")
    scene = STUDY.instances[0].scene(np.random.default_rng(0), 0)
    p, rho = scene.bandit.reference, scene.bandit.prompt_dist
    reward = learner.reward.build(scene).reward
    np.testing.assert_allclose((p * reward).sum(axis=1), 0.0, atol=1e-12)
    assert float((p * reward**2).sum(axis=1) @ rho) == pytest.approx(1.0, rel=1e-12)
    raw = learner.reward.model_copy(update={"standardised": False}).build(scene).reward
    np.testing.assert_array_equal(raw, scene.bandit.proxy_reward)
