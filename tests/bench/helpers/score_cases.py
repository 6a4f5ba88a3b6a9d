"""Each benchmark with tiny files and an answer to each question."""

from pathlib import Path
from typing import Any

import pytest
from commands import answers
from layout import write_json

from vlm_core.plugins.registry import installed

FLAGS: dict[str, list[str]] = {
    "gqa": [],
    "gqa official": ["--source", "official"],
    "mm-vet": [],
    "mmbench": [],
    "mme": [],
    "mme official": ["--source", "official"],
    "pope": [],
    "pope official": ["--source", "official"],
    "scienceqa": [],
    "textvqa": [],
    "textvqa official": ["--source", "official", "--ocr", "no"],
    "vqa-v2": ["--split", "val"],
}


CASES = pytest.mark.parametrize("case", FLAGS)


FOLDERS = {"vqa-v2": "vqav2", "mme": "MME"}


WORDS = ("Yes", "no", "A", "red", "B")


class Case:
    """A benchmark's tiny files and an answer to each question."""

    def __init__(self, case: str, data: Path, folder: Path) -> None:
        self.name, self.folder = case.split()[0], folder
        self.home = data / FOLDERS.get(self.name, self.name)
        options = dict(zip(FLAGS[case][::2], FLAGS[case][1::2], strict=True))
        fields = {flag.removeprefix("--"): value for flag, value in options.items()}
        questions = installed().get("benchmark", self.name)(data=data, **fields).build().questions
        self.said = {key: WORDS[n % len(WORDS)] for n, key in enumerate(questions)}
        self.flags = ["score", self.name, "--data", str(data), *FLAGS[case]]
        if self.name == "mm-vet":
            grades = {
                key: {"model": ["m"], "content": ["1"], "score": [n / 2]} for n, key in enumerate(questions)
            }
            self.flags += ["--grades", str(write_json(folder / "grades.json", grades))]

    def command(self, texts: dict[str, str] | list[dict[str, Any]] | None = None) -> list[str | Path]:
        return [*self.flags, "--answers", answers(self.folder, self.said if texts is None else texts)]

    def files(self) -> list[Path]:
        """The files that scoring reads: no images, no other split's."""
        paths = [
            path
            for path in sorted(self.home.rglob("*"))
            if path.suffix in (".json", ".jsonl", ".tsv", ".txt")
        ]
        return [path for path in paths if "test2015" not in path.name and "test-dev2015" not in path.name]
