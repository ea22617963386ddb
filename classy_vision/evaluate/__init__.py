"""How well a model does on images or videos with labels."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.evaluate.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]

# Looked up when they are used, because importing torch takes a second and not every use needs it.
__getattr__ = lazy(__name__, dict.fromkeys(__all__, "evaluation"))
