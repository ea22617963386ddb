"""``classy train`` as real processes: what it leaves, and what survives."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from classy_vision.cli import main
from classy_vision.cli.options import training_packages
from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel
from classy_vision.train import load_settings, train
from tests.data.videos import make_videos
from tests.train.command import classy, clips_job, digits_job, start, stop_when, write

TIMES = ("seconds", "images_per_second", "videos_per_second")


# Rounding stays rounding: AdamW makes whole steps of gradients that are nothing else, and sums with
# channels last are coarser.
EXACT = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "channels_last": False}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("configs") / "digits.json", digits_job(schedule=EXACT))


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    folder = config.parent / "run"
    done = classy("train", config, "--output", folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "stdout").write_text(done.stdout)
    return folder


def history(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "metrics.json").read_text())["epochs"]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_a_run_folder_holds_the_model_and_how_it_went(run: Path) -> None:
    model = ClassyModel.from_checkpoint(run).eval()
    assert {h.unique_id: h.num_classes for heads in model.get_heads().values() for h in heads} == {
        "loop": 2,
        "digit": 10,
    }
    assert model(torch.zeros(1, 1, 8, 8))["digit"].shape == (1, 10)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/loop/accuracy"]) for row in rows] == [r["val/loop/accuracy"] for r in history(run)]
    for name in ("curves.png", "predictions.png"):
        with Image.open(run / name) as image:
            levels = image.convert("L").getextrema()
            assert levels[0] < 100 < 250 < levels[1]  # something is drawn
    lines = (run / "stdout").read_text().splitlines()
    assert lines[0].startswith("1,437 images to train on, 360 held out; ")
    assert [line.split()[0] for line in lines[1:4]] == ["anynet:", "head", "head"]
    assert lines[4].split() == ["digit", "loop"]
    assert lines[6].startswith("training takes about ")
    assert [line.split()[0] for line in (lines[5], *lines[7:10])] == ["epoch", "1", "2", "3"]
    assert not (run / "checkpoint.previous.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_learns(seed: int, tmp_path: Path) -> None:
    configs = Path(__file__).parents[2] / "configs"
    done = classy("train", configs / "digits.yaml", "--output", tmp_path, "--set", f"schedule.seed={seed}")
    assert done.returncode == 0, done.stderr
    final = history(tmp_path)[-1]
    assert final["val/digit/accuracy"] > 0.98
    assert final["val/loop/accuracy"] > 0.97


def test_directions_are_learned_from_clips_and_not_from_frames(tmp_path: Path) -> None:
    root = make_videos(tmp_path / "videos", train=40, val=20, frames=20)
    schedule = {"epochs": 8, "batch_size": 16}
    data = {"image_size": 16}
    config = write(tmp_path / "clips.json", clips_job(root, data=data, schedule=schedule))
    runs = {
        frames: start(
            "train", config, "--output", tmp_path / str(frames), "--set", f"data.clip.frames={frames}"
        )
        for frames in (8, 1)
    }
    accuracy = {}
    for frames, process in runs.items():
        out, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (0, "")
        assert "videos/s" in out
        accuracy[frames] = history(tmp_path / str(frames))[-1]["val/direction/accuracy"]
    assert accuracy[8] >= 0.95
    assert accuracy[1] <= 0.45  # a quarter is chance


def test_two_processes_give_the_numbers_of_one(run: Path, config: Path, tmp_path: Path) -> None:
    done = classy("train", config, "--output", tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run is in") == 1
    one, two = load_file(run / "model.safetensors"), load_file(tmp_path / "two" / "model.safetensors")
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
    for first, second in zip(history(run), history(tmp_path / "two")):
        assert second == pytest.approx(first, rel=1e-3, abs=0.003)  # one image of 360


def test_a_killed_run_goes_on_to_the_same_weights(run: Path, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = start("train", config, "--output", folder)
    stop_when((folder / "checkpoint.pt").exists, process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    (folder / ".model.safetensors.1.part").write_text("half")
    done = classy("train", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob(".*"))
    assert history(folder) == history(run)
    whole, resumed = load_file(run / "model.safetensors"), load_file(folder / "model.safetensors")
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_ctrl_c_says_how_to_go_on(config: Path, tmp_path: Path) -> None:
    def listen() -> None:  # where a shell runs the tests in the background, children ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    folder = tmp_path / "stopped"
    arguments = ("train", config, "--output", folder, "--set", "schedule.epochs=50")
    process = start(*arguments, preexec_fn=listen)
    _, err = stop_when((folder / "checkpoint.pt").exists, process, signal.SIGINT)
    assert process.returncode == 130
    assert err.strip() == f"stopped; resume with: classy train --resume {folder}"


def test_nothing_is_overwritten_unless_it_is_forced(run: Path, config: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ConfigError, match=f"'{run}' exists: .*--force"):
        train(load_settings(config), run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_force_starts_anew(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint.pt", "model.safetensors", "notes.txt"):
        (folder / name).write_text("old")
    train(load_settings(config, ["schedule.epochs=1"]), folder, force=True)
    assert ClassyModel.from_checkpoint(folder)
    assert (folder / "notes.txt").read_text() == "old"


def test_force_replaces_runs_only(config: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("old")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ConfigError, match="exists and is not a run folder: choose another --output"):
            train(load_settings(config), path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_one_message_and_leaves_nothing_half_done(config: Path, tmp_path: Path) -> None:
    def no_file_above_8_kib() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    folder = tmp_path / "full"
    done = classy("train", config, "--output", folder, preexec_fn=no_file_above_8_kib)
    assert done.returncode == 1
    assert f"error: cannot write '{folder / 'checkpoint.pt'}': File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.exists()


def test_a_run_that_cannot_start_replaces_nothing(run: Path, config: Path, tmp_path: Path) -> None:
    kept = shutil.copytree(run, tmp_path / "kept")
    (tmp_path / "other.safetensors").write_bytes(b"")
    settings = load_settings(config, [f"weights={tmp_path / 'other.safetensors'}"])
    with pytest.raises(ConfigError):
        train(settings, kept, force=True)
    assert ClassyModel.from_checkpoint(kept)
    with pytest.raises(ConfigError):
        train(settings, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "here", "--force"], "--resume takes everything from the run folder"),
        ([], "give a config to train"),
        (["missing.yaml"], "cannot read the config 'missing.yaml'"),
        (["--resume", "missing"], "'missing' is not a run folder"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["classy", "train", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("no", name="accelerate"), r"needs accelerate: pip install .*\[train\]"),
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision.*reinstall or remove it"),
    ],
)
def test_packages_that_are_missing_or_broken(error: Exception, message: str) -> None:
    with pytest.raises(ConfigError, match=message), training_packages():
        raise error


def test_matplotlib_is_missed_before_a_run_and_imported_after_it() -> None:
    code = (
        "import sys, importlib.util as util; find = util.find_spec; "
        "util.find_spec = lambda name, *rest: None if name == sys.argv[1] else find(name, *rest); "
        "import classy_vision.train.run; assert 'matplotlib' not in sys.modules"
    )
    done = [
        subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
        for name in ("matplotlib", "nothing")
    ]
    assert done[0].stderr.strip().endswith("ModuleNotFoundError: No module named 'matplotlib'")
    assert done[1].returncode == 0, done[1].stderr
