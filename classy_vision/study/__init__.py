"""Studies of architectures: populations drawn from design spaces, and models compared."""

from classy_vision.study.candidates import Candidate, find_candidates
from classy_vision.study.comparison import Comparison
from classy_vision.study.draw import Sample, sample
from classy_vision.study.pareto import Axes, choose_axes, front
from classy_vision.study.recipe import Recipe
from classy_vision.study.region import SPACES, AnyNetRegion, RegNetRegion, parse_region, read_region
from classy_vision.study.row import Row
from classy_vision.study.sample_folder import write_samples

__all__ = [
    "SPACES",
    "AnyNetRegion",
    "Axes",
    "Candidate",
    "Comparison",
    "Recipe",
    "RegNetRegion",
    "Row",
    "Sample",
    "choose_axes",
    "find_candidates",
    "front",
    "parse_region",
    "read_region",
    "sample",
    "write_samples",
]
