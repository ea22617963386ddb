"""Every architecture gives the original's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from classy_vision.models import ClassyModel, build_model
from tests.golden.vectors import Vector, names

CASES = names("anynet", "densenet", "efficientnet", "mlp", "regnet", "resnet", "resnext", "vit")


def built(vector: Vector) -> ClassyModel:
    model = build_model(vector["config"]).double().eval()
    model.set_classy_state(vector.classy_state)
    return model


def relative(given: Tensor, wanted: Tensor) -> float:
    return float((given.double() - wanted.double()).abs().max() / wanted.double().abs().max())


@pytest.mark.parametrize("case", CASES)
def test_outputs(case: str) -> None:
    vector = Vector(case)
    model = built(vector)
    with torch.no_grad():
        assert relative(model(vector.input), vector.outputs["out"]) < 1e-6
        assert relative(model.float()(vector.input.float()), vector.outputs["out"]) < 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if case != "mlp"])
def test_block_statistics(case: str) -> None:
    vector = Vector(case)
    model = built(vector)
    # By the last part of the path, as heads name them; "stem.stem" is the stem as well.
    wanted = {path.rpartition(".")[2]: stats for path, stats in vector["block_stats"].items()}
    if not case.startswith("efficientnet"):  # whose trunk ended in a classifier
        wanted["trunk_output"] = wanted.pop("<trunk>")
    inside = {
        "conv_proj",
        "bn0",
        "conv_stem",
        "conv_head",
        "bn1",
        "avg_pooling",
        "dropout",
        "fc",
        "<trunk>",
    }
    wanted = {block: stats for block, stats in wanted.items() if block not in inside}
    assert wanted.keys() <= set(model.block_names)
    assert len(wanted) > 4
    with torch.no_grad():
        features = model.features(vector.input, list(wanted))
    for block, stats in wanted.items():
        given = features[block]
        given = given.transpose(0, 1) if given.dim() == 3 else given  # tokens came first
        assert list(given.shape) == stats["shape"]
        assert given.mean().item() == pytest.approx(stats["mean"], rel=1e-9, abs=1e-9)
        assert given.std(correction=0).item() == pytest.approx(stats["std"], rel=1e-9, abs=1e-9)
        assert given.flatten()[:4].tolist() == pytest.approx(stats["first4"], rel=1e-9, abs=1e-9)


def test_kernels_of_images_are_inflated() -> None:
    vector = Vector("state_resnext3d_inflation")
    model = build_model(vector["config_target"]).double().eval()
    model.set_classy_state(vector.classy_state)
    own = build_model(vector["config_source"]).get_classy_state()["model"]["trunk"]
    trunk = model.get_classy_state()["model"]["trunk"]
    assert {k for k, v in trunk.items() if v.shape != own[k].shape} == set(vector["inflated"])
    with torch.no_grad():
        assert relative(model(vector.input), vector.outputs["out"]) < 1e-6


def test_positions_of_another_image_size() -> None:
    vector = Vector("state_vit_posembed_up")
    model = build_model(vector["config_target"]).double().eval()
    model.set_classy_state(vector.classy_state)
    with torch.no_grad():
        positions = torch.from_numpy(vector.data["pos_embedding"])
        assert relative(model.stem.positions.transpose(0, 1), positions) < 1e-6
        assert relative(model(vector.input), vector.outputs["out"]) < 1e-6


def test_the_layout_from_before_0_2() -> None:
    vector = Vector("state_resnext_legacy_keys")
    state = vector.classy_state
    trunk = {}
    for key, value in state["model"]["trunk"].items():
        parts = key.split(".")
        if parts[0] == "blocks":
            parts[2:3] = [parts[2].split("-")[1], "_module"]
        trunk[".".join(parts)] = value
    assert set(vector["legacy_keys"]) == trunk.keys()
    model = build_model(vector["config"]).double().eval()
    model.set_classy_state({"model": {**state["model"], "trunk": trunk}})
    with torch.no_grad():
        assert relative(model(vector.input), vector.outputs["out"]) < 1e-6
