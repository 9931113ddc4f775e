"""Training dynamics: what is refused, and how."""

import numpy as np
import pytest

from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.dynamics import Adam, Batches, GradientDescent, train
from rlhfsim.losses import dpo, kto, rebel, simpo

DATA = PreferenceData([0, 1], [0, 1], [1, 2], (2, 3))
NOTHING = PairCounts(np.empty(0, int), np.empty(0, int), np.empty(0, int), np.empty(0), 0.0, (2, 3))
P = np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])
HOLE = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])


def go(**changed):
    settings = {
        "loss": dpo(0.1), "data": DATA, "reference": P, "steps": 3, "learning_rate": 0.1,
        "prompt_dist": [0.5, 0.5],
    }  # fmt: skip
    return train(**(settings | changed))


BAD = {
    "loss": ({"loss": "dpo"}, "loss is 'dpo'; it must be a DirectLoss or KTO"),
    "data kind": ({"data": "abc"}, r"data\[0\] is a str; it must be a PreferenceData"),
    "one of data": ({"data": [DATA, 3]}, r"data\[1\] is a int; it must be"),
    "no data": ({"data": []}, "data is empty; it must hold at least one dataset"),
    "no rows": ({"data": [DATA, NOTHING]}, r"data\[1\] holds no comparisons"),
    "shape of data": (
        {"data": [DATA, PreferenceData([0], [0], [1], (2, 4))]},
        r"data\[1\] has shape \(2, 4\); it must have that of reference, \(2, 3\)",
    ),
    "reference": ({"reference": P * 0.9}, r"reference\[0\] sums to 0.9"),
    "reference shape": ({"reference": P[0]}, r"reference has shape \(3,\)"),
    "NaN": ({"reference": P * np.nan}, r"reference\[0, 0\] is nan; entries must be finite"),
    "support": (
        {"reference": HOLE, "data": PreferenceData([0], [0], [2], (2, 3))},
        r"reference\[0, 2\] is 0; it must be positive on compared responses",
    ),
    "steps": ({"steps": 0}, "steps is 0; it must be at least 1"),
    "steps kind": ({"steps": 2.0}, "steps is 2.0; it must be an integer"),
    "rate": ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be positive and finite"),
    "rates": (
        {"learning_rate": [0.1, 0.1]},
        r"learning_rate has shape \(2,\); it must be a number or have shape \(3,\)",
    ),
    "one of the rates": (
        {"learning_rate": [0.1, -0.1, 0.1]},
        r"learning_rate\[1\] is -0.1; it must be positive",
    ),
    "no prompts": ({"prompt_dist": None}, "prompt_dist is missing; with 2 prompts"),
    "prompts": ({"prompt_dist": [1.0]}, r"prompt_dist has shape \(1,\); it must be \(2,\)"),
    "gold": ({"gold": P[:1]}, r"gold has shape \(1, 3\); .* \(2, 3\) or \(1, 2, 3\)"),
    "proxy": ({"proxy": P * np.inf}, r"proxy\[0, 0\] is inf; entries must be finite"),
    "batch": ({"batch": 0}, "batch is 0; it must be at least 1"),
    "batch kind": ({"batch": 1.5}, "batch is 1.5; it must be an integer"),
    "no rng": ({"batch": 1}, "rng is a NoneType; it must be a numpy.random.Generator"),
    "rng": ({"rng": 1}, "rng is a int; it must be a numpy.random.Generator"),
    "start": ({"start": P * 2}, r"start\[0\] sums to 2.0"),
    "start shape": ({"start": P[:1]}, r"start has shape \(1, 3\)"),
    "start at 0": ({"start": HOLE}, r"start\[0, 2\] is 0.0 and the reference 0.25; a softmax"),
    "start off 0": (
        {"start": P, "reference": HOLE},
        r"start\[0, 2\] is 0.25 and the reference 0.0; a softmax path",
    ),
    "one of the starts": (
        {"start": [P, HOLE], "data": [DATA, DATA]},
        r"start\[1, 0, 2\] is 0.0 and the reference 0.25",
    ),
    "features": ({"features": P}, r"features has shape \(2, 3\); it must have shape \(2, 3, d\)"),
    "no features": ({"features": np.empty((2, 3, 0))}, r"features has shape \(2, 3, 0\)"),
    "optimizer": ({"optimizer": Adam}, "optimizer is .*; it must be an Optimizer"),
    "record_every": ({"record_every": 0}, "record_every is 0; it must be at least 1"),
    "weights": ({"weights": P}, "weights are given; DPO has none"),
    "bad weights": (
        {"loss": simpo(1.0), "weights": P - 0.2},
        r"weights\[1, 0\] is 0.0; it must be positive",
    ),
    "reward": ({"reward": P}, "rewards are given; DPO reads none"),
    "no reward": ({"loss": rebel(1.0)}, "rewards are missing; REBEL needs those of both"),
    "reward of KTO": ({"loss": kto(0.1), "reward": P}, "KTO reads no weights or reward"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changed, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        go(**changed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDescent(1.0), "momentum is 1.0; it must be below 1"),
        (lambda: GradientDescent(-0.1), "momentum is -0.1; it must be non-negative"),
        (lambda: Adam(mean_decay=1.0), "mean_decay is 1.0; it must be below 1"),
        (lambda: Adam(square_decay=np.nan), "square_decay is nan"),
        (lambda: Adam(epsilon=0.0), "epsilon is 0.0; it must be positive"),
        (lambda: Batches(0), "size is 0; it must be at least 1"),
        (lambda: Batches(3, replacement=1), "replacement is 1; it must be a bool"),
        (lambda: go().peak, "gold is missing; train with gold= to see its peak"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_arguments_are_not_changed():
    tables = {"reference": P.copy(), "gold": P.copy(), "start": P[:, ::-1].copy()}
    rates = np.full(3, 0.1)
    path = go(**tables, learning_rate=rates, features=np.ones((2, 3, 1)))
    np.testing.assert_array_equal(tables["reference"], P)
    np.testing.assert_array_equal(tables["start"], P[:, ::-1])
    np.testing.assert_array_equal(rates, 0.1)
    tables["reference"][:] = 0
    assert path.policy.sum() == pytest.approx(2)
    assert path.loss.shape == (1, 4)
