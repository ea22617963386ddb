"""The libraries that we are held against, made importable beside a CPU-only torch."""

from __future__ import annotations

from benchmarks.operators import LIBRARY  # before torchvision

import timm  # isort: skip
import torchvision  # isort: skip
from torchvision.models.feature_extraction import create_feature_extractor  # isort: skip

__all__ = ["LIBRARY", "create_feature_extractor", "timm", "torchvision"]
