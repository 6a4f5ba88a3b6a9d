"""Fixtures of the benchmark tests."""

from pathlib import Path

import pytest
from bench_files import Pope
from commands import FAST, Runner
from layout import everything


@pytest.fixture
def pope(tmp_path: Path) -> Pope:
    return Pope(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """LLaVA's folder with the tiny files of `layout`."""
    return everything(tmp_path / "eval")


@pytest.fixture
def command(tiny_folder: Path, data: Path, tmp_path: Path) -> Runner:
    """The arguments of a run of some benchmarks."""

    def made(names: str = "all", *flags: str, out: str = "out", model: Path = tiny_folder) -> list[str]:
        where = ["--data", str(data), "--out", str(tmp_path / out)]
        return ["run", str(model), "--benchmarks", names, *where, *FAST, *flags]

    return made
