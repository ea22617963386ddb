"""The libraries that we are held against, made importable beside a CPU-only torch."""

from __future__ import annotations

import torch

# torchvision's wheel expects two operators of its CUDA build; their schemas are enough for models.
_LIBRARY = torch.library.Library("torchvision", "DEF")
_LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402
from torchvision.models.feature_extraction import create_feature_extractor  # noqa: E402

__all__ = ["create_feature_extractor", "timm", "torchvision"]
