"""Certificates in ball arithmetic: rounding cannot touch them.

`certify(claim, instance)` decides a claim on one instance; whatever is rational (chi-squared, its
optimum, its regret) is compared exactly.  Where no formula was written by hand, the claim's own
functions are run over balls in place of floats: a user's claim needs no formula either.
`proposition_a1_enclosure(n)` encloses the least KL-regularized regret of Proposition A.1 over
**every** beta > 0.  Both need python-flint (`pip install 'rlhfsim[certify]'`), which importing this
module does not.
"""

from rlhfsim.certify.proposition_a1 import Enclosure, proposition_a1_enclosure
from rlhfsim.certify.verdict import Sides, Verdict, certify, enclose_sides

__all__ = [
    "Enclosure",
    "Sides",
    "Verdict",
    "certify",
    "enclose_sides",
    "proposition_a1_enclosure",
]
