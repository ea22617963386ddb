"""Folders into repositories of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from classy_vision.config import ConfigError, first_line
from classy_vision.hub.folder import CARD
from classy_vision.weights.download import import_hub


def upload_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    branch: str | None,
    create_pr: bool | None,
    commit_message: str,
) -> str:
    """Uploads a folder in one commit, but for a card where the repository has one.

    Args:
        folder, repo_id, private, token, branch, create_pr, commit_message: see ``ClassyModel.push_to_hub``.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: the hub refuses, or cannot be reached.
    """
    api = import_hub().HfApi(token=token)
    try:
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
    except Exception as error:  # of the hub, its network library, or the system
        raise ConfigError(f"cannot upload to {repo_id!r}: {first_line(error)}") from None
    return str(commit.commit_url)
