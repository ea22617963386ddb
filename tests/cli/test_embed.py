"""``classy embed`` as a person runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from classy_vision.cli import app, progress
from classy_vision.cli import embed as command
from classy_vision.embed import load, work
from tests.cli.test_start import start
from tests.embed.conftest import make_images as make_images
from tests.embed.conftest import model as model
from tests.embed.conftest import write_image


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["embed", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr or str(done.exception or "")


def test_a_folder_is_written(model: Path, make_images: Callable[..., Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = (
        "--block",
        "block1",
        "--block",
        "stem",
        "--pooling",
        "max",
        "--head",
        "weight",
        "--dtype",
        "float16",
    )
    code, printed, _ = run(model, make_images(10), "-o", output, *options, "--shard-size", 3)
    assert code == 0
    assert printed.startswith(f"10 rows in {output} (10 new in ")
    assert [*load(output)] == ["head/weight", "block1/max", "stem/max"]
    assert len(load(output).manifest["shards"]) == 4
    code, _, said = run(model, tmp_path / "images", "-o", output)
    assert (code, said) == (1, f"{str(output)!r} holds embeddings already; --force replaces them")
    assert run(model, tmp_path / "images", "-o", output, "--force")[0] == 0


def test_damaged_files_make_the_exit_code_one(
    model: Path, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    images = make_images(4)
    (images / "cat" / "00000.png").write_bytes(b"damaged")
    code, printed, said = run(model, images, "-o", tmp_path / "out")
    assert code == 1
    assert printed.startswith("3 rows in ")
    assert said == f"1 could not be read, and are listed in {tmp_path / 'out' / 'errors.csv'}\n"


def test_ray_that_is_not_installed(
    model: Path, make_images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    code, _, said = run(model, make_images(2), "-o", tmp_path / "out", "--engine", "ray")
    assert (code, said) == (1, "--engine ray needs the package ray: pip install 'classy-vision-models[ray]'")


def test_ctrl_c(
    model: Path, make_images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    images = make_images(4)
    monkeypatch.setattr(work, "answer_batches", interrupt)
    assert run(model, images, "-o", tmp_path / "out") == (
        130,
        "",
        "stopped; the same command with --resume continues\n",
    )
    monkeypatch.undo()
    assert run(model, images, "-o", tmp_path / "out", "--resume")[0] == 0


def test_lines_say_how_far_it_is(
    model: Path, make_images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    said = run(model, make_images(4), "-o", tmp_path / "out")[2].splitlines()
    assert len(said) == 4
    assert said[-1].startswith("4 embedded, ")
    assert said[-1].endswith(" per second, 0 min left")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resnet18", "{images}"), "'resnet18' is a preset, which classy embed does not take"),
        (("{model}", "none"), "there is no file and no folder 'none'"),
        (("{model}", "{images}/a.png"), "a.png' is not a collection"),
        (("{model}", "{images}", "--resume"), "cannot resume "),
        (("{model}", "{images}", "--actors", "2"), "--actors are those of Ray: add --engine ray"),
    ],
)
def test_what_needs_no_torch(arguments: tuple[str, ...], said: str, model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 0)
    words = [word.format(model=model, images=tmp_path) for word in arguments]
    code, printed, modules = start("embed", *words, "-o", tmp_path / "out")
    assert code == 2
    assert said in printed
    assert "torch" not in modules
    assert not (tmp_path / "out").exists()
