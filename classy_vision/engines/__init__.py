"""The same model on an engine made for inference: OpenVINO, ONNX Runtime, inductor, or torch as it is."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.engines.optimized import Optimized, load_optimized
    from classy_vision.engines.report import Attempt, EngineReport
    from classy_vision.engines.search import optimize

__all__ = ["Attempt", "EngineReport", "Optimized", "load_optimized", "optimize"]

# Looked up when they are used: a saved model runs without torch, whose import takes seconds.
__getattr__ = lazy(
    __name__,
    {
        "Attempt": "report",
        "Optimized": "optimized",
        "EngineReport": "report",
        "load_optimized": "optimized",
        "optimize": "search",
    },
)
