"""The classifier of Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, section 3.1."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch.fx
from torch import Tensor, nn
from torch.nn.functional import normalize

from classy_vision.config import PositiveInt
from classy_vision.heads.classy_head import ClassyHead, check_choice, pool, register_head
from classy_vision.layers.lecun_normal_init import lecun_normal_init

torch.fx.wrap("pool")


@register_head("vision_transformer_head")
class VisionTransformerHead(ClassyHead):
    """Optional L2; optional hidden layer with tanh; a linear layer that starts at zero.

    Shape: (n, c) to (n, num_classes); tokens (n, s, c) and maps (n, c, ...) are averaged first.

    Args:
        unique_id: the head's name.
        in_plane: width of the block; taken from the block where it is left out.
        num_classes: the number of logits; None gives the features.
        hidden_dim: width of a hidden layer, used in pre-training.
        normalize_inputs: "l2" scales the features to length 1.
    """

    def __init__(
        self,
        unique_id: str | int | None = None,
        in_plane: PositiveInt | None = None,
        num_classes: PositiveInt | None = None,
        hidden_dim: PositiveInt | None = None,
        normalize_inputs: Literal["l2"] | None = None,
    ) -> None:
        super().__init__(unique_id, num_classes)
        self.hidden_dim = hidden_dim
        check_choice("normalize_inputs", normalize_inputs, (None, "l2"))
        self.normalize_inputs = normalize_inputs
        if in_plane is not None:
            self.build(in_plane)

    def build(self, in_plane: int) -> None:
        self.in_plane = in_plane
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if self.num_classes is not None and self.hidden_dim is not None:
            layers["pre_logits"] = hidden = nn.Linear(in_plane, self.hidden_dim)
            layers["act"] = nn.Tanh()
            lecun_normal_init(hidden.weight, fan_in=in_plane)
            nn.init.zeros_(hidden.bias)
        if self.num_classes is not None:
            layers["head"] = head = nn.Linear(self.hidden_dim or in_plane, self.num_classes)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = pool(x)
        if self.normalize_inputs == "l2":
            x = normalize(x, dim=1)
        return self.layers(x)
