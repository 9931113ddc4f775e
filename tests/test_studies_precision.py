import hashlib

import numpy as np
import pytest
from scipy.stats import t as student
from study_examples import RIDGE

from rlhfsim.studies import Study, read_results, run_study, status, wide
from rlhfsim.studies.precision import COLUMNS, COMBINATION, run_until


def study(**changes):
    settings = {
        "name": "precise",
        "instances": [
            {"family": "random", "responses": 4, "environments": 2},
            {"family": "rare-best", "responses": 3, "coverage": 8.0},
        ],
        "learners": [
            {"method": "RLHF", "reward": RIDGE, "label": "kl"},
            {"method": "RLHF", "reward": RIDGE, "label": "chi2", "divergence": "chi2"},
        ],
        "n": [10, 40],
        "beta": [0.1, 1.0],
        "seeds": 12,
    }
    return Study.from_dict(settings | changes)


def digest(folder):
    return hashlib.sha256((folder / "results.parquet").read_bytes()).hexdigest()


def values_of(folder, by=COMBINATION, metric="regret"):
    """Return the (seeds,) means of each combination, by a loop over rows."""
    found = {}
    for row in wide(read_results(folder)).to_dict("records"):
        key = tuple(row[name] for name in by)
        found.setdefault(key, {}).setdefault(row["seed"], []).append(row[metric])
    return {
        key: np.array([np.mean(own[seed]) for seed in sorted(own)]) for key, own in found.items()
    }


def steins_number(values, width, level=0.95):
    t = student.ppf(0.5 + level / 2, len(values) - 1)
    return max(len(values), int(np.ceil((2 * t * np.std(values, ddof=1) / width) ** 2)))


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision") / "first"
    run_study(study(), folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision") / "narrow"
    return run_until(study(), folder, metric="regret", width=0.15, most_seeds=500, workers=1)


def test_the_number_of_seeds_is_the_largest_of_steins(first_stage, narrow):
    wanted = {key: steins_number(v, 0.15) for key, v in values_of(first_stage).items()}
    assert narrow.seeds == max(wanted.values())
    assert 20 < narrow.seeds < 500
    assert len({*wanted.values()}) > 3
    rows = narrow.intervals.set_index(list(COMBINATION))
    assert rows["seeds"].to_dict() == wanted
    assert narrow.reached
    assert rows["reached"].all()


def test_intervals_are_around_all_seeds_with_the_spread_of_the_first(first_stage, narrow):
    spread = {key: np.std(v, ddof=1) for key, v in values_of(first_stage).items()}
    quantile = student.ppf(0.975, 11)
    rows = narrow.intervals.set_index(list(COMBINATION))
    for key, values in values_of(narrow.store.folder).items():
        assert values.size == narrow.seeds
        half = quantile * spread[key] / np.sqrt(values.size)
        assert rows.loc[key, "mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert rows.loc[key, "low"] == pytest.approx(values.mean() - half, rel=1e-9, abs=1e-12)
        assert rows.loc[key, "high"] == pytest.approx(values.mean() + half, rel=1e-9, abs=1e-12)
    # The rule is tight: the combination that decides is not narrower than it has to be.
    width = (rows["high"] - rows["low"]).max()
    assert 0.15 * np.sqrt((narrow.seeds - 1) / narrow.seeds) < width <= 0.15


def test_the_folder_is_that_of_a_run_with_so_many_seeds(narrow, tmp_path):
    run_study(study(seeds=narrow.seeds), tmp_path / "at once", workers=1)
    assert digest(tmp_path / "at once") == digest(narrow.store.folder)
    assert status(narrow.store.folder).complete


def test_again_runs_nothing_and_says_the_same(narrow):
    folder = narrow.store.folder
    before, parts = digest(folder), sorted((folder / "parts").iterdir())
    again = run_until(study(), folder, metric="regret", width=0.15, most_seeds=500, workers=1)
    assert again.intervals.equals(narrow.intervals)
    assert (digest(folder), sorted((folder / "parts").iterdir())) == (before, parts)


def test_a_killed_run_goes_on(narrow, tmp_path):
    class Killed(BaseException):
        pass

    def kill(done, total):
        if total > study().cells and done > study().cells:
            raise Killed

    how = {"metric": "regret", "width": 0.15, "most_seeds": 500, "workers": 1}
    with pytest.raises(Killed):
        run_until(study(), tmp_path / "out", **how, task_seconds=1e-9, progress=kill)
    assert study().cells < status(tmp_path / "out").done
    done = run_until(study(), tmp_path / "out", **how)
    assert done.intervals.equals(narrow.intervals)
    assert digest(tmp_path / "out") == digest(narrow.store.folder)


def test_a_budget_that_is_too_small_is_said(narrow, tmp_path):
    found = run_until(
        study(), tmp_path / "out", metric="regret", width=0.15, most_seeds=15, workers=1
    )
    assert found.seeds == 15
    assert not found.reached
    wanted = narrow.intervals["seeds"]
    assert (found.intervals["seeds"] == wanted).all()
    assert (found.intervals["reached"] == (wanted <= 15)).all()
    assert found.intervals["reached"].any()
    wide_ones = found.intervals["high"] - found.intervals["low"] > 0.15
    assert (wide_ones == ~found.intervals["reached"]).all()


def test_chosen_cells_and_coarser_means(first_stage, tmp_path):
    only = {"learner": ["chi2"], "n": [40], "parameter_value": [1.0]}
    found = run_until(
        study(), tmp_path / "out", metric="regret", width=0.05, most_seeds=400,
        by=("instance",), only=only, workers=1, level=0.9,
    )  # fmt: skip
    wanted = {
        key[0]: steins_number(values, 0.05, 0.9)
        for key, values in values_of(first_stage).items()
        if key[1:] == (40, "chi2", 1.0)
    }
    assert found.intervals.set_index("instance")["seeds"].to_dict() == wanted
    assert found.seeds == max(wanted.values())
    coarse = run_until(
        study(), tmp_path / "coarse", metric="kl", width=10.0, most_seeds=12, by=("learner",),
        workers=1,
    )  # fmt: skip
    means = values_of(first_stage, ("learner",), "kl")
    for name, mean in coarse.intervals.set_index("learner")["mean"].items():
        assert mean == pytest.approx(means[(name,)].mean(), rel=1e-12)


def test_few_seeds_are_raised_to_the_first_stage(tmp_path):
    found = run_until(
        study(seeds=2), tmp_path / "out", metric="regret", width=100.0, most_seeds=10, workers=1
    )
    assert found.seeds == 10
    assert found.reached


def test_bad_arguments_run_nothing(tmp_path):
    good = {"metric": "regret", "width": 0.1, "most_seeds": 100}
    for changes, says in [
        ({"metric": "zork"}, "metric is 'zork'; it must be one of regret"),
        ({"metric": "bias"}, "metric is 'bias'"),
        ({"width": 0.0}, "width is 0.0"),
        ({"width": float("nan")}, "width is nan"),
        ({"most_seeds": 11}, "most_seeds is 11"),
        ({"by": ()}, r"by is \(\); it must hold at least one column"),
        ({"by": ("learner", "learner")}, "each once"),
        ({"by": ("seed",)}, f"by is .* columns of {', '.join(COLUMNS)}"),
        ({"by": "learner"}, "by is 'learner'"),
        ({"only": {"zork": [1]}}, "only is"),
        ({"level": 1.0}, "level"),
    ]:
        with pytest.raises(ValueError, match=says):
            run_until(study(), tmp_path / "out", **good | changes)
    with pytest.raises(ValueError, match="'exact'; expectations without seeds"):
        run_until(study(seeds="exact", n=[1]), tmp_path / "out", **good)
    with pytest.raises(ValueError, match="it must be a Study"):
        run_until({"name": "x"}, tmp_path / "out", **good)
    assert not (tmp_path / "out").exists()


def test_cells_that_are_not_there_or_not_finite(first_stage):
    how = {"metric": "regret", "width": 9.0, "most_seeds": 50, "workers": 1}
    for only, says in [
        ({"learner": ["zork"]}, r"only\['learner'\] has 'zork'; it must be one of kl, chi2"),
        ({"n": [11]}, r"only\['n'\] has 11; it must be one of 10, 40"),
        ({"n": ["x"]}, r"only\['n'\] has 'x'"),
        ({"learner": "kl"}, r"only\['learner'\] is 'kl'; it must be a list"),
        ({"learner": []}, "the study has no such cells"),
    ]:
        with pytest.raises(ValueError, match=says):
            run_until(study(), first_stage, only=only, **how)


def test_learners_that_fail_are_named(tmp_path):
    failing = study(
        learners=[
            {"method": "RLHF", "label": "unbounded"},
            {"method": "RLHF", "reward": RIDGE, "label": "ridge"},
        ]
    )
    how = {"metric": "regret", "width": 9.0, "most_seeds": 50, "workers": 1}
    with pytest.raises(ValueError, match=r"regret is nan at .*learner unbounded.*does not exist"):
        run_until(failing, tmp_path / "out", **how)
    found = run_until(failing, tmp_path / "out", only={"learner": ["ridge"]}, **how)
    assert set(found.intervals["learner"]) == {"ridge"}
