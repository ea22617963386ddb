"""What a model costs: parameters and arithmetic, block by block, found without running it."""

from classy_vision.cost.count import Costs, StepCost, count
from classy_vision.layers.meta import OnMeta

__all__ = ["Costs", "OnMeta", "StepCost", "count"]
