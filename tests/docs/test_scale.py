"""What embedding costs at any scale follows from the steps."""

from __future__ import annotations

import pytest

from docs._ext import scale
from docs._ext.scale import CLUSTERS, NAMES, estimate, read, show_time


def test_a_gpu_and_the_cores_beside_it_overlap() -> None:
    one, eight = (estimate("regnet_y_400mf", CLUSTERS[n]) for n in (0, 1))
    assert one.all == min(one.model, one.decode)
    assert eight.all == pytest.approx(8 * one.all)
    assert one.model == pytest.approx(13729.83 / 2)


def test_cores_do_one_after_the_other() -> None:
    steps = read()
    found = estimate("vit_s_16", CLUSTERS[3])
    spent = min(steps["models"]["vit_s_16"][f"{engine} ms"] for engine in ("plain", "openvino"))
    spent += steps["decode"]["500 × 375"]["reduced ms"] + steps["row us"] / 1e3
    assert found.all == pytest.approx(16 * 1e3 / spent)
    assert found.limit == "the model"


def test_large_images_move_the_limit_to_decoding() -> None:
    limits = [estimate("vit_l_16", CLUSTERS[0], size).limit for size in ("256 × 256", "4000 × 3000")]
    assert limits[0] == "the model"
    assert (
        estimate("vit_l_16", CLUSTERS[0], "4000 × 3000", "full").decode
        < estimate("vit_l_16", CLUSTERS[0], "4000 × 3000").decode
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(59, "59 s"), (180, "3.0 min"), (3600, "60.0 min"), (7200, "2.0 h"), (2e5, "2.3 days")],
)
def test_times_are_shown_in_their_unit(seconds: float, shown: str) -> None:
    assert show_time(seconds) == shown


def test_every_model_is_in_every_table() -> None:
    assert read()["models"].keys() == NAMES.keys() == scale.PUBLISHED.keys()
    for text in (scale.models(), scale.times()):
        assert all(name in text for name in NAMES.values())
