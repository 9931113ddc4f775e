import hashlib
import json
import multiprocessing
import tracemalloc
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from study_examples import RIDGE, small

from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.laws import dataset_law, population_pairs
from rlhfsim.learners import RLHF, BestOfN
from rlhfsim.randomness import generator_for
from rlhfsim.rewards import FiniteClass, Tabular
from rlhfsim.sampling import sample_preferences
from rlhfsim.studies import (
    Store,
    Study,
    StudyError,
    export,
    read_results,
    resume,
    run_study,
    status,
    wide,
)
from rlhfsim.studies.layout import Layout
from rlhfsim.studies.measures import ALWAYS
from rlhfsim.studies.work import Piece, evaluate, run_task
from rlhfsim.threads import get_threads, set_threads


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "small"
    run_study(small(), folder, workers=1)
    return folder


def digest(folder):
    return hashlib.sha256((folder / "results.parquet").read_bytes()).hexdigest()


def test_one_row_for_each_cell_and_metric(finished):
    study = small()
    table = read_results(finished)
    assert len(table) == study.cells * len(study.metrics)
    assert not table.duplicated(["cell", "metric"]).any()
    assert list(table["metric"].cat.categories) == list(ALWAYS)
    rows = wide(table)
    assert rows["cell"].is_unique
    assert set(rows["learner"]) == set(study.labels[1])
    assert set(rows["instance"]) == set(study.labels[0])
    best = rows[rows["learner"] == "best-of-N"]
    assert set(best["parameter"]) == {"draws"}
    assert set(best["parameter_value"]) == {1.0, 3.0}
    assert rows["error"].isna().all()
    assert rows["regret"].notna().all()


def test_cells_are_what_a_loop_by_hand_gives(finished):
    study = small()
    rows = wide(read_results(finished))
    labels = study.labels
    for number in range(study.groups):
        group = Layout(study).group(number)
        spec = study.instances[group.instance]
        rng = generator_for("small", f"instance {spec.scene_key}/0", group.environment)
        scene = spec.scene(rng, 0)
        name = f"{spec.key}/{group.environment}/{group.n}"
        data = sample_preferences(
            scene.bandit, group.n, generator_for("small", f"data {name}", group.seed),
            model=spec.labels.model(scene.bandit),
        )  # fmt: skip
        mine = rows[
            (rows["instance"] == labels[0][group.instance])
            & (rows["environment"] == group.environment)
            & (rows["n"] == group.n)
            & (rows["seed"] == group.seed)
        ]
        for _, row in mine.iterrows():
            method = study.learners[labels[1].index(row["learner"])]
            fit_rng = generator_for("small", f"fit {name}/{method.key}", group.seed)
            if row["learner"] == "best-of-N":
                model = FiniteClass(scene.reward_class(4, 1.0))
                learner = BestOfN(int(row["parameter_value"]), model)
            else:
                divergence = KL() if "kl" in row["learner"] else ChiSquared()
                learner = RLHF(row["parameter_value"], divergence, Tabular(ridge=0.1))
            policy = learner.fit(
                data, scene.bandit.reference, prompt_dist=scene.bandit.prompt_dist, rng=fit_rng
            ).policy
            assert row["regret"] == pytest.approx(float(scene.bandit.regret(policy)), rel=1e-13)
            kl = float(KL()(policy, scene.bandit.reference, scene.bandit.prompt_dist))
            assert row["kl"] == pytest.approx(kl, rel=1e-13, abs=1e-15)


def test_labels_change_the_data_but_not_the_truth():
    noisy, clean = (
        Study.from_dict(
            {
                "name": "labels",
                "instances": [{"family": "rare-best", "responses": 3, "coverage": 4.0,
                               "labels": {"noise": noise}}],
                "learners": [{"method": "RLHF", "reward": {"model": "tabular", "r_max": 3.0}}],
                "n": [2000], "beta": [0.02], "seeds": 4,
            }
        )
        for noise in (0.45, 0.0)
    )  # fmt: skip
    regret = [evaluate(s, [Piece(g) for g in range(4)]).columns["regret"] for s in (noisy, clean)]
    assert regret[0].mean() > 3 * abs(regret[1].mean())


def test_the_company_of_a_cell_changes_nothing():
    study = small()
    whole = evaluate(study, [Piece(g) for g in range(study.groups)])
    size = len(study.points)
    for group, points in ((0, (1,)), (7, (0, 6)), (study.groups - 1, (7, 2, 3))):
        alone = evaluate(study, [Piece(group, points)])
        for name in ALWAYS:
            np.testing.assert_array_equal(
                alone.columns[name], whole.columns[name][[group * size + k for k in points]]
            )


@pytest.mark.parametrize("seed_names", [("a", "b")])
def test_names_and_seeds_enter_every_draw(seed_names):
    first, second = (evaluate(small(name=n), [Piece(0), Piece(1)]) for n in seed_names)
    size = len(small().points)
    assert (first.columns["regret"] != second.columns["regret"]).any()
    regret = first.columns["regret"]
    assert (regret[:size] != regret[size:]).any()


# ---- executors, workers, tasks ----------------------------------------------------------------


def test_neither_executor_nor_size_of_tasks_shows(finished, tmp_path):
    wanted = digest(finished)
    run_study(small(), tmp_path / "tiny tasks", workers=1, task_seconds=1e-9)
    assert len(list((tmp_path / "tiny tasks" / "parts").iterdir())) == small().groups
    assert digest(tmp_path / "tiny tasks") == wanted
    before = get_threads()
    with ThreadPoolExecutor(3) as executor:
        run_study(small(), tmp_path / "threads", executor=executor, task_seconds=1e-3)
        assert executor.submit(int).result() == 0  # still open: it is the caller's
    set_threads(before)
    assert digest(tmp_path / "threads") == wanted
    run_study(small(), tmp_path / "processes", workers=2, threads=2)
    assert digest(tmp_path / "processes") == wanted
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        run_study(small(), tmp_path / "given", executor=executor)
    assert digest(tmp_path / "given") == wanted


def test_dask_gives_the_same(finished, tmp_path):
    from distributed import LocalCluster

    from rlhfsim.studies import dask_cluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster, dask_cluster(cluster.scheduler_address) as executor:  # fmt: skip
        run_study(small(), tmp_path / "dask", executor=executor, task_seconds=0.1)
    assert digest(tmp_path / "dask") == digest(finished)


def test_submitit_gives_the_same(finished, tmp_path):
    from rlhfsim.studies import Submitit

    with Submitit(tmp_path / "jobs", cluster="local") as executor:
        run_study(small(), tmp_path / "slurm", executor=executor, task_seconds=0.5)
    assert digest(tmp_path / "slurm") == digest(finished)


def test_a_task_holds_its_process_to_the_threads_given(monkeypatch):
    seen = []
    import rlhfsim.studies.work as work

    monkeypatch.setattr(work, "evaluate", lambda *_: seen.append(get_threads()) or stop())

    def stop():
        raise KeyError

    before = get_threads()
    for threads in (1, 3):
        with pytest.raises(KeyError):
            run_task(small(), [Piece(0)], threads, "x")
    assert seen == [1, 3]
    assert get_threads() == before


# ---- growing, changing, resuming --------------------------------------------------------------


def parts_of(folder):
    return {p.name for p in (folder / "parts").iterdir()}


def test_running_again_does_nothing(finished):
    before = parts_of(finished), (finished / "results.parquet").stat().st_mtime_ns
    run_study(small(), finished, workers=1)
    resume(finished, workers=1)
    assert before == (parts_of(finished), (finished / "results.parquet").stat().st_mtime_ns)
    assert "nothing to do" in (finished / "run.log").read_text()


def test_a_changed_study_keeps_what_it_still_has(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_study(small(), first, workers=1)
    old = parts_of(first)
    changed = small(
        n=[40, 7], beta=[10.0, 0.3, 0.1], seeds=4,
        learners=[*small().model_dump()["learners"][1:], {"method": "IPO", "label": "new"}],
    )  # fmt: skip
    cells = []
    run_study(changed, first, workers=1, progress=lambda done, total: cells.append((done, total)))
    # n = 40, 3 seeds, 3 environments: chi2 at two of its betas, and both best-of-N.
    assert cells[0] == (3 * 3 * 4, changed.cells)
    assert cells[-1] == (changed.cells, changed.cells)
    assert old < parts_of(first)
    run_study(changed, second, workers=1)
    assert digest(first) == digest(second)
    # And back: everything is there already, but for the table.
    cells.clear()
    run_study(small(), first, workers=1, progress=lambda done, total: cells.append((done, total)))
    assert not cells
    assert status(first).complete
    run_study(small(), second, workers=1)
    assert digest(first) == digest(second)


def test_status_tells_how_far(tmp_path, finished):
    done = status(finished)
    assert (done.done, done.cells, done.complete) == (small().cells,) * 2 + (True,)
    with pytest.raises(ValueError, match="holds no study"):
        status(tmp_path)
    run_study(small(), tmp_path / "x", workers=1)
    run_study_settings(tmp_path / "x", small(seeds=4))
    half = status(tmp_path / "x")
    assert (half.done, half.cells, half.complete) == (small().cells, small(seeds=4).cells, False)


def run_study_settings(folder, study):
    """Change the settings of a folder without running anything."""
    store = Store(folder, study)
    with store.writing():
        pass


def test_manifest_says_what_made_the_table(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["results"]["results.parquet"] == digest(finished)
    assert manifest["versions"].keys() >= {"rlhfsim", "numpy", "python"}
    assert manifest["machine"]["cores"] >= 1
    assert set(manifest["parts"]) == parts_of(finished)
    assert manifest["metrics"] == list(ALWAYS)


@pytest.mark.parametrize("name", ["a file", "another study", "something else"])
def test_folders_that_are_not_ours_are_left_alone(tmp_path, name):
    folder = tmp_path / "out"
    if name == "a file":
        folder.write_text("mine")
        says = "is not a folder"
    elif name == "another study":
        run_study_settings(folder, small(name="other"))
        says = "holds the study 'other', not 'small'"
    else:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        says = "is not empty, and holds no study"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=says):
        run_study(small(), folder, workers=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_arguments(tmp_path):
    for arguments, says in [
        ({"workers": 0}, "workers is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"task_seconds": 0}, "task_seconds is 0"),
        ({"workers": 1, "executor": ThreadPoolExecutor(1)}, "cannot both be given"),
    ]:
        with pytest.raises(ValueError, match=says):
            run_study(small(), tmp_path / "out", **arguments)
    with pytest.raises(ValueError, match="it must be a Study"):
        run_study({"name": "x"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- what goes wrong in cells -----------------------------------------------------------------


def test_a_learner_that_fails_is_reported_and_does_not_stop_the_others(tmp_path):
    study = Study.from_dict(
        {
            "name": "failing",
            "instances": [{"family": "random", "responses": 4}],
            "learners": [
                {"method": "RLHF", "label": "unbounded"},
                {"method": "RLHF", "reward": RIDGE, "label": "ridge"},
                {"method": "RLHF", "label": "linear", "reward": {"model": "linear",
                                                                 "norm_bound": 1.0}},
            ],
            "n": [3], "beta": [1.0], "seeds": 4,
        }
    )  # fmt: skip
    run_study(study, tmp_path / "out", workers=1)
    rows = wide(read_results(tmp_path / "out")).set_index("learner")
    unbounded = rows.loc["unbounded"]
    failed = unbounded["error"].notna()
    assert 0 < failed.sum() < 4
    assert unbounded["error"][failed].str.contains("does not exist").all()
    np.testing.assert_array_equal(unbounded["regret"].isna(), failed)
    assert rows.loc["linear", "error"].str.contains("no features").all()
    assert rows.loc["ridge", "error"].isna().all()
    assert rows.loc["ridge", "regret"].notna().all()


def test_a_task_that_fails_stops_the_run_and_loses_nothing(tmp_path):
    class Fails(ThreadPoolExecutor):
        left = 3

        def submit(self, fn, /, *args, **kwargs):
            self.left -= 1
            if self.left:
                return super().submit(fn, *args, **kwargs)
            future = Future()
            future.set_exception(KeyError("lost"))
            return future

    with Fails(1) as executor, pytest.raises(StudyError, match="KeyError: 'lost'"):
        run_study(small(), tmp_path / "out", executor=executor, task_seconds=1e-9)
    assert 0 < status(tmp_path / "out").done < small().cells
    resume(tmp_path / "out", workers=1)
    assert status(tmp_path / "out").complete


# ---- exact expectations, and the split --------------------------------------------------------


def test_exact_expectations_are_sums_over_all_datasets(tmp_path):
    study = Study.from_dict(
        {
            "name": "exact",
            "instances": [{"family": "explicit", "reward": [[1.0, 0.5, 0.0]],
                           "reference": [[0.2, 0.3, 0.5]]}],
            "learners": [{"method": "RLHF", "reward": RIDGE}],
            "n": [3], "beta": [0.5], "seeds": "exact",
        }
    )  # fmt: skip
    run_study(study, tmp_path / "out", workers=1)
    (row,) = wide(read_results(tmp_path / "out")).to_dict("records")
    assert row["seed"] == -1
    scene = study.instances[0].scene(np.random.default_rng(0), 3)

    def regret(data):
        policy = RLHF(0.5, KL(), Tabular(ridge=0.1)).fit(data, scene.bandit.reference).policy
        return scene.bandit.regret(policy)

    law = dataset_law(scene.bandit, 3)
    assert row["regret"] == pytest.approx(law.expectation(regret), rel=1e-12)
    # And by drawing: the sampled mean is within four standard errors.
    sampled = Study.from_dict(study.model_dump() | {"seeds": 1000})
    pieces = [Piece(g) for g in range(sampled.groups)]
    drawn = evaluate(sampled, pieces).columns["regret"]
    assert abs(drawn.mean() - row["regret"]) < 4 * drawn.std() / np.sqrt(drawn.size)


def test_bias_is_the_regret_on_expected_counts(tmp_path):
    study = small(bias=True, seeds=2)
    run_study(study, tmp_path / "out", workers=1)
    rows = wide(read_results(tmp_path / "out"))
    np.testing.assert_allclose(rows["bias"] + rows["estimation_error"], rows["regret"], atol=1e-15)
    mine = rows[(rows["learner"] == study.labels[1][0]) & (rows["n"] == 40)]
    spec = study.instances[0]
    for environment in (0, 1):
        rng = generator_for("small", f"instance {spec.scene_key}/0", environment)
        scene = spec.scene(rng, 0)
        law = population_pairs(scene.bandit)
        expected = type(law)(
            law.prompt, law.winner, law.loser, 40 * law.count, 40 * law.equal_pairs, law.shape
        )
        policy = RLHF(1.0, KL(), Tabular(ridge=0.1)).fit(expected, scene.bandit.reference).policy
        cells = mine[
            (mine["instance"] == study.labels[0][0])
            & (mine["environment"] == environment)
            & (mine["parameter_value"] == 1.0)
        ]
        assert len(cells) == 2
        assert cells["bias"].to_numpy() == pytest.approx(
            float(scene.bandit.regret(policy)), rel=1e-10
        )


def test_without_preferences_learners_use_what_is_known(tmp_path):
    study = Study.from_dict(
        {
            "name": "known",
            "instances": [{"family": "explicit", "reward": [[1.0, 0.5, 0.0]],
                           "reference": [[0.2, 0.3, 0.5]], "proxy": [[0.0, 1.0, 2.0]]}],
            "learners": [
                {"method": "RLHF", "label": "truth", "reward": {"model": "truth"}},
                {"method": "RLHF", "label": "proxy", "reward": {"model": "proxy"}},
            ],
            "n": [0], "beta": [0.01],
        }
    )  # fmt: skip
    run_study(study, tmp_path / "out", workers=1)
    rows = wide(read_results(tmp_path / "out")).set_index("learner")
    assert rows.loc["truth", "regret"] == pytest.approx(0.0, abs=1e-9)
    assert rows.loc["proxy", "regret"] == pytest.approx(1.0, abs=1e-9)


# ---- export, memory ---------------------------------------------------------------------------


def test_export(finished, tmp_path):
    table = read_results(finished)
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        path = export(finished, tmp_path / f"all{suffix}")
        again = read(path)
        assert len(again) == len(table)
        np.testing.assert_array_equal(again["value"], table["value"])
    lines = export(finished, tmp_path / "wide.json", as_wide=True).read_text().splitlines()
    assert len(lines) == small().cells
    assert json.loads(lines[0])["regret"] == pytest.approx(wide(table)["regret"][0], rel=1e-14)
    with pytest.raises(ValueError, match=r"must end in \.parquet, \.csv, \.json"):
        export(finished, tmp_path / "x.xls")
    with pytest.raises(ValueError, match="there is no folder"):
        export(finished, tmp_path / "none" / "x.csv")
    with pytest.raises(ValueError, match="metrics has 'zork'"):
        read_results(finished, ("zork",))
    only = read_results(finished, ("kl",))
    assert set(only["metric"]) == {"kl"}


def test_memory_does_not_grow_with_the_cells(tmp_path, monkeypatch):
    """What hands out tasks and writes the table holds a block of cells, whatever their number."""
    monkeypatch.setattr("rlhfsim.studies.results._BLOCK", 2000)

    def peak(seeds):
        study = Study.from_dict(
            {
                "name": "memory",
                "instances": [{"family": "random", "responses": 3}],
                "learners": [{"method": "RLHF", "reward": {"model": "truth"}}],
                "n": [0], "beta": {"start": 0.1, "stop": 10.0, "points": 200}, "seeds": seeds,
            }
        )  # fmt: skip
        folder = tmp_path / str(seeds)
        run_study(study, folder, workers=1, task_seconds=0.3)
        (folder / "results.parquet").unlink()
        tracemalloc.start()
        run_study(study, folder, workers=1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most, study.cells

    peak(20)  # loads what is needed
    (few, cells), (many, more) = peak(20), peak(100)
    # 8 bytes to put a cell in its place, and what goes with it; its rows are a kilobyte.
    assert many - few < 64 * (more - cells)


def test_results_are_written_in_blocks(finished):
    file = pq.ParquetFile(finished / "results.parquet")
    assert file.metadata.num_rows == small().cells * len(ALWAYS)


def test_instances_that_differ_in_labels_alone_have_the_same_environments():
    first, second = (
        {"family": "random", "responses": 4, "labels": {"noise": noise}} for noise in (0.0, 0.3)
    )
    study = small(instances=[first, second], bias=False)
    one, two = study.instances
    assert one.key != two.key
    assert one.scene_key == two.scene_key == one.key
    rows = evaluate(study, [Piece(0), Piece(study.groups // 2)]).columns
    size = len(study.points)
    # The data differ, the best value does not: value and regret sum to the same.
    best = rows["value"] + rows["regret"]
    np.testing.assert_allclose(best[:size], best[size:], rtol=1e-14)
    assert (rows["value"][:size] != rows["value"][size:]).any()
