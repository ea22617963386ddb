"""The decoder of Ranftl et al., "Vision Transformers for Dense Prediction", 2021."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.fx
from torch import Tensor, nn

from classy_vision.config import ConfigError, PositiveInt, Probability
from classy_vision.heads.classy_head import Source, check_choice, register_head
from classy_vision.heads.dense_head import PyramidalHead, check_maps, enlarge, resize
from classy_vision.weights.layout import Layout

for _name in ("check_maps", "resize"):
    torch.fx.wrap(_name)

_FUSION = "neck.fusion_stage.layers"
TRANSFORMERS = Layout(
    [
        ("neck.reassemble_stage.readout_projects.{i}.0", "reassemble.{i}.readout"),
        ("neck.reassemble_stage.layers.{i}.projection", "reassemble.{i}.project"),
        ("neck.reassemble_stage.layers.{i}.resize", "reassemble.{i}.resize"),
        ("neck.convs", "convs"),
        (f"{_FUSION}.{{i}}.projection", "fusions.{i}.project"),
        *(
            (f"{_FUSION}.{{i}}.residual_layer{unit}.{theirs}{n}", f"fusions.{{i}}.unit{unit}.{ours}{n}")
            for unit in (1, 2)
            for theirs, ours in (("convolution", "conv"), ("batch_norm", "norm"))
            for n in (1, 2)
        ),
        ("head.projection", "projection"),
        ("head.head", "output"),
    ],
    dropped=[f"{_FUSION}.0.residual_layer1", "auxiliary_head"],  # the first of them is never run
)


class Reassemble(nn.Module):
    """A map of the patches, resized and with other channels; see ``DPTHead``.

    Shape: (n, c, h, w) to (n, channels_out, scale * h, scale * w); (n, 2 c, h, w) with a readout.
    """

    def __init__(self, channels_in: int, channels_out: int, scale: float, readout: str) -> None:
        super().__init__()
        self.kind = readout
        if readout == "project":
            self.readout = nn.Linear(2 * channels_in, channels_in)
            self.act = nn.GELU()
        self.project = nn.Conv2d(channels_in, channels_out, 1)
        if scale > 1:
            self.resize: nn.Module = nn.ConvTranspose2d(channels_out, channels_out, int(scale), int(scale))
        elif scale < 1:
            self.resize = nn.Conv2d(channels_out, channels_out, 3, int(1 / scale), padding=1)
        else:
            self.resize = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "project":
            x = self.act(self.readout(x.movedim(1, -1))).movedim(-1, 1)
        elif self.kind == "add":
            patches, token = x.chunk(2, 1)
            x = patches + token
        return self.resize(self.project(x))


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after an activation, around which the input passes. Shape: unchanged."""

    def __init__(self, width: int, norm: bool, bias: bool) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm1: nn.Module = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm2: nn.Module = nn.BatchNorm2d(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm1(self.conv1(self.act(x)))
        return x + self.norm2(self.conv2(self.act(inner)))


class Fusion(nn.Module):
    """Adds the next level to what coarser ones gave, and enlarges it.

    Shape: (n, width, h, w) and a map of any size to (n, width, factor * h, factor * w).
    """

    def __init__(self, width: int, factor: int, is_first: bool, norm: bool, bias: bool) -> None:
        super().__init__()
        self.factor = factor
        self.unit1 = None if is_first else ResidualUnit(width, norm, bias)
        self.unit2 = ResidualUnit(width, norm, bias)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        if self.unit1 is not None and level is not None:
            x = x + self.unit1(resize(level, x))
        return self.project(enlarge(self.unit2(x), self.factor, align_corners=True))


@register_head("dpt")
class DPTHead(PyramidalHead):
    """Reassembles the tokens of several layers into a pyramid, and fuses it; convolutions.

    Blocks come finest first. Of blocks of one stride, as those of plain vision transformers, four levels of 4,
    2, 1 and ½ times the size are made: one of each of four blocks, as in the paper, or all of one.

    Shape: maps (n, c, h, w), of the patches from tokens, to (n, num_classes, 4 h, 4 w) of the finest level: the
    size of the image where its stride is 4.

    Args:
        unique_id: the head's name.
        num_classes: channels of the output, 1 for depth; None gives the fused map, (n, width, 2 h, 2 w).
        in_planes: channels of the blocks; taken from the blocks if they are left out.
        strides: of the blocks; taken from them if they are left out. Without a trunk each is twice the one
            before.
        channels: of the levels when they are made, one number for all or one for each; by default 96, and
            twice as many for each coarser one.
        width: channels of the fused maps.
        readout: what is made of the class token: "ignore", "add" to every patch, or "project", a linear layer
            on the patch and the token. Without a trunk the maps then have the token's channels after their own.
        output: "segmentation", or "depth", which is not negative.
        norm: of the residual units: "batch" or "none".
        residual_bias: biases in their convolutions; by default where there is no norm.
        projection: a further convolution before the output for "depth", as in DINOv2's.
        dropout_rate: part of the numbers that training drops before the output for "segmentation".
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm.

    Raises:
        ConfigError: channels or strides that are not one for each level or block, or a projection without
            "depth".
    """

    classifier = "output.4"
    published: ClassVar = {"transformers": TRANSFORMERS, "transformers_dinov2": TRANSFORMERS}

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_planes: tuple[PositiveInt, ...] | None = None,
        strides: tuple[PositiveInt, ...] | None = None,
        channels: PositiveInt | tuple[PositiveInt, ...] | None = None,
        width: PositiveInt = 256,
        readout: Literal["ignore", "add", "project"] = "ignore",
        output: Literal["segmentation", "depth"] = "segmentation",
        norm: Literal["batch", "none"] = "none",
        residual_bias: bool | None = None,
        projection: bool = False,
        dropout_rate: Probability = 0.1,
        trunk_norm: bool = True,
    ) -> None:
        super().__init__(unique_id, num_classes)
        check_choice("readout", readout, ("ignore", "add", "project"))
        check_choice("output", output, ("segmentation", "depth"))
        check_choice("norm", norm, ("batch", "none"))
        if projection and output != "depth":
            raise ConfigError(f"projection = True needs output = 'depth', not {output!r}")
        self.strides = None if strides is None else tuple(strides)
        self.channels = channels if channels is None or isinstance(channels, int) else tuple(channels)
        self.width = width
        self.readout, self.reads_token = readout, readout != "ignore"
        self.output_kind = output
        self.residual = (norm == "batch", norm != "batch" if residual_bias is None else residual_bias)
        self.projects = projection
        self.dropout_rate = dropout_rate
        self.trunk_norm = trunk_norm
        if in_planes is not None:
            self.build(*in_planes)

    def connect(self, sources: Sequence[Source]) -> None:
        for source in sources:
            if self.reads_token and not (source.tokens and source.tokens.has_class_token):
                raise ConfigError(
                    f"head {self.unique_id!r}: readout = {self.readout!r} reads the class token, and block "
                    f"{source.block!r} gives none: such a block is a layer of a vision transformer with "
                    f"feature_format = 'tokens'; 'ignore' works everywhere"
                )
        super().connect(sources)

    def build(self, *in_planes: int) -> None:
        self.in_planes = in_planes
        self.levels = self.plan_levels(len(in_planes))
        channels = self._count_channels(len(self.levels))
        self.reassemble = nn.ModuleList(
            Reassemble(in_planes[level.block], c, level.scale, self.readout)
            for level, c in zip(self.levels, channels, strict=True)
        )
        self.convs = nn.ModuleList(nn.Conv2d(c, self.width, 3, padding=1, bias=False) for c in channels)
        doublings = [-1, *(level.doublings for level in self.levels)]
        factors = [2 ** (coarse - fine) for fine, coarse in itertools.pairwise(doublings)]
        self.fusions = nn.ModuleList(  # the coarsest first
            Fusion(self.width, factor, number == 0, *self.residual)
            for number, factor in enumerate(reversed(factors))
        )
        if self.num_classes is not None:
            self._build_output(self.num_classes)

    def _count_channels(self, levels: int) -> tuple[int, ...]:
        if self.channels is None or isinstance(self.channels, int):
            return tuple(self.channels or 96 * 2**k for k in range(levels))
        if len(self.channels) != levels:
            raise ConfigError(
                f"head {self.unique_id!r}: {len(self.channels)} channels for {levels} levels; one for each is "
                f"needed"
            )
        return self.channels

    def _build_output(self, num_classes: int) -> None:
        width = self.width
        if self.projects:
            self.projection = nn.Conv2d(width, width, 3, padding=1)
        enlarging = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        if self.output_kind == "depth":
            self.output = nn.Sequential(
                nn.Conv2d(width, width // 2, 3, padding=1),
                enlarging,
                nn.Conv2d(width // 2, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, num_classes, 1),
                nn.ReLU(),
            )
        else:
            self.output = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Dropout(self.dropout_rate),
                nn.Conv2d(width, num_classes, 1),
                enlarging,
            )

    def forward(self, *features: Tensor) -> Tensor:
        check_maps(*features)
        maps = [layer(features[level.block]) for layer, level in zip(self.reassemble, self.levels, strict=True)]
        levels = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        x = self.fusions[0](levels[-1])
        for fusion, level in zip(list(self.fusions)[1:], levels[-2::-1], strict=True):
            x = fusion(x, level)
        if self.num_classes is None:
            return x
        return self.output(self.projection(x).relu() if self.projects else x)
