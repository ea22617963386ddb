"""Heads that answer for every position: shapes, sizes, order, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from classy_vision.config import ConfigError
from classy_vision.heads import DPTHead, LinearDenseHead, PyramidHead, build_head
from classy_vision.heads.classy_head import Source, TokenLayout
from classy_vision.models import ClassyModel, build_model
from tests.models.small import DENSE, FAMILIES, HEADS, batch

PLANES = (4, 6, 8)
VIT, *_ = FAMILIES["vision_transformer"]
RESNET, *_ = FAMILIES["resnet"]
LAYERS = ["layer_0", "layer_1", "layer_2"]


def maps(*sizes: int | tuple[int, int], planes: tuple[int, ...] = PLANES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(size, size) if isinstance(size, int) else size for size in sizes]
    return [torch.randn(2, c, *shape, generator=generator) for c, shape in zip(planes, shapes, strict=True)]


def small(name: str, **options: Any) -> Any:
    return build_head({"name": name, "unique_id": "a", **HEADS[name], **options}).eval()


def model_of(base: dict[str, Any], name: str, blocks: str | list[str], **options: Any) -> ClassyModel:
    torch.manual_seed(0)
    head = {"name": name, "unique_id": "a", "fork_block": blocks, **HEADS[name], **options}
    return build_model({**base, "heads": [head]}).eval()


# -- sizes


@pytest.mark.parametrize("sizes", [(16, 8, 4), ((29, 17), (15, 9), (8, 5)), ((9, 30), (5, 15), (3, 8))])
@pytest.mark.parametrize(("name", "factor"), [("linear_dense", 1), ("pyramid", 1)])
def test_output_has_the_size_of_the_finest(name: str, factor: int, sizes: Any) -> None:
    head, given = small(name, in_planes=PLANES), maps(*sizes)
    assert head(*given).shape == (2, 3, *given[0].shape[2:])
    larger = small(name, in_planes=PLANES, upsample=4)
    larger.load_state_dict(head.state_dict())
    assert larger(*given).shape == (2, 3, *(4 * n for n in given[0].shape[2:]))
    features = small(name, in_planes=PLANES, num_classes=None)
    assert features(*given).shape == (2, sum(PLANES) if name == "linear_dense" else 6, *given[0].shape[2:])


@pytest.mark.parametrize("output", ["segmentation", "depth"])
def test_dpt_is_four_times_as_large(output: str) -> None:
    torch.manual_seed(0)
    head = small("dpt", in_planes=PLANES, output=output, num_classes=2)
    x = head(*maps(16, 8, 4))
    assert x.shape == (2, 2, 64, 64)
    assert (x.min() >= 0) == (output == "depth")
    assert small("dpt", in_planes=PLANES, num_classes=None)(*maps(16, 8, 4)).shape == (2, 8, 32, 32)
    assert small("dpt", in_planes=PLANES)(*maps((29, 17), (15, 9), (8, 5))).shape[:2] == (2, 3)


def test_linear_dense_is_linear_at_every_position() -> None:
    head = LinearDenseHead("a", 3, PLANES, norm="none").eval()
    given = maps(16, 8, 4)
    resized = [interpolate(x, (16, 16), mode="bilinear", align_corners=False) for x in given]
    weight, bias = head.project.weight[:, :, 0, 0], head.project.bias
    wanted = torch.einsum("oc,nchw->nohw", weight, torch.cat(resized, 1)) + bias[None, :, None, None]  # type: ignore[index]  # it has one
    torch.testing.assert_close(head(*given), wanted)
    assert [key for key in LinearDenseHead("a", 3, PLANES).state_dict() if "norm" in key]


def test_linear_dense_takes_blocks_in_any_order() -> None:
    model = model_of(RESNET, "linear_dense", ["block2-0", "block0"])
    coarse, fine = model.features(batch(), ["block2-0", "block0"]).values()
    assert coarse.shape[2:] < fine.shape[2:]
    assert model(batch()).shape == (2, 3, *fine.shape[2:])


def test_a_position_sees_its_surroundings() -> None:
    """What changes in a corner does not change the answer in the opposite one, and does in its own."""
    head, given = small("pyramid", in_planes=PLANES), maps(32, 16, 8)
    for norm in (m for m in head.modules() if isinstance(m, nn.GroupNorm)):
        norm.register_forward_hook(lambda module, inputs, output: inputs[0])  # which sees all positions
    changed = [x.clone() for x in given]
    for x in changed:
        x[:, :, 0, 0] += 1
    difference = (head(*changed) - head(*given)).abs().amax((0, 1))
    assert difference[0, 0] > 0
    assert difference[-1, -1] == 0


@pytest.mark.parametrize("name", DENSE)
def test_gradients_reach_every_parameter(name: str) -> None:
    for planes, sizes in ((PLANES, (16, 8, 4)), ((4, 4, 4), (8, 8, 8)), ((4,), (8,))):
        strides = {} if name == "linear_dense" or len(set(sizes)) > 1 else {"strides": (16,) * len(planes)}
        head = small(name, in_planes=planes, **strides).train()
        head(*maps(*sizes, planes=planes)).square().mean().backward()
        assert all(p.grad is not None for p in head.parameters())


# -- plain vision transformers


@pytest.mark.parametrize("feature_format", ["tokens", "map"])
@pytest.mark.parametrize("blocks", [LAYERS[2:], LAYERS[:2], LAYERS, [*LAYERS, "ln"], "ln"])
def test_levels_are_made_of_blocks_of_one_stride(blocks: Any, feature_format: str) -> None:
    trunk = {**VIT, "feature_format": feature_format, "num_register_tokens": 2}
    x = torch.randn(2, 3, 40, 24)
    assert model_of(trunk, "pyramid", blocks)(x).shape == (2, 3, 20, 12)
    assert model_of(trunk, "dpt", blocks)(x).shape[:2] == (2, 3)
    assert model_of(trunk, "dpt", blocks)(torch.randn(2, 3, 32, 32)).shape == (2, 3, 64, 64)
    assert model_of(trunk, "linear_dense", blocks)(x).shape == (2, 3, 5, 3)


def test_maps_of_patches_lie_as_they_do_in_the_image() -> None:
    tokens = model_of({**VIT, "num_register_tokens": 2}, "linear_dense", ["layer_1", "ln"])
    as_map = model_of(
        {**VIT, "num_register_tokens": 2, "feature_format": "map"}, "linear_dense", ["layer_1", "ln"]
    )
    as_map.load_state_dict(tokens.state_dict())
    x = torch.randn(2, 3, 40, 24)
    torch.testing.assert_close(tokens(x), as_map(x))


@pytest.mark.parametrize("readout", ["add", "project"])
def test_readout_gets_the_class_token(readout: str) -> None:
    model = model_of(VIT, "dpt", [*LAYERS, "ln"], readout=readout)
    (head,) = model.get_heads()[f"{'+'.join(LAYERS)}+ln"]
    features = model.features(batch(), [*LAYERS, "ln"])
    norm = model.blocks["ln"]
    tokens = [x if name == "ln" else norm(x) for name, x in features.items()]
    grids = [x[:, 1:].transpose(1, 2).unflatten(2, (4, 4)) for x in tokens]
    with_token = [torch.cat([g, x[:, 0, :, None, None].expand_as(g)], 1) for g, x in zip(grids, tokens)]
    torch.testing.assert_close(model(batch()), head(*with_token))
    ignoring = model_of(VIT, "dpt", [*LAYERS, "ln"])
    (other,) = ignoring.get_heads().popitem()[1]
    torch.testing.assert_close(ignoring(batch()), other(*grids), rtol=1, atol=10)


@pytest.mark.parametrize(("rate", "left"), [(0.5, 8), (0.75, 4)])  # 4 of 16 patches would be a square
def test_dropped_patches_are_no_map(rate: float, left: int) -> None:
    model = model_of({**VIT, "patch_drop_rate": rate}, "pyramid", "ln")
    assert model(batch()).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=f"{left} tokens are no grid of patches of an image of 32x32"):
        model.train()(batch())


class Stages(nn.Module):
    """Tokens of fewer and larger patches from stage to stage, as LeViT's, after a class token if asked for."""

    def __init__(self, num_prefix_tokens: int = 0) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.fine, self.coarse = nn.Linear(3, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        patches = x[:, :, ::4, ::4].flatten(2).transpose(1, 2)
        x = self.fine(torch.cat([patches[:, : self.num_prefix_tokens], patches], 1))
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        return self.coarse(torch.cat([prefix, patches.unflatten(1, (8, 8))[:, ::2, ::2].flatten(1, 2)], 1))


@pytest.mark.parametrize("prefix", [0, 1])
def test_tokens_of_several_sizes_are_levels_of_their_own(prefix: int) -> None:
    model = ClassyModel.from_model(Stages(prefix), ["fine", "coarse"], (3, 32, 32)).eval()
    model.set_heads({("fine", "coarse"): [small("pyramid"), build_head({"name": "dpt", "unique_id": "b"})]})
    pyramid, dpt = model.get_heads()["fine+coarse"]
    assert pyramid.strides == dpt.strides == (4, 8)
    assert len(pyramid.levels) == len(dpt.levels) == 2
    assert model(batch())["a"].shape == (2, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"finest first, not with strides \[8, 4\]: \[fine, coarse\]"):
        model.set_heads({("coarse", "fine"): [small("pyramid")]})
    model.set_heads({("coarse", "fine"): [small("linear_dense")]})
    assert model(batch()).shape == (2, 3, 8, 8)


def test_tokens_of_one_size_have_one_stride() -> None:
    model = model_of(VIT, "pyramid", LAYERS)
    (head,) = model.get_heads()["+".join(LAYERS)]
    assert head.strides == (8, 8, 8)
    small("pyramid", in_planes=(16, 16, 16), strides=(1, 1, 1)).connect(
        [Source(block, 16, 8, TokenLayout(1, True), (17, 16)) for block in LAYERS]
    )


# -- what is refused


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(
    ("family", "block", "shape"),
    [
        ("mlp", "layer1", r"\(6,\)"),
        ("vision_transformer", "trunk_output", r"\(16,\)"),
        ("resnext3d", "pathway0-stage1", r"\(\d+, \d+, \d+, \d+\)"),
        ("clips", "layer_0", "tokens of clips"),
    ],
)
def test_blocks_without_maps(name: str, family: str, block: str, shape: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"head 'a' reads maps \(c, h, w\), but block '{block}' gives {shape}"
    ):
        model_of(FAMILIES[family][0], name, block)


@pytest.mark.parametrize("name", ["pyramid", "dpt"])
def test_blocks_come_finest_first(name: str) -> None:
    message = r"finest first, not with strides \[\d+, 8\]: \[block0, block2-0\]"
    with pytest.raises(ConfigError, match="reads its blocks " + message.replace("8", r"\d+")):
        model_of(RESNET, name, ["block2-0", "block0"])
    with pytest.raises(ConfigError, match=r"finest first, not with strides \[8, 4\]: \[1, 0\]"):
        small(name, in_planes=(4, 6), strides=(8, 4))


@pytest.mark.parametrize("name", ["pyramid", "dpt"])
def test_levels_that_cannot_be_made(name: str) -> None:
    with pytest.raises(ConfigError, match="2 strides for 3 blocks"):
        small(name, in_planes=PLANES, strides=(8, 4))
    with pytest.raises(ConfigError, match="reads 5 blocks of one stride, of which it makes 4 levels"):
        small(name, in_planes=(4,) * 5, strides=(8,) * 5)
    head = small(name, in_planes=(4, 6))
    with pytest.raises(ConfigError, match=r"made for strides \[1, 2\], but its blocks have \[8, 32\]"):
        head.connect([Source("a", 4, 8, shape=(4, 4, 4)), Source("b", 6, 32, shape=(6, 1, 1))])
    head.connect([Source("a", 4, 8, shape=(4, 4, 4)), Source("b", 6, 16, shape=(6, 2, 2))])
    assert head.strides == (8, 16)


def test_dpt_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="projection = True needs output = 'depth'"):
        DPTHead("a", 3, projection=True)
    with pytest.raises(ConfigError, match="2 channels for 4 levels"):
        DPTHead("a", 3, (4,), channels=(8, 8))
    with pytest.raises(
        ConfigError, match=r"readout = 'add' reads the class token, and block 'block0' gives none"
    ):
        model_of(RESNET, "dpt", "block0", readout="add")
    with pytest.raises(ConfigError, match=r"block 'b' gives none"):
        DPTHead("a", 3, readout="add").connect([Source("b", 4, None, TokenLayout(1, False), (5, 4))])


@pytest.mark.parametrize("name", DENSE)
def test_other_tensors_are_refused(name: str) -> None:
    head = small(name, in_planes=(4,))
    with pytest.raises(ValueError, match=r"reads maps \(n, c, h, w\), not \(2, 16, 4\)"):
        head(torch.randn(2, 16, 4))


def test_widths_that_groups_do_not_divide() -> None:
    head: Any = PyramidHead("a", 3, (4, 6), width=12, branch_width=20)
    assert {m.num_groups for m in head.modules() if isinstance(m, nn.GroupNorm)} == {4}
