"""Training a model with its heads on images, and predicting with what came of it."""

from classy_vision.train.config import TrainConfig, load_settings
from classy_vision.train.evaluate import Evaluation, evaluate
from classy_vision.train.predict import Predictor, find_images
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
