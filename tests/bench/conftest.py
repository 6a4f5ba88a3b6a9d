"""Fixtures of the benchmark tests."""

from pathlib import Path

import pytest
from bench_files import Pope
from layout import everything


@pytest.fixture
def pope(tmp_path: Path) -> Pope:
    return Pope(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """LLaVA's folder with the tiny files of `layout`."""
    return everything(tmp_path / "eval")
