"""Training a model with its heads on images, and predicting with what came of it."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.train.config import TrainConfig, load_settings
    from classy_vision.train.evaluation import Evaluation, evaluate
    from classy_vision.train.files import find_images
    from classy_vision.train.predict import Predictor
    from classy_vision.train.prediction import Answer, Prediction
    from classy_vision.train.run import resume, train

__all__ = [
    "Answer",
    "Evaluation",
    "Prediction",
    "Predictor",
    "TrainConfig",
    "evaluate",
    "find_images",
    "load_settings",
    "resume",
    "train",
]

# Looked up when they are used: a config is checked, and an ONNX file run, without torch.
__getattr__ = lazy(
    __name__,
    {
        "Answer": "prediction",
        "Evaluation": "evaluation",
        "Prediction": "prediction",
        "Predictor": "predict",
        "TrainConfig": "config",
        "evaluate": "evaluation",
        "find_images": "files",
        "load_settings": "config",
        "resume": "run",
        "train": "run",
    },
)
