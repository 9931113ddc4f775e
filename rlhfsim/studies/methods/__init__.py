"""Methods of a study: a learner with its settings but for one, the parameter that a grid varies.

A new method is a `Method` with a `method: Literal["name"]`, listed in `AnyMethod`.
"""

from typing import Annotated

from pydantic import Field

from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.methods.direct import (
    ChiPOMethod,
    DPOMethod,
    FDPOMethod,
    IPOMethod,
    KTOMethod,
    POWERMethod,
    PracticalChiPOMethod,
    REBELMethod,
    RPOMethod,
    SimPOMethod,
    SLiCMethod,
    TrainedMethod,
)
from rlhfsim.studies.methods.explicit import (
    ListedMethod,
    PessimisticLikelihoodMethod,
    PessimisticMLEMethod,
    RLHFMethod,
)
from rlhfsim.studies.methods.games import (
    IterativeChiPOMethod,
    MinimaxWinnerMethod,
    NashMDMethod,
    RegularizedNashMethod,
    SelfPlayMethod,
)
from rlhfsim.studies.methods.inference import (
    BestOfNMethod,
    CTRLMethod,
    InfAlignMethod,
    InferenceTimePessimismMethod,
    SoftBestOfNMethod,
)
from rlhfsim.studies.methods.online import OnlineRLHFMethod
from rlhfsim.studies.methods.policies import (
    AllPolicies,
    FiniteClassOfPolicies,
    LogLinearClass,
    Policies,
)
from rlhfsim.studies.methods.steps import TokenDemonstrationsMethod, TokenRLHFMethod
from rlhfsim.studies.methods.xpo import IteratedDPOMethod, XPOMethod

#: The methods by name; a study file says `method = "DPO"`.
AnyMethod = Annotated[
    RLHFMethod
    | DPOMethod
    | ChiPOMethod
    | PracticalChiPOMethod
    | FDPOMethod
    | IPOMethod
    | SLiCMethod
    | RPOMethod
    | REBELMethod
    | POWERMethod
    | KTOMethod
    | SimPOMethod
    | PessimisticMLEMethod
    | PessimisticLikelihoodMethod
    | BestOfNMethod
    | SoftBestOfNMethod
    | InferenceTimePessimismMethod
    | InfAlignMethod
    | CTRLMethod
    | ListedMethod
    | TrainedMethod
    | MinimaxWinnerMethod
    | RegularizedNashMethod
    | SelfPlayMethod
    | NashMDMethod
    | IterativeChiPOMethod
    | OnlineRLHFMethod
    | XPOMethod
    | IteratedDPOMethod
    | TokenRLHFMethod
    | TokenDemonstrationsMethod,
    Field(discriminator="method"),
]

__all__ = [
    "AllPolicies",
    "AnyMethod",
    "BestOfNMethod",
    "CTRLMethod",
    "ChiPOMethod",
    "DPOMethod",
    "FDPOMethod",
    "FiniteClassOfPolicies",
    "IPOMethod",
    "InfAlignMethod",
    "InferenceTimePessimismMethod",
    "IteratedDPOMethod",
    "IterativeChiPOMethod",
    "KTOMethod",
    "ListedMethod",
    "LogLinearClass",
    "Method",
    "MinimaxWinnerMethod",
    "NashMDMethod",
    "OnlineRLHFMethod",
    "POWERMethod",
    "PessimisticLikelihoodMethod",
    "PessimisticMLEMethod",
    "Policies",
    "PracticalChiPOMethod",
    "REBELMethod",
    "RLHFMethod",
    "RPOMethod",
    "RegularizedNashMethod",
    "SLiCMethod",
    "SelfPlayMethod",
    "SimPOMethod",
    "SoftBestOfNMethod",
    "TokenDemonstrationsMethod",
    "TokenRLHFMethod",
    "TrainedMethod",
    "XPOMethod",
]
