"""Uploading what was saved to a hub, as `save_pretrained(push_to_hub=True)` asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError

REPOSITORY = ("repo_id", "private", "token")
COMMIT = ("commit_message", "commit_description", "revision", "create_pr")
Upload = Callable[[Path, Iterable[str]], None]


def upload_of(push_to_hub: bool, arguments: Mapping[str, Any]) -> Upload:
    """A function that uploads these files of a folder to the hub, or does nothing without `push_to_hub`.

    Raises `UserError` for arguments that nothing here takes.
    """
    given = {name: value for name, value in arguments.items() if value is not None and value is not False}
    if odd := [name for name in given if not push_to_hub or name not in (*REPOSITORY, *COMMIT)]:
        possible = ", ".join((*REPOSITORY, *COMMIT))
        raise UserError(
            f"save_pretrained does not know {', '.join(odd)} for this model; with push_to_hub=True: {possible}"
        )
    return (
        (lambda folder, names: _upload(folder, names, given)) if push_to_hub else lambda folder, names: None
    )


def _upload(folder: Path, names: Iterable[str], given: Mapping[str, Any]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        api = HfApi(token=given.get("token"))
        repository = api.create_repo(
            given.get("repo_id") or folder.resolve().name, private=given.get("private"), exist_ok=True
        )
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            allow_patterns=list(names),
            **{name: value for name, value in given.items() if name in COMMIT},
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{folder} is saved, but was not uploaded: {reason:.300}") from None
