"""Each head alone: shapes, options and numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import (
    ClassyHead,
    FullyConnectedHead,
    FullyConvolutionalLinearHead,
    IdentityHead,
    MobileNetHead,
    VisionTransformerHead,
    build_head,
)

MAP = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
CLIP = torch.randn(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
TOKENS = MAP.flatten(2).transpose(1, 2)


def config(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "unique_id": "head", **options}


@pytest.mark.parametrize(
    "name", ["fully_connected", "fully_convolutional_linear", "vision_transformer_head", "mobilenet_head"]
)
@pytest.mark.parametrize("feature", [MAP, CLIP, TOKENS, MAP[:, :, 0, 0]], ids=["map", "clip", "tokens", "flat"])
def test_takes_the_features_of_any_family(name: str, feature: Tensor) -> None:
    head = build_head(config(name, num_classes=3, in_plane=6)).eval()
    assert head(feature).shape == (2, 3)


# -- fully connected


def test_fully_connected_is_linear_on_the_mean() -> None:
    head = FullyConnectedHead("head", 3, 6)
    wanted = MAP.mean((2, 3)) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head(MAP), wanted)
    torch.testing.assert_close(head(TOKENS), wanted)


def test_fully_connected_without_classes_gives_pooled_features() -> None:
    head = build_head(config("fully_connected", in_plane=6, num_classes=None))
    torch.testing.assert_close(head(MAP), MAP.mean((2, 3)))
    assert list(head.parameters()) == []


def test_fully_connected_normalizes() -> None:
    head = build_head(config("fully_connected", in_plane=6, normalize_inputs="l2"))
    torch.testing.assert_close(head(MAP).norm(dim=1), torch.ones(2))


def test_fully_connected_with_a_convolution() -> None:
    head = build_head(config("fully_connected", in_plane=6, num_classes=3, conv_planes=8, activation="silu"))
    assert [key for key in head.state_dict() if "running" not in key and "batches" not in key] == [
        "conv.weight",
        "bn.weight",
        "bn.bias",
        "fc.weight",
        "fc.bias",
    ]
    head.eval()
    hidden = torch.nn.functional.silu(head.bn(head.conv(MAP))).mean((2, 3))
    torch.testing.assert_close(head(MAP), head.fc(hidden))
    assert isinstance(FullyConnectedHead("a", 3, 6, 8, nn.Tanh()).activation, nn.Tanh)


def test_fully_connected_bias() -> None:
    assert FullyConnectedHead("a", 3, 6).fc.bias.abs().max() > 0
    assert FullyConnectedHead("a", 3, 6, zero_init_bias=True).fc.bias.abs().max() == 0
    with pytest.raises(ConfigError, match="zero_init_bias needs num_classes"):
        FullyConnectedHead("a", in_plane=6, zero_init_bias=True)


# -- fully convolutional linear


def test_convolutional_head_is_the_activation_averaged_over_positions() -> None:
    head = FullyConvolutionalLinearHead("a", 3, 6, pool_size=(2, 4, 4)).eval()
    pooled = torch.nn.functional.avg_pool3d(CLIP, (2, 4, 4), stride=1)
    assert pooled.shape[2:] == (2, 1, 2)
    logits = head.head_fcl.projection(pooled.permute(0, 2, 3, 4, 1))
    torch.testing.assert_close(head(CLIP), logits.softmax(-1).mean((1, 2, 3)))
    torch.testing.assert_close(head.train()(CLIP), logits.flatten(1))


@pytest.mark.parametrize(
    ("activation", "function"),
    [("softmax", lambda x: x.softmax(-1)), ("sigmoid", torch.sigmoid), ("identity", lambda x: x)],
)
def test_convolutional_head_activations(activation: str, function: Any) -> None:
    head = FullyConvolutionalLinearHead("a", 3, 6, activation_func=activation)
    logits = head(CLIP)
    torch.testing.assert_close(head.eval()(CLIP), function(logits))


def test_convolutional_head_dropout() -> None:
    torch.manual_seed(0)
    given = config("fully_convolutional_linear", num_classes=3, in_plane=6, use_dropout=True, dropout_ratio=0.5)
    kept = dict(given)
    head = build_head(given)
    assert given == kept
    assert len({head(CLIP).sum().item() for _ in range(20)}) > 1
    head.eval()
    assert torch.equal(head(CLIP), head(CLIP))


# -- vision transformer


def test_vision_transformer_head_starts_at_zero() -> None:
    head = VisionTransformerHead("a", 6, 3)
    assert head(MAP[:, :, 0, 0]).abs().max() == 0
    assert list(head.state_dict()) == ["layers.head.weight", "layers.head.bias"]


def test_vision_transformer_head_with_a_hidden_layer() -> None:
    head = VisionTransformerHead("a", 6, 3, hidden_dim=5, normalize_inputs="l2")
    nn.init.normal_(head.layers.head.weight)
    x = MAP[:, :, 0, 0]
    hidden = torch.tanh((x / x.norm(dim=1, keepdim=True)) @ head.layers.pre_logits.weight.T)
    torch.testing.assert_close(head(x), hidden @ head.layers.head.weight.T)


# -- mobilenet


def test_mobilenet_head_has_a_hidden_layer_after_the_mean() -> None:
    head = build_head(config("mobilenet_head", in_plane=6, num_classes=3, hidden_dim=5)).eval()
    hidden = torch.nn.functional.hardswish(head.hidden(MAP.mean((2, 3))))
    torch.testing.assert_close(head(MAP), head.fc(hidden))
    torch.testing.assert_close(build_head(head.to_config() | {"in_plane": 6})(MAP).shape, head(MAP).shape)
    given = config("mobilenet_head", in_plane=6, num_classes=None, hidden_dim=5, bias=False, norm=True)
    plain = build_head(given | {"activation": "relu"})
    assert list(plain.state_dict())[:3] == ["norm.weight", "norm.bias", "norm.running_mean"]
    wanted = plain.norm(plain.hidden(MAP.mean((2, 3)))).relu()
    torch.testing.assert_close(plain(MAP), wanted)
    assert isinstance(MobileNetHead("a", 3, 6).activation, nn.Hardswish)


def test_without_classes_the_features_pass() -> None:
    assert torch.equal(VisionTransformerHead("a", 6)(MAP[:, :, 0, 0]), MAP[:, :, 0, 0])
    assert IdentityHead("a")(MAP) is MAP


def test_choices_are_checked_in_code_too() -> None:
    with pytest.raises(ConfigError, match="unknown normalize_inputs 'L2'; did you mean 'l2'"):
        FullyConnectedHead("a", 3, 6, normalize_inputs="L2")
    with pytest.raises(ConfigError, match="unknown normalize_inputs 'l1'"):
        VisionTransformerHead("a", 6, 3, normalize_inputs="l1")
    with pytest.raises(ConfigError, match="unknown activation_func 'softmx'; did you mean 'softmax'"):
        FullyConvolutionalLinearHead("a", 3, 6, activation_func="softmx")


# -- building


def test_abstract_and_default_name() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ClassyHead("a")
    assert IdentityHead().unique_id == "IdentityHead"
    assert IdentityHead(4).unique_id == "4"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unique_id": "a"}, "key 'name' is required"),
        ({"name": "identity"}, "key 'unique_id' is required"),
        (config("fully_conected"), "unknown head 'fully_conected'; did you mean 'fully_connected'?"),
        (config("fully_connected", numclasses=3), "unknown key 'numclasses'; did you mean 'num_classes'?"),
        (config("fully_connected", num_classes=0), "num_classes = 0: input should be greater than 0"),
        (config("fully_connected", activation="tanh"), "should be 'relu', 'silu'"),
        (config("fully_connected", normalize_inputs="l1"), "normalize_inputs = 'l1'"),
        (config("fully_convolutional_linear", in_plane=6), "key 'num_classes' is required"),
        (config("fully_convolutional_linear", num_classes=3, pool_size=[1, 7]), "pool_size"),
        (config("fully_convolutional_linear", num_classes=3, activation_func="tanh"), "activation_func"),
        (config("identity", num_classes=2.5), "num_classes = 2.5"),
        ({"name": "identity", "unique_id": "a.b"}, "unique_id 'a.b' cannot be used"),
        ({"name": "identity", "unique_id": "keys"}, "try 'keys_head'"),
    ],
)
def test_bad_configs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_head(given)
    assert message in str(error.value)
