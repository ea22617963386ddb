"""What published weights see of an image is, bit for bit, what timm and torchvision give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torchvision.models import get_model_weights

from classy_vision.data.config import DataConfig
from classy_vision.data.preprocessing import from_published, with_statistics
from classy_vision.data.samples import read_views
from classy_vision.weights.catalogue import published

SIZES = [(640, 427), (427, 640), (500, 375), (301, 1000), (97, 64)]
# All there is of crops, interpolations and rounding: 0.875, 0.95 and 1.0 of the side, squeezed or not.
TIMM = [
    "resnet50.a1_in1k",
    "resnet50.tv_in1k",
    "efficientnet_b3.ra2_in1k",
    "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_so400m_patch14_siglip_gap_378.webli_ft_in1k",
]
TORCHVISION = ["resnet50.IMAGENET1K_V1", "resnet50.IMAGENET1K_V2", "efficientnet_b7.IMAGENET1K_V1"]


def picture(path: Path, size: tuple[int, int]) -> Image.Image:
    """A photograph's kind of picture: smooth, with edges and noise."""
    rng = np.random.default_rng(size[0])
    coarse = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize(size, 3)
    noise = rng.integers(-20, 20, (size[1], size[0], 3))
    Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return Image.open(path).convert("RGB")


def ours(name: str, path: Path, **more: Any) -> torch.Tensor:
    data = DataConfig(**{**from_published(published(name).preprocessing, DataConfig()), **more})
    return read_views(path, with_statistics(data, 3), 3)[0]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", TIMM)
def test_timms_weights_see_what_timm_shows_them(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    image = picture(tmp_path / "a.jpg", size)
    theirs = create_transform(**resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict()))
    assert torch.equal(ours(f"timm/{name}", tmp_path / "a.jpg"), theirs(image))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_weights_see_what_torchvision_shows_them(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    image = picture(tmp_path / "a.jpg", size)
    model, _, tag = name.partition(".")
    theirs = get_model_weights(model)[tag].transforms()
    assert torch.equal(ours(f"torchvision/{name}", tmp_path / "a.jpg"), theirs(image))


def test_our_own_crop_is_another(tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    picture(tmp_path / "a.jpg", (640, 427))
    exact = ours("timm/resnet50.a1_in1k", tmp_path / "a.jpg", eval_transform="exact")
    assert not torch.equal(exact, ours("timm/resnet50.a1_in1k", tmp_path / "a.jpg"))
