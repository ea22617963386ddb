"""What a block gives: channels, stride and shape, found without data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from classy_vision.config import ConfigError


@dataclass(frozen=True)
class FeatureInfo:
    """The feature of one block.

    Attributes:
        name: the block.
        shape: without the batch: (c, h, w), (c, t, h, w), tokens (s, c) or (c,).
        channels: the size that a head's ``in_plane`` must have.
        stride: input pixels per feature pixel along the height; None without a height.
    """

    name: str
    shape: tuple[int, ...]
    channels: int
    stride: int | None

    @classmethod
    def of(cls, name: str, feature: Tensor, input_shape: tuple[int, ...]) -> FeatureInfo:
        shape = tuple(feature.shape[1:])
        if len(shape) < 3:
            return cls(name, shape, shape[-1], None)
        return cls(name, shape, shape[0], round(input_shape[-2] / shape[-2]))


class _Walk(nn.Module):
    """Lets ``functional_call`` reach a generator of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, until: str) -> list[tuple[str, Tensor]]:
        steps: Iterator[tuple[str, Tensor]] = self.model.walk(x, until)  # type: ignore[operator]
        return list(steps)


def trace_shapes(model: nn.Module, input_shape: tuple[int, ...], until: str) -> dict[str, FeatureInfo]:
    """Every step of ``model.walk`` up to ``until``, run on the meta device: no data, no weights.

    The model itself is neither run nor changed.

    Raises:
        ConfigError: the trunk cannot take such an input.
    """
    walk = _Walk(model)
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*walk.named_parameters(), *walk.named_buffers())
    }
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    # Two samples: a batch norm in training refuses one value per channel.
    x = torch.empty((2, *input_shape), device="meta", dtype=dtype)
    try:
        with torch.no_grad():
            steps = functional_call(walk, state, (x, until))
    except Exception as error:  # whatever a trunk of someone else's may raise
        raise ConfigError(f"the trunk cannot take input_shape={input_shape}: {error}") from error
    return {name: FeatureInfo.of(name, feature, input_shape) for name, feature in steps}
