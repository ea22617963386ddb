"""Residual networks for clips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.cost import OnMeta, count
from classy_vision.models import build_model
from classy_vision.models.resnext3d.fit import inflate

CONFIG: dict[str, Any] = {
    "name": "resnext3d",
    "input_planes": 3,
    "frames_per_clip": 4,
    "clip_crop_size": 32,
    "skip_transformation_type": "postactivated_shortcut",
    "residual_transformation_type": "postactivated_bottleneck_transformation",
    "num_blocks": [1, 1],
    "stem_planes": 8,
    "stage_planes": 16,
    "width_per_group": 4,
}
RESIDUALS = [
    ("basic_transformation", "postactivated_shortcut"),
    ("basic_r2plus1d_transformation", "postactivated_shortcut"),
    ("postactivated_bottleneck_transformation", "postactivated_shortcut"),
    ("preactivated_bottleneck_transformation", "preactivated_shortcut"),
]


def clip(frames: int = 4, size: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("residual", "skip"), RESIDUALS)
@pytest.mark.parametrize("stem", ["resnext3d_stem", "r2plus1d_stem"])
def test_every_transformation_on_clips_of_any_size(residual: str, skip: str, stem: str) -> None:
    model = build_model(
        CONFIG,
        residual_transformation_type=residual,
        skip_transformation_type=skip,
        stem_name=stem,
        num_classes=3,
    ).eval()
    for x in (clip(), clip(9, 40), clip()[:, :, 0]):
        assert model(x).shape == (2, 3)
        assert model(x).sum(1).tolist() == pytest.approx([1, 1])  # probabilities, as in the original


def test_a_head_less_model_gives_a_tensor() -> None:
    assert build_model(CONFIG)(clip()).shape == (2, 32, 2, 8, 8)


def test_an_image_is_a_clip_of_one_frame() -> None:
    model = build_model(CONFIG).eval()
    image = clip()[:, :, 0]
    torch.testing.assert_close(model(image), model(image[:, :, None]))


def test_blocks() -> None:
    model = build_model(CONFIG)
    assert model.block_names == [
        "stem",
        "stem-path0",
        "pathway0-stage1-block0",
        "pathway0-stage1",
        "pathway0-stage2-block0",
        "pathway0-stage2",
        "trunk_output",
    ]
    assert model.feature_info(["pathway0-stage2"])["pathway0-stage2"].shape == (32, 2, 8, 8)
    ends = build_model(
        CONFIG,
        residual_transformation_type="preactivated_bottleneck_transformation",
        skip_transformation_type="preactivated_shortcut",
    ).block_names
    assert ends[-4:] == [
        "pathway0-stage2-block0-bn",
        "pathway0-stage2-block0-relu",
        "pathway0-stage2",
        "trunk_output",
    ]


def test_the_clip_out_of_a_dict() -> None:
    model = build_model(CONFIG, input_key="video", num_classes=3).eval()
    torch.testing.assert_close(model({"video": clip(), "audio": torch.zeros(1)}), model(clip()))
    with pytest.raises(ConfigError, match=r"the keys \['film'\], but input_key is 'video'"):
        model({"film": clip()})


def test_time_matters() -> None:
    model = build_model(CONFIG).eval()
    assert not torch.allclose(model(clip()), model(clip().flip(2)))


# Million parameters with 400 classes, and GMACs for the usual clip: torchvision 0.28's own figures, and
# pytorchvideo's model zoo (whose GMACs are for larger crops).
PUBLISHED = {
    "r3d_18": (33.371472, 40.70),
    "mc3_18": (11.695440, 43.34),
    "r2plus1d_18": (31.505325, 40.52),
    "slow_r50": (32.45, None),
    "c2d_r50": (24.33, None),
    "i3d_r50": (28.04, None),
    "csn_r101": (22.21, None),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_sizes(preset: str) -> None:
    params, macs = PUBLISHED[preset]
    with OnMeta():
        model = build_model(preset, num_classes=400)
    costs = count(model.eval())
    assert costs.params / 1e6 == pytest.approx(params, abs=1e-6 if macs else 5e-3)
    assert macs is None or costs.macs / 1e9 == pytest.approx(macs, abs=5e-3)


def test_the_options_of_published_layouts() -> None:
    depthwise = build_model(CONFIG, num_groups="depthwise")
    assert depthwise.blocks["pathway0-stage2-block0"].residual.b.conv.groups == 8
    pooled = build_model(CONFIG, stage_temporal_pool=[2, 1])
    assert pooled.block_names[3:6] == [
        "pathway0-stage1-pool",
        "pathway0-stage1",
        "pathway0-stage2-block0",
    ]
    assert pooled.feature_info(["pathway0-stage1"])["pathway0-stage1"].shape == (16, 2, 16, 16)
    basic = {"residual_transformation_type": "basic_transformation", "stage_temporal_kernel_basis": [[1], [3]]}
    kernels = [block.residual.a.conv.kernel_size for block in build_model(CONFIG, **basic).blocks.values()]
    assert kernels == [(1, 3, 3), (3, 3, 3)]
    split = {"residual_transformation_type": "basic_r2plus1d_transformation", "stem_name": "r2plus1d_stem"}
    model = build_model(CONFIG, **split, r2plus1d_stem_kernel=7, midplanes="per_block", bn_epsilon=1e-3)
    assert model.stem.conv.spatial.kernel_size == (1, 7, 7)
    block = model.blocks["pathway0-stage2-block0"]
    assert block.residual.a.conv.spatial.out_channels == block.residual.b.conv.spatial.out_channels
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-3}


def test_inflation() -> None:
    image, own = torch.randn(4, 3, 1, 3, 3), torch.empty(4, 3, 5, 3, 3)
    torch.testing.assert_close(inflate(image, own).sum(2, keepdim=True), image)
    assert inflate(image, torch.empty(4, 3, 1, 3, 3)) is image
    assert inflate(image, torch.empty(4, 2, 5, 3, 3)) is image


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"residual_transformation_type": "basic"}, "residual_transformation_type = 'basic'"),
        ({"num_blocks": [1] * 5}, "needs an entry for each of the 5 stages"),
        ({"frames_per_clip": 0}, "frames_per_clip = 0"),
        ({"frozen": True}, "unknown key 'frozen'"),
    ],
)
def test_bad_configs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model({**CONFIG, **given})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 4, 4, 32, 32), r"takes clips \(n, 3, t, h, w\) or images"),
        (torch.zeros(3, 32, 32), r"not \(3, 32, 32\)"),
        (torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8), "floating point"),
        ([1], "not list"),
    ],
)
def test_bad_inputs(x: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build_model(CONFIG)(x)


@pytest.mark.parametrize(("residual", "skip"), RESIDUALS[2:])
def test_time_is_strided_on_the_second_convolution(residual: str, skip: str) -> None:
    # As in the original, also where the kernel in time is on the first: the norm between them sees all frames.
    with torch.device("meta"):
        model = build_model(
            CONFIG,
            residual_transformation_type=residual,
            skip_transformation_type=skip,
            temporal_conv_1x1=[True, True],
            stage_temporal_kernel_basis=[[3], [3]],
            stage_temporal_stride=[1, 2],
            stage_spatial_stride=[1, 2],
        )
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    strided = [m.kernel_size for m in convolutions if m.stride[0] > 1]
    assert sorted(strided) == [(1, 1, 1), (1, 3, 3)], "the shortcut, and the 3x3"
