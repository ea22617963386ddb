"""Runs in this process: every option does what it says."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from classy_vision.config import ConfigError, OperationError
from classy_vision.data.preprocessing import Preprocessing
from classy_vision.evaluate import evaluate
from classy_vision.models import AnyNet, ClassyModel
from classy_vision.predict import Predictor
from classy_vision.train import TrainConfig, load_settings, resume, train
from classy_vision.train import run as loop
from classy_vision.train.job import prepare
from classy_vision.train.run import Trainer
from classy_vision.train.run_folder import RunFolder
from tests.models.small import FAMILIES
from tests.train.command import SMALL_TRUNK, classy, clips_job, head, job, write
from tests.train.conftest import make_table
from tests.train.double import in_float64

HEADS = head("colour"), head("tags", "block1"), head("light", "block1")
TASKS = {"colour": {}, "tags": {"kind": "multilabel"}, "light": {"kind": "regression"}}


def settings(table: Path, **sections: Any) -> TrainConfig:
    data = {"source": "table", "file": str(table), **sections.pop("data", {})}
    return TrainConfig.parse(job(data, *HEADS, tasks=TASKS, **sections))


def test_three_crops_are_averaged_in_evaluation(table: Path, tmp_path: Path) -> None:
    """By the run itself, by ``classy evaluate``, and by hand."""
    rng = np.random.default_rng(0)
    for path in table.parent.glob("*.png"):
        noise = Image.fromarray(rng.integers(0, 256, (8, 24, 3), dtype=np.uint8))
        Image.blend(Image.open(path).resize((24, 8)), noise, 0.5).save(path)
    config = settings(table, data={"crops": 3}, schedule={"epochs": 2, "batch_size": 6})
    final = train(config, tmp_path / "run")
    model, data = (
        ClassyModel.from_checkpoint(tmp_path / "run").eval(),
        RunFolder(tmp_path / "run").settings().data,
    )
    see = Preprocessing(data.model_copy(update={"crops": 1}))
    losses = []
    for path, _, colour, *_ in csv.reader(line for line in table.read_text().split() if ",val," in line):
        image = Image.open(table.parent / path)
        crops = [see.normalize(image.crop((left, 0, left + 8, 8))) for left in (0, 8, 16)]
        likely = model(torch.tensor(np.stack(crops)))["colour"].softmax(1).mean(0)
        losses += [-likely[("blue", "lime", "red").index(colour)].log().item()] if colour else []
    assert final["val/colour/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    measured = evaluate(tmp_path / "run").as_dict()["heads"]["light"]["metrics"]
    assert measured["mae"] == pytest.approx(final["val/light/mae"], rel=1e-4)


def test_two_processes_share_missing_labels(table: Path, tmp_path: Path) -> None:
    lines = table.read_text().replace(",val,blue", ",val,").replace(",val,red", ",val,")
    table.write_text(lines)  # one label is left, so that only one process sees any
    config = write(tmp_path / "job.json", settings(table).model_dump(mode="json"))
    done = classy("train", config, "--output", tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr
    one = train(settings(table), tmp_path / "one")
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())["final"]
    for times in ("seconds", "images_per_second"):
        one[times] = two[times]
    assert two == pytest.approx(one, rel=1e-3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    train(settings(make_table(root)), root / "run")
    return root / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_three_kinds_of_tasks_with_missing_labels(table: Path, tmp_path: Path) -> None:
    final = train(settings(table, schedule={"epochs": 12, "batch_size": 6}), tmp_path / "run")
    assert final["val/colour/accuracy"] == 1
    assert {"val/tags/mAP", "val/tags/f1", "val/light/mae", "val/light/r2"} < set(final)
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"][0]
    for name in ("colour", "tags", "light"):
        assert final[f"train/{name}/loss"] < first[f"train/{name}/loss"]


def test_the_loss_of_what_was_held_out_has_no_smoothing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A perfect answer costs nothing."""
    config = settings(table, schedule={"epochs": 1})
    tasks = {**config.tasks, "colour": config.tasks["colour"].model_copy(update={"label_smoothing": 0.1})}

    def perfect(model: Any, views: torch.Tensor, tasks: Any) -> dict[str, torch.Tensor]:
        colour = 20 * torch.nn.functional.one_hot(views.mean((1, 3, 4)).argmax(1), 3)[:, [2, 1, 0]]
        return {**run_views(model, views, tasks), "colour": colour.float()}

    run_views = loop.run_views
    monkeypatch.setattr(loop, "run_views", perfect)
    final = train(config.model_copy(update={"tasks": tasks}), table.parent / "run")
    assert final["train/colour/loss"] > 1
    assert final["val/colour/loss"] < 0.01


@pytest.mark.parametrize(
    "schedule",
    [
        {"optimizer": "sgd"},
        {"clip_grad_norm": 1e-4},
        {"weight_decay": 3.0},
        {"seed": 1},
        {"mixed_precision": "bf16"},
        {"warmup_epochs": 1},
        {"momentum": 0.5},
        {"learning_rate_schedule": "linear"},
        {"layer_decay": 0.5},
        {"head_learning_rate": 0.1},
        {"mixup": 0.5},
        {"cutmix": 0.5},
        {"ema": 0.9},
        {"accumulate": 2},  # whose batch norms see other batches
        {"optimizer": "lamb"},
        {"optimizer": "muon"},
        {"optimizer": "schedule_free_sgd"},
        {"optimizer": "schedule_free_adamw"},
    ],
)
def test_every_option_changes_the_weights(schedule: dict[str, Any], plain: Path, tmp_path: Path) -> None:
    train(settings(plain.parent / "table.csv", schedule=schedule), tmp_path)
    key = "heads.block1.tags.fc.weight"
    assert not torch.equal(weights(plain)[key], weights(tmp_path)[key])


def test_the_same_job_gives_the_same_weights(plain: Path, tmp_path: Path) -> None:
    train(settings(plain.parent / "table.csv", schedule={"workers": 1}), tmp_path)
    torch.testing.assert_close(weights(plain), weights(tmp_path), rtol=0, atol=0)


def test_layout_and_compiler_change_rounding_alone(plain: Path, tmp_path: Path) -> None:
    train(settings(plain.parent / "table.csv", schedule={"channels_last": False}), tmp_path / "first")
    torch.testing.assert_close(weights(plain), weights(tmp_path / "first"), rtol=1e-3, atol=1e-4)


NARROW = {**SMALL_TRUNK, "stem_width": 4, "widths": [4, 8], "group_widths": [4, 8], "heads": list(HEADS)}


def test_narrow_shortcuts_keep_their_layout(table: Path, tmp_path: Path) -> None:
    """With channels last, oneDNN's kernels for AVX2 write beyond the gradients of these."""
    for name, layout in {"first": True, "last": False}.items():
        train(settings(table, model=NARROW, schedule={"channels_last": layout}), tmp_path / name)
    torch.testing.assert_close(weights(tmp_path / "first"), weights(tmp_path / "last"), rtol=0, atol=0)


@pytest.mark.slow
def test_compiled(plain: Path, tmp_path: Path) -> None:
    train(settings(plain.parent / "table.csv", schedule={"compile": True}), tmp_path / "run")
    torch.testing.assert_close(weights(plain), weights(tmp_path / "run"), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_narrow_shortcuts_keep_their_layout_when_compiled(table: Path, tmp_path: Path) -> None:
    for name, on in {"compiled": True, "eager": False}.items():
        config = settings(table, model=NARROW, schedule={"compile": on})
        done = classy(
            "train",
            write(tmp_path / f"{name}.json", config.model_dump(mode="json")),
            "--output",
            tmp_path / name,
        )
        assert (done.returncode, done.stderr) == (0, "")
    torch.testing.assert_close(
        weights(tmp_path / "compiled"), weights(tmp_path / "eager"), rtol=1e-2, atol=1e-3
    )


def test_a_frozen_trunk_is_the_one_it_came_from(plain: Path, tmp_path: Path) -> None:
    schedule = {"freeze_trunk": True, "seed": 5}
    train(settings(plain.parent / "table.csv", weights=str(plain), schedule=schedule), tmp_path)
    first, second = weights(plain), weights(tmp_path)
    same = {key for key in first if torch.equal(first[key], second[key])}
    assert same == {key for key in first if not key.startswith("heads.")}


def test_nothing_is_frozen_again(table: Path, tmp_path: Path) -> None:
    changes = {"freeze": {"until": "stem"}, "unfreeze_at": {"epoch": 2, "until": "block1"}}
    with pytest.raises(
        ConfigError, match=r"'blocks\.block1-0\..*' learns in epoch 1 and is frozen again later"
    ):
        train(settings(table, schedule=changes), tmp_path / "run")


def test_blocks_learn_from_when_they_are_unfrozen(table: Path, tmp_path: Path) -> None:
    """The stem never does, the first block from the second epoch on, and the rest throughout."""
    changes = {"freeze": {"until": "block1"}, "unfreeze_at": {"epoch": 2, "until": "stem"}}
    config = settings(table, schedule=changes)
    seen: list[dict[str, torch.Tensor]] = []
    run_epoch = Trainer.run_epoch

    def look(trainer: Trainer, *args: Any) -> Any:
        seen.append({name: value.clone() for name, value in trainer.network.state_dict().items()})
        return run_epoch(trainer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", look)
        train(config, tmp_path / "run")
    states = [*seen, weights(tmp_path / "run")]

    def changed(part: str) -> list[bool]:
        keys = [key for key in states[0] if key.startswith(part)]
        return [any(not torch.equal(a[k], b[k]) for k in keys) for a, b in pairwise(states)]

    assert changed("stem") == [False, False]
    assert changed("blocks.block1-0") == [False, True]
    assert changed("blocks.block2-0") == [True, True]


def test_sgd_takes_blocks_that_begin_to_learn_later(table: Path, tmp_path: Path) -> None:
    """torch's fused SGD fails where some parameters have a momentum and others do not."""
    changes = {"freeze": {"until": "block1"}, "unfreeze_at": {"epoch": 2}, "optimizer": "sgd"}
    assert train(settings(table, schedule=changes), tmp_path / "run")["epoch"] == 2


def test_parts_of_a_batch_have_the_gradients_of_the_whole(table: Path, tmp_path: Path) -> None:
    trunk = {"name": "vision_transformer", "image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 2}
    trunk |= {"hidden_dim": 8, "mlp_dim": 8, "dropout_rate": 0.3}
    heads = [head("colour", "layer_0"), head("tags"), head("light")]
    for parts in (1, 3):
        config = job({"source": "table", "file": str(table)}, *heads, tasks=TASKS)
        config |= {"model": {**trunk, "heads": heads}}
        config["schedule"] |= {"accumulate": parts, "batch_size": 6, "mixup": 0.5, "optimizer": "sgd"}
        with in_float64():
            train(TrainConfig.parse(config), tmp_path / str(parts))
    torch.testing.assert_close(weights(tmp_path / "3"), weights(tmp_path / "1"), rtol=0, atol=1e-12)


def test_the_average_is_measured_and_kept(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, losses = [], Trainer.losses

    def look(trainer: Trainer, model: Any, batch: Any, metrics: Any = None, **options: Any) -> Any:
        if metrics is not None:
            assert trainer.average is not None
            measured.append(model is trainer.average.module)
        return losses(trainer, model, batch, metrics, **options)

    monkeypatch.setattr(Trainer, "losses", look)
    train(settings(table, schedule={"ema": 0.9}), tmp_path / "run")
    assert measured
    assert all(measured)
    state, _ = RunFolder(tmp_path / "run").read_checkpoint()
    assert state is not None
    key = "stem.conv.weight"
    kept = weights(tmp_path / "run")[key]
    assert torch.equal(kept, state["average"][f"module.{key}"])
    assert not torch.equal(kept, state["model"][key])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_or_skipped(
    workers: int, table: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "5.png").write_text("no image")
    with pytest.raises(ConfigError, match=r"5\.png: not an image.*data.on_bad_image to 'skip'"):
        train(settings(table, schedule={"workers": workers}), tmp_path / "run")
    train(
        settings(table, schedule={"workers": workers}, data={"on_bad_image": "skip"}),
        tmp_path / "skipped",
    )
    assert f"skipped 1 unreadable images, the first is {tmp_path / '5.png'}" in capsys.readouterr().out


def test_batch_norms_see_readable_images_alone(table: Path, tmp_path: Path) -> None:
    """Blank images in the place of unreadable ones would halve the variances."""
    for n in range(24):
        if n % 2:
            (tmp_path / f"{n}.png").write_text("no image")
    config = settings(table, data={"on_bad_image": "skip"}, schedule={"epochs": 1, "learning_rate": 1e-12})
    seen = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training and not inputs[0].is_meta:
            seen.append(inputs[0].detach().clone())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: look(module, inputs) if isinstance(module, AnyNet) else None
    )
    try:
        train(config, tmp_path / "run")
    finally:
        handle.remove()
    assert 0 < sum(map(len, seen)) <= 9  # of 18 images to train on
    assert all(len(images) >= 2 and images.flatten(1).any(1).all() for images in seen)


def test_a_step_without_readable_images_is_left_out(table: Path, tmp_path: Path) -> None:
    for n in range(24):
        if n % 4 and n > 3:
            (tmp_path / f"{n}.png").write_text("no image")
    config = settings(table, data={"on_bad_image": "skip"}, schedule={"batch_size": 2})
    final = train(config, tmp_path / "run")
    assert all(value == value for value in final.values())


def test_a_file_that_vanished_is_skipped_when_a_run_is_resumed(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    root = tmp_path / "images"
    for n in range(24):
        (root / ("ab"[n % 2])).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / f"{n}.png", root / "ab"[n % 2])
    folder = {"source": "folder", "root": str(root), "on_bad_image": "skip"}
    jobs = {
        "table": settings(table, data={"on_bad_image": "skip"}),
        "folder": TrainConfig.parse(job(folder, head("label"))),
    }
    gone = {"table": tmp_path / "6.png", "folder": root / "a" / "6.png"}
    for name, config in jobs.items():
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "run_epoch", lambda *_: pytest.fail("stopped"))
            with pytest.raises(pytest.fail.Exception, match="stopped"):
                train(config, tmp_path / name)
        before = prepare(config).records.held_out
        gone[name].unlink()
        resume(tmp_path / name)
        assert (
            f"skipped 1 unreadable images, the first is {gone[name]}: no such file" in capsys.readouterr().out
        )
        assert name == "table" or len(before) == 24


def test_a_loss_that_is_no_number_is_explained(table: Path, tmp_path: Path) -> None:
    schedule = {"optimizer": "sgd", "learning_rate": 1e30}
    with pytest.raises(ConfigError, match="try a lower schedule.learning_rate"):
        train(settings(table, schedule=schedule), tmp_path / "run")


def test_tensorboard_logs_every_epoch(table: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(settings(table, tensorboard=True), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/colour/accuracy")] == [1, 2]


def test_a_finished_run_is_not_gone_on_with(plain: Path) -> None:
    with pytest.raises(ConfigError, match="is finished: all 2 epochs are done"):
        resume(plain)


def test_a_failed_write_leaves_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write("metrics.csv", b"old")

    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ConfigError, match=r"cannot write '.*metrics\.csv': Read-only file system"):
        folder.write("metrics.csv", b"new")
    with pytest.raises(ConfigError, match=r"cannot write '.*checkpoint\.pt'"):
        folder.write_checkpoint({"epoch": 1})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("metrics.csv", b"old")]


def test_a_run_whose_first_write_fails_leaves_no_folder(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OperationError, match=r"cannot write '.*config\.yaml': No space left on device"):
        train(settings(table), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_stopped_before_its_first_epoch_starts_over(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((plain / "config.yaml").read_text())
    resume(tmp_path)
    torch.testing.assert_close(weights(plain), weights(tmp_path), rtol=0, atol=0)


# -- videos


@pytest.fixture(scope="module")
def clips(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of clips, evaluated by the average of several views."""
    run = tmp_path_factory.mktemp("clips") / "run"
    data = {"image_size": 16, "augment": "crop", "clip": {"frames": 4, "clips": 2, "crops": 3}}
    train(TrainConfig.parse(clips_job(videos, data=data)), run)
    return run


def test_a_vision_transformer_trains_on_videos(videos: Path, tmp_path: Path) -> None:
    given = clips_job(videos, data={"clip": {"frames": 4}}, schedule={"epochs": 1})
    given["model"] = {**FAMILIES["clips"][0], "image_size": 24, "heads": given["model"]["heads"]}
    train(TrainConfig.parse(given), tmp_path / "run")
    predictor = Predictor.load(tmp_path / "run")
    assert predictor.unit == "video"
    (found,) = predictor.predict([next(videos.rglob("*.mp4"))])
    assert sum(dict(found.scores["direction"]).values()) == pytest.approx(1, abs=1e-4)


def test_a_run_of_videos_says_so(clips: Path) -> None:
    metrics = json.loads((clips / "metrics.json").read_text())["final"]
    assert metrics["videos_per_second"] > 0
    assert (clips / "predictions.png").stat().st_size > 10_000


def test_a_stopped_run_of_videos_goes_on_to_the_same_weights(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Trainer, epoch: int, *progress: Any) -> Any:
        return run_epoch(self, epoch, *progress) if epoch == 0 else pytest.fail("stopped")

    run_epoch = Trainer.run_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", stop)
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            train(load_settings(clips / "config.yaml"), tmp_path / "run")
    resume(tmp_path / "run")
    torch.testing.assert_close(weights(tmp_path / "run"), weights(clips), rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_for_videos(clips: Path, tmp_path: Path) -> None:
    done = classy("train", clips / "config.yaml", "--output", tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((run / "metrics.json").read_text())["final"] for run in (clips, tmp_path / "two"))
    for times in ("seconds", "videos_per_second"):
        one[times] = two[times]
    assert two == pytest.approx(one, rel=1e-3)


def test_an_unreadable_video_is_named_or_skipped(videos: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    bad = tmp_path / "videos" / "val" / "up" / "0.mp4"
    bad.write_text("no video")
    config = TrainConfig.parse(clips_job(tmp_path / "videos", data={"image_size": 16}, schedule={"epochs": 1}))
    with pytest.raises(ConfigError, match=r"0\.mp4: not a video.*to continue without such videos"):
        train(config, tmp_path / "run")
    skipping = config.data.model_copy(update={"on_bad_image": "skip"})
    train(config.model_copy(update={"data": skipping}), tmp_path / "skipped")
    assert f"skipped 1 unreadable videos, the first is {bad}: not a video" in capsys.readouterr().out


def test_a_changed_folder_of_videos_is_noticed(videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    settings = TrainConfig.parse(clips_job(tmp_path / "videos"))
    before = prepare(settings).fingerprint()
    shutil.copy(tmp_path / "videos/val/up/0.mp4", tmp_path / "videos/val/up/9.mp4")
    assert prepare(settings).fingerprint() != before


@pytest.mark.parametrize(
    ("batch_size", "clips", "world", "sizes"), [(12, 2, 1, [2] * 4), (2, 2, 2, [1] * 4), (10, 1, 2, [1] * 4)]
)
def test_a_batch_of_evaluation_has_no_more_clips_than_one_of_training(
    batch_size: int, clips: int, world: int, sizes: list[int], videos: Path
) -> None:
    data = {"clip": {"frames": 4, "clips": clips, "crops": 3}}
    ready = prepare(TrainConfig.parse(clips_job(videos, data=data, schedule={"batch_size": batch_size})))
    for rank in range(world):  # every process has something to evaluate in every batch
        process: Any = SimpleNamespace(num_processes=world, process_index=rank, device=torch.device("cpu"))
        _, batches = loop.make_batches(ready, process, held_out=True)
        assert [len(batch) for batch in batches.batch_sampler] == sizes
