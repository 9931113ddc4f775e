"""Statements of the literature as objects that can be evaluated; `CLAIMS` is the list."""

from rlhfsim.claims.base import Claim
from rlhfsim.claims.divergences import DIVERGENCE_CLAIMS, PairClaim, Pairs, sample_pairs

CLAIMS: tuple[PairClaim, ...] = DIVERGENCE_CLAIMS

__all__ = ["CLAIMS", "DIVERGENCE_CLAIMS", "Claim", "PairClaim", "Pairs", "sample_pairs"]
