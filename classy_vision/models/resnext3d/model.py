"""ResNeXt3D: residual networks for clips, of plain, grouped or (2+1)-dimensional convolutions (Tran et
al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", 2018; Feichtenhofer et al.,
"SlowFast Networks for Video Recognition", 2019, for the bottlenecks).

Blocks are named ``pathway0-stage{stage}-block{index}``, stages counted from 1 and blocks from 0;
``pathway0-stage{stage}`` is the end of a stage. Pre-activated networks end with ``…-bn`` and ``…-relu``.
Axes: n batch, c channels, t time, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import ConfigError, PositiveFloat, PositiveInt
from classy_vision.layers.clips import check_clips
from classy_vision.layers.initialize import kaiming_fan_out
from classy_vision.layers.stochastic_depth import depth_rates
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.models.resnext3d.blocks import BlockPlan, ResBlock3D, Stem3D
from classy_vision.models.resnext3d.fit import inflate_kernels
from classy_vision.models.resnext3d.keys import LAYOUTS
from classy_vision.models.resnext3d.shapes import SHAPES
from classy_vision.trunk.trunk import END, ModelConfig
from classy_vision.weights.fitting import Fitting

# -- config


class ResNeXt3DConfig(ModelConfig):
    """A residual network for clips. Lists have an entry per stage.

    Attributes:
        in_channels: channels of the input; called ``input_planes`` in the original.
        frames_per_clip, clip_crop_size: of the usual input.
        input_key: where the clip is, if the input is a dict.
        skip_transformation_type, residual_transformation_type: what blocks are made of.
        num_blocks: blocks.
        stem_name: plain, or (2+1)-dimensional.
        stem_planes, stem_temporal_kernel, stem_spatial_kernel, stem_maxpool: of the stem.
        stage_planes: output channels of the first stage; they double from stage to stage.
        r2plus1d_stem_kernel: spatial kernel of that stem, which ignores the others.
        stage_temporal_kernel_basis: temporal kernels of blocks, repeated over them.
        temporal_conv_1x1: whether those are on the first 1x1 convolution, not on the 3x3.
        stage_temporal_stride, stage_spatial_stride: of the first block.
        stage_temporal_pool: length and stride of a max pool over time after each stage.
        num_groups, width_per_group: inner channels of bottlenecks in the first stage; groups may
            be "depthwise".
        midplanes: inner channels of (2+1)D convolutions: each its own, or the block's first.
        zero_init_residual_transform: start residual branches at zero.
        bn_epsilon, bn_momentum: of all batch norms.
    """

    in_channels: PositiveInt = Field(3, validation_alias=AliasChoices("in_channels", "input_planes"))
    frames_per_clip: PositiveInt
    clip_crop_size: PositiveInt
    input_key: str | None = None
    skip_transformation_type: Literal["postactivated_shortcut", "preactivated_shortcut"]
    residual_transformation_type: Literal[
        "basic_transformation",
        "basic_r2plus1d_transformation",
        "postactivated_bottleneck_transformation",
        "preactivated_bottleneck_transformation",
    ]
    num_blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    stem_name: Literal["resnext3d_stem", "r2plus1d_stem"] = "resnext3d_stem"
    stem_planes: PositiveInt = 64
    stem_temporal_kernel: PositiveInt = 3
    stem_spatial_kernel: PositiveInt = 7
    r2plus1d_stem_kernel: PositiveInt = 3
    stem_maxpool: bool = False
    stage_planes: PositiveInt = 256
    stage_temporal_kernel_basis: tuple[tuple[PositiveInt, ...], ...] = ((3,), (3,), (3,), (3,))
    temporal_conv_1x1: tuple[bool, ...] = (False, False, False, False)
    stage_temporal_stride: tuple[PositiveInt, ...] = (1, 2, 2, 2)
    stage_spatial_stride: tuple[PositiveInt, ...] = (1, 2, 2, 2)
    stage_temporal_pool: tuple[PositiveInt, ...] = (1, 1, 1, 1)
    num_groups: PositiveInt | Literal["depthwise"] = 1
    width_per_group: PositiveInt = 64
    midplanes: Literal["per_conv", "per_block"] = "per_conv"
    zero_init_residual_transform: bool = False
    bn_epsilon: PositiveFloat = 1e-5
    bn_momentum: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        stages = len(self.num_blocks)
        lists = ("stage_temporal_kernel_basis", "temporal_conv_1x1", "stage_temporal_stride")
        for name in (*lists, "stage_spatial_stride", "stage_temporal_pool"):
            if len(getattr(self, name)) < stages:
                raise ValueError(f"{name} needs an entry for each of the {stages} stages of num_blocks")
        return self

    @property
    def preactivated(self) -> bool:
        return self.residual_transformation_type == "preactivated_bottleneck_transformation"


_BOTTLENECK = {
    "residual_transformation_type": "postactivated_bottleneck_transformation",
    "skip_transformation_type": "postactivated_shortcut",
    "stem_maxpool": True,
    "frames_per_clip": 8,
    "clip_crop_size": 224,
}
_BASIC = {
    "residual_transformation_type": "basic_transformation",
    "skip_transformation_type": "postactivated_shortcut",
    "stage_planes": 64,
    "frames_per_clip": 16,
    "clip_crop_size": 112,
}
_SLOW = {**_BOTTLENECK, "stem_temporal_kernel": 1, "stage_temporal_stride": (1, 1, 1, 1)} | {
    "temporal_conv_1x1": (True, True, True, True),
    "stage_temporal_kernel_basis": ((1,), (1,), (3,), (3,)),
}
_C2D = {**_SLOW, "stage_temporal_kernel_basis": ((1,),) * 4, "stage_temporal_pool": (2, 1, 1, 1)}
_I3D = {**_C2D, "stem_temporal_kernel": 5, "stage_temporal_kernel_basis": ((3,), (3, 1), (3, 1), (1, 3))}
_MC3 = {
    **_BASIC,
    "stage_temporal_kernel_basis": ((3,), (1,), (1,), (1,)),
    "stage_temporal_stride": (1, 1, 1, 1),
}
_R2PLUS1D = {**_BASIC, "residual_transformation_type": "basic_r2plus1d_transformation"} | {
    "stem_name": "r2plus1d_stem",
    "r2plus1d_stem_kernel": 7,
}
_CSN = {**_BOTTLENECK, "num_groups": "depthwise", "frames_per_clip": 32}
_VMZ = {"bn_epsilon": 1e-3}

# The layouts of pytorchvideo (slow, C2D, I3D, CSN), torchvision (18 layers) and VMZ (the others).
PRESETS: dict[str, dict[str, Any]] = {
    "slow_r50": {**_SLOW, "num_blocks": (3, 4, 6, 3)},
    "slow_r101": {**_SLOW, "num_blocks": (3, 4, 23, 3)},
    "c2d_r50": {**_C2D, "num_blocks": (3, 4, 6, 3)},
    "i3d_r50": {**_I3D, "num_blocks": (3, 4, 6, 3)},
    "r3d_18": {**_BASIC, "num_blocks": (2, 2, 2, 2)},
    "mc3_18": {**_MC3, "num_blocks": (2, 2, 2, 2)},
    "r2plus1d_18": {**_R2PLUS1D, "num_blocks": (2, 2, 2, 2), "midplanes": "per_block"},
    "r2plus1d_34": {**_R2PLUS1D, **_VMZ, "num_blocks": (3, 4, 6, 3)},
    "csn_r101": {**_CSN, "num_blocks": (3, 4, 23, 3)},
    "ir_csn_50": {**_CSN, **_VMZ, "num_blocks": (3, 4, 6, 3)},
    "ir_csn_152": {**_CSN, **_VMZ, "num_blocks": (3, 8, 36, 3)},
}


# -- model


@register_model("resnext3d", PRESETS)
class ResNeXt3D(ClassyModel):
    """A stem and stages of residual blocks over clips; images count as clips of one frame.

    Longer and larger clips than the usual work as well.

    Shape: (n, c, t, h, w) or (n, c, h, w) to (n, stage_planes * 8, t', h', w'), with four stages.
    """

    config_class: ClassVar[type[ModelConfig]] = ResNeXt3DConfig
    layouts = LAYOUTS
    shapes = SHAPES
    config: ResNeXt3DConfig

    def __init__(self, config: ResNeXt3DConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        c = self.config
        bn = (c.bn_epsilon, c.bn_momentum)
        split = c.stem_name == "r2plus1d_stem"
        t, size = (3, c.r2plus1d_stem_kernel) if split else (c.stem_temporal_kernel, c.stem_spatial_kernel)
        kernel = (t, size, size)
        stem = Stem3D(c.in_channels, c.stem_planes, kernel, split, c.stem_maxpool, bn, c.input_key)
        self.add_step("stem", stem, c.stem_planes)
        drops = iter(depth_rates(c.stochastic_depth, sum(c.num_blocks)))
        before = c.stem_planes
        for s, depth in enumerate(c.num_blocks):
            basis = c.stage_temporal_kernel_basis[s]
            space = c.stage_spatial_stride[s]
            inner = c.width_per_group * 2**s * (1 if c.num_groups == "depthwise" else c.num_groups)
            for i in range(depth):
                plan = BlockPlan(
                    residual=c.residual_transformation_type,
                    skip=c.skip_transformation_type,
                    width_in=before,
                    width=c.stage_planes * 2**s,
                    inner=inner,
                    groups=inner if c.num_groups == "depthwise" else c.num_groups,
                    temporal_kernel=basis[i % len(basis)],
                    temporal_conv_1x1=c.temporal_conv_1x1[s],
                    shared_midplanes=c.midplanes == "per_block",
                    stride=(c.stage_temporal_stride[s], space, space) if i == 0 else (1, 1, 1),
                    first=s == 0 and i == 0,
                    drop=next(drops),
                    bn=bn,
                )
                before = plan.width
                self.add_step(f"pathway0-stage{s + 1}-block{i}", ResBlock3D(plan), before)
            if (length := c.stage_temporal_pool[s]) > 1:
                pool = nn.MaxPool3d((length, 1, 1), (length, 1, 1))
                self.add_step(f"pathway0-stage{s + 1}-pool", pool, before)
        if c.preactivated:
            last = list(self.blocks)[-1]
            self.add_step(f"{last}-bn", nn.BatchNorm3d(before, *bn), before)
            self.add_step(f"{last}-relu", nn.ReLU(), before)
        self.add_step(END, nn.Identity(), before)
        ends = {"-".join(name.split("-")[:2]): name for name in self.blocks}
        self.aliases = {"stem-path0": "stem", **ends}
        self._initialize()

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        return {"name": "fully_convolutional_linear"}

    @property
    def input_shape(self) -> tuple[int, ...]:
        c = self.config
        return (c.in_channels, c.frames_per_clip, c.clip_crop_size, c.clip_crop_size)

    @property
    def input_key(self) -> str | None:
        """Where the clip is, if the input is a dict."""
        return self.config.input_key

    def check_input(self, x: Tensor | Mapping[str, Tensor]) -> None:
        key, channels = self.config.input_key, self.config.in_channels
        if isinstance(x, Mapping):
            if key is None or key not in x:
                raise ConfigError(f"the input has the keys {sorted(x)}, but input_key is {key!r}")
            x = x[key]
        check_clips(x, channels, type(self).__name__)

    def fit(self, native: dict[str, Any], fitting: Fitting) -> dict[str, Any]:
        return inflate_kernels(native, self.state_dict(), fitting)

    def _initialize(self) -> None:
        kaiming_fan_out(self)
        if self.config.zero_init_residual_transform:
            last = "c.conv" if self.config.preactivated else "c.norm"
            last = last if "bottleneck" in self.config.residual_transformation_type else "b.norm"
            for name, parameter in self.named_parameters():
                if name.endswith(f"residual.{last}.weight"):
                    nn.init.zeros_(parameter)
