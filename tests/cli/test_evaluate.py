"""``classy evaluate`` on runs, exports and folders of models."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from classy_vision.models import ClassyModel
from classy_vision.train import TrainConfig, train
from tests.cli.test_export import Capture, call
from tests.train.command import digits_job


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    config = digits_job(schedule={"epochs": 1})
    config["data"]["image_size"] = 16
    train(TrainConfig.parse(config), folder / "run")
    return folder / "run"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """Some digits as files, by class."""
    from classy_vision.data.config import DigitsConfig
    from classy_vision.data.sources import load_records

    records = load_records(DigitsConfig(source="digits"))
    for row in records.rows(held_out=True)[:30]:
        place = tmp_path / "scans" / records.columns["digit"][row]
        place.mkdir(parents=True, exist_ok=True)
        records.images[row].save(place / f"{row}.png")  # type: ignore[union-attr]
    return tmp_path / "scans"


def test_a_run_on_its_own_data(run: Path, tmp_path: Path, capsys: Capture) -> None:
    place = tmp_path / "evaluation"
    code, said = call(capsys, "evaluate", run, "--output", place, "--format", "json")
    assert code == 0, said
    found = json.loads(said)
    final = json.loads((run / "metrics.json").read_text())["final"]
    for head in ("digit", "loop"):
        accuracy = found["heads"][head]["metrics"]["accuracy"]
        assert accuracy == pytest.approx(final[f"val/{head}/accuracy"])
    assert (found["split"], found["read"], found["unreadable"]) == ("validation", 360, 0)
    code, said = call(capsys, "evaluate", run, "--output", place)
    assert code == 2
    assert "replace it by --force" in said
    code, said = call(capsys, "evaluate", run, "--output", place, "--force", "--head", "digit")
    assert code == 0, said
    assert f"the evaluation is in {place}" in said
    assert "loop" not in said


def test_an_export_and_a_folder_of_a_model(run: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    export = tmp_path / "digits.safetensors"
    call(capsys, "export", run, "--format", "safetensors", "--output", export)
    ClassyModel.from_checkpoint(run).save_pretrained(tmp_path / "model")
    said = []
    for number, model in enumerate((run, tmp_path / "model", export)):
        options = ["--output", tmp_path / str(number), "--head", "digit", "--target", "digit=label"]
        code, text = call(capsys, "evaluate", model, folder, *options, "--format", "csv")
        assert code == 0, text
        said.append(list(csv.DictReader(io.StringIO(text))))
    assert said[0] == said[1] == said[2]
    assert [row["class"] for row in said[0]] == list("0123456789")
    assert sum(int(row["support"]) for row in said[0]) == 30
    code, text = call(capsys, "evaluate", tmp_path / "model", "--output", tmp_path / "none")
    assert code == 2
    assert "only a run folder knows its own data" in text


def test_a_broken_file(run: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "3" / "broken.png").write_bytes(b"nothing")
    options = ["--output", tmp_path / "out", "--head", "digit"]
    code, text = call(capsys, "evaluate", run, folder, *options)
    assert code == 1
    assert "broken.png: not an image" in text
    assert "1 could not be read, and are not in the metrics" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "digit"], "--target takes HEAD=COLUMN"),
        (["--target", "digt=label"], "unknown head 'digt'; did you mean 'digit'"),
        (["--head", "digt"], "unknown head 'digt'; did you mean 'digit'"),
        (["--split", "test"], "test"),
    ],
)
def test_what_does_not_fit(
    options: list[str], message: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, text = call(capsys, "evaluate", run, "--output", tmp_path / "out", *options)
    assert code == 2
    assert message in text
    assert not (tmp_path / "out").exists()


def test_data_that_have_changed_since_are_not_taken_for_those_held_out(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    job = digits_job(schedule={"epochs": 1, "batch_size": 5})
    job["model"]["heads"] = [{**job["model"]["heads"][0], "unique_id": "label"}]
    job["data"] = {"source": "folder", "root": str(folder), "image_size": 16, "val_fraction": 0.3}
    job["tasks"] = {}
    train(TrainConfig.parse(job), tmp_path / "run")
    assert call(capsys, "evaluate", tmp_path / "run", "--output", tmp_path / "out")[0] == 0
    for file in [*folder.rglob("*.png")]:
        shutil.copy(file, file.with_name(f"copy-{file.name}"))
    code, text = call(capsys, "evaluate", tmp_path / "run", "--output", tmp_path / "other")
    assert code == 2
    assert "have changed since it was trained, so that it is not known which were held out: give DATA" in text
    assert call(capsys, "evaluate", tmp_path / "run", folder, "--output", tmp_path / "other")[0] == 0
