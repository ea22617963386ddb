"""DenseNet: every layer reads all before it (Huang et al., "Densely Connected Convolutional
Networks", 2017), with bottlenecks and compression (DenseNet-BC)."""

from typing import TYPE_CHECKING

from classy_vision.models.densenet.model import (
    PRESETS,
    DenseLayer,
    DenseNet,
    DenseNetConfig,
    FinalNorm,
    Transition,
)
from classy_vision.removed import explain_removed

__all__ = ["PRESETS", "DenseLayer", "DenseNet", "DenseNetConfig", "FinalNorm", "Transition"]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__, PRESETS)
