"""A linear classifier at every position of a clip, for testing on longer and larger ones."""

from __future__ import annotations

from typing import Literal

import torch.fx
from torch import Tensor, nn

from classy_vision.config import PositiveInt, Probability
from classy_vision.heads.classy_head import ClassyHead, check_choice, register_head

ACTIVATIONS = {"softmax": nn.Softmax, "sigmoid": nn.Sigmoid, "identity": nn.Identity}
torch.fx.wrap("as_clip")


class FullyConvolutionalLinear(nn.Module):
    """A linear layer at every position.

    Shape: (n, t, h, w, c) to (n, t * h * w * classes) in training, where the input has the
    size that makes it one position; in evaluation to (n, classes), the activation averaged
    over positions.
    """

    def __init__(self, dim_in: int, num_classes: int, act_func: str = "softmax") -> None:
        super().__init__()
        self.projection = nn.Linear(dim_in, num_classes)
        act = ACTIVATIONS[act_func]
        self.act = act(dim=-1) if act is nn.Softmax else act()

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        if self.training:
            return x.flatten(1)
        return self.act(x).mean((1, 2, 3))


@register_head("fully_convolutional_linear")
class FullyConvolutionalLinearHead(ClassyHead):
    """Pools with a window of fixed size, then classifies at every position.

    In training it gives logits; in evaluation it gives ``activation_func`` of them, averaged
    over positions: probabilities by default, as the original does. ``activation_func:
    identity`` gives logits in both.

    Shape: (n, c, t, h, w) to (n, num_classes). A feature without time or space, (n, c, h, w),
    (n, c) or tokens (n, s, c), counts as having a length of 1 there.

    Args:
        unique_id: the head's name.
        num_classes: the number of classes.
        in_plane: channels of the block; taken from the block if it is left out.
        pool_size: the window (t, h, w), with stride 1; the whole feature if it is None.
        activation_func: "softmax", "sigmoid" or "identity".
        use_dropout: drop inputs of the linear layer in training.
        dropout_ratio: the part of them that is dropped.
    """

    classifier = "head_fcl.projection"

    def __init__(
        self,
        unique_id: str | int | None,
        num_classes: PositiveInt,
        in_plane: PositiveInt | None = None,
        pool_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None,
        activation_func: Literal["softmax", "sigmoid", "identity"] = "softmax",
        use_dropout: bool | None = None,
        dropout_ratio: Probability = 0.5,
    ) -> None:
        super().__init__(unique_id, num_classes)
        check_choice("activation_func", activation_func, ACTIVATIONS)
        self.activation_func = activation_func
        self.final_avgpool: nn.Module = (
            nn.AvgPool3d(pool_size, stride=1) if pool_size else nn.AdaptiveAvgPool3d(1)
        )
        if use_dropout:
            self.dropout = nn.Dropout(dropout_ratio)
        if in_plane is not None:
            self.build(in_plane)

    def build(self, in_plane: int) -> None:
        assert self.num_classes is not None
        self.in_plane = in_plane
        self.head_fcl = FullyConvolutionalLinear(in_plane, self.num_classes, self.activation_func)

    def output_layers(self) -> list[nn.Linear | nn.Conv2d]:
        return super().output_layers() if self.activation_func == "identity" else []

    def forward(self, x: Tensor) -> Tensor:
        x = self.final_avgpool(as_clip(x))
        if hasattr(self, "dropout"):
            x = self.dropout(x)
        return self.head_fcl(x.permute(0, 2, 3, 4, 1))


def as_clip(x: Tensor) -> Tensor:
    """``x`` as (n, c, t, h, w)."""
    if x.dim() == 3:
        x = x.transpose(1, 2).unsqueeze(3)
    while x.dim() < 4:
        x = x.unsqueeze(-1)
    return x.unsqueeze(2) if x.dim() == 4 else x
