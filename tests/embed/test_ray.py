"""Actors of Ray write the same files as one process, whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.embed import Progress, Settings, embed
from classy_vision.embed.folder import Folder
from classy_vision.embed.on_ray import Share, find_share
from classy_vision.embed.sources import Listing, Sample, Source
from classy_vision.embed.work import Task
from classy_vision.errors import OperationError
from tests.embed.test_kill import WORDS, check_killed
from tests.predict.test_predictor import small_model

Images = Callable[..., Path]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
quiet = pytest.mark.filterwarnings("ignore")  # Ray's own


def run(model: Any, source: Any, output: Path, **options: Any) -> Any:
    wanted = {"blocks": ["block1"], "shard_size": 4, "batch_size": 3, "device": "cpu", "threads": 1, **options}
    return embed(model, source, output, **wanted)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this machine, which several commands use."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield ray
    ray.shutdown()


@needs_ray
@quiet
def test_ray_writes_the_same_files(model: Path, make_images: Images, tmp_path: Path, cluster: Any) -> None:
    images, seen = make_images(30), list[Progress]()
    (images / "dog" / "00020.png").write_bytes(b"damaged")
    here = run(model, images, tmp_path / "here")
    there = run(model, images, tmp_path / "there", runner="ray", actors=2, progress=seen.append)
    assert (there.rows, there.errors, there.new) == (here.rows, here.errors, here.new) == (29, 1, 29)
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert seen[-1] == Progress(29, 1, 8, 8, 30)


@needs_ray
@quiet
@pytest.mark.slow
def test_what_ray_refuses(model: Path, make_images: Images, tmp_path: Path, cluster: Any) -> None:
    images = make_images(10)
    with pytest.raises(ConfigError, match="did you mean 'block1'"):
        run(model, images, tmp_path / "out", runner="ray", blocks=["blok1"])
    assert not (tmp_path / "out").exists()
    (images / "dog" / "00009.png").write_bytes(b"damaged")
    with pytest.raises(OperationError, match="dog/00009.png: not an image"):
        run(model, images, tmp_path / "out", runner="ray", on_error="stop")
    assert run(model, images, tmp_path / "out", runner="ray", resume=True).errors == 1
    assert run(model, images, tmp_path / "out", runner="ray", resume=True).new == 1  # with the error, once more


@dataclass(frozen=True)
class Deadly:
    """A collection of which some shards end the process that reads them.

    Attributes:
        source: the collection.
        marks: a folder that has a file for each death.
        times: how often a shard kills, by its number.
    """

    source: Source
    marks: Path
    times: dict[int, int]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def read(self, shard: int) -> Iterator[Sample]:
        for row, sample in enumerate(self.source.read(shard)):
            if row == 1 and len([*self.marks.glob(f"{shard}-*")]) < self.times.get(shard, 0):
                (self.marks / f"{shard}-{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield sample


@pytest.fixture
def listed(model: Path, make_images: Images, tmp_path: Path) -> Source:
    """A folder of 30 images in 8 shards."""
    from classy_vision.embed.sources import open_source

    return open_source(str(make_images(30)), "image", tmp_path / "listing", 4)


@needs_ray
@quiet
@pytest.mark.slow
def test_actors_that_are_killed_lose_nothing(
    model: Path, listed: Listing, tmp_path: Path, cluster: Any
) -> None:
    (tmp_path / "marks").mkdir()
    run(model, listed, tmp_path / "here")
    deadly = Deadly(listed, tmp_path / "marks", {0: 1, 3: 2, 7: 1})
    found = run(model, deadly, tmp_path / "there", runner="ray", actors=2)
    assert len({file.name.split("-")[1] for file in (tmp_path / "marks").iterdir()}) == 4
    assert (found.rows, found.new) == (30, 30)
    assert files(tmp_path / "there") == files(tmp_path / "here")


@needs_ray
@quiet
@pytest.mark.slow
def test_a_shard_that_kills_every_actor(model: Path, listed: Listing, tmp_path: Path, cluster: Any) -> None:
    (tmp_path / "marks").mkdir()
    deadly = Deadly(listed, tmp_path / "marks", {3: 100})
    with pytest.raises(OperationError, match="3 actors of Ray have died of shard 3; the last one: "):
        run(model, deadly, tmp_path / "there", runner="ray", actors=1)
    assert run(model, listed, tmp_path / "there", runner="ray", resume=True).rows == 30


@needs_ray
@quiet
@pytest.mark.slow
def test_a_model_in_memory_is_sent_to_actors(listed: Listing, tmp_path: Path, cluster: Any) -> None:
    model = small_model()
    run(small_model(), listed, tmp_path / "here")
    run(model, listed, tmp_path / "there", runner="ray")
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert [*model.get_heads()] == [*small_model().get_heads()]


@needs_ray
@pytest.mark.slow
def test_twenty_kills_of_the_driver(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(2400)
    (images / "dog" / "02000.png").write_bytes(b"damaged")
    words = (*WORDS, "--engine", "ray", "--actors", 2, "--threads", 1)
    check_killed(model, images, tmp_path, kills=20, seed=4, words=words)


# -- what needs no Ray


def test_ray_is_not_installed(
    model: Path, make_images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs the package ray: pip install 'classy-vision-models\[ray\]'"):
        run(model, make_images(2), tmp_path / "out", runner="ray")
    assert not (tmp_path / "out").exists()


def test_torchrun_and_ray(
    model: Path, make_images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun and Ray are two ways to share out the work: choose one"):
        run(model, make_images(2), tmp_path / "out", runner="ray")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "ray"}, "an engine runs the model; runner='ray' says who embeds"),
        ({"actors": 2}, "actors are those of Ray: set runner='ray' as well"),
        ({"runner": "rey"}, "runner.*'ray'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.parse(settings, "embed")


SMALL, LARGE = {"CPU": 2.0}, {"CPU": 64.0, "memory": 1.0}
GPUS = {"CPU": 32.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "settings", "share"),
    [
        ([SMALL], {}, Share(8, 2, 0, 1)),
        ([LARGE, LARGE, {"memory": 1.0}], {}, Share(8, 8, 0, 16)),
        ([LARGE], {"actors": 3}, Share(8, 8, 0, 3)),
        ([LARGE, GPUS], {}, Share(8, 4, 1, 8)),
        ([LARGE, GPUS], {"device": "cpu"}, Share(8, 8, 0, 12)),
        ([LARGE, GPUS], {"engine": "openvino"}, Share(8, 8, 0, 12)),
        ([SMALL], {"device": "cuda", "actors": 4}, Share(8, 2, 1, 4)),
        ([], {}, Share(8, 8, 0, 1)),
    ],
)
def test_what_an_actor_takes(nodes: list[dict[str, float]], settings: dict[str, Any], share: Share) -> None:
    task = Task("model", "source", Folder(Path("out")), Settings(runner="ray", **settings))
    assert find_share(nodes, task, threads=8) == share


def test_threads_are_as_many_as_before(model: Path, make_images: Images, tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), set[int]()
    run(
        model, make_images(2), tmp_path / "out", threads=3, progress=lambda _: seen.add(torch.get_num_threads())
    )
    assert seen == {3}
    assert torch.get_num_threads() == before
