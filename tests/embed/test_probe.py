"""A probe finds the block that tells classes apart, at what cost, and gives what to train."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from classy_vision.cli import app
from classy_vision.config import ConfigError, read_config
from classy_vision.cost.count import count
from classy_vision.data.sources import load_records
from classy_vision.embed import attentive
from classy_vision.embed.probe import probe
from classy_vision.embed.readings import Probe, Reading
from classy_vision.predict import Predictor
from classy_vision.train import TrainConfig, feature_store, train
from classy_vision.train.feature_store import CacheError
from classy_vision.train.job import prepare
from tests.predict.test_predictor import small_model


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of features of this test alone."""
    monkeypatch.setenv(feature_store.FOLDER, str(tmp_path / "features"))
    return tmp_path / "features"


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Images whose classes are colours, with noise."""
    draw = np.random.default_rng(0)
    for n in range(60):
        split, kind = ("val" if n % 3 == 0 else "train"), n % 2
        pixels = draw.integers(0, 120, (12, 12, 3), dtype=np.uint8)
        pixels[..., kind] += 100
        file = tmp_path / "colours" / split / ("green", "red")[1 - kind] / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return tmp_path / "colours"


def run(model: Path, data: Path, output: Path, **options: Any) -> Probe:
    given = {"device": "cpu", "workers": 0, "decays": (1e-3, 1e-1), "rates": (1e-2,)}
    return probe(model, data, output, **{**given, **options})


def test_all_blocks_and_what_they_cost(model: Path, colours: Path, tmp_path: Path) -> None:
    found = run(model, colours, tmp_path / "out", pooling=["mean", "max"])
    blocks = ["stem", "block1-0", "block2-0", "trunk_output"]
    assert [(one.block, one.pooling) for one in found.readings] == [
        (b, p) for b in blocks for p in ("mean", "max")
    ]
    costs = count(small_model(), (3, 8, 8))
    macs = [step.macs for step in costs.steps if not step.reads]
    assert [one.macs for one in found.readings[::2]] == [sum(macs[: i + 1]) for i in range(len(macs))]
    assert all(one.linear > 0.9 for one in found.readings if one.pooling == "mean")
    assert found.new == 60
    rows = [*csv.DictReader((found.folder / "probe.csv").read_text().splitlines())]
    assert [row["block"] for row in rows] == [one.block for one in found.readings]
    said = json.loads((found.folder / "probe.json").read_text())
    assert said["cheapest"]["label"]["block"] == found.cheapest("label").block
    with Image.open(found.folder / "probe.png") as picture:
        assert picture.format == "PNG"


def test_features_are_used_again_until_weights_or_data_change(
    model: Path, colours: Path, tmp_path: Path
) -> None:
    first = run(model, colours, tmp_path / "out")
    again = run(model, colours, tmp_path / "out", decays=(1e-3, 1e-1))
    assert (first.new, again.new) == (60, 0)
    assert again.readings == first.readings
    changed = small_model()
    with torch.no_grad():
        next(changed.stem.parameters()).mul_(1.01)
    changed.save_pretrained(tmp_path / "changed")
    assert run(tmp_path / "changed", colours, tmp_path / "out", force=True).new == 60
    other = small_model(preprocessing={"image_size": 8, "resize": 9})
    other.save_pretrained(tmp_path / "other")
    assert run(tmp_path / "other", colours, tmp_path / "out", force=True).new == 60
    next(colours.glob("train/*/*.png")).unlink()
    assert run(model, colours, tmp_path / "out", force=True).new == 59


def test_the_config_trains_the_head_that_was_found(model: Path, colours: Path, tmp_path: Path) -> None:
    found = run(model, colours, tmp_path / "out")
    config = read_config(found.folder / "train.yaml")
    assert config["model"]["heads"][0]["fork_block"] == found.cheapest("label").block
    settings = TrainConfig.parse({**config, "schedule": {**config["schedule"], "epochs": 2, "workers": 0}})
    train(settings, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]
    assert metrics["val/label/accuracy"] == pytest.approx(found.cheapest("label").linear, abs=0.01)


def test_the_split_of_a_table_is_that_of_the_training(
    model: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds out a part of each class; a probe that drew other rows would measure on those of training."""
    files = sorted(colours.glob("*/*/*.png"))
    rows = [f"{file},{'rare' if n % 12 == 0 else 'common'}" for n, file in enumerate(files)]
    (tmp_path / "table.csv").write_text("\n".join(["path,kind", *rows]))
    found = run(model, tmp_path / "table.csv", tmp_path / "out", columns=["kind"], blocks=["stem"])
    config = TrainConfig.parse(read_config(found.folder / "train.yaml"))
    held_out = prepare(config).records.held_out
    assert list(load_records(config.data).held_out) != list(held_out)  # without the classes
    schedule = config.schedule.model_copy(update={"epochs": 2, "workers": 0})
    train(config.model_copy(update={"schedule": schedule}), tmp_path / "run")
    assert "features of the frozen trunk are read from" in capsys.readouterr().out


def test_a_trunk_for_colour_trains_on_grey_images(model: Path, tmp_path: Path) -> None:
    found = run(model, Path("digits"), tmp_path / "out", columns=["digit"], blocks=["stem"], batch_size=256)
    job = prepare(TrainConfig.parse(read_config(found.folder / "train.yaml")))
    assert job.channels == 3


def test_a_training_anew_reads_features_that_are_kept(
    model: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Heads that are new reach what the probe said; they run on features."""
    config = read_config(run(model, colours, tmp_path / "out").folder / "train.yaml")
    config["schedule"] |= {"epochs": 40, "workers": 0, "learning_rate": 0.1, "cache_features": True}
    config["schedule"].pop("head_learning_rate")
    config["weights"] = {"source": config["weights"], "skip_heads": True}
    train(TrainConfig.parse(config), tmp_path / "run")
    assert "features of the frozen trunk are read from" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]
    said = json.loads((tmp_path / "out" / "probe.json").read_text())["cheapest"]["label"]["linear"]
    assert metrics["val/label/accuracy"] == pytest.approx(said, abs=0.01)


def test_a_training_says_why_it_does_not_read_the_features_of_a_probe(
    model: Path, colours: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(run(model, colours, tmp_path / "out").folder / "train.yaml")
    for changed, said in (
        ({"schedule": {"batch_size": 8}}, "batches of 10 images there, and of 8 here"),
        ({"data": {"resize": 9}}, "another preprocessing (data.resize)"),
    ):
        other = {**config, **{key: config[key] | value for key, value in changed.items()}}
        other["schedule"] |= {"epochs": 2, "workers": 0}
        train(TrainConfig.parse(other), tmp_path / said[:9])
        told = capsys.readouterr().out
        assert "features of 60 images" in told
        assert said in told.replace("\n", " ")


def test_attention_takes_its_place_in_the_table(
    model: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attentive, "STEPS", 200)
    heard: list[str] = []
    found = run(
        model, colours, tmp_path / "out", blocks=["stem", "block2-0"], attentive=True, tell=heard.append
    )
    assert [one.pooling for one in found.readings] == ["mean", "attention"] * 2
    linear, attention = found.readings[:2]
    assert (linear.attentive, attention.linear, attention.knn) == (None, None, None)
    assert attention.learning_rate == 1e-2
    assert attention.accuracy > 0.9
    rows = [*csv.DictReader((found.folder / "probe.csv").read_text().splitlines())]
    assert (rows[1]["linear"], float(rows[1]["attentive"])) == ("", attention.attentive)
    assert re.match(r"features of 60 images, [\d.]+KB, are computed once and kept in ", heard[0])


def test_features_that_do_not_fit_are_refused(
    model: Path, colours: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(feature_store.LIMIT, "1e-5")
    with pytest.raises(CacheError, match=r"GB allows 10.0KB in all. Fewer blocks take less, and without"):
        run(model, colours, tmp_path / "out", attentive=True)
    assert not (tmp_path / "out").exists()
    assert not [*root.rglob("*")]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (feature_store.LIMIT, "1e-5", "10.0KB in all. Fewer blocks take less$"),
        (feature_store.LIMIT, "much", "CLASSY_FEATURES_GB = 'much' is not a number of gigabytes, such as 50$"),
        (
            feature_store.FOLDER,
            "/dev/null/features",
            "cannot keep features in '/dev/null/features': Not a dir.*y$",
        ),
    ],
)
def test_features_that_cannot_be_kept(
    name: str, value: str, message: str, model: Path, colours: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Advice on space is given where space is what is missing, and on attention where that was asked for."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        run(model, colours, tmp_path / "out")


@pytest.mark.slow
def test_a_training_of_attention_reaches_what_was_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On digits: on from the probe, and anew."""
    trained = read_config("configs/digits.yaml")
    trained["schedule"] |= {"epochs": 3, "workers": 0}
    train(TrainConfig.parse(trained), tmp_path / "trained")
    options = {"columns": ["digit"], "blocks": ["block3"], "pooling": ["max"], "attentive": True}
    found = run(tmp_path / "trained", Path("digits"), tmp_path / "out", rates=(3e-3, 1e-2), **options)
    best = max(found.readings, key=lambda one: one.attentive or 0)
    config = read_config(found.folder / "train.yaml")
    assert config["model"]["heads"][0]["name"] == "attention_pool"
    config["schedule"]["workers"] = 0
    train(TrainConfig.parse(config), tmp_path / "on")
    config["schedule"].pop("head_learning_rate")
    config["weights"] = {"source": config["weights"], "skip_heads": True}
    train(TrainConfig.parse(config), tmp_path / "anew")
    assert capsys.readouterr().out.count("features of the frozen trunk are read from") == 2
    for folder in ("on", "anew"):
        final = json.loads((tmp_path / folder / "metrics.json").read_text())["final"]
        assert final["val/digit/accuracy"] == pytest.approx(best.accuracy, abs=0.01)


def test_the_model_has_the_classifier(model: Path, colours: Path, tmp_path: Path) -> None:
    found = run(model, colours, tmp_path / "out")
    predictor = Predictor.load(found.folder / "model", device="cpu")
    files = sorted(colours.glob("val/*/*.png"))
    right = [
        p["label"].label == Path(p.image).parent.name for p in predictor.predict([str(file) for file in files])
    ]
    assert sum(right) / len(right) == pytest.approx(found.cheapest("label").linear)


def test_which_readings_are_chosen() -> None:
    def reading(macs: int, linear: float) -> Reading:
        return Reading("label", f"b{macs}", "mean", 8, macs, 0.5, linear, 0.1)

    readings = [
        reading(1, 0.7),
        reading(2, 0.9),
        reading(3, 0.85),
        reading(4, 0.907),
        reading(5, 0.909),
        reading(6, 0.8),
    ]
    found = Probe(tuple(readings), Path(), 0)
    assert found.best("label").macs == 5
    assert found.cheapest("label").macs == 2
    assert [one.macs for one in found.front("label")] == [1, 2, 4, 5]


def test_what_does_not_fit(
    model: Path, colours: Path, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,kind,n\ncolours/val/red/0.png,x,1\n")
    for options, said in (
        ({"blocks": ["block9"]}, "unknown block 'block9'; did you mean"),
        ({"pooling": ["map"]}, "unknown pooling 'map'"),
        ({"columns": ["lable"]}, "unknown column 'lable'; did you mean 'label'"),
        ({"data": tmp_path / "none"}, "none' is not data with labels"),
        ({"data": "scenes", "columns": ["digits"]}, "column 'digits' does not hold classes"),
        ({"data": "scenes"}, "the data have several columns: name one or more of digits, count"),
        ({"data": make_images(4, "one", ("cat",))}, "column 'label' has 1 class: at least 2 are needed"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(**{"model": model, "data": colours, "output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_a_probe_of_something_else_is_replaced_only_by_force(
    model: Path, colours: Path, tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    run(model, colours, out)
    run(model, colours, out)  # the same again
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    data = make_images(12, "others", ("cat", "dog"))
    other, network = tmp_path / "other", small_model()
    torch.nn.init.ones_(next(network.stem.parameters()))
    network.save_pretrained(other)
    for word, of, said in ((model, data, "other data"), (other, colours, "another trunk")):
        with pytest.raises(ConfigError, match=f"holds a probe of {said}.*--force"):
            run(word, of, out)
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert run(other, data, out, force=True).readings
    run(other, data, out)
    (out / "probe.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a result of a probe"):
        run(other, data, out)


def test_a_folder_of_something_else_stays_as_it_is(model: Path, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.yaml").write_text("mine")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, said in (("out", "holds something else than a probe"), ("file", "cannot write to")):
        with pytest.raises(ConfigError, match=said):
            run(model, colours, tmp_path / name)
    assert (tmp_path / "out" / "train.yaml").read_text() == (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "features").exists()


def test_a_probe_that_was_killed_while_it_wrote_is_made_again(
    model: Path, colours: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / ".probe.csv.123.part").touch()
    run(model, colours, tmp_path / "out")
    assert (tmp_path / "out" / "probe.json").is_file()


def test_the_command(model: Path, colours: Path, tmp_path: Path) -> None:
    words = ["probe", str(model), str(colours), "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "label: accuracy on what is held out, * on the Pareto front"
    assert lines[2].split()[:3] == ["*", "stem", "mean"]
    assert lines[-1] == f"classy train {tmp_path / 'out' / 'train.yaml'} trains a head there"
    done = CliRunner().invoke(app, [*words, "--format", "csv"])
    assert done.stdout == (tmp_path / "out" / "probe.csv").read_text()
