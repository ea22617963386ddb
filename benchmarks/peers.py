"""The libraries that we are held against, made importable beside a CPU-only torch."""

from __future__ import annotations

import benchmarks.operators  # noqa: F401, I001 - before torchvision

import timm
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

__all__ = ["create_feature_extractor", "timm", "torchvision"]
