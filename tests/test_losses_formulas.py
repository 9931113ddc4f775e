"""Every direct loss against its paper's formula, in mpmath and in torch with autograd."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rlhfsim.divergences import KL, AlphaDivergence, ChiSquared, ForwardKL, JensenShannon
from rlhfsim.losses import (
    DIRECT_LOSSES,
    DirectLoss,
    DivergenceLink,
    Logistic,
    cdpo,
    chipo,
    chipo_practical,
    dpo,
    dpo_without_log,
    fdpo,
    hinge,
    ipo,
    power,
    rebel,
    robust_dpo,
    rpo,
    simpo,
    slic,
)

EPS = np.finfo(np.float64).eps
mpmath.mp.dps = 60


class InMpmath:
    """The functions that the formulas need, in 60 digits."""

    exp, log = mpmath.exp, mpmath.log

    @staticmethod
    def log_sigmoid(t):
        # exp(-t) of a t of order 1e300 has no representation even here.
        return mpmath.mpf(0) if t > 1e9 else (t if t < -1e9 else -mpmath.log1p(mpmath.exp(-t)))

    @staticmethod
    def sigmoid(t):
        return 1 / (1 + mpmath.exp(-t))

    @staticmethod
    def clip(t, low, high):
        return min(max(t, low), high)

    @staticmethod
    def positive_part(t):
        return max(t, 0)


class InTorch:
    """The same in float64 with autograd."""

    exp, log, sigmoid = torch.exp, torch.log, torch.sigmoid
    log_sigmoid = staticmethod(torch.nn.functional.logsigmoid)
    clip, positive_part = torch.clamp, torch.relu


# Columns of a formula: pc, pr, rc, rr the four log-probabilities, vc, vr weights, gc, gr rewards.


def dpo_of(o, c, beta):
    return -o.log_sigmoid(beta * (c.pc - c.rc) - beta * (c.pr - c.rr))


def cdpo_of(o, c, beta, eps):
    h = beta * ((c.pc - c.rc) - (c.pr - c.rr))
    return -(1 - eps) * o.log_sigmoid(h) - eps * o.log_sigmoid(-h)


def robust_of(o, c, beta, eps):
    h = beta * ((c.pc - c.rc) - (c.pr - c.rr))
    return (-(1 - eps) * o.log_sigmoid(h) + eps * o.log_sigmoid(-h)) / (1 - 2 * eps)


def without_log_of(o, c, beta):
    return -o.sigmoid(beta * ((c.pc - c.rc) - (c.pr - c.rr)))


def chipo_of(o, c, beta, gamma, r_max):
    up, down = c.pc - c.rc, c.pr - c.rr
    h = beta * (o.exp(up) + gamma * up) - beta * (o.exp(down) + gamma * down)
    return -o.log_sigmoid(h if r_max is None else o.clip(h, -2 * r_max, 2 * r_max))


def practical_of(o, c, beta, alpha, gamma):
    def phi(u):
        return o.exp(o.clip(alpha * u, -88, 20)) + gamma * u

    return -o.log_sigmoid(beta * (phi(c.pc - c.rc) - phi(c.pr - c.rr)))


def jensen_shannon_of(o, c, beta):
    # 1/2 log(2w/(1 + w)), written with log_sigmoid(u) = log(w/(1 + w)).
    return -o.log_sigmoid(beta * (o.log_sigmoid(c.pc - c.rc) / 2 - o.log_sigmoid(c.pr - c.rr) / 2))


def alpha_of(o, c, beta, alpha):
    def phi(u):
        return o.exp((alpha - 1) * u) / (alpha - 1)

    return -o.log_sigmoid(beta * (phi(c.pc - c.rc) - phi(c.pr - c.rr)))


def combined_of(o, c, beta):
    def phi(u):
        return 2 * o.exp(u / 2) / 0.5 + 0.5 * u

    return -o.log_sigmoid(beta * (phi(c.pc - c.rc) - phi(c.pr - c.rr)))


def forward_kl_of(o, c, beta):
    return -o.log_sigmoid(beta * (-o.exp(c.rc - c.pc) + o.exp(c.rr - c.pr)))


def ipo_of(o, c, tau):
    return ((c.pc - c.rc) - (c.pr - c.rr) - 1 / (2 * tau)) ** 2


def hinge_of(o, c, beta):
    return o.positive_part(1 - beta * ((c.pc - c.rc) - (c.pr - c.rr)))


def slic_of(o, c, margin, weight):
    return o.positive_part(margin - c.pc + c.pr) - weight * c.pc


def rpo_of(o, c, beta, eta):
    return dpo_of(o, c, beta) - eta * c.pc


def simpo_of(o, c, beta, margin):
    return -o.log_sigmoid(beta * c.vc * c.pc - beta * c.vr * c.pr - margin)


def rebel_of(o, c, eta):
    return (((c.pc - c.rc) - (c.pr - c.rr)) / eta - (c.gc - c.gr)) ** 2


def power_of(o, c, beta, eta):
    h = beta * (c.vc * c.pc - c.vr * c.pr + c.vc - c.vr)
    return -o.log_sigmoid(h) - eta * beta * c.vc * c.pc


CASES = [
    (dpo(0.1), lambda o, c: dpo_of(o, c, 0.1)),
    (cdpo(0.1, 0.2), lambda o, c: cdpo_of(o, c, 0.1, 0.2)),
    (robust_dpo(0.3, 0.2), lambda o, c: robust_of(o, c, 0.3, 0.2)),
    (dpo_without_log(0.5), lambda o, c: without_log_of(o, c, 0.5)),
    (chipo(0.1), lambda o, c: chipo_of(o, c, 0.1, 1, None)),
    (chipo(0.2, 1.0, 0.3), lambda o, c: chipo_of(o, c, 0.2, 0.3, 1.0)),
    (chipo_practical(0.1, 0.25, 0.1), lambda o, c: practical_of(o, c, 0.1, 0.25, 0.1)),
    (chipo_practical(0.1, 1.0, 0.1), lambda o, c: practical_of(o, c, 0.1, 1, 0.1)),
    (fdpo(JensenShannon(), 0.2), lambda o, c: jensen_shannon_of(o, c, 0.2)),
    (fdpo(AlphaDivergence(0.5), 0.2), lambda o, c: alpha_of(o, c, 0.2, 0.5)),
    (
        fdpo(2.0 * AlphaDivergence(1.5) + 0.5 * KL(), 0.2),
        lambda o, c: combined_of(o, c, 0.2),
    ),
    (ipo(0.1), lambda o, c: ipo_of(o, c, 0.1)),
    (hinge(0.5), lambda o, c: hinge_of(o, c, 0.5)),
    (slic(1.0, 0.1), lambda o, c: slic_of(o, c, 1.0, 0.1)),
    (rpo(0.1, 0.05), lambda o, c: rpo_of(o, c, 0.1, 0.05)),
    (simpo(2.0, 0.5), lambda o, c: simpo_of(o, c, 2, 0.5)),
    (rebel(5.0), lambda o, c: rebel_of(o, c, 5)),
    (power(0.5, 0.1), lambda o, c: power_of(o, c, 0.5, 0.1)),
    (fdpo(ForwardKL(), 0.2), lambda o, c: forward_kl_of(o, c, 0.2)),
    (fdpo(AlphaDivergence(-1.0), 0.2), lambda o, c: alpha_of(o, c, 0.2, -1)),
    (
        DirectLoss(DivergenceLink(ChiSquared()), Logistic(), 0.3),
        lambda o, c: chipo_of(o, c, 0.3, 0, None),
    ),
]
NAMES = [f"{i}-{loss.name}" for i, (loss, _) in enumerate(CASES)]
every_case = pytest.mark.parametrize(("loss", "formula"), CASES, ids=NAMES)


class Case:
    """The columns of comparisons, as attributes that a formula reads."""

    def __init__(self, **columns):
        self.__dict__.update(columns)

    def row(self, i):
        return Case(**{name: mpmath.mpf(float(c[i])) for name, c in self.__dict__.items()})

    def tensors(self):
        return Case(**{name: torch.tensor(c) for name, c in self.__dict__.items()})


def sampled(rng, n, scale):
    return Case(
        pc=-rng.exponential(scale, n),
        pr=-rng.exponential(scale, n),
        rc=-rng.exponential(scale, n),
        rr=-rng.exponential(scale, n),
        vc=rng.uniform(0.05, 1.0, n),
        vr=rng.uniform(0.05, 1.0, n),
        gc=rng.normal(size=n),
        gr=rng.normal(size=n),
    )


def arguments(loss, c):
    columns = {}
    if loss.weighted:
        columns |= {"chosen_weights": c.vc, "rejected_weights": c.vr}
    if loss.needs_rewards:
        columns |= {"chosen_rewards": c.gc, "rejected_rewards": c.gr}
    return (c.pc, c.pr, c.rc, c.rr), columns


def evaluate(loss, c):
    given, columns = arguments(loss, c)
    return loss(*given, **columns), loss.gradient(*given, **columns)


def scores(loss, c):
    """Return what rounding can do to h: the sizes of its terms, and of their derivatives."""
    rc, rr = (0.0, 0.0) if loss.reference_free else (c.rc, c.rr)
    vc, vr = (c.vc, c.vr) if loss.weighted else (1.0, 1.0)
    total = 0.0
    for weight, u in ((vc, c.pc - rc), (vr, c.pr - rr)):
        total = total + weight * (abs(loss.link.value(u)) + (1 + abs(u)) * loss.link.slope(u))
    rewards = abs(c.gc) + abs(c.gr) if loss.needs_rewards else 0.0
    return loss.beta * total + rewards + 1.0


def check_row(loss, formula, c, i, value, slopes):
    """Compare one row, within what rounding of the log ratios and of the link can cost."""
    row = c.row(i)
    exact = formula(InMpmath, row)
    rounding = float(np.broadcast_to(scores(loss, c), c.pc.shape)[i])
    gradient = [
        mpmath.diff(lambda t: formula(InMpmath, Case(**(row.__dict__ | {"pc": t}))), row.pc),
        mpmath.diff(lambda t: formula(InMpmath, Case(**(row.__dict__ | {"pr": t}))), row.pr),
    ]
    # |d loss/dh| and |d^2 loss/dh^2| times the rounding of h.
    steep = abs(float(gradient[0])) + abs(float(gradient[1])) + abs(float(exact)) + 1e-300
    assert abs(float(exact) - value) <= 16 * EPS * steep * (1 + rounding)
    for ours, theirs in zip(slopes, gradient, strict=True):
        assert abs(float(theirs) - ours) <= 64 * EPS * (1 + rounding) * (
            abs(float(theirs)) + steep * (1 + rounding)
        )


def test_every_direct_loss_has_a_formula():
    assert tuple(loss for loss, _ in CASES[: len(DIRECT_LOSSES)]) == DIRECT_LOSSES


@every_case
def test_values_and_gradients_agree_with_torch(loss, formula):
    c = sampled(np.random.default_rng(3), 400, 4.0)
    value, gradient = evaluate(loss, c)
    tensors = c.tensors()
    tensors.pc.requires_grad_()
    tensors.pr.requires_grad_()
    theirs = formula(InTorch, tensors)
    theirs.sum().backward()
    np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=2e-12, atol=1e-15)
    for ours, tensor in zip(gradient, (tensors.pc, tensors.pr), strict=True):
        grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        np.testing.assert_allclose(ours, grad.numpy(), rtol=2e-11, atol=1e-15)


@every_case
def test_well_scaled_rows_agree_with_mpmath_to_rounding(loss, formula):
    c = sampled(np.random.default_rng(4), 12, 1.0)
    value, gradient = evaluate(loss, c)
    for i in range(len(value)):
        exact = formula(InMpmath, c.row(i))
        assert abs(value[i] - float(exact)) <= 2e-15 * (1 + abs(float(exact))) * (
            20 if loss.name == "IPO" else 4
        )
        check_row(loss, formula, c, i, value[i], (gradient[0][i], gradient[1][i]))


MODERATE = st.floats(-30, 0)


@every_case
@given(logs=st.tuples(MODERATE, MODERATE, MODERATE, MODERATE), seed=st.integers(0, 2**32 - 1))
def test_any_row_agrees_with_mpmath(loss, formula, logs, seed):
    rng = np.random.default_rng(seed)
    c = sampled(rng, 1, 1.0)
    for name, value in zip(("pc", "pr", "rc", "rr"), logs, strict=True):
        setattr(c, name, np.array([value]))
    h, edge = _difference(loss, c)
    # Not at a kink, where the two one-sided derivatives differ.
    assume(edge is None or abs(abs(h) - edge) > 1e-6 * (1 + abs(h)))
    value, gradient = evaluate(loss, c)
    check_row(loss, formula, c, 0, value[0], (gradient[0][0], gradient[1][0]))


def _difference(loss, c):
    """Return h of the only row before the clip, and where it has its kink."""
    rc, rr = (0.0, 0.0) if loss.reference_free else (c.rc, c.rr)
    up, down = c.pc - rc, c.pr - rr
    h = float((loss.beta * (loss.link.value(up) - loss.link.value(down)))[0])
    if loss.clip is not None:
        return h, loss.clip
    if loss.name in ("hinge", "SLiC"):
        return h, loss.outer.margin
    if "practical" in loss.name:
        inside = [20 / loss.link.alpha, -88 / loss.link.alpha]
        near = min(abs(u - end) for u in (float(up[0]), float(down[0])) for end in inside)
        return near, 0.0
    return h, None


LOG_RATIOS = [-1e4, -800.0, -709.9, -88.5, -40.0, -1.0, -1e-8, 0.0, 1e-8, 1.0, 25.0, 88.5, 700.0]


@every_case
@pytest.mark.parametrize("down", [*LOG_RATIOS, 709.9, 800.0, 1e4])
@pytest.mark.filterwarnings("error")
def test_extreme_log_ratios(loss, formula, down):
    """Values in relation to the exact ones over the whole range, without warnings."""
    ups = np.array([*LOG_RATIOS, 709.9, 800.0, 1e4])
    n = len(ups)
    base = np.full(n, -1.1e4)
    c = Case(
        pc=base + ups, rc=base, pr=base + down, rr=base.copy(),
        vc=np.full(n, 0.5), vr=np.full(n, 0.25), gc=np.ones(n), gr=np.zeros(n),
    )  # fmt: skip
    value, gradient = evaluate(loss, c)
    assert not np.isnan(value).any()
    assert not np.isnan(gradient[0]).any()
    assert not np.isnan(gradient[1]).any()
    rounding = np.broadcast_to(scores(loss, c), (n,))
    for i in range(n):
        exact = formula(InMpmath, c.row(i))
        if abs(exact) > 1e308:
            assert value[i] == np.inf
        elif np.isfinite(rounding[i]):
            slack = 16 * EPS * (rounding[i] * min(1.0, abs(float(exact)) + 1) + abs(float(exact)))
            if loss.name in ("IPO", "REBEL"):
                slack *= 200 * (1 + abs(float(exact)) ** 0.5)
            if loss.name in ("RPO", "SLiC", "POWER"):
                slack += 16 * EPS * 1.1e4
            assert abs(value[i] - float(exact)) <= slack


@pytest.mark.parametrize("gap", [1.0, 30.0, 300.0, 700.0])
def test_a_tiny_loss_keeps_its_digits(gap):
    """`log(1 + e^-h)` of a large h, where `1 - sigma(h)` would be 0."""
    value = dpo(1.0)([-1.0], [-1.0 - gap], [-1.0], [-1.0])[0]
    exact = mpmath.log1p(mpmath.exp(-mpmath.mpf(gap)))
    assert abs(value - float(exact)) <= 1e-15 * float(exact)


def test_the_alpha_conventions_of_the_trainers():
    """What was alpha up to TRL 0.28, `f'(w) = (1 - w^-alpha)/alpha`, is `1 - alpha` here."""
    c = sampled(np.random.default_rng(9), 50, 2.0)
    for old in (0.3, 0.5, 0.8, 1.0):
        up, down = c.pc - c.rc, c.pr - c.rr
        h = 0.7 * ((1 - np.exp(-old * up)) / old - (1 - np.exp(-old * down)) / old)
        ours = fdpo(AlphaDivergence(1.0 - old), 0.7)(c.pc, c.pr, c.rc, c.rr)
        np.testing.assert_allclose(ours, np.logaddexp(0, -h), rtol=1e-12)
    assert not np.allclose(
        fdpo(AlphaDivergence(0.3), 0.7)(c.pc, c.pr, c.rc, c.rr),
        fdpo(AlphaDivergence(0.7), 0.7)(c.pc, c.pr, c.rc, c.rr),
        rtol=1e-2,
    )


def test_the_factor_of_jensen_shannon():
    """The paper's divergence is the sum of two KLs, ours their mean: beta is half as large."""
    c = sampled(np.random.default_rng(10), 50, 2.0)
    up, down = np.exp(c.pc - c.rc), np.exp(c.pr - c.rr)
    h = 0.3 * (np.log(2 * up / (1 + up)) - np.log(2 * down / (1 + down)))
    for loss in (fdpo(JensenShannon(), 0.6), fdpo(2 * JensenShannon(), 0.3)):
        ours = loss(c.pc, c.pr, c.rc, c.rr)
        np.testing.assert_allclose(ours, np.logaddexp(0, -h), rtol=1e-13)


def test_relatives():
    """Losses that coincide where their settings say so."""
    c = sampled(np.random.default_rng(11), 50, 2.0)
    given = c.pc, c.pr, c.rc, c.rr
    np.testing.assert_array_equal(cdpo(0.3, 0.0)(*given), dpo(0.3)(*given))
    np.testing.assert_array_equal(robust_dpo(0.3, 0.0)(*given), dpo(0.3)(*given))
    np.testing.assert_array_equal(fdpo(KL(), 0.3)(*given), dpo(0.3)(*given))
    wide = chipo(0.3, r_max=1e6)(*given)
    np.testing.assert_array_equal(wide, chipo(0.3)(*given))
    np.testing.assert_allclose(chipo_practical(0.3)(*given), chipo(0.3)(*given), rtol=1e-12)
    np.testing.assert_allclose(
        DirectLoss(DivergenceLink(AlphaDivergence(2.0) + KL()), Logistic(), 0.3)(*given),
        chipo(0.3)(*given),
        rtol=1e-12,
    )
    flat = np.zeros(50)
    np.testing.assert_allclose(simpo(0.3)(c.pc, c.pr), dpo(0.3)(c.pc, c.pr, flat, flat), rtol=1e-14)
    smoothed = dpo(0.3)(*given, labels=np.full(50, 0.8))
    np.testing.assert_allclose(smoothed, cdpo(0.3, 0.2)(*given), rtol=1e-14)
    slopes = dpo(0.3).gradient(*given, labels=np.full(50, 0.8))
    np.testing.assert_allclose(slopes, cdpo(0.3, 0.2).gradient(*given), rtol=1e-12, atol=1e-16)
