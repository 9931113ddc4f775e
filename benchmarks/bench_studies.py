"""Time a study of 10^5 cells against loops over its cells: same draws, same policies, same metrics.

Prints Markdown tables and writes them to `benchmarks/studies.md`.  The study is run as users run
it: `run_study` into an empty folder, in two processes, with everything saved and the final table
written.  The loops do a sample of its cells: one in numpy and scipy, one in cvxpy; their data are
drawn beforehand and free of charge, and they write nothing to disk.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import cvxpy as cp
import numpy as np
from measure import machine
from scipy.optimize import minimize

from rlhfsim.data import PairCounts, count_pairs
from rlhfsim.files import write_text
from rlhfsim.randomness import generator_for
from rlhfsim.sampling import sample_preferences
from rlhfsim.studies import Study, dask_cluster, read_results, run_study, wide
from rlhfsim.studies.layout import Layout

OUT = Path(__file__).parent / "studies.md"
RIDGE = 0.1
PROMPTS, RESPONSES = 10, 50
#: Cells that the loops do, drawn at random.
LOOP_CELLS, CVXPY_CELLS = 40, 6
REPEATS = 3
#: Largest difference of a metric, relative to 1 or to itself: the loops stop at these accuracies.
LOOP_TOLERANCE, CVXPY_TOLERANCE = 1e-5, 3e-3
Array = np.ndarray


def study(seeds: int, name: str = "benchmark") -> Study:
    """Return a study of 1000 cells for each seed."""
    fit = {"model": "tabular", "ridge": RIDGE}
    return Study.from_dict(
        {
            "name": name,
            "instances": [{"family": "random", "prompts": PROMPTS, "responses": RESPONSES}],
            "learners": [
                {"method": "RLHF", "divergence": "kl", "reward": fit},
                {"method": "RLHF", "divergence": "chi2", "reward": fit},
            ],
            "n": sorted({int(n) for n in np.geomspace(100, 1e5, 20)}),
            "beta": {"start": 1e-2, "stop": 10.0, "points": 25},
            "seeds": seeds,
        }
    )


# ---- the peers ----------------------------------------------------------------------------------


def loop_fit(counts: PairCounts) -> Array:
    """Return the ridge estimate, prompt by prompt, by L-BFGS on dense counts."""
    reward = np.zeros(counts.shape)
    for x in range(counts.shape[0]):
        mine = counts.prompt == x
        wins = np.zeros((counts.shape[1],) * 2)
        wins[counts.winner[mine], counts.loser[mine]] = counts.count[mine]

        def loss(r: Array, wins: Array = wins) -> tuple[float, Array]:
            gap = r[:, None] - r[None, :]
            slope = -wins / (1.0 + np.exp(gap))
            value = (wins * np.logaddexp(0.0, -gap)).sum() + 0.5 * RIDGE * (r * r).sum()
            return value, slope.sum(axis=1) - slope.sum(axis=0) + RIDGE * r

        start = np.zeros(counts.shape[1])
        options = {"maxiter": 10_000, "ftol": 0.0, "gtol": 1e-7}
        reward[x] = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return reward


def loop_solve(reward: Array, p: Array, chi2: bool, beta: float) -> Array:
    """Return the optimum: softmax, or by sorting."""
    if not chi2:
        w = p * np.exp((reward - reward.max(axis=1, keepdims=True)) / beta)
        return w / w.sum(axis=1, keepdims=True)
    policy = np.zeros_like(p)
    for x in range(len(p)):
        order = np.argsort(-reward[x])
        r, q = reward[x][order], p[x][order]
        mass, mean = np.cumsum(q), np.cumsum(q * r)
        level = (mean + beta * (mass - 1.0)) / mass
        last = np.flatnonzero(1.0 + (r - level) / beta > 0)[-1]
        policy[x] = p[x] * np.maximum(0.0, 1.0 + (reward[x] - level[last]) / beta)
    return policy


def loop_metrics(policy: Array, bandit: object, chi2: bool, beta: float) -> dict[str, float]:
    """Return some of the metrics, as one writes them; the study has all of `MEASURES`."""
    p, r, rho = bandit.reference, bandit.reward, bandit.prompt_dist
    best = np.zeros_like(p)
    best[np.arange(len(p)), r.argmax(axis=1)] = 1.0
    w = np.divide(policy, p, out=np.zeros_like(p), where=p > 0)
    beats = (r[:, :, None] > r[:, None, :]) + 0.5 * (r[:, :, None] == r[:, None, :])
    optimum = loop_solve(r, p, chi2, beta)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_w = np.where(policy > 0, policy * np.log(w), 0.0)
    return {
        "regret": float(rho @ ((best - policy) * r).sum(axis=1)),
        "kl": float(rho @ log_w.sum(axis=1)),
        "concentrability": float(rho @ (policy * w).sum(axis=1)),
        "win_rate": float(rho @ np.einsum("xy,xyz,xz->x", policy, beats, p)),
        "distance": float(rho @ (0.5 * np.abs(policy - optimum).sum(axis=1))),
    }


def cvxpy_fit(counts: PairCounts) -> Array:
    """Return the ridge estimate by cvxpy, prompt by prompt."""
    reward = np.zeros(counts.shape)
    for x in range(counts.shape[0]):
        mine = counts.prompt == x
        r = cp.Variable(counts.shape[1])
        gap = r[counts.loser[mine]] - r[counts.winner[mine]]
        loss = counts.count[mine] @ cp.logistic(gap) + 0.5 * RIDGE * cp.sum_squares(r)
        cp.Problem(cp.Minimize(loss)).solve(solver=cp.CLARABEL)
        reward[x] = r.value
    return reward


def cvxpy_solve(reward: Array, p: Array, chi2: bool, beta: float) -> Array:
    """Return the optimum by cvxpy, prompt by prompt."""
    policy = np.zeros_like(p)
    for x in range(len(p)):
        pi = cp.Variable(p.shape[1], nonneg=True)
        if chi2:
            penalty = 0.5 * cp.sum(cp.multiply(1.0 / p[x], cp.square(pi - p[x])))
        else:
            penalty = cp.sum(cp.kl_div(pi, p[x]))
        objective = cp.Maximize(reward[x] @ pi / beta - penalty)
        cp.Problem(objective, [cp.sum(pi) == 1]).solve(solver=cp.CLARABEL)
        policy[x] = np.maximum(pi.value, 0.0) / np.maximum(pi.value, 0.0).sum()
    return policy


def peers(grid: Study, rows: object) -> dict[str, tuple[float, float]]:
    """Return seconds per cell and the largest difference of each loop, on a sample of cells."""
    layout, rng = Layout(grid), np.random.default_rng(0)
    chosen = rng.choice(grid.cells, size=LOOP_CELLS, replace=False)
    spec = grid.instances[0]
    scene = spec.scene(generator_for(grid.name, f"instance {spec.scene_key}/0", 0), 0)
    loops = {
        "numpy and scipy": (loop_fit, loop_solve, LOOP_CELLS),
        "cvxpy (Clarabel)": (cvxpy_fit, cvxpy_solve, CVXPY_CELLS),
    }
    found = {}
    for name, (fit, optimum, count) in loops.items():
        seconds, worst = 0.0, 0.0
        for cell in chosen[:count]:
            number, point = divmod(int(cell), len(layout.points))
            group = layout.group(number)
            method, beta = layout.points[point]
            place = f"data {spec.key}/{group.environment}/{group.n}"
            draws = generator_for(grid.name, place, group.seed)
            counts = count_pairs(sample_preferences(scene.bandit, group.n, draws))
            start = time.perf_counter()
            chi2 = method == 1
            policy = optimum(fit(counts), scene.bandit.reference, chi2, beta)
            metrics = loop_metrics(policy, scene.bandit, chi2, beta)
            seconds += time.perf_counter() - start
            own = rows.iloc[int(cell)]
            for metric, value in metrics.items():
                worst = max(worst, abs(own[metric] - value) / max(1.0, abs(value)))
        found[name] = seconds / count, worst
    assert found["numpy and scipy"][1] < LOOP_TOLERANCE, found
    assert found["cvxpy (Clarabel)"][1] < CVXPY_TOLERANCE, found
    return found


# ---- ours ---------------------------------------------------------------------------------------


def timed(grid: Study, folder: Path, **how: object) -> float:
    """Return the seconds of a whole run into a new folder."""
    start = time.perf_counter()
    run_study(grid, folder, **how)
    return time.perf_counter() - start


def high_water(pid: int | str) -> float:
    """Return the largest resident memory that a process ever had, in MiB; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM")), 0.0)


def _peak(seeds: int, folder: str, results: multiprocessing.Queue) -> None:
    most = [0.0]

    def look(done: int, total: int) -> None:
        workers = multiprocessing.active_children()
        most.append(max((high_water(w.pid) for w in workers), default=0.0))

    run_study(study(seeds), folder, workers=2, progress=look)
    results.put((high_water("self"), max(most)))


def peak_memory(seeds: int, folder: Path) -> tuple[float, float]:
    """Return the peak MiB of the process that hands out tasks, and of the largest worker."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_peak, args=(seeds, str(folder), results))
    process.start()
    peaks = results.get()
    process.join()
    return peaks


def main() -> None:
    """Run everything and write the table."""
    from distributed import LocalCluster

    grid = study(100)
    assert grid.cells == 100_000, grid.cells
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        timed(study(1, "warm"), scratch / "warm", workers=2)  # compiles what is not yet cached
        times: dict[str, list[float]] = {"processes": [], "dask": []}
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster,
            dask_cluster(cluster.scheduler_address) as executor,
        ):
            timed(study(1, "warm"), scratch / "warm dask", executor=executor)
            for k in range(REPEATS):
                times["processes"].append(timed(grid, scratch / f"processes{k}", workers=2))
                times["dask"].append(timed(grid, scratch / f"dask{k}", executor=executor))
        folders = [scratch / f"{name}{k}" for name in times for k in range(REPEATS)]
        assert len({(folder / "results.parquet").read_bytes() for folder in folders}) == 1
        rows = wide(read_results(folders[0]))
        assert len(rows) == grid.cells
        assert rows["error"].isna().all()
        loops = peers(grid, rows)
        best, dask = (float(np.median(times[name])) for name in ("processes", "dask"))
        size = (folders[0] / "results.parquet").stat().st_size / 2**20
        memory = {seeds: peak_memory(seeds, scratch / f"m{seeds}") for seeds in (10, 100)}

    def spread(name: str) -> str:
        return f"{min(times[name]):.1f} to {max(times[name]):.1f}"

    lines = [
        f"A study of {grid.cells:,} cells: {PROMPTS} prompts × {RESPONSES} responses, "
        f"{len(grid.n)} n from 100 to 100 000, 25 β, 100 seeds, RLHF with KL and with χ²; "
        f"{len(grid.metrics)} exact metrics each, all saved ({size:.0f} MiB). Start of two "
        "processes, draws, fits, optima, metrics and the final table are all in the time.",
        "",
        "| | seconds for all cells | as a multiple of ours |",
        "|---|---|---|",
        f"| `run_study`, 2 processes | {best:.1f} ({spread('processes')}) | 1 |",
        f"| the same on a dask cluster of 2 local workers | {dask:.1f} ({spread('dask')}) | "
        f"{dask / best:.2f} |",
        *(
            f"| loop, {name} | {each * grid.cells:,.0f} ({1e3 * each:.0f} ms a cell, largest "
            f"difference {worst:.0e}) | {each * grid.cells / best:,.0f} |"
            for name, (each, worst) in loops.items()
        ),
        "",
        "| cells | peak memory of the main process | of the largest worker |",
        "|---|---|---|",
        *(
            f"| {1000 * seeds:,} | {own:.0f} MiB | {most:.0f} MiB |"
            for seeds, (own, most) in memory.items()
        ),
        "",
        f"{machine()}; numpy {version('numpy')}, scipy {version('scipy')}, cvxpy "
        f"{version('cvxpy')}, distributed {version('distributed')}. The loops are one process and "
        f"do {LOOP_CELLS} and {CVXPY_CELLS} cells drawn at random; their data are drawn and "
        "counted beforehand; they compute 5 metrics and write nothing. Medians of "
        f"{REPEATS} alternating runs, all with the same bytes; a pool of processes starts anew in "
        "each run, the workers of the cluster run already.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
