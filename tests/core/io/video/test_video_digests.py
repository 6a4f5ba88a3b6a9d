"""Digests of video files on storage that fails."""

import hashlib

import pytest

from vlm_core.errors import UserError
from vlm_core.io import files
from vlm_core.io.video.sources import Sampling, VideoSource, file_digest


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


def test_rates_that_differ_late_have_names_of_their_own():
    """Names are keys of caches: 1/3 and 0.333333 a second select other frames of a long video."""
    names = [VideoSource("clip.mp4", Sampling(fps=fps)).name for fps in (1 / 3, 0.333333, 0.3333333)]
    assert len(set(names)) == 3
    assert str(Sampling(fps=2.0)) == str(Sampling(fps=2)) == "fps 2, at most 64 frames"
