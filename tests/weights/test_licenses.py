"""Licenses that restrict the use of published weights are shown when a model is built by their name."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from classy_vision.models import build_model
from classy_vision.weights.catalogue import names, published
from classy_vision.weights.licenses import PERMISSIVE, RESTRICTED, LicenseWarning, find_restriction

DINOV3 = "timm/vit_small_patch16_dinov3.lvd1689m"


def test_every_license_is_known() -> None:
    stated = {published(name).license for name in names()} - {None}
    assert stated <= PERMISSIVE | RESTRICTED.keys()
    assert not PERMISSIVE & RESTRICTED.keys()


@pytest.mark.parametrize(
    ("license", "restriction"),
    [
        ("mit", None),
        ("cc-by-nc-4.0", "non-commercial use only"),
        ("someone-else", "terms of its own, which limit use or distribution"),
        (None, "no license is stated"),
    ],
)
def test_restrictions(license: str | None, restriction: str | None) -> None:
    assert find_restriction(license) == restriction


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (DINOV3, f"dinov3-license .*huggingface.co/{DINOV3}$"),
        ("timm/vit_base_patch16_224.bamboo", "no stated license"),
        ("torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1", "cc-by-nc-4.0 .non-commercial use only.*vit_b_16_swag"),
    ],
)
def test_a_name_is_built(name: str, said: str) -> None:
    with torch.device("meta"), pytest.warns(LicenseWarning, match=said):
        build_model(name)


def test_permissive_licenses_are_not_mentioned() -> None:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        build_model("timm/resnet50.a1_in1k")


@pytest.mark.slow
def test_the_command_line_says_it_once_and_in_one_line() -> None:
    code = "import sys; from classy_vision.cli import main; sys.argv = ['classy', 'show', sys.argv[1]]; main()"
    done = subprocess.run([sys.executable, "-c", code, DINOV3], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: the weights {DINOV3!r} have the license dinov3-license")
    assert done.stderr.count("\n") == 1
