"""What lets torchvision's wheel, which expects its CUDA build, be imported beside a CPU-only torch."""

from __future__ import annotations

import torch

# The schemas of two operators are enough for its models.
_LIBRARY = torch.library.Library("torchvision", "DEF")
_LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
