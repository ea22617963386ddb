"""``classy neighbours`` as a person runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from classy_vision.cli import app
from classy_vision.embed import embed, load, neighbours
from tests.cli.test_start import start
from tests.embed.conftest import make_images as make_images
from tests.embed.conftest import model as model


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["neighbours", *map(str, arguments), "--device", "cpu"])
    return done.exit_code, done.stdout, done.stderr or str(done.exception or "")


@pytest.fixture
def features(model: Path, make_images: Callable[..., Path], tmp_path: Path) -> Path:
    images = make_images(10)
    (images / "dog" / "00009.png").write_bytes((images / "cat" / "00000.png").read_bytes())
    embed(model, images, tmp_path / "features", blocks=["block1", "stem"], device="cpu")
    return tmp_path / "features"


def test_what_is_printed(
    features: Path, make_images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = neighbours("features", column="stem/mean", k=3, device="cpu", of=["dog/00007.png"])
    code, printed, _ = run("features", "--column", "stem/mean", "-k", 3, "--of", "dog/00007.png", "--show", 2)
    assert code == 0
    lines = printed.splitlines()
    assert lines[0] == "10 images by stem/mean, 3 neighbours of each by cosine, labels from the column label."
    near = [load("features").ids[row] for row in found.queries[0].rows]
    assert lines[1].startswith(f"near dog/00007.png: {near[0]} (0.")
    text = f"2 images in 1 group (cosine {found.threshold:.6f} or more), 1 of them exact copies"
    assert lines[2] == f"near duplicates: {text}; labels differ in 1"
    assert lines[3].startswith(f"labels that disagree: {len(found.disagreements)}")
    assert lines[4].startswith(f"furthest from all others: {load('features').ids[int(found.outliers[0])]}, ")
    page = Path("neighbours", "features", "neighbours.html")
    assert lines[5:] == [f"pictures of them are in {page}"]
    assert page.is_file()
    code, printed, said = run("features", "--column", "stem/mean")
    assert (code, printed, said) == (1, "", f"{page} exists: --force replaces it")
    assert run("features", "--column", "stem/mean", "--force")[0] == 0


def test_nothing_is_written_where_something_does_not_fit(features: Path, model: Path, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "out")
    for arguments, said in (
        ((), "has several columns: choose one with --column"),
        (("--column", "stem/maen"), "unknown column 'stem/maen'; did you mean 'stem/mean'"),
        (("--column", "stem/mean", "--of", tmp_path / "none.png"), "there is no such file"),
        (("--column", "stem/mean", "--label", "labl"), "unknown column of labels 'labl'; did you mean 'label'"),
    ):
        code, printed, error = run(features, *output, *arguments)
        assert (code, printed) == (1, "")
        assert said in error
    assert not (tmp_path / "out").exists()


def test_what_is_no_folder_of_embeddings_needs_no_torch(tmp_path: Path) -> None:
    code, printed, modules = start("neighbours", tmp_path)
    assert code == 2
    assert "is not a folder of embeddings: it has no manifest.json" in printed
    assert "torch" not in modules
