"""Small studies that the tests of `rlhfsim.studies` share."""

from rlhfsim.studies import Study

RIDGE = {"model": "tabular", "ridge": 0.1}


def small(**changes):
    """Return a study of a few hundred cells that takes a second or two."""
    settings = {
        "name": "small",
        "question": "Does it run?",
        "instances": [
            {"family": "random", "prompts": 2, "responses": 4, "environments": 2},
            {"family": "rare-best", "responses": 3, "coverage": 8.0, "labels": {"noise": 0.1}},
        ],
        "learners": [
            {"method": "RLHF", "reward": RIDGE, "sweep": {"divergence": ["kl", "chi2"]}},
            {"method": "best-of-N", "reward": {"model": "finite", "size": 4}, "grid": [1, 3]},
        ],
        "n": [5, 40],
        "beta": [0.1, 1.0, 10.0],
        "seeds": 3,
    }
    return Study.from_dict(settings | changes)


def slow(**changes):
    """Return a study whose cells take long enough to kill a run in the middle."""
    settings = {
        "name": "slow",
        "instances": [{"family": "random", "prompts": 2, "responses": 6}],
        "learners": [
            {
                "method": "trained", "loss": "DPO", "beta": 0.1, "learning_rate": 0.5,
                "batch": 4, "grid": [5000, 10_000, 20_000],
            }
        ],
        "n": [50],
        "seeds": 40,
    }  # fmt: skip
    return Study.from_dict(settings | changes)
