"""Optimized models: the numbers of the models that they were made of."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.engines import optimize
from classy_vision.engines.packed import Append, Attention, ClampInto, Excite, PackedConv, PackedLinear
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model
from tests.models import small
from tests.models.small import FAMILIES, batch, build


def worn(model: ClassyModel) -> ClassyModel:
    """Norms, biases and scales as training leaves them, some of them negative or zero."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.weight.data.normal_(0.5, 1.0)
            module.weight.data[:1] = 0
            module.bias.data.normal_()
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def agree(given: Any, wanted: Any, bound: float) -> None:
    assert set(given) == set(wanted)
    for name, output in given.items():
        assert output.dtype == wanted[name].dtype
        scale = wanted[name].abs().max()
        assert (output - wanted[name]).abs().max() <= bound * scale, name


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_numbers(family: str, dtype: str, bound: float) -> None:
    kind = getattr(torch, dtype)
    model = worn(build(family)).to(kind)
    fast = optimize(model, batch().to(kind), dtype=dtype, tolerance=bound)
    assert fast.untraced == ()
    with torch.inference_mode():
        for x in (batch(5, seed=3).to(kind), batch(1, seed=4).to(kind)):
            agree(fast(x), model(x), bound)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("regnet", "pyramid"),
        ("resnet", "linear_dense"),
        ("vision_transformer", "attention_pool"),
        ("vision_transformer", "concat"),
        ("vision_transformer", "dpt"),
    ],
)
def test_heads_of_several_blocks_and_of_every_pixel(family: str, head: str) -> None:
    model = worn(build(family, head))
    fast = optimize(model, batch(), tolerance=1e-5)
    with torch.inference_mode():
        agree(fast(batch(5, seed=3)), model(batch(5, seed=3)), 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str) -> None:
    model = worn(build(family))
    x = batch(3)
    if family == "resnext3d":  # oneDNN on AMX reads beyond one frame in bfloat16, in plain torch 2.13 too
        x = x[:, :, None].repeat(1, 1, 4, 1, 1)
    fast = optimize(model, x, dtype=torch.bfloat16, tolerance=0.1)  # small nets with wild norms
    agree(fast(x), model(x), 0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_layers_for_other_tools(family: str) -> None:
    model = worn(build(family))
    plain = optimize(model, batch(), pack=False)
    assert not [m for m in plain.modules() if isinstance(m, (PackedConv, PackedLinear))]
    program = torch.export.export(
        plain, (batch(),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},)
    )
    agree(program.module()(batch(5)), model(batch(5)), 1e-5)


def test_batch_norms_are_gone() -> None:
    norms = (nn.BatchNorm2d, nn.BatchNorm3d)
    for family in ("anynet", "regnet", "resnext", "efficientnet"):
        assert not [m for m in optimize(build(family)).modules() if isinstance(m, norms)], family
    # DenseNet keeps its last one: there is no convolution behind it.
    left = [m for m in optimize(build("densenet")).modules() if isinstance(m, norms)]
    assert len(left) == 1
    clip = optimize(build("resnext3d"), batch())
    before = sum(isinstance(m, nn.BatchNorm3d) for m in build("resnext3d").modules())
    # Padding puts zeros behind a norm, which a shift would change.
    assert sum(isinstance(m, nn.BatchNorm3d) for m in clip.modules()) < before / 2


def test_what_a_cpu_gets() -> None:
    def kinds(model: ClassyModel) -> set[type]:
        return {type(m) for m in model.modules()}

    assert {PackedConv, PackedLinear, ClampInto, Append} <= kinds(optimize(build("densenet")))
    assert {PackedConv, Excite} <= kinds(optimize(build("efficientnet"), batch()))
    halved = kinds(optimize(build("vision_transformer"), dtype="bfloat16", tolerance=0.1))
    # Elsewhere bfloat16 runs in torch's own layers.
    assert ({Attention, PackedLinear} <= halved) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert ({Attention, PackedLinear}.isdisjoint(halved)) != torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert Attention not in kinds(optimize(build("vision_transformer")))


def test_features_heads_and_early_stop() -> None:
    model = worn(build("regnet"))
    fast = optimize(model, batch())
    assert fast.block_names == model.block_names
    assert list(fast.get_heads()) == list(model.get_heads())
    for block in ("stem", "block1", "trunk_output"):
        wanted = model.features(batch(), [block])[block]
        assert torch.allclose(fast.features(batch(), [block])[block], wanted, atol=1e-4, rtol=1e-4), block
    ran: list[str] = []
    for name, part in fast.blocks.items():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    fast(batch())
    assert ran[-1].startswith("block2")


def test_features_stay_as_they_were() -> None:
    """No step writes over what an earlier one gave."""
    for family in FAMILIES:
        fast = optimize(build(family), batch())
        with torch.inference_mode():
            x = batch()
            steps = {}
            for name, feature in fast.walk(x):
                steps[name] = (feature, feature.clone())
            assert torch.equal(x, batch())
            for name, (feature, at_first) in steps.items():
                assert torch.equal(feature, at_first), (family, name)


def test_the_model_stays_as_it_was() -> None:
    model = build("regnet")
    state = copy.deepcopy(model.state_dict())
    model.blocks["block1-0"].eval()
    optimize(model, batch())
    with pytest.raises(ConfigError, match="differs"):
        optimize(model, batch(), dtype="bfloat16", tolerance=1e-12)
    assert model.training
    assert not model.blocks["block1-0"].training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.get_heads()["block1"][0].parameters())
    model.train()(batch())["early"].sum().backward()


def test_other_sizes() -> None:
    for options, size in (({"padding": "same"}, 37), ({"padding": "same"}, 64), ({}, 45)):
        model = worn(build("efficientnet", **options))
        fast = optimize(model, torch.randn(1, 3, 64, 64))
        x = torch.randn(2, 3, size, size)
        agree(fast(x), model(x), 1e-5)
    model = build("vision_transformer")
    fast = optimize(model, torch.randn(1, 3, 48, 32))
    for shape in ((48, 32), (32, 32), (64, 48)):
        x = torch.randn(2, 3, *shape)
        agree(fast(x), model(x), 1e-5)


def test_transformer_switches() -> None:
    for options in (
        {"layer_scale": 0.3},
        {"activation": "gelu_tanh"},
        {"activation": "swiglu"},
        {"activation": "quick_gelu"},
        {"qk_norm": True, "classifier": "gap"},
        {"feature_format": "map", "num_register_tokens": 2},
    ):
        head = "fully_connected"
        model = build("vision_transformer", head, **options)
        for dtype, bound in (("float32", 1e-5), ("bfloat16", 3e-2)):
            fast = optimize(model, batch(), dtype=dtype, tolerance=bound)
            agree(fast(batch(3)), model(batch(3)), bound)


def test_threads_share_a_model() -> None:
    for family in ("densenet", "vision_transformer"):
        fast = optimize(build(family), batch())
        assert small.wrong_answers(fast, calls=20) == [], family


def test_other_modules() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
    )
    model = ClassyModel.from_model(net, ["0", "1"], input_shape=(3, 32, 32))
    model.set_heads({"0": [FullyConnectedHead("a", 3)], "1": [FullyConnectedHead("b", 2)]})
    fast = optimize(worn(model), batch())
    assert not [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    agree(fast(batch(3)), model(batch(3)), 1e-5)


def test_forwards_that_cannot_be_read() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.mean() > 1e6 else x

    model = build("regnet").eval()
    model.blocks["block1-0"] = nn.Sequential(Odd(), model.blocks["block1-0"])
    fast = optimize(model, batch())
    assert fast.untraced == ("blocks.block1-0",)
    agree(fast(batch()), model(batch()), 1e-5)


def test_refuses_what_differs() -> None:
    model = build("regnet")
    with pytest.raises(ConfigError, match=r"head 'early' differs by .* allowed is tolerance = 1e-12"):
        optimize(model, batch(), dtype="bfloat16", tolerance=1e-12)
    model.get_heads()["block1"][0].fc.bias.data.fill_(torch.nan)
    with pytest.raises(ConfigError, match="head 'early' of the model itself is not finite"):
        optimize(model, batch())


def test_refuses_what_makes_no_sense() -> None:
    model = build("regnet")
    with pytest.raises(TypeError, match="optimize takes a ClassyModel"):
        optimize(nn.Linear(3, 3))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="'bfloat61'.*bfloat16"):
        optimize(model, dtype="bfloat61")
    with pytest.raises(ConfigError, match=r"a batch is needed.* \(0, 3, 32, 32\)"):
        optimize(model, batch()[:0])
    with pytest.raises(ConfigError, match="tolerance = -1: give a number above 0"):
        optimize(model, batch(), tolerance=-1)
    fast = optimize(model)
    model.lock = threading.Lock()
    with pytest.raises(ConfigError, match="RegNet cannot be copied: cannot pickle"):
        optimize(model)
    with pytest.raises(TypeError, match="not optimized"):
        optimize(fast)
    with pytest.raises(TypeError, match="for inference"):
        fast.train()
    with pytest.raises(TypeError, match="no weights to save"):
        fast.state_dict()
    with pytest.raises(TypeError, match="pickled or copied"):
        pickle.dumps(fast)
    with pytest.raises(TypeError, match="stays on its device"):
        fast.double()
    with pytest.raises(TypeError, match="keeps its heads"):
        fast.clear_heads()
    with pytest.raises(ValueError, match="takes images"):
        fast(torch.randn(2, 4, 32, 32))


def test_plain_copies_change_their_type() -> None:
    model = build("regnet").eval()
    fast = optimize(model, batch(), pack=False).double()
    agree(fast(batch().double()), model(batch()), 1e-5)


class WithSize(nn.Module):
    """Adds a number to what a convolution gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x.size(0) + x.shape[2]


class Excited(nn.Module):
    """Excitation with a layer that sees all channels."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.excite = nn.Sequential(nn.Conv2d(4, 2, 1), act, nn.Conv2d(2, 4, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.excite(x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("block", [WithSize(), Excited(nn.LayerNorm([2, 1, 1])), Excited(nn.Softmax(1))])
def test_what_only_looks_like_a_rule_stays(block: nn.Module) -> None:
    model = ClassyModel.from_model(nn.Sequential(block), blocks=["0"], input_shape=(3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(optimize(model, x)(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["densenet", "vision_transformer"])
def test_compiled(family: str) -> None:
    model = worn(build(family))
    fast = optimize(model, batch(), compile=True)
    with torch.inference_mode():
        agree(fast(batch(3)), model(batch(3)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet50", "regnet_y_400mf", "densenet121", "efficientnet_b0", "vit_b_16", "resnext50_32x4d"]
)
def test_whole_networks(name: str) -> None:
    torch.manual_seed(0)
    model = worn(build_model(name, num_classes=10))
    x = torch.randn(2, *model.input_shape)
    with torch.inference_mode():
        for dtype, bound in (("float32", 1e-4), ("bfloat16", 1e-1)):
            fast = optimize(model, x, dtype=dtype, tolerance=bound)
            assert torch.isfinite(fast(x)).all()
