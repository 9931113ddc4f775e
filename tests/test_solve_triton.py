"""The Triton kernels against numpy: on the GPU where there is one, else in Triton's interpreter.

The interpreter must be chosen before Triton is first imported, so the kernels run in a process of
their own: this file, run as a script, solves pickled problems.
"""

import math
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.solvers.general import solve_rows as solve_numpy

pytest.importorskip("triton")
torch = pytest.importorskip("torch")

FIELDS = ("policy", "multiplier", "value", "gap", "feasibility", "tolerance")
WEIGHTS = {"KL": (0.0, 1.0), "chi2": (1.0, 0.0), "mixed": (1.0, 1.0)}
MORE = {
    **WEIGHTS,
    "mostly chi2": (1.0, 1e-3),
    "mostly KL": (1e-6, 2.0),
    "3 KL": (0.0, 3.0),
    "chi2/100": (0.01, 0.0),
}
# Two programs per row, of up to six blocks each.
REGIMES = {
    "short": {},
    "long": {"longest_short": 0, "long_block": 64, "most_programs": 2, "sample": 32},
}


@dataclass(frozen=True)
class Problem:
    reward: np.ndarray
    reference: np.ndarray
    beta: np.ndarray
    weights: tuple[float, float]
    options: dict = field(default_factory=dict)


def solve_with_triton(problems):
    """Solve on the GPU or in the interpreter; runs in the other process."""
    from rlhfsim.solvers.tensors.triton_rows import solve_rows

    device = "cuda" if torch.cuda.is_available() else "cpu"
    answers = []
    for problem in problems:
        reward = torch.tensor(problem.reward, device=device)
        reference = torch.tensor(problem.reference, device=device)
        beta = torch.tensor(problem.beta, device=device)
        if reference.ndim == 1:
            reference = reference.expand(reward.shape)
        rows = solve_rows(reward, reference, beta, *problem.weights, **problem.options)
        answers.append({name: getattr(rows, name).cpu().numpy() for name in FIELDS})
    return answers


INTERPRET = not torch.cuda.is_available()


def in_other_process(task, argument, interpret=INTERPRET):
    """Return `task(argument)`, a function of this file, from a process that may interpret."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), task.__name__],
        input=pickle.dumps(argument),
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


# ---- problems ------------------------------------------------------------------------------------


def references(rng, rows, size, concentration):
    p = rng.dirichlet(np.full(size, concentration), rows) + 1e-30
    return p / p.sum(axis=1, keepdims=True)


def make_problems():
    """Return named problems in float64, each a function of (weights, options)."""
    rng = np.random.default_rng(5)
    problems = {}

    def add(name, reward, reference, beta):
        reward = np.atleast_2d(np.asarray(reward, float))
        beta = np.broadcast_to(np.asarray(beta, float), (len(reward),)).copy()
        problems[name] = reward, np.asarray(reference, float), beta

    size = 100
    base, p = rng.normal(size=(3, size)), references(rng, 3, size, 0.5)
    holes = np.where(rng.random((3, size)) < 0.5, 0.0, p)
    holes /= holes.sum(axis=1, keepdims=True)
    # On a grid that float32 holds beside the offset of 2^20, float64 beside 2^30.
    grid = rng.integers(-40, 40, (3, size)) / 8.0
    add("random", base, p, [0.1, 0.5, 10.0])
    add("small beta", base, p, 1e-6)
    add("large beta", base, p, 1e6)
    add("offset", grid + 2.0**20, p, 0.5)
    add("large offset", 1e9 + 64.0 * grid, p, 40.0)
    add("large range", 1e9 * base, p, [1.0, 1e5, 1e9])
    add("holes in the reference", base, holes, [0.01, 0.2, 10.0])
    add("ties", rng.integers(0, 3, (3, size)), p, [1e-3, 0.5, 30.0])
    add("all tied", np.full((3, size), 7.0), p, 0.3)
    add("one reference for all", base, p[0], 0.4)
    add("one response", [[3.0], [-1e9]], [[1.0], [1.0]], 2.0)
    add("one is possible", [[1.0, 0.0, -1.0]], [[0.0, 1.0, 0.0]], 0.1)
    add("three responses", [[1.0, 0.5, 0.0]] * 3, [[0.2, 0.3, 0.5]] * 3, [0.01, 0.5, 9.0])
    rare = np.array([[1e-30] + [1 / 99] * 99, [1e-12] + [1 / 99] * 99, [1e-6] + [1 / 99] * 99])
    rare[:, 1] += 1.0 - rare.sum(axis=1)
    best_is_rare = np.concatenate([np.ones((3, 1)), 0.01 * base[:3, 1:]], axis=1)
    for beta in (1e-3, 0.05, 1.0):
        add(f"rare best response, beta {beta}", best_is_rare, rare, beta)
    add("decades", 10.0 ** np.linspace(-9, 9, 60)[None, :], np.full((1, 60), 1 / 60), 1.0)
    # The samples of a row miss the response that takes all the mass.
    peak = 0.1 * rng.normal(size=(1, 400))
    peak[:, 333] = 50.0
    add("peak", peak, references(rng, 1, 400, 2.0), 0.05)
    return problems


PROBLEMS = make_problems()


_SINGLE = {
    "long": ("random", "large offset", "peak"),
    "short": (
        "random", "small beta", "offset", "large offset", "large range", "holes in the reference",
        "ties", "one response", "rare best response, beta 0.05", "decades", "peak",
    ),
}  # fmt: skip
_SHORT_ONLY = (
    "offset", "all tied", "one is possible", "three responses", "large beta",
    "rare best response, beta 0.001", "rare best response, beta 1.0",
)  # fmt: skip


def build_cases():
    """Return every case: each problem with three divergences, and a few with more."""
    cases = {}
    for dtype in (np.float64, np.float32):
        for problem, (reward, reference, beta) in PROBLEMS.items():
            for kind, weights in MORE.items():
                for regime, options in REGIMES.items():
                    if kind not in WEIGHTS and (problem != "random" or regime == "long"):
                        continue
                    if regime == "long" and problem in _SHORT_ONLY:
                        continue
                    # Both dtypes take the same path, but for the first pass over the rewards.
                    if dtype is np.float32 and problem not in _SINGLE[regime]:
                        continue
                    name = f"{problem}-{kind}-{np.dtype(dtype).name}-{regime}"
                    cases[name] = Problem(
                        reward.astype(dtype), reference.astype(dtype), beta, weights, options
                    )
    return cases


CASES = build_cases()


# ---- against numpy -------------------------------------------------------------------------------


def divergence_of(weights):
    chi_squared, kl = weights
    parts = [w * d for w, d in ((chi_squared, ChiSquared()), (kl, KL())) if w]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


@pytest.fixture(scope="module")
def answers():
    asked = dict(CASES)
    asked |= {(name, i): pair[i] for name, pair in PAIRS.items() for i in (0, 1)}
    asked["empty"] = EMPTY
    found = in_other_process(solve_with_triton, list(asked.values()))
    return dict(zip(asked, found, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_every_field_agrees_with_numpy(name, answers):
    problem, answer = CASES[name], answers[name]
    eps = float(np.finfo(problem.reward.dtype).eps)
    smallest = float(np.finfo(problem.reward.dtype).tiny)
    r = problem.reward.astype(np.float64)
    p = np.broadcast_to(problem.reference.astype(np.float64), r.shape)
    truth = solve_numpy(r, np.ascontiguousarray(p), problem.beta, divergence_of(problem.weights))
    inside = p > 0
    spread = np.where(inside, r, -np.inf).max(axis=1) - np.where(inside, r, np.inf).min(axis=1)
    heaviest, total = max(problem.weights), sum(problem.weights)
    lightest = min(w for w in problem.weights if w)
    assert answer["policy"].dtype == problem.reward.dtype
    policy = answer["policy"].astype(np.float64)
    # Scores are float64 in any dtype.
    slack = (32 * eps + 8e-16 * spread / (problem.beta * lightest))[:, None]
    # Near the clip of chi-squared, w is a difference of numbers of order 1 over the active mass.
    active = np.where(truth.policy > 0, p, 0.0).sum(axis=1)
    near = problem.weights[0] * 8 * eps / (heaviest * active) + 8e-16 * spread / (
        problem.beta * heaviest
    )
    floor = p * near[:, None] if lightest < 0.5 * heaviest or not problem.weights[1] else 0.0
    assert np.all(np.abs(policy - truth.policy) <= slack * truth.policy + floor + 4 * smallest)
    assert np.all(policy[~inside] == 0)

    size = np.abs(np.where(inside, r, 0.0)).max(axis=1)
    unit = 32 * eps * spread + 8e-16 * size
    penalty = problem.beta * total
    np.testing.assert_array_less(
        np.abs(answer["value"] - truth.value), unit + 16 * eps**2 * penalty + smallest
    )
    np.testing.assert_array_less(
        np.abs(answer["multiplier"] - truth.multiplier), unit + 32 * eps * penalty
    )
    assert np.all(np.abs(answer["gap"]) <= answer["tolerance"])
    limit = eps * (16 + math.log2(r.shape[1]))
    assert np.all(answer["feasibility"] <= limit)
    np.testing.assert_allclose(
        answer["feasibility"], np.abs(policy.sum(axis=1) - 1), atol=1e-15 * r.shape[1]
    )
    # A tolerance that any answer meets would be no certificate.
    assert np.all(
        answer["tolerance"] <= 16 * limit * (spread + size * eps + penalty * limit) + 1e-300
    )


def pairs_alike():
    """Return named pairs of problems whose answers must be alike to the bit."""
    rng = np.random.default_rng(8)
    reward = rng.integers(-40, 40, (5, 70)) / 8.0
    reference = references(rng, 5, 70, 0.5)
    beta = np.full(5, 0.7)
    pairs = {}
    for kind, weights in WEIGHTS.items():
        for regime, options in REGIMES.items():
            for dtype in (np.float64, np.float32):
                r, p = reward.astype(dtype), reference.astype(dtype)
                alone = Problem(r[3:4], p[3:4], beta[:1], weights, options)
                moved = Problem(r[3:4] + dtype(2.0**18), p[3:4], beta[:1], weights, options)
                pairs["offset", kind, regime, dtype] = alone, moved
            together = Problem(reward, reference, beta, weights, options)
            alone = Problem(reward[3:4], reference[3:4], beta[:1], weights, options)
            pairs["company", kind, regime, np.float64] = alone, together
    return pairs


PAIRS = pairs_alike()
EMPTY = Problem(np.zeros((0, 5)), np.full(5, 0.2), np.zeros(0), (1.0, 1.0))


@pytest.mark.parametrize("pair", [k for k in PAIRS if k[0] == "offset"], ids=str)
def test_an_offset_that_rounds_nothing_changes_no_bit_of_the_policy(pair, answers):
    plain, moved = answers[pair, 0], answers[pair, 1]
    np.testing.assert_array_equal(plain["policy"], moved["policy"])
    np.testing.assert_array_equal(plain["gap"], moved["gap"])
    np.testing.assert_allclose(moved["value"] - plain["value"], 2.0**18, rtol=1e-15)


@pytest.mark.parametrize("pair", [k for k in PAIRS if k[0] == "company"], ids=str)
def test_the_same_row_gives_the_same_bits_in_any_company(pair, answers):
    for name in FIELDS:
        np.testing.assert_array_equal(answers[pair, 1][name][3:4], answers[pair, 0][name])


def count_launches(problems):
    """Return how often each kernel runs for each problem; runs in the other process."""
    from rlhfsim.solvers.tensors import triton_rows

    launch, counts = triton_rows._launch, []

    def counted(kernel, *arguments, **constants):
        counts[-1][kernel.__name__] = counts[-1].get(kernel.__name__, 0) + 1
        launch(kernel, *arguments, **constants)

    triton_rows._launch = counted
    for problem in problems:
        counts.append({})
        solve_with_triton([problem])
    return counts


def test_long_rows_take_few_passes_and_one_look():
    # Rewards so dense that rounding of the threshold moves responses across it.
    rng = np.random.default_rng(2)
    reward = rng.normal(size=(1, 2**20))
    reference = rng.standard_gamma(1.0, size=reward.shape)
    reference /= reference.sum()
    long = {"longest_short": 0, "long_block": 2**19, "most_programs": 2, "sample": 4096}
    problems = [
        Problem(reward.astype(d), reference.astype(d), np.array([0.1]), weights, long)
        for weights in ((1.0, 0.0), (1.0, 1.0))
        for d in (np.float32, np.float64)
    ]
    for counts in in_other_process(count_launches, problems):
        sums, writes = (
            sum(n for name, n in counts.items() if name.endswith(end)) for end in ("sums", "write")
        )
        assert sums <= 6
        assert writes == 1


def test_no_rows_give_no_rows(answers):
    assert answers["empty"]["policy"].shape == (0, 5)
    assert answers["empty"]["gap"].shape == (0,)


# ---- the device functions ------------------------------------------------------------------------


def evaluate(arrays):
    """Return what the device functions give, by dtype; runs in the other process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sent = {name: torch.tensor(value, device=device) for name, value in arrays.items()}
    count = sent["q"].numel()
    results = {}
    for name, dtype in (("float64", tl.float64), ("float32", tl.float32)):
        out = torch.zeros((7, count), dtype=torch.float64, device=device)
        block = triton.next_power_of_2(count)
        evaluation[(1,)](*sent.values(), out, count, BLOCK=block, DTYPE=dtype)
        results[name] = out.cpu().numpy()
    return results


def true_ratio(q, curvature):
    """Return w with `log w + curvature (w - 1) = q`, by Newton's method in 60 digits."""
    with mp.workdps(60):
        q, c = mp.mpf(q), mp.mpf(curvature)
        # In log w the equation is convex, and from above the root no step passes it.
        v = q + c if q + c < 1 else mp.log(1 + (q + c) / c)
        for _ in range(200):
            step = (v + c * (mp.exp(v) - 1) - q) / (1 + c * mp.exp(v))
            v -= step
            if abs(step) < mp.mpf(10) ** -40:
                return mp.exp(v)
        raise AssertionError(f"no ratio at {q}, {c}")


def true_terms(p, pi, s, chi_squared, kl):
    """Return `p f(w)` and `p [f(w) + f*(s) - w s]` in 60 digits."""
    with mp.workdps(60):
        p, w, s = mp.mpf(p), mp.mpf(pi) / mp.mpf(p), mp.mpf(s)

        def f(t):
            entropy = (t * mp.log(t) if t else 0) - t + 1
            return mp.mpf(chi_squared) * (t - 1) ** 2 / 2 + mp.mpf(kl) * entropy

        if kl == 0:
            best = max(1 + s / chi_squared, 0)
        elif chi_squared == 0:
            best = mp.exp(s / kl)
        else:
            best = true_ratio(s / kl, chi_squared / kl)
        return p * f(w), p * (f(w) + s * best - f(best) - w * s)


@pytest.fixture(scope="module")
def evaluations():
    rng = np.random.default_rng(3)
    found = {}
    for curvature in (1e-6, 0.3, 1.0, 200.0, 1e6):
        spread = 10.0 ** rng.uniform(-8, 1.7, 120)
        q = np.sign(rng.normal(size=120)) * spread * np.where(rng.random(120) < 0.5, curvature, 1)
        # Exact in float32, so that both dtypes have one truth.
        p = np.float64(np.float32(10.0 ** rng.uniform(-6, -1, 120)))
        ratio = np.exp(np.where(rng.random(120) < 0.3, 1e-3, 1.0) * rng.normal(size=120))
        pi = np.float64(np.float32(p * ratio))
        # Scores near f'(w), of each divergence in turn.
        w, kinds = pi / p, np.arange(120) % 3
        link = np.choose(kinds, [np.log(w), w - 1, np.log(w) + curvature * (w - 1)])
        score = link + 1e-3 * rng.normal(size=120)
        arrays = {"q": q, "curvature": np.array([curvature]), "p": p, "pi": pi, "score": score}
        found[curvature] = arrays, kinds
    answers = in_other_process(evaluate_all, [arrays for arrays, _ in found.values()])
    return {c: (*found[c], answer) for c, answer in zip(found, answers, strict=True)}


def evaluate_all(problems):
    """Return `evaluate` of each."""
    return [evaluate(arrays) for arrays in problems]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("curvature", [1e-6, 0.3, 1.0, 200.0, 1e6])
def test_the_mixed_ratio_is_accurate_on_the_whole_line(curvature, dtype, evaluations):
    arrays, _, answer = evaluations[curvature]
    eps = float(np.finfo(dtype).eps)
    for q, computed in zip(arrays["q"], answer[np.dtype(dtype).name][0], strict=True):
        true = true_ratio(q, curvature)
        # The float64 rounding of q + curvature moves w by eps of its own sensitivity.
        omega = curvature * float(true)
        moved = 4e-16 * (abs(q) + curvature + abs(math.log(curvature))) / (1 + omega)
        if true > np.finfo(np.float32).tiny * 1e3:
            assert abs(computed - true) <= (6 * eps + moved) * true
        elif dtype is np.float32:
            assert computed <= 1e-34


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("curvature", [1e-6, 0.3, 1.0, 200.0, 1e6])
def test_the_terms_of_the_certificate_are_costs_and_bound_what_is_missed(
    curvature, dtype, evaluations
):
    arrays, kinds, answer = evaluations[curvature]
    eps = float(np.finfo(dtype).eps)
    computed = answer[np.dtype(dtype).name]
    weights = ((0.0, 1.0), (1.0, 0.0), (curvature, 1.0))
    seen = 0
    for i, (p, pi, s) in enumerate(zip(arrays["p"], arrays["pi"], arrays["score"], strict=True)):
        cost, missed = true_terms(p, pi, s, *weights[kinds[i]])
        found_cost, found_missed = computed[1 + 2 * kinds[i] : 3 + 2 * kinds[i], i]
        w = pi / p
        # f(w) is known as well as w - 1 is.
        unit = 8 * eps * float(cost) + 4 * eps * p * abs(w - 1) * w * (1 + sum(weights[kinds[i]]))
        assert abs(found_cost - cost) <= unit
        if missed > 1e3 * eps * p * max(1.0, abs(s)) ** 2 * eps:
            seen += 1
            rounding = 20 * eps * (1 + abs(s) + weights[kinds[i]][0] * abs(w - 1)) / 1e-3
            assert missed * (1 - rounding) <= found_missed
    assert seen > 30


# ---- compilation ---------------------------------------------------------------------------------


def compile_for_hopper(names):
    """Compile kernels for the H100 and H200, which needs no GPU; returns their sizes."""
    from triton.backends.compiler import GPUTarget

    from rlhfsim.solvers.tensors import triton_long, triton_short

    sizes = []
    for name, dtype in names:
        kernel = getattr(triton_short, name, None) or getattr(triton_long, name)
        wide = dtype == "float64"
        pointer = {
            "reward": dtype,
            "reference": dtype,
            "policy": dtype,
            "tops": "i32",
            "top": "i32",
        }
        constants = {
            "GROUP": 2, "ROWS": 1, "BLOCK": 32, "SAMPLE": 32, "MOST": 9, "PRECISE": wide,
            "DTYPE": tl.float64 if wide else tl.float32, "FINAL": True,
        }  # fmt: skip
        numbers = {"count": "i32", "steps": "i32", "programs": "i32", "width": "i32"}
        numbers |= {"groups": "i64", "size": "i64", "reference_stride": "i64"}
        numbers |= {"rounding": "fp32", "tolerance": "fp32"}
        short_name = {"float64": "fp64", "float32": "fp32", "i32": "i32"}
        signature, values = {}, {}
        for place, argument in enumerate(kernel.arg_names):
            if argument in constants:
                signature[argument], values[(place,)] = "constexpr", constants[argument]
            elif argument in numbers and wide == ("64" in numbers[argument]):
                # Triton compiles an integer argument of 1 in.
                signature[argument], values[(place,)] = "constexpr", 1
            elif argument in numbers:
                signature[argument] = numbers[argument]
            else:
                kind = "i32" if argument == "going" else pointer.get(argument, "float64")
                signature[argument] = "*" + short_name[kind]
        source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=values)
        built = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True}
        )
        sizes.append(len(built.asm["cubin"]))
    return sizes


KERNELS = (
    ("kl_rows", "float32"), ("chi_squared_rows", "float32"), ("mixed_rows", "float64"),
    ("kl_anchor", "float32"), ("kl_partition", "float64"),
    ("kl_write", "float32"), ("threshold_start", "float32"), ("threshold_sums", "float64"),
    ("threshold_advance", "float32"), ("threshold_write", "float32"), ("mixed_start", "float64"),
    ("mixed_sums", "float64"), ("mixed_advance", "float64"), ("mixed_write", "float32"),
    ("certify", "float64"),
)  # fmt: skip


def test_every_kernel_compiles_for_hopper():
    # The interpreter takes more than the compiler does.
    sizes = in_other_process(compile_for_hopper, KERNELS, interpret=False)
    assert len(sizes) == len(KERNELS)
    assert min(sizes) > 1000


if __name__ == "__main__":
    import triton
    import triton.language as tl

    from rlhfsim.solvers.tensors.triton_math import (
        chi_squared_terms,
        kl_terms,
        mixed_certificate_terms,
        mixed_ratio,
    )

    @triton.jit
    def evaluation(
        q, curvature, p, pi, score, out, count, BLOCK: tl.constexpr, DTYPE: tl.constexpr
    ):
        i = tl.arange(0, BLOCK)
        inside = i < count
        c = tl.load(curvature)
        ratio = mixed_ratio(
            tl.load(q + i, mask=inside, other=0.0), c, DTYPE.primitive_bitwidth == 64
        )
        mass = tl.load(p + i, mask=inside, other=0.5).to(DTYPE)
        policy = tl.load(pi + i, mask=inside, other=0.5).to(DTYPE)
        s = tl.load(score + i, mask=inside, other=0.0)
        kl = kl_terms(mass, policy, s, DTYPE)
        chi = chi_squared_terms(mass, policy, tl.maximum(1.0 + s, 0.0).to(DTYPE))
        mixed = mixed_certificate_terms(mass, policy, s, c, DTYPE)
        tl.store(out + i, ratio.to(tl.float64), mask=inside)
        tl.store(out + count + i, kl[0].to(tl.float64), mask=inside)
        tl.store(out + 2 * count + i, kl[1].to(tl.float64), mask=inside)
        tl.store(out + 3 * count + i, chi[0].to(tl.float64), mask=inside)
        tl.store(out + 4 * count + i, chi[1].to(tl.float64), mask=inside)
        tl.store(out + 5 * count + i, mixed[0].to(tl.float64), mask=inside)
        tl.store(out + 6 * count + i, mixed[1].to(tl.float64), mask=inside)

    sys.modules["test_solve_triton"] = sys.modules["__main__"]
    output = globals()[sys.argv[1]](pickle.load(sys.stdin.buffer))
    sys.stdout.buffer.write(pickle.dumps(output))
