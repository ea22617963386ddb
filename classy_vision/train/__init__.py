"""Training a model with its heads on images and videos."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.train.checkup import check
    from classy_vision.train.config import TrainConfig, load_settings
    from classy_vision.train.run import resume, train

__all__ = [
    "TrainConfig",
    "check",
    "load_settings",
    "resume",
    "train",
]

# Looked up when they are used: a config is checked without torch.
__getattr__ = lazy(
    __name__,
    {
        "TrainConfig": "config",
        "check": "checkup",
        "load_settings": "config",
        "resume": "run",
        "train": "run",
    },
    moved={
        "Answer": "classy_vision.predict.Answer",
        "Evaluation": "classy_vision.evaluate.Evaluation",
        "Prediction": "classy_vision.predict.Prediction",
        "Predictor": "classy_vision.predict.Predictor",
        "evaluate": "classy_vision.evaluate.evaluate",
        "find_images": "classy_vision.data.files.find_images",
    },
)
