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
from rlhfsim.studies.methods.inference import (
    BestOfNMethod,
    CTRLMethod,
    InfAlignMethod,
    InferenceTimePessimismMethod,
    SoftBestOfNMethod,
)
from rlhfsim.studies.methods.policies import (
    AllPolicies,
    FiniteClassOfPolicies,
    LogLinearClass,
    Policies,
)

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
    | TrainedMethod,
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
    "KTOMethod",
    "ListedMethod",
    "LogLinearClass",
    "Method",
    "POWERMethod",
    "PessimisticLikelihoodMethod",
    "PessimisticMLEMethod",
    "Policies",
    "PracticalChiPOMethod",
    "REBELMethod",
    "RLHFMethod",
    "RPOMethod",
    "SLiCMethod",
    "SimPOMethod",
    "SoftBestOfNMethod",
    "TrainedMethod",
]
