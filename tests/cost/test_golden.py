"""The costs of every preset: exactly those of the last release, and those that others have published."""

from __future__ import annotations

from decimal import Decimal

import pytest

from classy_vision.cost import OnMeta, count
from classy_vision.models import build_model
from classy_vision.presets import known_costs
from classy_vision.weights import catalogue
from docs._ext.costs import REASONS, TOLERANCE, comparisons, published
from tests.cost.golden import PRESETS, as_data, costs

GOLDEN = known_costs()

# name: GMACs, million parameters, as printed.
# Radosavovic et al., 2020, tables 5 and 6 and the model zoo of pycls.
REGNET = {
    "regnet_x_200mf": ("0.2", "2.7"),
    "regnet_x_400mf": ("0.4", "5.2"),
    "regnet_x_600mf": ("0.6", "6.2"),
    "regnet_x_800mf": ("0.8", "7.3"),
    "regnet_x_1.6gf": ("1.6", "9.2"),
    "regnet_x_3.2gf": ("3.2", "15.3"),
    "regnet_x_4gf": ("4.0", "22.1"),
    "regnet_x_6.4gf": ("6.5", "26.2"),
    "regnet_x_8gf": ("8.0", "39.6"),
    "regnet_x_12gf": ("12.1", "46.1"),
    "regnet_x_16gf": ("15.9", "54.3"),
    "regnet_x_32gf": ("31.7", "107.8"),
    "regnet_y_200mf": ("0.2", "3.2"),
    "regnet_y_400mf": ("0.4", "4.3"),
    "regnet_y_600mf": ("0.6", "6.1"),
    "regnet_y_800mf": ("0.8", "6.3"),
    "regnet_y_1.6gf": ("1.6", "11.2"),
    "regnet_y_3.2gf": ("3.2", "19.4"),
    "regnet_y_4gf": ("4.0", "20.6"),
    "regnet_y_6.4gf": ("6.4", "30.6"),
    "regnet_y_8gf": ("8.0", "39.2"),
    "regnet_y_12gf": ("12.1", "51.8"),
    "regnet_y_16gf": ("15.9", "83.6"),
    "regnet_y_32gf": ("32.3", "145.0"),
}
# The model pages of torchvision 0.28.
RESNET = {
    "resnet18": ("1.81", "11.69"),
    "resnet34": ("3.66", "21.80"),
    "resnet50": ("4.09", "25.56"),
    "resnet101": ("7.80", "44.55"),
    "resnet152": ("11.51", "60.19"),
    "resnext50_32x4d": ("4.23", "25.03"),
    "resnext101_32x8d": ("16.41", "88.79"),
    "resnext101_64x4d": ("15.46", "83.46"),
    "wide_resnet50_2": ("11.40", "68.88"),
    "wide_resnet101_2": ("22.75", "126.89"),
}
# The same, without efficientnet_b2, which torchvision runs on larger images.
OTHERS = {
    "densenet121": ("2.83", "7.98"),
    "densenet161": ("7.73", "28.68"),
    "densenet169": ("3.36", "14.15"),
    "densenet201": ("4.29", "20.01"),
    "efficientnet_b0": ("0.39", "5.29"),
    "efficientnet_b1": ("0.69", "7.79"),
    "efficientnet_b3": ("1.83", "12.23"),
    "efficientnet_b4": ("4.39", "19.34"),
    "efficientnet_b5": ("10.27", "30.39"),
    "efficientnet_b6": ("19.07", "43.04"),
    "efficientnet_b7": ("37.75", "66.35"),
    "efficientnet_v2_s": ("8.366", "21.458488"),
    "efficientnet_v2_m": ("24.582", "54.139356"),
    "efficientnet_v2_l": ("56.080", "118.515272"),
    "mnasnet0_5": ("0.104", "2.218512"),
    "mnasnet0_75": ("0.215", "3.170208"),
    "mnasnet1_0": ("0.314", "4.383312"),
    "mnasnet1_3": ("0.526", "6.282256"),
    "mobilenet_v2": ("0.301", "3.504872"),
    "mobilenet_v3_large": ("0.217", "5.483032"),
    "mobilenet_v3_small": ("0.057", "2.542856"),
    "vit_b_16": ("17.564", "86.567656"),
    "vit_b_32": ("4.409", "88.224232"),
    "vit_h_14": ("167.295", "632.045800"),
    "vit_l_16": ("61.555", "304.326632"),
    "vit_l_32": ("15.378", "306.535400"),
}
PRINTED = {**REGNET, **RESNET, **OTHERS}


def test_every_preset_has_a_row() -> None:
    assert sorted(GOLDEN) == sorted(PRESETS), "run: python -m tests.cost.golden"


@pytest.mark.parametrize("preset", PRESETS)
def test_costs(preset: str) -> None:
    found = costs(preset)
    assert as_data(found) == GOLDEN[preset]
    assert (found.unread, found.uncounted) == (0, ())


@pytest.mark.parametrize("preset", PRINTED)
def test_printed_costs(preset: str) -> None:
    for printed, number, unit in zip(
        PRINTED[preset], (GOLDEN[preset]["macs"], GOLDEN[preset]["params"]), (9, 6)
    ):
        last_digit = Decimal(1).scaleb(Decimal(printed).as_tuple().exponent)
        # Papers round some numbers up and cut off others.
        assert abs(Decimal(number).scaleb(-unit) - Decimal(printed)) < last_digit


# Nobody has published what these take.
UNPUBLISHED = {"regnet_y_256gf_seer", "regnet_y_10b_seer", "efficientnet_b8"}
CLIPS = {"slow_r50", "slow_r101", "c2d_r50", "i3d_r50", "r2plus1d_34", "csn_r101", "ir_csn_50", "ir_csn_152"}


@pytest.mark.parametrize("source", published())
def test_published_costs(source: str) -> None:
    rows = [row for row in comparisons() if row[0] == source]
    assert rows
    wrong = {
        (preset, metric): (theirs, ours)
        for _, preset, metric, theirs, ours in rows
        if abs(ours / theirs - 1) > TOLERANCE and (source, preset) not in REASONS
    }
    assert wrong == {}


def test_every_preset_is_held_against_something() -> None:
    known = {preset for entry in published().values() for preset in entry["rows"]}
    # Of these the parameters are those of a published file: see tests.peers.catalogue.
    known |= {catalogue.published(name).config["name"] for name in catalogue.names()}
    assert {*PRESETS} - known - UNPUBLISHED - CLIPS == set()


@pytest.mark.parametrize("reason", REASONS)
def test_reasons_are_needed(reason: tuple[str, str]) -> None:
    found = [abs(ours / theirs - 1) for *key, _, theirs, ours in comparisons() if tuple(key) == reason]
    assert max(found) > TOLERANCE / 2


# The model zoo of pytorchvideo: GFLOPs and million parameters for 400 classes and clips of 256 x 256 pixels.
VIDEO = {
    "slow_r50": (54.52, 32.45, 0),
    # These were counted with batch norms, at 5 operations for each number.
    "c2d_r50": (25.89, 24.33, 5),
    "i3d_r50": (37.53, 28.04, 5),
    "csn_r101": (75.62, 22.21, 5),
}


@pytest.mark.parametrize("preset", VIDEO)
def test_costs_of_video_models(preset: str) -> None:
    gigaflops, params, per_norm = VIDEO[preset]
    with OnMeta():
        model = build_model(preset, num_classes=400).eval()
    c, frames, *_ = model.input_shape
    found = count(model, (c, frames, 256, 256))
    assert found.params / 1e6 == pytest.approx(params, rel=0.001)
    assert (found.macs + per_norm * found.activations) / 1e9 == pytest.approx(gigaflops, rel=0.001)
