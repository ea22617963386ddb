"""A multi-layer perceptron: linear layers with ReLU between them.

Blocks are named ``layer{index}``, counted from 0; the last gives the output. ``mlp`` is the end. The
original's names are numbers, of all layers in one sequence: "1" is the first ReLU.
Axes: n batch, d features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.fx
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import PositiveInt, Probability
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import sequential
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.trunk.trunk import END, ModelConfig
from classy_vision.weights.key_map import KeyMap, Renaming


class MLPConfig(ModelConfig):
    """A multi-layer perceptron.

    Attributes:
        input_dim: values per sample, whatever the input's shape.
        output_dim: values it gives.
        hidden_dims: widths of the hidden layers.
        dropout: rate, after each hidden layer's norm.
        first_dropout: also on the input.
        use_batchnorm: after each hidden linear layer.
        first_batchnorm: also on the input; needs ``use_batchnorm``.
    """

    input_dim: PositiveInt
    output_dim: PositiveInt
    hidden_dims: tuple[PositiveInt, ...]
    dropout: Probability = 0.0
    first_dropout: bool = False
    use_batchnorm: bool = False
    first_batchnorm: bool = False

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        for name in {"in_channels", "stochastic_depth"} & self.model_fields_set:
            raise ValueError(f"{name} means nothing here: an MLP has neither channels nor residual branches")
        if self.first_batchnorm and not self.use_batchnorm:
            raise ValueError("first_batchnorm needs use_batchnorm")
        return self


class Start(nn.Sequential):
    """Flattens, whatever the memory format. Shape: (n, ...) to (n, input_dim)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))  # type: ignore[no-untyped-call]  # torch does not type it


@register_model("mlp")
class MLP(ClassyModel):
    """Linear layers with ReLU between them.

    Shape: (n, ...) of ``input_dim`` values per sample to (n, output_dim).
    """

    config_class: ClassVar[type[ModelConfig]] = MLPConfig
    aliases = {"mlp": END}
    config: MLPConfig

    def __init__(self, config: MLPConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        c = self.config
        first = self._between(c.input_dim, c.first_batchnorm, c.dropout if c.first_dropout else 0.0)
        # The original drops before it normalizes here, and after hidden layers the other way round.
        before = c.input_dim
        self.add_step("stem", Start(OrderedDict(reversed(first.items()))), before)
        for index, width in enumerate(c.hidden_dims):
            inside = self._between(width, c.use_batchnorm, c.dropout)
            act = new_activation(ActivationType.RELU)
            block = sequential(linear=nn.Linear(before, width), **inside, act=act)
            self.add_step(f"layer{index}", block, width)
            before = width
        last = sequential(linear=nn.Linear(before, c.output_dim))
        self.add_step(f"layer{len(c.hidden_dims)}", last, c.output_dim)
        self.add_step(END, nn.Identity(), c.output_dim)
        self.aliases = {**self.aliases, **self._numbers()}

    @staticmethod
    def _between(width: int, norm: bool, dropout: float) -> OrderedDict[str, nn.Module]:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if norm:
            parts["norm"] = nn.BatchNorm1d(width)
        if dropout > 0:
            parts["dropout"] = nn.Dropout(dropout)
        return parts

    def _numbers(self) -> dict[str, str]:
        """The blocks by the original's numbers.

        Its ReLU worked in place, so that a layer right before it, by its number, gave what the ReLU did.
        """
        numbers: dict[str, str] = {}
        start = len(list(self.stem.children()))
        if start:
            numbers[str(start - 1)] = "stem"
        for name, block in self.blocks.items():
            inside = [layer for layer, _ in block.named_children()]
            start += len(inside)
            numbers[str(start - 1)] = name
            if len(inside) > 1 and inside[-2] != "dropout":
                numbers[str(start - 2)] = name
        return numbers

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.config.input_dim,)

    def check_input(self, x: Tensor) -> None:
        if isinstance(x, torch.fx.Proxy):
            return
        if not isinstance(x, Tensor):
            raise TypeError(f"the input is a tensor, not {type(x).__name__}")
        if x.dim() < 2 or x.shape[1:].numel() != self.config.input_dim:
            given = tuple(x.shape[1:])
            raise ValueError(
                f"an MLP of input_dim={self.config.input_dim} cannot take samples of shape {given}"
            )

    def key_map(self) -> KeyMap:
        """In the original all layers stand in one sequence, those without weights too."""
        parts = [("stem", self.stem), *((f"blocks.{name}", block) for name, block in self.blocks.items())]
        places = [f"{part}.{name}" for part, layers in parts for name, _ in layers.named_children()]
        rows: list[Renaming] = [(f"mlp.{index}", place) for index, place in enumerate(places)]
        return KeyMap("ClassyVision", rows)
