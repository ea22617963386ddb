"""The shared layers."""

from __future__ import annotations

import pytest
import torch

from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import ConvFactory
from classy_vision.layers.lecun_normal_init import lecun_normal_init
from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer
from classy_vision.layers.stochastic_depth import StochasticDepth, depth_rates, efficientnet_rates


def test_stochastic_depth_drops_samples_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.25)
    x = torch.ones(4000, 2, 1, 1)
    out = layer(x)
    assert out.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(out[:, 0], out[:, 1])  # whole samples
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    assert layer.eval()(x) is x


def test_depth_rates_rise_linearly_to_the_last() -> None:
    assert depth_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert depth_rates(0.3, 1) == [0.3]
    assert depth_rates(0.3, 0) == []
    assert efficientnet_rates(0.2, 4) == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_squeeze_and_excitation() -> None:
    x = torch.randn(2, 8, 3, 3)
    layer = SqueezeAndExcitationLayer(8, reduction_ratio=4)
    gate = layer.excitation(x.mean((2, 3), keepdim=True))
    assert layer.excitation[0].out_channels == 2
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(layer(x), x * gate)
    assert SqueezeAndExcitationLayer(8, None, 3).excitation[0].out_channels == 3


@pytest.mark.parametrize("widths", [(None, None), (4, 2), (16, None), (None, 0)])
def test_squeeze_and_excitation_widths(widths: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="reduction_ratio="):
        SqueezeAndExcitationLayer(8, *widths)


def test_bricks_share_norm_and_activation() -> None:
    conv = ConvFactory(ActivationType.SILU, 1e-3, 0.01)
    layer = conv(3, 8, 3, 2)
    assert list(layer._modules) == ["conv", "norm", "act"]
    assert (layer.norm.eps, layer.norm.momentum) == (1e-3, 0.01)
    assert layer(torch.zeros(1, 3, 5, 7)).shape == (1, 8, 3, 4)
    assert list(conv(3, 8, 1, norm=False, act=False)._modules) == ["conv"]


def test_activation_names_in_any_case() -> None:
    assert ActivationType("SiLU") is ActivationType.SILU
    assert type(new_activation("RELU")) is torch.nn.ReLU
    with pytest.raises(ValueError, match="tanh"):
        new_activation("tanh")


def test_lecun_normal_init() -> None:
    torch.manual_seed(0)
    weight = torch.empty(200, 100)
    lecun_normal_init(weight, fan_in=100)
    assert weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert weight.abs().max() <= 2
