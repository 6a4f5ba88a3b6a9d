"""Uploads that `save_pretrained(push_to_hub=True)` makes."""

from types import SimpleNamespace
from typing import ClassVar

import pytest

import vlm_core.hf  # noqa: F401  transformers' Auto classes know it from here on
from vlm_core.errors import UserError


class Hub:
    """What the hub is asked for, in place of `huggingface_hub.HfApi`."""

    calls: ClassVar[list] = []
    fault: ClassVar[Exception | None] = None

    def __init__(self, token):
        self.calls.append(("login", token))

    def create_repo(self, repo_id, private, exist_ok):
        if self.fault:
            raise self.fault
        self.calls.append(("repository", repo_id, private, exist_ok))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, repo_id, folder_path, allow_patterns, **commit):
        self.calls.append((repo_id, folder_path, sorted(allow_patterns), commit))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    return Hub


def test_push_to_hub_uploads_the_files_of_the_model_alone(model, processor, tmp_path, hub):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "diary.txt").write_text("mine")
    model.save_pretrained(tmp_path / "m", push_to_hub=True, token="t", private=True, commit_message="first")
    login, repository, (name, folder, files, commit) = hub.calls
    assert (login, repository) == (("login", "t"), ("repository", "m", True, True))
    assert (name, folder, commit) == ("me/m", tmp_path / "m", {"commit_message": "first"})
    written = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    assert written - set(files) == {"diary.txt"}
    processor.save_pretrained(tmp_path / "p", push_to_hub=True, repo_id="q")
    assert hub.calls[-1][0] == "me/q"


def test_an_upload_that_fails_leaves_the_folder(model, tmp_path, hub, monkeypatch):
    monkeypatch.setattr(Hub, "fault", OSError("no network"))
    with pytest.raises(UserError, match="is saved, but was not uploaded: no network"):
        model.save_pretrained(tmp_path / "m", push_to_hub=True)
    assert (tmp_path / "m" / "manifest.json").is_file()
