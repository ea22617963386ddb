"""Models to and from folders and the Hugging Face hub, as methods."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from typing_extensions import Self

from classy_vision.config import ConfigError


class Shared:
    """The methods of a model that others can load; ``classy_vision.hub`` does the work.

    That package counts costs for the card, so it stands right of models and is only looked up here.
    """

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Writes ``config.json``, ``model.safetensors`` and a card, ``README.md``.

        Args:
            folder: is made where there is none.
            options: ``repo_id``, ``licence`` and ``run``: see ``classy_vision.hub.save_pretrained``.

        Raises:
            ConfigError: no config can describe the model, or the folder cannot be written.
        """
        import_module("classy_vision.hub").save_pretrained(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what ``save_pretrained`` writes, and returns the address of the commit.

        Args:
            repo_id: "owner/name".
            options: ``private``, ``token``, ``licence``, …: see ``classy_vision.hub.push_to_hub``.

        Raises:
            ConfigError: no config can describe the model, or the hub refuses.
        """
        return import_module("classy_vision.hub").push_to_hub(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """The model of a folder, of a repository of the hub, or of published weights.

        Args:
            name: a folder of ``save_pretrained``, a run folder, "owner/name", or published weights
                ("timm/resnet50.a1_in1k").
            options: ``revision``, ``token``, …: see ``classy_vision.hub.from_pretrained``.

        Raises:
            ConfigError: there is none, it is damaged, or it is no ``cls``.
        """
        model = import_module("classy_vision.hub").from_pretrained(name, **options)
        if not isinstance(model, cls):
            raise ConfigError(f"{str(name)!r} is a {type(model).__name__}, not a {cls.__name__}")
        return model
