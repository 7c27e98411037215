"""Accounts of what hops cost. Pure values; whoever does the work fills them in."""

from .account import NO_COST, HopAccount, ModelCost

__all__ = ["NO_COST", "HopAccount", "ModelCost"]
