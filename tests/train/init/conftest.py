"""A folder with images and rows, and the command without a terminal."""

import io
import json
from pathlib import Path

import pytest
from init_data import pictures, row
from resume_helpers import call


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with twelve images and a row about each."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos")
    Path("data.json").write_text(json.dumps([row(i) for i in range(12)]))
    return tmp_path


@pytest.fixture
def init(monkeypatch, capsys):
    """Calls the command without a terminal -> (exit code, output)."""

    def run(*args):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        return call(monkeypatch, capsys, "init", *args)

    return run
