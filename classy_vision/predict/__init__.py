"""What a model, a run or an exported file says about images and videos."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.predict.files import write_predictions
    from classy_vision.predict.prediction import Answer, Prediction
    from classy_vision.predict.predictor import Predictor

__all__ = [
    "Answer",
    "Prediction",
    "Predictor",
    "write_predictions",
]

# Looked up when they are used, because importing torch takes a second and not every use needs it.
__getattr__ = lazy(
    __name__,
    {
        "Answer": "prediction",
        "Prediction": "prediction",
        "Predictor": "predictor",
        "write_predictions": "files",
    },
)
