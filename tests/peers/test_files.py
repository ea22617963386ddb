"""Files that the peers write are read here, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import transformers

from classy_vision.models import ClassyModel, build_model
from classy_vision.trunk.loading import load_weights
from classy_vision.trunk.saving import save_weights
from tests.peers.models import answer, with_weights

TINY = {
    "name": "vision_transformer",
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 48,
    "num_classes": 5,
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def ours(**options: object) -> ClassyModel:
    return build_model({**TINY, **options}).double().eval()


def test_transformers_vit(tmp_path: Path) -> None:
    """Its names in memory are others than those in files."""
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_size=32,
        intermediate_size=48,
        num_labels=5,
    )
    peer = with_weights(transformers.ViTForImageClassification(config))
    peer.save_pretrained(tmp_path)
    model = ours(layer_norm_eps=config.layer_norm_eps)
    report = load_weights(model, tmp_path / "model.safetensors")
    assert report.layout == "transformers"
    torch.testing.assert_close(answer(model, IMAGES), answer(peer, IMAGES), rtol=1e-9, atol=1e-12)

    save_weights(model, tmp_path / "model.safetensors", layout="transformers")
    back = transformers.ViTForImageClassification.from_pretrained(tmp_path, dtype=torch.double).eval()
    torch.testing.assert_close(answer(back, IMAGES), answer(peer, IMAGES), rtol=1e-12, atol=1e-12)


def test_google_s_archives(tmp_path: Path) -> None:
    """Which timm reads, but does not write."""
    model = with_weights(ours())
    assert isinstance(model, ClassyModel)
    save_weights(model.float(), tmp_path / "vit.npz", layout="google")
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "num_heads": 2, "embed_dim": 32, "mlp_ratio": 1.5}
    peer = timm.models.VisionTransformer(**sizes, num_classes=5)
    peer.load_pretrained(str(tmp_path / "vit.npz"))
    expected = answer(model.double(), IMAGES)
    torch.testing.assert_close(answer(peer.double().eval(), IMAGES), expected, rtol=1e-9, atol=1e-12)

    again = ours()
    assert load_weights(again, tmp_path / "vit.npz").layout == "google"
    assert torch.equal(answer(again, IMAGES), expected)


@pytest.mark.parametrize("layout", ["timm", "torchvision"])
def test_torch_files(layout: str, tmp_path: Path) -> None:
    peer = with_weights(timm.create_model("resnet18", num_classes=5))
    state = {f"module.{key}": value for key, value in peer.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "r.pth")
    model = build_model("resnet18", num_classes=5).double().eval()
    load_weights(model, tmp_path / "r.pth", layout=layout)
    assert torch.equal(answer(model, IMAGES), answer(peer, IMAGES))
