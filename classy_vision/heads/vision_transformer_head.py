"""The classifier of Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, section 3.1."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.functional import normalize

from classy_vision.config import ConfigError, PositiveInt
from classy_vision.heads.classy_head import check_choice, register_head
from classy_vision.heads.pooled_head import PooledHead
from classy_vision.heads.pooling import POOLINGS, Pooling
from classy_vision.layers.lecun_normal_init import lecun_normal_init

torch.fx.wrap("take_first_tokens")


@register_head("vision_transformer_head")
class VisionTransformerHead(PooledHead):
    """Optional L2; optional hidden layer with tanh; a linear layer that starts at zero.

    Shape: (n, c) to (n, num_classes); tokens (n, s, c) and maps (n, c, ...) are averaged first,
    unless ``num_tokens`` says otherwise.

    Args:
        unique_id: the head's name.
        in_plane: width of the block; taken from the block if it is left out.
        num_classes: the number of logits; None gives the features.
        hidden_dim: width of a hidden layer, used in pre-training.
        normalize_inputs: "l2" scales the features to length 1.
        num_tokens: reads so many tokens, the first ones, each with a classifier of its own, and
            gives the mean of their outputs, in training too: 2 for the class and the distillation
            token of Touvron et al., "Training data-efficient image transformers & distillation
            through attention", 2021.
        pooling: how tokens and maps become vectors without ``num_tokens``: "mean" over patches or positions,
            "token", "token_and_mean", "max", "gem" or "attention".
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm.

    Raises:
        ConfigError: ``pooling`` beside ``num_tokens``.
    """

    classifier = "layers.head"
    layers: nn.Sequential

    def __init__(
        self,
        unique_id: str | int | None = None,
        in_plane: PositiveInt | None = None,
        num_classes: PositiveInt | None = None,
        hidden_dim: PositiveInt | None = None,
        normalize_inputs: Literal["l2"] | None = None,
        num_tokens: PositiveInt | None = None,
        pooling: Pooling = "mean",
        trunk_norm: bool = True,
    ) -> None:
        super().__init__(unique_id, num_classes)
        self.hidden_dim = hidden_dim
        check_choice("normalize_inputs", normalize_inputs, (None, "l2"))
        self.normalize_inputs = normalize_inputs
        self.num_tokens = num_tokens
        check_choice("pooling", pooling, POOLINGS)
        if num_tokens is not None and pooling != "mean":
            raise ConfigError(f"pooling = {pooling!r} beside num_tokens means nothing: leave one of them out")
        self.poolings = (pooling,)
        self.trunk_norm = trunk_norm
        if in_plane is not None:
            self.build(in_plane)

    @property
    def pools_first(self) -> bool:
        return self.num_tokens is None

    def build(self, in_plane: int) -> None:
        self.in_plane = in_plane
        width = self.make_pools([in_plane])
        self.layers = self._classifier(width)
        for k in range(1, self.num_tokens or 1):
            self.add_module(f"layers_{k}", self._classifier(width))

    def output_layers(self) -> list[nn.Linear | nn.Conv2d]:
        others = [self.get_submodule(f"layers_{k}.head") for k in range(1, self.num_tokens or 1)]
        return [*super().output_layers(), *(layer for layer in others if isinstance(layer, nn.Linear))]

    def forward(self, x: Tensor) -> Tensor:
        if self.num_tokens is None:
            (x,) = self.pooled(x)
            return self.layers(self._normalize(x))
        x = self._normalize(take_first_tokens(x, self.num_tokens))
        outputs = [self.layers(x[:, 0])]
        outputs += [self.get_submodule(f"layers_{k}")(x[:, k]) for k in range(1, self.num_tokens)]
        return torch.stack(outputs).mean(0)

    def _classifier(self, in_plane: int) -> nn.Sequential:
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
        return nn.Sequential(layers)

    def _normalize(self, x: Tensor) -> Tensor:
        return normalize(x, dim=-1) if self.normalize_inputs == "l2" else x


def take_first_tokens(x: Tensor, number: int) -> Tensor:
    """The first tokens of (n, s, c), as (n, number, c).

    Raises:
        ValueError: ``x`` is not such a tensor, or has fewer.
    """
    if x.dim() != 3 or x.shape[1] < number:
        raise ValueError(
            f"num_tokens = {number}: the block must give tokens (n, s, c), {number} or more, not "
            f"{tuple(x.shape)}; such a block is 'ln' of a vision transformer"
        )
    return x[:, :number]
