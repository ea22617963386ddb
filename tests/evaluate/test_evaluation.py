"""Evaluations: metrics against scikit-learn's on what is written, and data that do not fit."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, r2_score

from classy_vision.config import ConfigError
from classy_vision.evaluate import evaluate
from classy_vision.evaluate.scores import score
from classy_vision.predict import Predictor
from classy_vision.train.config import TaskConfig
from classy_vision.train.tasks import KINDS
from tests.predict.test_predictor import TASKS, small_model

SPECIES = TASKS["species"]["classes"]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.of_model(small_model(), device="cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images, of which 10 are to validate; one label of each head is missing, and one file is broken."""
    root = tmp_path_factory.mktemp("birds")
    rng = np.random.default_rng(0)
    lines = ["path,species,marks,weight,split"]
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(root / f"{i}.png")
        marks = ";".join(label for label in TASKS["marks"]["classes"] if rng.random() < 0.5) or ";"
        labels = ["", "", ""] if i == 3 else [SPECIES[i % 3], marks, f"{rng.normal():.3f}"]
        lines.append(",".join([f"{i}.png", *labels, "val" if i < 10 else "train"]))
    (root / "5.png").write_bytes(b"nothing")
    (root / "birds.csv").write_text("\n".join(lines))
    return root / "birds.csv"


def rows(folder: Path, head: str) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["head"] == head and row["target"]]


def test_what_is_written(predictor: Predictor, table: Path, tmp_path: Path) -> None:
    found = evaluate(predictor, table, output=tmp_path / "out")
    assert (found.split, found.count, list(found.errors)) == ("validation", 9, [str(table.parent / "5.png")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"metrics.json", "metrics.csv", "predictions.csv", "species.confusion.csv"} <= names
    assert {"species.confusion.png", "weight.scatter.png", "weight.mistakes.png"} <= names
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found.as_dict()
    species = rows(tmp_path / "out", "species")
    assert len(species) == 8
    true, said = [r["target"] for r in species], [r["prediction"] for r in species]
    assert found.metrics["species"]["accuracy"] == pytest.approx(accuracy_score(true, said))
    assert found.metrics["species"]["f1"] == pytest.approx(
        f1_score(true, said, average="macro", zero_division=0)
    )
    assert [r["correct"] for r in species] == [str(int(a == b)) for a, b in zip(true, said)]
    weight = rows(tmp_path / "out", "weight")
    numbers = [[float(r[key]) for r in weight] for key in ("target", "prediction")]
    assert found.metrics["weight"]["r2"] == pytest.approx(r2_score(*numbers), abs=1e-4)
    with (tmp_path / "out" / "species.confusion.csv").open() as file:
        confusion = list(csv.reader(file))
    assert confusion[0] == ["class", *SPECIES]
    for name, *counts in confusion[1:]:
        pairs = [sum(a == name and b == other for a, b in zip(true, said)) for other in SPECIES]
        assert list(map(int, counts)) == pairs
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [r["image"] for r in csv.DictReader(file) if r["error"]] == [str(table.parent / "5.png")]


def test_a_predictor_gives_what_the_evaluation_says(predictor: Predictor, table: Path, tmp_path: Path) -> None:
    evaluate(predictor, table, output=tmp_path / "out", split="train", heads=["species"])
    found = rows(tmp_path / "out", "species")
    assert len(found) == 20
    for row in found[:3]:
        assert predictor(row["image"])["species"].label == row["prediction"]


def test_labels_at_once() -> None:
    task = KINDS["multilabel"]("marks", TaskConfig(kind="multilabel", classes=("a", "b", "c")))
    torch.manual_seed(0)
    outputs, targets = torch.randn(20, 3), (torch.rand(20, 3) < 0.4).float()
    targets[:, 2] = 0  # a class that never occurs has no average precision
    found = score(task, outputs, targets)
    for k, name in enumerate("ab"):
        wanted = average_precision_score(targets[:, k], outputs[:, k])
        assert found.classes[name]["average_precision"] == pytest.approx(wanted)
        assert found.classes[name]["f1"] == pytest.approx(f1_score(targets[:, k], outputs[:, k] > 0))
    assert found.classes["c"]["average_precision"] is None
    wanted = (found.classes["a"]["average_precision"] or 0) + (found.classes["b"]["average_precision"] or 0)
    assert found.metrics["mAP"] == pytest.approx(wanted / 2)
    assert found.confusion is not None
    assert found.confusion.sum(1).tolist() == [20, 20, 20]


def test_one_label_alone() -> None:
    task = KINDS["multilabel"]("marks", TaskConfig(kind="multilabel", classes=("ring",)))
    found = score(task, torch.tensor([[1.0], [-1.0], [2.0]]), torch.tensor([[1.0], [1.0], [0.0]]))
    assert found.classes["ring"]["precision"] == 0.5
    assert (found.classes["ring"]["support"], found.metrics["micro_f1"]) == (2, 0.5)
    assert found.confusion is not None
    assert found.confusion.tolist() == [[0, 1, 1, 1]]


def test_r2_of_equal_numbers_is_not_defined() -> None:
    task = KINDS["regression"]("weight", TaskConfig(kind="regression"))
    found = score(task, torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 3.0]))
    assert found.metrics == {"mae": 1.5, "rmse": pytest.approx(2.5**0.5), "r2": None, "bias": -1.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(SPECIES[: 2 if split == "test" else 3]):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9), (80 * number, 9, 9)).save(tmp_path / "data" / split / name / f"{name}.png")
    return tmp_path / "data"


def test_folders(predictor: Predictor, folder: Path) -> None:
    both = {"heads": ["species"], "targets": {"species": "label"}}
    assert (evaluate(predictor, folder, **both).split, evaluate(predictor, folder, **both).count) == ("test", 2)
    assert evaluate(predictor, folder, split="train", heads=["species"]).count == 3
    found = evaluate(predictor, folder / "test", heads=["species"])
    assert (found.split, found.count) == ("all", 2)
    with pytest.raises(ConfigError, match="has no folder for --split validation: it has 't"):
        evaluate(predictor, folder, split="validation", heads=["species"])


def test_data_that_do_not_fit(predictor: Predictor, table: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "test" / "owll").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "test" / "owll" / "a.png")
    plain = tmp_path / "plain.csv"
    plain.write_text(f"path,species\n{table.parent / '1.png'},tit\n{table.parent / '2.png'},jay\n")
    wrong = [
        ((folder,), {"heads": ["species"]}, "unknown class 'owll'; did you mean 'owl'.*knows only the classes"),
        ((folder,), {}, "has no labels for head 'species': its columns are 'label'. Name one by --target"),
        ((plain,), {}, "has no labels for head 'marks'"),
        ((plain,), {"heads": ["specie"]}, "unknown head 'specie'; did you mean 'species'"),
        ((plain,), {"heads": ["species"], "targets": {"species": "specis"}}, "unknown column 'specis'"),
        ((plain,), {"heads": ["species"], "split": "test"}, "has no column 'split'"),
        ((tmp_path / "none",), {}, "does not exist"),
        ((), {}, "only a run folder knows its own data"),
        ((table,), {"split": "vall"}, "unknown split 'vall'"),
    ]
    for data, options, message in wrong:
        with pytest.raises(ConfigError, match=message):
            evaluate(predictor, *data, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_there(predictor: Predictor, table: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").touch()
    with pytest.raises(ConfigError, match="exists and is not an evaluation"):
        evaluate(predictor, table, output=tmp_path / "mine", force=True)
    evaluate(predictor, table, output=tmp_path / "out", heads=["species"])
    with pytest.raises(ConfigError, match="exists: choose another --output, or replace it by --force"):
        evaluate(predictor, table, output=tmp_path / "out")
    evaluate(predictor, table, output=tmp_path / "out", heads=["weight"], force=True)
    assert not (tmp_path / "out" / "species.confusion.csv").exists()
    (tmp_path / "out" / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"out' exists, and holds 'notes\.md' besides an evaluation"):
        evaluate(predictor, table, output=tmp_path / "out", force=True)
    assert (tmp_path / "out" / "notes.md").read_text() == "mine"


def test_losses_are_of_the_units_of_the_table(predictor: Predictor, table: Path, tmp_path: Path) -> None:
    evaluate(predictor, table, output=tmp_path / "plain", heads=["weight"])
    known = dict(predictor.tasks)
    known["weight"] = KINDS["regression"](
        "weight", known["weight"].config.model_copy(update={"mean": 100.0, "std": 10.0})
    )
    evaluate(replace(predictor, tasks=known), table, output=tmp_path / "run", heads=["weight"])
    for file in ("metrics.json", "predictions.csv"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_a_damaged_image_that_is_there_twice_counts_twice(
    predictor: Predictor, table: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"{table.parent / name},owl" for name in ("1.png", "5.png", "2.png", "5.png")]
    rows.write_text("\n".join(["path,species", *lines]))
    found = evaluate(predictor, rows, heads=["species"])
    assert (found.count, found.unreadable, len(found.errors)) == (2, 2, 1)
    assert found.as_dict()["unreadable"] == 2


def test_a_missing_file_stands_with_its_error(predictor: Predictor, table: Path, tmp_path: Path) -> None:
    lines = ["path,species", f"{table.parent / '1.png'},owl", f"{table.parent / 'lost.png'},owl"]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    found = evaluate(predictor, tmp_path / "rows.csv", heads=["species"])
    assert (found.count, found.unreadable) == (1, 1)
