"""Models into folders and repositories of the hub: config.json, model.safetensors and README.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from classy_vision.config import ConfigError, first_line, system_error
from classy_vision.hub.card import LIBRARY, card
from classy_vision.hub.describe import CONFIG, describe
from classy_vision.hub.load import import_hub
from classy_vision.hub.use import find_use
from classy_vision.models.classy_model import ClassyModel
from classy_vision.weights.files import WEIGHTS, replacing, write_tensors

CARD = "README.md"


def save_pretrained(
    model: ClassyModel,
    folder: str | Path,
    *,
    repo_id: str | None = None,
    licence: str | None = None,
    run: str | Path | None = None,
) -> None:
    """Writes a folder that ``from_pretrained`` reads, and the hub shows.

    Each file is written beside its place and renamed. A ``README.md`` that is there stays.

    Args:
        model: of a registered class, with registered heads.
        folder: is made.
        repo_id: what the card says to load, "owner/name"; by default the folder's name.
        licence: of the weights, for the card ("mit").
        run: the run folder it comes from. Its classes and preprocessing go into the config, and its data and
            metrics onto the card. By default they are those that the model carries: ``from_checkpoint``,
            ``from_pretrained`` and published weights bring them along.

    Raises:
        ConfigError: no config can describe the model, ``run`` is of another model, or
            the folder cannot be written.
    """
    config = {**describe(model), **find_use(model, run).as_config()}
    text = card(model, config, repo_id or Path(folder).name, licence=licence, run=run)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, model.state_dict(), {"format": "pt", "library": LIBRARY})
        _write(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        if not (folder / CARD).exists():
            _write(folder / CARD, text)
    except OSError as error:
        raise system_error(error, f"cannot write {str(folder)!r}") from None


def push_to_hub(
    model: ClassyModel,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str = "Push model using classy-vision-models",
    licence: str | None = None,
    run: str | Path | None = None,
) -> str:
    """Uploads what ``save_pretrained`` writes, in one commit; a card that is there stays.

    Args:
        model: as for ``save_pretrained``.
        repo_id: "owner/name"; it is made where there is none.
        private: whether a new one is.
        token: of the hub; by default that of ``hf auth login`` or ``HF_TOKEN``.
        branch: where to, "main" by default.
        create_pr: propose it instead.
        commit_message: of the commit.
        licence, run: as for ``save_pretrained``.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: no config can describe the model, or the hub refuses.
    """
    hub = import_hub()
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, repo_id=repo_id, licence=licence, run=run)
        api = hub.HfApi(token=token)

        def upload() -> str:
            repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            has_card = api.file_exists(repo, CARD, revision=branch)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
                ignore_patterns=[CARD] if has_card else None,
            )
            return str(commit.commit_url)

        return _explained(repo_id, upload)


def _explained(repo_id: str, upload: Callable[[], str]) -> str:
    try:
        return upload()
    except Exception as error:  # the hub's, its network library's, or the system's
        reason = first_line(error)
        raise ConfigError(f"cannot upload to {repo_id!r}: {reason}") from None


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
