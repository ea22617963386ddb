"""Embeds on Ray: actors hold the model, and each is given the next shard when it is free.

These are plain actors and not Ray Data. Ray Data moves rows between tasks and names its files itself, and when
it tries a block again, it writes its files again. Here a call is one shard, which is written as a whole or not
at all, so that a shard can be given to another actor at any time, and each row is there once. Nothing but
counts goes through Ray: actors read the collection and write the folder themselves.
"""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from classy_vision.config import ConfigError, first_line
from classy_vision.data.files import count_processors, count_workers
from classy_vision.embed.folder import ABOUT, Folder
from classy_vision.embed.work import Counts, Progress, Signature, Task, Tell, Worker
from classy_vision.errors import OperationError

DEATHS = 3
"""How many actors may die of one shard, or while the model is loaded, before the command ends."""
ADDRESS = "RAY_ADDRESS"


def find_ray() -> Any:
    """Imports Ray.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError(
            "embedding on Ray needs the package ray: pip install 'classy-vision-models[ray]'"
        ) from None
    return ray


def run_on_ray(task: Task, tell: Tell | None) -> Counts:
    """Embeds all shards with actors; this process has no model."""
    task = replace(task, folder=Folder(task.folder.path.absolute()))
    with _connected(), _Pool(task) as pool:
        model, total = pool.load(), Counts()
        with task.folder.lock():
            source = task.begin(model)
            shards = task.list_missing(source)
            rows = task.count(source, shards)
            for done, counts in enumerate(pool.run(shards), 1):
                total += counts
                if tell is not None:
                    tell(Progress(total.rows, total.errors, done, len(shards), rows))
            _check_storage(task, shards)
            task.finish(model, source)
    return total


def _check_storage(task: Task, shards: Sequence[int]) -> None:
    """Raises where actors have written shards that cannot be seen here."""
    if (lost := next((index for index in shards if not task.folder.holds(index)), None)) is not None:
        raise ConfigError(
            f"{str(task.folder.find_shard(lost))!r} was written, and is not there: with Ray the folder must be "
            f"on storage that all nodes share"
        )


@contextmanager
def _connected() -> Iterator[None]:
    """Connects to the cluster of the environment, or starts one on this machine; leaves one that is there.

    Raises:
        ConfigError: there is no such cluster.
    """
    ray = find_ray()
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported unless somebody wants it
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not (address := os.environ.get(ADDRESS)):
        options |= {"num_cpus": count_processors(), "include_dashboard": False}
    try:
        ray.init(address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot connect to Ray ({ADDRESS}={address!r}): {first_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


# -- what an actor takes


@dataclass(frozen=True)
class Share:
    """What an actor takes of a cluster.

    Attributes:
        threads: in which it runs the model.
        cpus, gpus: that Ray sets aside for it.
        actors: how many there are at most.
    """

    threads: int
    cpus: int
    gpus: int
    actors: int


def find_share(nodes: Sequence[Mapping[str, float]], task: Task, threads: int) -> Share:
    """Finds what an actor takes: a GPU and its part of a node, or as many processors as it has threads.

    Args:
        nodes: how many of which resource each node has.
        task: of which the settings count.
        threads: in which the model runs in this process.
    """
    settings = task.settings
    device = settings.device or ("cpu" if settings.engine else "cuda")
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1] if device.startswith("cuda") else []
    if with_gpus:
        cpus = min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpus)
        gpus = int(sum(node["GPU"] for node in with_gpus))
        return Share(threads, cpus, 1, settings.actors or gpus)
    processors = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    cpus = min([threads, *processors])
    fit = sum(count // cpus for count in processors)
    gpus = int(settings.device is not None and device.startswith("cuda"))  # nodes with GPUs may be on their way
    return Share(threads, cpus, gpus, settings.actors or max(1, fit))


class Actor:
    """A worker in a process of Ray.

    Args:
        task: that it works on.
        threads: in which it runs the model.
        folder: in which the command was called, where relative paths start.
    """

    def __init__(self, task: Task, threads: int, folder: str) -> None:
        with suppress(OSError):  # where paths are absolute, nobody needs it
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._worker = Worker(task)

    def load(self) -> Signature:
        """Loads the model."""
        return self._worker.signature

    def embed(self, shard: int) -> Counts:
        """Writes a shard.

        Raises:
            ConfigError: the folder is on another machine.
        """
        folder: Path = self._worker.task.folder.path
        if not (folder / ABOUT).is_file():
            raise ConfigError(
                f"the node {platform.node()!r} does not see {str(folder)!r}: with Ray the folder and the "
                f"collection must be on storage that all nodes share"
            )
        return self._worker.run([shard])


# -- who has which shard


class _Pool:
    """Actors, and the shards that they have.

    Actors start as the cluster finds resources for them, and end as soon as no shard is left for them, so that
    a cluster that scales follows. Each has one shard at a time.
    """

    def __init__(self, task: Task) -> None:
        self._ray = ray = find_ray()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._share = find_share(nodes, task, torch.get_num_threads())
        self._task = self._place(task)
        self._model: Signature | None = None
        self._actors: set[Any] = set()
        self._deaths = Counter[int | None]()

    def _place(self, task: Task) -> Task:
        settings = task.settings
        workers = settings.workers or max(count_workers(), self._share.cpus if self._share.gpus else 1)
        device = "cuda" if self._share.gpus else settings.device or "cpu"
        update = {"workers": workers, "device": device}
        return replace(task, settings=settings.model_copy(update=update))

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._actors]:
            self._end(actor)

    def load(self) -> Signature:
        """Starts an actor, which loads the model and says what it gives.

        Raises:
            ConfigError: what loading raises.
            OperationError: actors die of it.
        """
        while self._model is None:
            self._task_ref = self._ray.put(self._task)
            actor = self._start()
            self._model = self._take(actor.load.remote(), actor, None)
        if self._task.settings.engine:  # all use the one that the first has found
            update = {"engine": self._model.about.get("engine")}
            self._task = replace(self._task, settings=self._task.settings.model_copy(update=update))
        self._task_ref = self._ray.put(self._task)
        return self._model

    def run(self, shards: Sequence[int]) -> Iterator[Counts]:
        """Yields what was done for each shard, in the order in which they are done.

        Raises:
            ConfigError: what embedding raises.
            OperationError: several actors have died of one shard.
        """
        todo, free = deque(shards), [*self._actors]
        shard: int | None
        calls: dict[Any, tuple[Any, int | None]] = {}
        while todo or any(shard is not None for _, shard in calls.values()):
            while free and todo:
                actor, shard = free.pop(), todo.popleft()
                calls[actor.embed.remote(shard)] = actor, shard
            loading = sum(shard is None for _, shard in calls.values())
            for _ in range(min(self._share.actors - len(self._actors), len(todo) - loading)):
                actor = self._start()
                calls[actor.load.remote()] = actor, None
            (done,), _ = self._ray.wait([*calls])
            actor, shard = calls.pop(done)
            found = self._take(done, actor, shard)
            if found is None and shard is not None:
                todo.appendleft(shard)
            elif found is not None:
                free.append(actor)
            if isinstance(found, Counts):
                yield found
            while free and not todo:
                self._end(free.pop())

    def _start(self) -> Any:
        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus, "max_restarts": 0}
        kind = self._ray.remote(**options)(Actor)
        actor = kind.remote(self._task_ref, self._share.threads, os.getcwd())
        self._actors.add(actor)
        return actor

    def _end(self, actor: Any) -> None:
        self._actors.discard(actor)
        with suppress(Exception):  # it may be dead, or the cluster
            self._ray.kill(actor)

    def _take(self, call: Any, actor: Any, shard: int | None) -> Any:
        """Returns the result of a call; None where the actor has died, which is removed then."""
        try:
            found = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise _find_cause(error) from error
        except self._ray.exceptions.RayError as error:
            self._end(actor)
            self._bury(shard, error)
            return None
        if isinstance(found, Signature) and self._model is not None and found != self._model:
            raise ConfigError("the weights or the versions of packages differ between the nodes of the cluster")
        if isinstance(found, Signature):
            self._deaths[None] = 0
        return found

    def _bury(self, shard: int | None, error: BaseException) -> None:
        self._deaths[shard] += 1
        if self._deaths[shard] < DEATHS:
            return
        where = "while they loaded the model" if shard is None else f"of shard {shard}"
        raise OperationError(f"{DEATHS} actors of Ray have died {where}; the last one: {first_line(error)}")


def _find_cause(error: Any) -> BaseException:
    """The error that was raised in an actor."""
    return error.cause if isinstance(error.cause, BaseException) else error
