"""Tasks with a label for each pixel: their losses and metrics, and runs beside tasks of whole images."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch.nn.functional import cross_entropy, huber_loss, interpolate

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel
from classy_vision.train import TrainConfig, figures, resume, train
from classy_vision.train import run as loop
from classy_vision.train.config import TaskConfig
from classy_vision.train.job import prepare
from classy_vision.train.tasks import KINDS, Task, extended_log
from tests.train.command import TORCHRUN, head, write
from tests.train.dense import CLASSES, SIDE, dense, dense_job, make_dense_table, register


@pytest.fixture(autouse=True)
def _head() -> None:
    register()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without figures, which take longer than these runs."""
    for name in ("draw_curves", "draw_predictions"):
        monkeypatch.setattr(figures, name, lambda *_: b"")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return make_dense_table(tmp_path)


def settings(table: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.parse(dense_job(table, **sections))


def task(kind: str, **options: Any) -> Task:
    classes = {"classes": ("a", "b", "c")} if kind == "segmentation" else {}
    return KINDS[kind]("head", TaskConfig(kind=kind, **classes, **options))


CODES = torch.tensor([[[0, 1], [2, 255]], [[255, 255], [255, 255]], [[1, 1], [1, 1]]], dtype=torch.uint8)
NUMBERS = torch.tensor([[[1.0, 2.0], [4.0, math.nan]], [[math.nan] * 2] * 2, [[2.0, 2.0], [2.0, 2.0]]])


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "cross_entropy+dice"])
@pytest.mark.parametrize("size", [2, 1, 4])
def test_masks_without_labels_cost_nothing(loss: str, size: int) -> None:
    of = task("segmentation", loss=loss)
    outputs = torch.randn(3, 3, size, size, requires_grad=True)
    assert of.valid(CODES).tolist() == [True, False, True]
    losses = of.training_losses(outputs, CODES)
    losses.sum().backward()
    assert outputs.grad is not None
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0).all()
    assert outputs.grad[1].abs().sum() == 0
    assert outputs.grad[0].abs().sum() > 0


def test_losses_of_masks_are_the_usual_ones() -> None:
    """As torch's, and as the definition of the Dice coefficient; outputs of another size are resized."""
    outputs = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    wanted = CODES.long()
    resized = interpolate(outputs, (2, 2), mode="bilinear", align_corners=False)
    found = task("segmentation").losses(outputs, CODES)
    for n in (0, 2):
        expected = cross_entropy(resized[n : n + 1], wanted[n : n + 1], ignore_index=255)
        torch.testing.assert_close(found[n], expected)
    dice = task("segmentation", loss="dice").losses(outputs, CODES)
    likely = resized.softmax(1)
    ones = likely[2, 1].sum()
    torch.testing.assert_close(dice[2], 1 - 2 * ones / (ones + 4))  # the only class in that image
    both = task("segmentation", loss="cross_entropy+dice").losses(outputs, CODES)
    torch.testing.assert_close(both, found + dice)
    perfect = torch.nn.functional.one_hot(CODES.long().clamp(max=2), 3).movedim(3, 1) * 100.0
    assert task("segmentation", loss="dice").losses(perfect, CODES).abs().max() < 1e-6


def test_weights_of_classes_multiply_losses_in_training() -> None:
    outputs = torch.randn(3, 3, 2, 2)
    of = task("segmentation", class_weights={"b": 3.0})
    plain = of.losses(outputs, CODES)
    torch.testing.assert_close(of.training_losses(outputs, CODES)[2], 3 * plain[2])
    image = task("classification", classes=("a", "b"), class_weights={"b": 3.0})
    logits, labels = torch.randn(3, 2), torch.tensor([0, 1, -100])
    quotients = image.training_losses(logits, labels)[:2] / image.losses(logits, labels)[:2]
    torch.testing.assert_close(quotients, torch.tensor([1.0, 3.0]))
    balanced = task("classification", classes=("a", "b", "c"), class_weights="balanced")
    known = balanced.with_statistics(lambda: torch.tensor([0, 0, 0, 1, -100]), False)
    assert known.config.class_weights == {"a": 4 / 9, "b": 4 / 3}  # n / (k n_c); "c" is not there


@pytest.mark.parametrize("loss", ["l1", "huber", "scale_invariant"])
def test_losses_of_maps(loss: str) -> None:
    of = task("dense_regression", loss=loss, mean=1.0, std=2.0)
    outputs = torch.rand(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    losses = of.losses(outputs, NUMBERS.double())
    losses.sum().backward()
    assert losses[1] == 0
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert outputs.grad[0, 0, 1, 1] == 0 == outputs.grad[1].abs().sum()
    said, true = outputs.detach()[0, 0].flatten()[:3] * 2 + 1, NUMBERS[0].flatten()[:3].double()
    apart = said.log() - true.log()
    expected = {
        "l1": ((said - true) / 2).abs().mean(),
        "huber": huber_loss(said / 2, true / 2),
        "scale_invariant": apart.square().mean() - apart.mean().square() / 2,
    }[loss]
    torch.testing.assert_close(losses[0].detach(), expected)


def test_numbers_below_zero_have_a_logarithm_to_learn_by() -> None:
    x = torch.tensor([-5.0, 0.0, 5e-4, 2.0], requires_grad=True)
    found = extended_log(x)
    found.sum().backward()
    assert x.grad is not None
    assert (x.grad > 0).all()
    assert (found.diff() > 0).all()
    assert found[3].item() == pytest.approx(math.log(2))


def measure(of: Task, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, metric in of.metrics().items():
        for n in range(len(outputs)):  # in parts
            if of.valid(targets[n : n + 1]).item():
                metric.update(*of.comparable(outputs[n : n + 1], targets[n : n + 1]))
        found |= metric.compute_all(name)
    return found


def test_metrics_of_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (3, 8, 8), generator=generator).to(torch.uint8)
    outputs = torch.randn(3, 3, 8, 8, generator=generator)
    targets[0, :4] = 255
    found = measure(task("segmentation"), outputs, targets)
    known = targets != 255
    true, said = targets[known], outputs.argmax(1)[known]
    for code, value in enumerate(jaccard_score(true, said, average=None)):
        assert found[f"IoU/{'abc'[code]}"] == pytest.approx(value)
    assert found["mIoU"] == pytest.approx(jaccard_score(true, said, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx((true == said).double().mean().item())


def test_a_class_that_is_never_there_is_left_out_of_the_mean() -> None:
    outputs = torch.zeros(1, 3, 2, 2)
    outputs[:, 1] = 9
    found = measure(task("segmentation"), outputs, torch.tensor([[[1, 1], [1, 0]]]))
    assert found["IoU/b"] == 0.75
    assert found["IoU/a"] == 0
    assert math.isnan(found["IoU/c"])
    assert found["mIoU"] == 0.375


def test_metrics_of_maps() -> None:
    targets = torch.tensor([[[1.0, 2.0], [0.0, math.nan]]])
    found = measure(task("dense_regression"), torch.tensor([[[[1.2, 1.0], [3.0, 9.0]]]]), targets)
    assert found == pytest.approx(
        {"rmse": math.sqrt((0.04 + 1 + 9) / 3), "abs_rel": (0.2 + 0.5) / 2, "delta1": 0.5}, rel=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "segmentation", "loss": "l1"}, "loss = 'l1' is not one of segmentation: cross_entropy, dice"),
        (
            {"kind": "multilabel", "loss": "dice"},
            "loss = 'dice' is not one of multilabel: bce, focal",
        ),
        ({"kind": "dense_regression", "classes": ["a"]}, "dense_regression has no classes"),
        ({"kind": "regression", "ignore_index": 0}, "ignore_index is for segmentation, not for regression"),
        (
            {"kind": "regression", "class_weights": "balanced"},
            "class_weights is for classification and segmentation",
        ),
        ({"kind": "segmentation", "class_weights": {"a": -1.0}}, "class_weights"),
        ({"kind": "segmentations"}, "segmentation"),
    ],
)
def test_options_are_of_their_kinds(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskConfig.parse(options, "tasks.x")


# -- runs


def test_masks_maps_and_classes_are_learned_together(table: Path, tmp_path: Path) -> None:
    config = settings(table, schedule={"epochs": 12, "batch_size": 4}, data={"augment": "crop"})
    final = train(config, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"]
    for name in ("mask", "depth", "left"):
        assert final[f"train/{name}/loss"] < history[0][f"train/{name}/loss"]
    assert final["val/mask/mIoU"] > 0.6
    assert final["val/mask/pixel_accuracy"] > 0.75
    assert {f"val/mask/IoU/{name}" for name in CLASSES} < set(final)
    assert final["val/depth/rmse"] < 0.5  # metres; the map has 1, 1.5 and 2, and 0 for none
    assert final["val/depth/delta1"] > 0.5
    with Image.open(tmp_path / "run" / "predictions.png") as picture:
        assert picture.size[0] > 100


@pytest.mark.usefixtures("quick")
def test_a_trained_head_says_numbers_in_the_units_of_the_map(table: Path, tmp_path: Path) -> None:
    config = settings(table, schedule={"epochs": 1})
    ready = prepare(config)
    mean, std = ready.tasks["depth"].config.mean, ready.tasks["depth"].config.std
    assert mean is not None
    assert std is not None
    assert 1 < mean < 2
    assert 0.2 < std < 0.6
    assert prepare(ready.settings).settings == ready.settings
    train(config, tmp_path / "run")
    model = ClassyModel.from_checkpoint(tmp_path / "run").eval()
    with torch.no_grad():
        said = model(torch.randn(2, 3, SIDE, SIDE))["depth"]
    assert 0.5 < said.mean() < 3


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_stopped_goes_on_to_the_same_numbers(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(settings(table, data={"augment": "crop"}), tmp_path / "whole")
    evaluate, calls = loop.Trainer._evaluate, []

    def stop_later(trainer: Any) -> Any:
        calls.append(trainer)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_evaluate", stop_later)
        with pytest.raises(KeyboardInterrupt):
            train(settings(table, data={"augment": "crop"}), tmp_path / "run")
    again = resume(tmp_path / "run")
    for times in ("seconds", "images_per_second"):
        again[times] = whole[times]
    assert again == whole


@pytest.mark.slow
def test_two_processes_read_the_same_masks(table: Path, tmp_path: Path) -> None:
    """With a head that this test's processes know: the map of the only channel of a block."""
    config = settings(table).model_dump(mode="json")
    script = tmp_path / "job.py"
    write(tmp_path / "job.json", config)
    script.write_text(
        "import json, sys\nfrom tests.train.dense import register\nregister()\n"
        "from classy_vision.train import TrainConfig, train\n"
        "train(TrainConfig.parse(json.load(open(sys.argv[1]))), sys.argv[2])\n"
    )
    one = train(settings(table), tmp_path / "one")
    done = subprocess.run(
        [sys.executable, *TORCHRUN, script, tmp_path / "job.json", tmp_path / "two"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())["final"]
    for times in ("seconds", "images_per_second"):
        one[times] = two[times]
    assert two == pytest.approx(one, rel=2e-2)


@pytest.mark.usefixtures("quick")
def test_a_folder_of_images_and_one_of_masks(tmp_path: Path) -> None:
    make_dense_table(tmp_path)
    for n in range(16):
        split = "val" if n % 4 == 0 else "train"
        for folder, name, new in (("img", f"{n}.png", f"{n}.png"), ("masks", f"{n}.mask.png", f"{n}.png")):
            (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / name).rename(tmp_path / folder / split / new)
    config = dense_job(tmp_path / "no.csv")
    config["data"] = {
        "source": "folder",
        "root": str(tmp_path / "img"),
        "masks": str(tmp_path / "masks"),
        "image_size": SIDE,
    }
    config["model"]["heads"] = [dense("mask")]
    config["tasks"] = {"mask": config["tasks"]["mask"]}
    ready = prepare(TrainConfig.parse(config))
    assert list(ready.records.columns) == ["mask"]
    assert ready.targets["mask"].all()
    assert train(TrainConfig.parse(config), tmp_path / "run")["val/mask/mIoU"] > 0
    (tmp_path / "masks" / "train" / "1.png").unlink()
    with pytest.raises(
        ConfigError, match=r"1 of 16 images have no mask in data.masks, the first is .*train/1.png"
    ):
        prepare(TrainConfig.parse(config))


# -- what is wrong is said before work is done


def broken(table: Path, number: int, values: Any) -> None:
    Image.fromarray(np.asarray(values)).save(table.parent / f"{number}.mask.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t.parent / "1.mask.png").unlink(), "1 of 14 masks do not exist, the first is .*1.mask.png"),
        (lambda t: broken(t, 1, np.zeros((9, 8), np.uint8)), "8x9 pixels, but the image has 16x16"),
        (lambda t: broken(t, 0, np.zeros((SIDE, SIDE, 3), np.uint8)), "3 channels, where a mask has one"),
        (lambda t: broken(t, 0, np.full((SIDE, SIDE), 3, np.uint8)), "has class 3, but there are 3 classes"),
        (
            lambda t: [broken(t, n, np.full((SIDE, SIDE), 255, np.uint8)) for n in range(16)],
            "no pixel of the 10 masks of the training split has a label: all of them are ignore_index = 255",
        ),
    ],
)
def test_masks_that_cannot_be_learned(table: Path, change: Any, message: str) -> None:
    change(table)
    with pytest.raises(ConfigError, match=message):
        train(settings(table), table.parent / "run")
    assert not (table.parent / "run").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"mask": {"classes": None}}, "tasks.mask: a segmentation needs classes"),
        ({"mask": {"classes": ["one"]}}, "only one class"),
        (
            {"mask": {"class_weights": {"rde": 2.0}}},
            "tasks.mask.class_weights: unknown class 'rde'; did you mean 'red'",
        ),
        ({"mask": {"target": "depht"}}, "did you mean 'depth'"),
    ],
)
def test_settings_that_do_not_fit(table: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(settings(table, **sections))


def test_answers_for_pixels_are_not_averaged_over_crops(table: Path) -> None:
    config = settings(table)
    crops = config.data.model_copy(update={"crops": 3})
    with pytest.raises(ConfigError, match=r"tasks.mask: segmentation has an answer .* data.crops = 3 averages"):
        prepare(config.model_copy(update={"data": crops}))


def test_heads_that_do_not_fit(table: Path) -> None:
    config = dense_job(table)
    config["model"]["heads"][0] = head("mask")
    with pytest.raises(ConfigError, match=r"head 'mask' gives \(3,\) .* its task needs \(3, h, w\), a map"):
        prepare(TrainConfig.parse(config))
    config = dense_job(table)
    config["model"]["heads"][2] = dense("left")
    with pytest.raises(ConfigError, match=r"its task needs 3 numbers"):
        prepare(TrainConfig.parse(config))


@pytest.mark.usefixtures("quick")
def test_a_mask_that_is_lost_during_a_run_is_named_and_nothing_is_lost(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = table.parent / "1.mask.png"
    run_epoch = loop.Trainer.run_epoch

    def lose(trainer: Any, epoch: int, progress: Any = None) -> Any:
        if epoch == 1:
            lost.rename(tmp_path / "kept")
        return run_epoch(trainer, epoch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "run_epoch", lose)
        with pytest.raises(ConfigError, match=r"1.mask.png: no such file. It is the mask of .*1.png"):
            train(settings(table), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"1.mask.png"):
        resume(tmp_path / "run")
    (tmp_path / "kept").rename(lost)
    whole = train(settings(table), tmp_path / "whole")
    again = resume(tmp_path / "run")
    for times in ("seconds", "images_per_second"):
        again[times] = whole[times]
    assert again == whole


@pytest.mark.usefixtures("quick")
def test_an_unreadable_mask_can_be_skipped(table: Path, tmp_path: Path) -> None:
    (table.parent / "1.mask.png").write_bytes(b"no mask")
    final = train(settings(table, data={"on_bad_image": "skip"}), tmp_path / "run")
    assert math.isfinite(final["train/mask/loss"])
    with pytest.raises(ConfigError, match=r"1.mask.png.*It is the mask of"):
        train(settings(table), tmp_path / "other")
