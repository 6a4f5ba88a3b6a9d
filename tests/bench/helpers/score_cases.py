"""Each benchmark with tiny files and an answer to each question."""

from pathlib import Path
from typing import Any

import pytest
from commands import answers
from layout import write_json
from more_layouts import llava_bench, more

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
    "llava-bench": [],
    "mmbench-cn": [],
    "pope-aokvqa": [],
    "pope-gqa": [],
    "refcoco": [],
    "refcoco+": ["--split", "testB"],
    "refcoco+ official": ["--source", "official"],
    "refcocog": ["--split", "test"],
    "refcocog official": ["--source", "official", "--split", "test"],
    "seed-image": [],
    "seed-image official": ["--source", "official"],
    "vizwiz": [],
    "vsr": [],
}


CASES = pytest.mark.parametrize("case", FLAGS)


FOLDERS = {
    "vqa-v2": "vqav2",
    "mme": "MME",
    "llava-bench": "llava-bench-in-the-wild",
    "mmbench-cn": "mmbench_cn",
    "pope-aokvqa": "pope/aokvqa",
    "pope-gqa": "pope/gqa",
    "refcoco+": "refcoco",
    "refcoco+ official": "refcoco/refcoco+",
    "refcocog official": "refcoco/refcocog",
    "refcocog": "refcoco",
    "seed-image": "seed_bench",
}


WORDS = ("Yes", "no", "A", "red", "B", "[0.1, 0.1, 0.5, 0.5]")


class Case:
    """A benchmark's tiny files and an answer to each question."""

    def __init__(self, case: str, data: Path, folder: Path) -> None:
        self.name, self.folder = case.split()[0], folder
        more(data)
        self.home = data / FOLDERS.get(case, FOLDERS.get(self.name, self.name))
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
        if self.name == "llava-bench":
            self.flags += ["--reviews", str(llava_bench(data))]

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
