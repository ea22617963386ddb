"""Prediction heads: they turn the feature of a block into a prediction."""

from classy_vision.heads.attention_pool_head import AttentionPoolHead
from classy_vision.heads.classy_head import HEADS, ClassyHead, build_head, register_head
from classy_vision.heads.concat_head import ConcatHead
from classy_vision.heads.dpt_head import DPTHead
from classy_vision.heads.fully_connected_head import FullyConnectedHead
from classy_vision.heads.fully_convolutional_linear_head import FullyConvolutionalLinearHead
from classy_vision.heads.identity_head import IdentityHead
from classy_vision.heads.linear_dense_head import LinearDenseHead
from classy_vision.heads.mobilenet_head import MobileNetHead
from classy_vision.heads.pyramid_head import PyramidHead
from classy_vision.heads.vision_transformer_head import VisionTransformerHead

__all__ = [
    "HEADS",
    "AttentionPoolHead",
    "ClassyHead",
    "ConcatHead",
    "DPTHead",
    "FullyConnectedHead",
    "FullyConvolutionalLinearHead",
    "IdentityHead",
    "LinearDenseHead",
    "MobileNetHead",
    "PyramidHead",
    "VisionTransformerHead",
    "build_head",
    "register_head",
]
