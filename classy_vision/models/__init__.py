"""Backbones: a trunk of named blocks, and heads that read any of them."""

from typing import TYPE_CHECKING

from classy_vision.heads import build_head
from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer
from classy_vision.models.anynet.model import AnyNet
from classy_vision.models.classy_model import MODELS, ClassyModel, build_model, register_model
from classy_vision.models.densenet.model import DenseNet
from classy_vision.models.efficientnet.model import EfficientNet
from classy_vision.models.lecun_normal_init import lecun_normal_init
from classy_vision.models.merge import merge_heads
from classy_vision.models.mlp import MLP
from classy_vision.models.regnet import RegNet
from classy_vision.models.resnet import ResNet
from classy_vision.models.resnext.model import ResNeXt
from classy_vision.models.resnext3d.model import ResNeXt3D
from classy_vision.models.vision_transformer.model import VisionTransformer
from classy_vision.removed import explain_removed
from classy_vision.trunk.encoder import SegmentationEncoder
from classy_vision.trunk.features import FeatureInfo
from classy_vision.trunk.loading import load_weights
from classy_vision.trunk.saving import save_weights

__all__ = [
    "MLP",
    "MODELS",
    "AnyNet",
    "ClassyModel",
    "DenseNet",
    "EfficientNet",
    "FeatureInfo",
    "RegNet",
    "ResNeXt",
    "ResNeXt3D",
    "ResNet",
    "SegmentationEncoder",
    "SqueezeAndExcitationLayer",
    "VisionTransformer",
    "build_head",
    "build_model",
    "lecun_normal_init",
    "load_weights",
    "merge_heads",
    "register_model",
    "save_weights",
]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__)
