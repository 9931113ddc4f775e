"""Computing the golden file.  Needs the extra `certify`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import mpmath as mp

from rlhfsim.golden.batches import ROWS, columns
from rlhfsim.golden.catalogue import ENTRIES, Entry, inputs
from rlhfsim.golden.formulas import FORMULAS, Number, Row, slopes
from rlhfsim.golden.policies import PROBLEMS, optimal_policy

#: Raised when numbers or keys change their meaning.
VERSION = 1

_ABOUT = (
    "Mean losses of direct preference optimization, their derivatives in the log-probabilities of "
    "the policy, and optimal tabular policies; every number is the double nearest to the truth. "
    "u = log pi - log p is the log ratio of a response, + the chosen and - the rejected one; "
    "logarithms are natural; the loss of a case is the mean over the rows of its batch."
)

#: Digits of the computation, for a batch that needs more than others: what is left of
#: `1 - e^-700` must be a number, and not rounding errors.
DIGITS = {"long": 1000}

#: The betas at which the optimal policies are given, with the default settings.
POLICY_BETAS = (0.25, 1.0)


def golden() -> dict[str, Any]:
    """Return the content of the golden file."""
    return {
        "about": _ABOUT,
        "version": VERSION,
        "methods": {name: _description(entry) for name, entry in ENTRIES.items()},
        "batches": {name: columns(name) for name in ROWS},
        "cases": [
            _case(name, *given) for name, entry in ENTRIES.items() for given in inputs(entry)
        ],
        "problems": {
            name: {key: _lists(value) for key, value in problem._asdict().items()}
            for name, problem in PROBLEMS.items()
        },
        "policies": [
            _policy(name, entry, problem, beta)
            for name, entry in ENTRIES.items()
            if not entry.no_policy
            for problem in PROBLEMS
            for beta in POLICY_BETAS
        ],
    }


def nearest(value: Number) -> float:
    """Return the nearest double, without the sign of a 0.

    First to 60 digits: a difference quotient misses a truth that lies halfway between two doubles
    by a little, and this little must not decide.
    """
    with mp.workdps(60):
        return float(+mp.mpf(value)) + 0.0


def text() -> str:
    """Return the golden file, a list of numbers on one line."""
    return _dump(golden(), "") + "\n"


def _description(entry: Entry) -> dict[str, Any]:
    return {
        "formula": entry.formula,
        "source": entry.source,
        "settings": dict(entry.settings),
        "columns": list(entry.columns),
        "stops_gradient": entry.stops_gradient,
        "no_policy": entry.no_policy,
    }


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _case(name: str, batch: str, beta: float, settings: Mapping[str, float]) -> dict[str, Any]:
    with mp.workdps(DIGITS.get(batch, 250)):
        rows = _rows(name, batch, beta, settings)
        formula, n = FORMULAS[name], len(rows)
        gradient = [slopes(formula, row) for row in rows]
        return {
            "method": name,
            "batch": batch,
            "beta": beta,
            "settings": dict(settings),
            "loss": nearest(mp.fsum(formula(row) for row in rows) / n),
            "gradient_chosen": [nearest(up / n) for up, _ in gradient],
            "gradient_rejected": [nearest(down / n) for _, down in gradient],
        }


def _rows(name: str, batch: str, beta: float, settings: Mapping[str, float]) -> list[Row]:
    given = {name: [mp.mpf(value) for value in column] for name, column in columns(batch).items()}
    own: dict[str, Number] = {key: mp.mpf(value) for key, value in settings.items()}
    if name == "kto_pair":
        own |= _baselines(given)
    return [
        Row(
            given["policy_chosen_logps"][i],
            given["policy_rejected_logps"][i],
            given["ref_chosen_logps"][i],
            given["ref_rejected_logps"][i],
            mp.mpf(beta),
            own | {column: given[column][i] for column in ENTRIES[name].columns},
        )
        for i in range(len(given["policy_chosen_logps"]))
    ]


def _baselines(given: Mapping[str, Sequence[Number]]) -> dict[str, Number]:
    """Return KTO's baselines: each half of the batch is judged by the other."""

    def mean_log_ratio(kind: str) -> Number:
        policy, reference = given[f"policy_{kind}_logps"], given[f"ref_{kind}_logps"]
        return (mp.fsum(policy) - mp.fsum(reference)) / len(policy)

    return {
        "chosen_baseline": max(mp.mpf(0), mean_log_ratio("rejected")),
        "rejected_baseline": max(mp.mpf(0), mean_log_ratio("chosen")),
    }


def _policy(name: str, entry: Entry, problem: str, beta: float) -> dict[str, Any]:
    settings = {key: mp.mpf(value) for key, value in entry.settings.items()}
    policy, loss = optimal_policy(FORMULAS[name], PROBLEMS[problem], beta, settings)
    return {
        "method": name,
        "problem": problem,
        "beta": beta,
        "settings": dict(entry.settings),
        "policy": [nearest(mass) for mass in policy],
        # REBEL fits the rewards, so that its least loss is 0 but for the last digits.
        "loss": nearest(mp.chop(loss, tol=1e-60)),
    }


def _dump(value: Any, indent: str) -> str:
    """Return JSON in which only what holds further lists or objects is broken into lines."""
    inner = indent + " "
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
        items = [f"{json.dumps(key)}: {_dump(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + _dump(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)
