"""Direct losses: link, outer loss and extra terms composed, with exact gradients.

`DIRECT_LOSSES` is the list that drives the tests and the documentation.
"""

from rlhfsim.losses.direct import DirectLoss
from rlhfsim.losses.empirical import (
    empirical_gradient,
    empirical_loss,
    log_policy_gradient,
    log_policy_loss,
    table_rows,
)
from rlhfsim.losses.extra import ExtraTerm, SFTTerm
from rlhfsim.losses.kto import KTO, batch_baseline
from rlhfsim.losses.labels import updated_labels
from rlhfsim.losses.links import DivergenceLink, EntropyLink, Link, LogLink, PracticalLink
from rlhfsim.losses.methods import (
    DIRECT_LOSSES,
    cdpo,
    chipo,
    chipo_practical,
    dpo,
    dpo_without_log,
    fdpo,
    hinge,
    ipo,
    kto,
    power,
    rebel,
    robust_dpo,
    rpo,
    simpo,
    slic,
)
from rlhfsim.losses.outer import (
    Hinge,
    Logistic,
    NegativeSigmoid,
    OuterLoss,
    RobustLogistic,
    Squared,
)
from rlhfsim.losses.rows import Rows

__all__ = [
    "DIRECT_LOSSES",
    "KTO",
    "DirectLoss",
    "DivergenceLink",
    "EntropyLink",
    "ExtraTerm",
    "Hinge",
    "Link",
    "LogLink",
    "Logistic",
    "NegativeSigmoid",
    "OuterLoss",
    "PracticalLink",
    "RobustLogistic",
    "Rows",
    "SFTTerm",
    "Squared",
    "batch_baseline",
    "cdpo",
    "chipo",
    "chipo_practical",
    "dpo",
    "dpo_without_log",
    "empirical_gradient",
    "empirical_loss",
    "fdpo",
    "hinge",
    "ipo",
    "kto",
    "log_policy_gradient",
    "log_policy_loss",
    "power",
    "rebel",
    "robust_dpo",
    "rpo",
    "simpo",
    "slic",
    "table_rows",
    "updated_labels",
]
