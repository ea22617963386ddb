"""Studies of architectures: populations drawn from design spaces, and models compared."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
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

# Looked up when they are used: what is compared is found without torch.
__getattr__ = lazy(
    __name__,
    {
        "SPACES": "region",
        "AnyNetRegion": "region",
        "Axes": "pareto",
        "Candidate": "candidates",
        "Comparison": "comparison",
        "Recipe": "recipe",
        "RegNetRegion": "region",
        "Row": "row",
        "Sample": "draw",
        "choose_axes": "pareto",
        "find_candidates": "candidates",
        "front": "pareto",
        "parse_region": "region",
        "read_region": "region",
        "sample": "draw",
        "write_samples": "sample_folder",
    },
)
