"""``classy compare``: the table, its files, and long runs as real processes."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from classy_vision.cli import app
from classy_vision.config import ConfigError
from classy_vision.presets import known_costs
from classy_vision.text import human
from tests.train.command import SMALL_TRUNK, classy, digits_job, start, stop_when, write

GOLDEN = known_costs()


def run(*args: object, width: int = 100) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, args)], env={"COLUMNS": str(width)})


def message(*args: object) -> str:
    error = run(*args).exception
    assert isinstance(error, ConfigError)
    return str(error)


def lines(done: Any) -> list[list[str]]:
    """The rows of the table, without the marks."""
    found = [line.split() for line in done.stdout.splitlines() if "×" in line]
    return [words[1:] if words[0] in "★✗" else words for words in found]


def test_presets_as_a_user_sees_them() -> None:
    done = run("regnet_x_[24]00mf", "resnet18", "--sort", "macs")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert [row[0] for row in lines(done)] == ["regnet_x_200mf", "regnet_x_400mf", "resnet18"]
    for name, _, params, macs, *_ in lines(done):
        assert (params, macs) == (human(GOLDEN[name]["params"]), human(GOLDEN[name]["macs"]))
    assert "★ Pareto front: most MACs for the least activations." in done.stdout
    assert "latency" not in done.stdout


@pytest.mark.parametrize("width", [80, 60, 30])
def test_names_are_whole_at_any_width(width: int) -> None:
    names = ["torchvision/regnet_y_400mf.IMAGENET1K_V2", "resnet18"]
    done = run(*names, width=width)
    for name in names:
        assert any(name in line.split() for line in done.stdout.splitlines())
    assert "…" not in done.stdout
    said = " ".join(done.stdout.split())
    assert "Too narrow for: input, acts" in said
    assert "--output FILE has all columns." in said
    needed = max(len(line.rstrip()) for line in done.stdout.splitlines())
    assert needed <= max(width, 66)


def test_the_column_that_rows_are_sorted_by_stays() -> None:
    done = run("torchvision/regnet_y_400mf.IMAGENET1K_V2", "resnet18", "--sort", "activations", width=40)
    assert "acts" in done.stdout.splitlines()[1].split()


@pytest.mark.parametrize("width", [100, 80])
def test_everything_that_is_measured_fits(width: int) -> None:
    options = ("--measure", "--image-size", "32", "--sort", "-latency")
    done = run("torchvision/regnet_y_400mf.IMAGENET1K_V2", "regnet_x_200mf", *options, width=width)
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= width
    assert "…" not in done.stdout
    assert "measuring 2 of 2: regnet_x_200mf" in done.stderr


def test_published_accuracies_join_the_table() -> None:
    done = run("torchvision/resnet18.IMAGENET1K_V1", "resnet34")
    assert "69.76%" in done.stdout
    assert "most accuracy for the least MACs" in done.stdout
    assert "publisher states for ImageNet" in done.stdout


def test_failures_are_rows_and_the_exit_code_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: [")
    (tmp_path / "odd.yaml").write_text("name: resnet18\nwidth: 3\n")
    table = tmp_path / "table.csv"
    options = ("--image-size", "100", "--output", str(table))
    done = classy("compare", tmp_path, "vit_b_16", "resnet18", "resnet5O", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    with table.open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {name for name, row in rows.items() if not row["failure"]} == {"resnet18"}
    assert "malformed YAML" in rows["broken"]["failure"]
    assert "unknown key 'width'" in rows["odd"]["failure"]
    assert "multiples of the patch size 16, not (100, 100)" in rows["vit_b_16"]["failure"]
    assert "did you mean 'resnet50'" in rows["resnet5O"]["failure"]
    assert done.stdout.count("✗") == 8  # in the table, and with the reason below


def test_a_model_that_no_memory_holds_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classy_vision.cost.free_memory.find_free", lambda device: 2 * 10**9)
    done = run("regnet_y_10b_seer", "regnet_x_200mf", "--measure", "--image-size", 32)
    assert done.exit_code == 1
    assert "✗ regnet_y_10b_seer: RegNet needs about" in done.stdout
    assert [("ms" in row) for row in lines(done)] == [False, True]


def test_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.csv", "a.parquet", "a.json")]
    for file in files:
        plots = ("--plot", file.with_suffix(".svg"), "--force")
        assert run("resnet18", "resnet34", "--output", file, *plots).exit_code == 0
    entries = parquet.read_table(files[1]).to_pylist()
    assert entries == json.loads(files[2].read_text())
    assert [entry["params"] for entry in entries] == [GOLDEN[e["name"]]["params"] for e in entries]
    assert (tmp_path / "a.svg").read_text().count("<svg") == 1
    again = run(files[0], files[1], "resnet50", "--plot", tmp_path / "all.png")
    assert again.exit_code == 0
    assert [row[0] for row in lines(again)] == ["resnet18", "resnet34", "resnet18", "resnet34", "resnet50"]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["resnet5O"], "did you mean 'resnet50'"),
        (["resnet18", "--sort", "speed"], "--sort: unknown column 'speed'"),
        (["resnet18", "--y", "acuracy"], "--y: unknown column 'acuracy'; did you mean 'accuracy'"),
        (["resnet18", "--plot", "a.pdf"], "--plot a.pdf: unknown ending '.pdf'"),
        (["resnet18", "--output", "a.txt"], "--output a.txt: unknown ending '.txt'"),
        (["resnet18", "--edf", "a.svg"], "--edf needs accuracies"),
        (["resnet18", "--set", "a=1"], "give --train CONFIG as well"),
        (["resnet18", "--runs", "there"], "give --train CONFIG as well"),
        (["resnet18", "--train", "gone.yaml"], "cannot read the config 'gone.yaml'"),
        (["resnet18", "--image-size", "0"], "image size '0'"),
        (["resnet18", "--device", "cuda:99"], "cuda:99"),
        (["resnet18", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["gone.csv"], "cannot read 'gone.csv': No such file"),
    ],
)
def test_usage_is_checked_before_any_work(
    args: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("classy_vision.study.comparison.count", None)
    assert said in message(*args)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    assert "a.csv exists: --force replaces it" in message("resnet18", "--output", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"


def test_a_plot_without_numbers_is_said_behind_the_table(tmp_path: Path) -> None:
    done = run("resnet18", "--y", "accuracy", "--plot", tmp_path / "a.svg")
    assert done.exit_code == 1
    assert "resnet18" in done.stdout
    assert "no model has both MACs and accuracy: nothing to plot" in done.stderr
    assert not (tmp_path / "a.svg").exists()


# -- training, as real processes


def listen() -> None:  # where a shell runs the tests in the background, children ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_training_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    nets = tmp_path / "nets"
    nets.mkdir()
    for name, width in (("first", 4), ("second", 6)):
        write(nets / f"{name}.json", {**SMALL_TRUNK, "stem_width": width})
    job = write(tmp_path / "job.json", digits_job(schedule={"epochs": 3}))
    runs, table = tmp_path / "runs", tmp_path / "table.csv"
    command = ("compare", nets, "--train", job, "--runs", runs, "--output", table)

    process = start(*command, preexec_fn=listen)
    out, err = stop_when((runs / "nets" / "second" / "checkpoint.pt").exists, process, signal.SIGINT)
    assert process.returncode == 130, err
    assert "stopped; the same command resumes" in err
    assert "training 2 of 2: second" in err
    assert "Traceback" not in err
    assert "first" in out
    rows = read(table)
    assert [bool(row["accuracy"]) for row in rows] == [True, False]
    before = (runs / "nets" / "first" / "metrics.json").read_bytes()

    done = classy(*command, "--force", "--edf", tmp_path / "edf.svg", "--plot", tmp_path / "plot.png")
    assert done.returncode == 0, done.stderr
    assert (runs / "nets" / "first" / "metrics.json").read_bytes() == before
    for row in read(table):
        final = json.loads((runs / "nets" / row["name"] / "metrics.json").read_text())["final"]
        assert final["epoch"] == 3
        assert float(row["accuracy"]) == pytest.approx(final["val/digit/accuracy"])
        assert float(row["accuracy/loop"]) == pytest.approx(final["val/loop/accuracy"])
    assert (tmp_path / "edf.svg").is_file()
    assert "epoch" not in done.stdout
    assert "Accuracy is that of digit on held-out data." in done.stdout

    runs_again = run(runs / "nets" / "*", "--edf", tmp_path / "again.svg")
    assert runs_again.exit_code == 0, runs_again.stderr
    for row in read(table):
        assert f"{float(row['accuracy']):.2%}" in runs_again.stdout


def read(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return list(csv.DictReader(file))


def test_the_recipe_can_be_changed_and_a_model_that_it_cannot_train_is_a_row(tmp_path: Path) -> None:
    write(tmp_path / "net.json", SMALL_TRUNK)
    job = write(tmp_path / "job.json", digits_job())
    options = ("--set", "schedule.epochs=1", "--set", "data.image_size=16", "--runs", tmp_path / "runs")
    done = run(tmp_path / "net.json", "vit_b_16", "--train", job, *options)
    assert done.exit_code == 1
    assert "1×16×16" in done.stdout
    assert "✗ vit_b_16: VisionTransformer: unknown block 'block1'" in done.stdout
    assert json.loads(next(tmp_path.glob("runs/*/net/metrics.json")).read_text())["final"]["epoch"] == 1
