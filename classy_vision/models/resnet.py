"""The name "resnet": a ResNeXt without groups. Its presets and blocks are in resnext.py."""

from __future__ import annotations

from typing import ClassVar

from classy_vision.models.classy_model import register_model
from classy_vision.models.resnext.model import ResNeXt, ResNeXtConfig
from classy_vision.trunk.trunk import ModelConfig


class ResNetConfig(ResNeXtConfig):
    """As ResNeXtConfig; there are no groups."""

    base_width_and_cardinality: None = None


@register_model("resnet")
class ResNet(ResNeXt):
    """A ResNet (He et al., 2016)."""

    config_class: ClassVar[type[ModelConfig]] = ResNetConfig
