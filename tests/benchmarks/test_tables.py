"""Tables hold together with and without 16 bits, peers' modes and the original."""

from __future__ import annotations

import pytest

from benchmarks import inference, scaling, training
from benchmarks.original import NAME
from benchmarks.tables import geometric_mean, header

FP32 = {
    "ours, as it is": [10.0, 10.0],
    "ours, optimized fp32": [5.0, 5.0],
    "timm, as it is": [12.0, 12.0],
    "timm, channels last fp32": [8.0, 8.0],
    "timm, OpenVINO fp32": [5.5, 5.5],
}
ORIGINAL = {f"{NAME}, as it is": [11.0, 11.0], f"{NAME}, channels last fp32": [6.0, 6.0]}
BF16 = {"ours, optimized bf16": [2.0, 2.0], "timm, channels last bf16": [3.0, 3.0]}


def rows(table: str) -> list[list[str]]:
    """The first table's cells."""
    lines = table.strip().split("\n\n")[0].splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(cells) for cells in found} == {len(found[0])}
    return found


def test_header() -> None:
    assert header("", "ms", "ratio") == "|  | ms | ratio |\n|---|---:|---:|"
    assert header("", "mode", "ms", words=2).endswith("|---|---|---:|")


def test_geometric_mean() -> None:
    assert geometric_mean([1, 4]) == pytest.approx(2)


@pytest.mark.parametrize("types", [["fp32"], ["fp32", "bf16"]])
@pytest.mark.parametrize("original", [{}, ORIGINAL])
def test_inference(types: list[str], original: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "DTYPES", dict.fromkeys(types))
    times = {**FP32, **original, **(BF16 if "bf16" in types else {})}
    head, _, found, mean = rows(inference.table({"resnet50, batch 1": times}))
    at, means = dict(zip(head, found)), dict(zip(head, mean))
    assert at["torch's modes, fp32"] == "8.00 (timm, channels last)"
    assert at["engines, fp32"] == "5.50 (timm, OpenVINO)"
    assert at["ours, fp32"] == "5.00 (ours, optimized)"
    assert at.get("torch's modes, bf16") == ("3.00 (timm, channels last)" if "bf16" in types else None)
    ratios = {"engines": "1.10", "torch's modes": "1.60", "plain": "2.40", NAME: "1.20" if original else ""}
    for group, value in ratios.items():
        assert at[f"{group} / ours"] == value
        assert means[f"{group} / ours"] == (f"**{value}**" if value else "")


def test_inference_of_models_that_the_original_lacks() -> None:
    cases = {"resnet50": {**FP32, **BF16, **ORIGINAL}, "other": {**FP32, **BF16}}
    head, _, first, second, mean = rows(inference.table(cases))
    place = head.index(f"{NAME} / ours")
    assert [line[place] for line in (first, second, mean)] == ["1.20", "", "**1.20**"]


def test_training() -> None:
    found = [
        *[("ours", "plain", [10.0, 20.0], 2**20), ("timm", "plain", [20.0, 40.0], 3 * 2**20)],
        (NAME, "plain", [40.0, 80.0], 0),
        *[("ours", "compiled", [5.0, 5.0], 2**20), ("timm", "compiled", [5.0, 7.0], 2**20)],
    ]
    _, _, plain, compiled, mean = rows(training.table({"resnet50": found}))
    twice, four = "2.00 (2.00 to 2.00)", "4.00 (4.00 to 4.00)"
    assert plain == ["resnet50", "plain", "15", "30 (timm)", twice, "60", four, "1", "3", "3.00"]
    assert compiled[2:7] == ["5", "6 (timm)", "1.20 (1.10 to 1.30)", "", ""]
    assert mean[4:7] == ["**1.55**", "", "**4.00**"]


@pytest.mark.parametrize("native", [False, True])
def test_training_leaves_out_what_is_not_native(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "NATIVE_BF16", native)
    wanted = ["plain", "channels last", "channels last, bf16", "compiled", "compiled, bf16"]
    assert training.modes(True) == [mode for mode in wanted if native or "bf16" not in mode]
    assert "compiled" not in training.modes(False)


def test_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "DTYPES", dict.fromkeys(["fp32", "bf16"]))
    times = {("ours", "fp32"): [4.0], ("timm", "fp32"): [8.0], ("torchvision", "fp32"): [6.0]}
    times |= {("ours", "bf16"): [1.0], ("timm", "bf16"): [3.0]}
    words, ratios = scaling.cells(times)
    assert words[:3] == ["4.00", "6.00 (torchvision)", "1.50 (1.50 to 1.50)"]
    assert words[3:] == ["1.00", "3.00 (timm)", "3.00 (3.00 to 3.00)"]
    assert ratios == [1.5, 3.0]
