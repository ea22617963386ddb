"""What a model costs, block by block: counted without running it, or measured."""

from classy_vision.cost.costs import Costs, StepCost
from classy_vision.cost.count import count
from classy_vision.cost.measure import Measured, Timing, measure
from classy_vision.cost.memory import Memory
from classy_vision.trunk.meta import OnMeta

__all__ = ["Costs", "Measured", "Memory", "OnMeta", "StepCost", "Timing", "count", "measure"]
