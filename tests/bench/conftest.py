"""Fixtures of the benchmark tests."""

from pathlib import Path

import pytest
from bench_files import Pope


@pytest.fixture
def pope(tmp_path: Path) -> Pope:
    return Pope(tmp_path)
