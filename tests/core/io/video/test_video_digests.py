"""Digests of video files on storage that fails."""

import hashlib

import pytest

from vlm_core.errors import UserError
from vlm_core.io import files
from vlm_core.io.video.sources import file_digest


def test_a_read_that_fails_is_tried_again(tmp_path, monkeypatch):
    path, failures = tmp_path / "a.mp4", [OSError(5, "stumbled")]
    path.write_bytes(b"content")
    digest = hashlib.file_digest

    def stumbling(file, name):
        if failures:
            raise failures.pop()
        return digest(file, name)

    monkeypatch.setattr(files, "RETRY_DELAYS", (0.0,))
    monkeypatch.setattr(hashlib, "file_digest", stumbling)
    with files.io_retries() as retried:
        assert file_digest(path) == hashlib.sha256(b"content").hexdigest()
    assert retried == [str(path)]


def test_storage_that_goes_on_failing_is_no_bad_row(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")

    def failing(file, name):
        raise OSError(5, "stumbled")

    monkeypatch.setattr(files, "RETRY_DELAYS", ())
    monkeypatch.setattr(hashlib, "file_digest", failing)
    with pytest.raises(UserError, match=r"a\.mp4: the storage fails: stumbled"):
        file_digest(path)
