"""Training a model with its heads on images and videos."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.train.adapters import load_adapter
    from classy_vision.train.checkup import check
    from classy_vision.train.config import TrainConfig, load_settings
    from classy_vision.train.head_gradients import analyse_heads
    from classy_vision.train.rates import find_rate
    from classy_vision.train.repeat import train_folds, train_seeds
    from classy_vision.train.run import resume, train

__all__ = [
    "TrainConfig",
    "analyse_heads",
    "check",
    "find_rate",
    "load_adapter",
    "load_settings",
    "resume",
    "train",
    "train_folds",
    "train_seeds",
]

# Looked up when they are used: a config is checked without torch.
__getattr__ = lazy(
    __name__,
    {
        "TrainConfig": "config",
        "analyse_heads": "head_gradients",
        "check": "checkup",
        "find_rate": "rates",
        "load_adapter": "adapters",
        "load_settings": "config",
        "resume": "run",
        "train": "run",
        "train_folds": "repeat",
        "train_seeds": "repeat",
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
