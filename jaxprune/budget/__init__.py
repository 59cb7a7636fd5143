"""From targets such as `params/8,macs/3` to the number of channels that every group keeps."""

from jaxprune.budget.allocate import ALLOCATIONS, Allocation, allocate
from jaxprune.budget.curves import Curves
from jaxprune.budget.targets import Budget, CostModel

__all__ = ["ALLOCATIONS", "Allocation", "Budget", "CostModel", "Curves", "allocate"]
