"""Patches of images, by one convolution or several (Xiao et al., "Early Convolutions Help
Transformers See Better", 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import field_validator
from torch import nn

from classy_vision.config import Config, PositiveInt
from classy_vision.layers.activation import ActivationType
from classy_vision.layers.conv_norm_act import ConvFactory, sequential
from classy_vision.layers.lecun_normal_init import lecun_normal_init


class ConvStemLayer(Config):
    """One convolution of a convolutional stem: 3x3 or another odd kernel, norm, ReLU."""

    kernel: PositiveInt
    stride: PositiveInt
    out_channels: PositiveInt

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"must be odd, such as {kernel + 1}")
        return kernel


def patch_conv(
    channels: int, width: int, size: int, bias: bool = True, frames: int | None = None
) -> nn.Conv2d | nn.Conv3d:
    """Patches of ``size`` pixels, of ``frames`` frames in clips.

    Shape: (n, channels, h * size, w * size) to (n, width, h, w), or (n, channels, t * frames, h * size,
    w * size) to (n, width, t, h, w).
    """
    conv: nn.Conv2d | nn.Conv3d
    if frames is None:
        conv = nn.Conv2d(channels, width, size, size, bias=bias)
    else:
        kernel = (frames, size, size)
        conv = nn.Conv3d(channels, width, kernel, kernel, bias=bias)
    lecun_normal_init(conv.weight, fan_in=conv.weight[0].numel())
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def conv_stem(channels: int, width: int, layers: Sequence[ConvStemLayer], bias: bool = True) -> nn.Sequential:
    """The layers ``layer_{k}``, and ``last``, a 1x1 convolution to ``width`` channels."""
    conv = ConvFactory(ActivationType.RELU, 1e-5, 0.1)
    parts: dict[str, nn.Module] = {}
    for index, layer in enumerate(layers):
        parts[f"layer_{index}"] = conv(channels, layer.out_channels, layer.kernel, layer.stride)
        channels = layer.out_channels
    return sequential(**parts, last=patch_conv(channels, width, 1, bias))
