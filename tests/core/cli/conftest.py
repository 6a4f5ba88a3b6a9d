"""Fixtures of tests of commands."""

import pytest
from watch_commands import pictures


@pytest.fixture
def frame_folder(tmp_path):
    """Six PNG files, whose pixels are those of `pictures`."""
    (tmp_path / "frames").mkdir()
    for i, image in enumerate(pictures(6)):
        image.save(tmp_path / "frames" / f"{i}.png")
    return tmp_path / "frames"
