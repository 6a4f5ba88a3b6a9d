"""Fixtures of the benchmark tests."""

from pathlib import Path

import pytest
from bench_files import Pope
from commands import FAST, RUN, Out, Runner, answers, printed
from layout import everything, write_json


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


@pytest.fixture
def results(data: Path, tmp_path: Path, capsys: Out) -> Path:
    """GQA in full with its metadata, ScienceQA in part, answers to VQA-v2 that a server must score."""
    folder = tmp_path / "results"
    folder.mkdir()
    gqa = answers(folder, {"10": "Dog.", "2": "<b>blue</b>", "31": "yes"}).rename(folder / "gqa.jsonl")
    write_json(folder / "gqa.jsonl.run.json", RUN)
    printed(capsys, "score", "gqa", "--data", data, "--answers", gqa, "--save", folder / "gqa.json")
    said = answers(folder, {"5": ""}).rename(folder / "scienceqa.jsonl")
    flags = ["--allow-partial", "--save", folder / "scienceqa.json"]
    printed(capsys, "score", "scienceqa", "--data", data, "--answers", said, *flags)
    answers(folder, {72: "yes"}).rename(folder / "vqa-v2.jsonl")
    write_json(folder / "vqa-v2.jsonl.run.json", RUN | {"benchmark": "vqa-v2", "scored_by": "server"})
    return folder
