"""What the golden file says about each method, and on which inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """A method: its description, and the inputs that suit it."""

    formula: str
    source: str
    settings: Mapping[str, float] = {}
    columns: tuple[str, ...] = ()
    #: Batches beyond the common ones.
    further: tuple[str, ...] = ()
    #: Settings other than the default ones, for losses that have arguments for them.
    variants: tuple[Mapping[str, float], ...] = ()
    #: Whether the derivatives hold something fixed that depends on the policy.
    stops_gradient: bool = False
    #: Why no optimal policy is given.
    no_policy: str = ""


#: Batches that bring e^120 and e^1000 to losses that have no exponential of a log ratio.
_ANY_RATIO = ("large", "wide", "long")

ENTRIES: Mapping[str, Entry] = {
    "dpo": Entry(
        "-log sigma(beta (u+ - u-))",
        "arXiv 2305.18290, eq. 7",
        further=_ANY_RATIO,
    ),
    "cdpo": Entry(
        "-(1 - label_smoothing) log sigma(h) - label_smoothing log sigma(-h), h = beta (u+ - u-)",
        "E. Mitchell, A note on DPO with noisy preferences (2023)",
        {"label_smoothing": 0.1},
        further=_ANY_RATIO,
        variants=({"label_smoothing": 0.25}, {"label_smoothing": 0.0}),
    ),
    "robust_dpo": Entry(
        "[-(1 - label_smoothing) log sigma(h) + label_smoothing log sigma(-h)]"
        "/(1 - 2 label_smoothing), h = beta (u+ - u-)",
        "arXiv 2403.00409",
        {"label_smoothing": 0.1},
        further=_ANY_RATIO,
        variants=({"label_smoothing": 0.25}, {"label_smoothing": 0.0}),
    ),
    "ipo": Entry(
        "(u+ - u- - 1/(2 beta))^2",
        "arXiv 2310.12036, eq. 17",
        further=_ANY_RATIO,
    ),
    "hinge": Entry(
        "max(0, margin - beta (u+ - u-))",
        "arXiv 2309.06657; the reference-free form is arXiv 2305.10425",
        {"margin": 1.0},
        further=_ANY_RATIO,
        variants=({"margin": 0.5},),
        no_policy="the minimiser need not be unique",
    ),
    "slic": Entry(
        "max(0, margin - log pi(y+) + log pi(y-)) - sft_weight log pi(y+)",
        "arXiv 2305.10425",
        {"margin": 1.0, "sft_weight": 0.1},
        further=_ANY_RATIO,
        variants=({"margin": 0.5, "sft_weight": 0.25},),
        no_policy="the minimiser lies at a kink",
    ),
    "rpo": Entry(
        "-log sigma(beta (u+ - u-)) - eta log pi(y+)",
        "arXiv 2405.16436, whose own eta is this one over beta",
        {"eta": 0.25},
        further=_ANY_RATIO,
        variants=({"eta": 1.0},),
    ),
    "chipo": Entry(
        "-log sigma(beta [phi(u+) - phi(u-)]), phi(u) = e^u + gamma u",
        "arXiv 2407.13399, algorithm 1 without its clip",
        {"gamma": 1.0},
        further=("large",),
        variants=({"gamma": 0.25},),
    ),
    "chipo_clipped": Entry(
        "-log sigma(clip(beta [phi(u+) - phi(u-)], -2 r_max, 2 r_max)), phi(u) = e^u + gamma u",
        "arXiv 2407.13399, algorithm 1",
        {"r_max": 1.0, "gamma": 1.0},
        further=("large",),
        variants=({"r_max": 0.5, "gamma": 1.0}, {"r_max": 2.0, "gamma": 0.25}),
        no_policy="the loss is flat where the clip is active, and not convex",
    ),
    "chipo_practical": Entry(
        "-log sigma(beta [phi(u+) - phi(u-)]), phi(u) = exp(clip(alpha u, -88, 20)) + gamma u",
        "arXiv 2407.13399, experiments",
        {"alpha": 0.25, "gamma": 0.1},
        further=("large", "wide"),
        variants=({"alpha": 1.0, "gamma": 1.0}, {"alpha": 0.5, "gamma": 0.1}),
    ),
    "fdpo_js": Entry(
        "-log sigma(beta [phi(u+) - phi(u-)]), phi(u) = log(2 e^u/(1 + e^u)): Jensen-Shannon as "
        "the sum of two KLs",
        "arXiv 2309.16240",
        further=("large", "wide"),
    ),
    "fdpo_forward_kl": Entry(
        "-log sigma(beta [e^(-u-) - e^(-u+)]): KL(p || pi)",
        "arXiv 2309.16240",
        further=("large",),
    ),
    "fdpo_alpha": Entry(
        "-log sigma(beta [phi(u+) - phi(u-)]), phi(u) = (e^((alpha - 1) u) - 1)/(alpha - 1): alpha "
        "as in TRL from 0.29 on; 1 - alpha in the paper and before",
        "arXiv 2309.16240",
        {"alpha": 0.25},
        further=("large",),
        variants=({"alpha": 0.75}, {"alpha": 0.5}),
    ),
    "simpo": Entry(
        "-log sigma(beta [log pi(y+) - log pi(y-)] - gamma), of length-averaged log-probabilities",
        "arXiv 2405.14734, eq. 6",
        {"gamma": 0.5},
        further=_ANY_RATIO,
        variants=({"gamma": 1.25},),
    ),
    "kto_pair": Entry(
        "mean over 2n responses of 1 - sigma(beta (u+ - z+)) and 1 - sigma(beta (z- - u-)), "
        "z+ = max(0, mean u-), z- = max(0, mean u+), without gradient through z",
        "arXiv 2402.01306, section 4; baselines as in the first trainers",
        no_policy="the loss of a pair is no function of the difference, and not convex",
        stops_gradient=True,
        further=_ANY_RATIO,
    ),
    "rebel": Entry(
        "(beta (u+ - u-) - [r(y+) - r(y-)])^2, beta = 1/eta",
        "arXiv 2404.16767",
        columns=("chosen_rewards", "rejected_rewards"),
        further=_ANY_RATIO,
    ),
    "power": Entry(
        "-log sigma(beta [v+ (1 + log pi(y+)) - v- (1 + log pi(y-))]) - eta beta v+ log pi(y+)",
        "arXiv 2412.09544, derived from the weighted entropy",
        {"eta": 0.25},
        ("chosen_weights", "rejected_weights"),
        further=_ANY_RATIO,
        variants=({"eta": 1.0},),
        no_policy="with unequal weights the loss is not convex",
    ),
}


def inputs(entry: Entry) -> Iterator[tuple[str, float, Mapping[str, float]]]:
    """Yield batch, beta and settings of every case of a method."""
    default = entry.settings
    yield "moderate", 0.125, default
    yield "moderate", 0.5, default
    yield "one row", 0.25, default
    yield "equal", 0.25, default
    yield "start", 0.5, default
    yield "winning", 0.25, default
    yield "losing", 0.25, default
    for batch in entry.further:
        yield batch, 0.5, default
    for settings in entry.variants:
        yield "moderate", 0.25, settings
        yield "winning", 0.5, settings
