"""Rounds of preference collection, in which the policy that is learned chooses what is compared.

`OnlineRecord` is what every run returns.
"""

from rlhfsim.online.record import OnlineRecord

__all__ = ["OnlineRecord"]
