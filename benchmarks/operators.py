"""What lets torchvision's wheel, which expects its CUDA build, be imported beside a CPU-only torch."""

from __future__ import annotations

import torch

# The schemas of two operators are enough for its models.
LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
