"""The same model, faster."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.engines.optimized import Optimized, optimize

__all__ = [
    "Optimized",
    "optimize",
]

# Looked up when they are used, because importing torch takes a second and not every use needs it.
__getattr__ = lazy(
    __name__,
    {
        "Optimized": "optimized",
        "optimize": "optimized",
    },
)
