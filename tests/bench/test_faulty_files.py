"""The same faults in the files of every benchmark: reordered, cut off, asked and answered twice, odd answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, refused, scored
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

    def command(self, said: dict[str, str] | list[dict[str, Any]] | None = None) -> list[str | Path]:
        return [*self.flags, "--answers", answers(self.folder, self.said if said is None else said)]

    def files(self) -> list[Path]:
        """The files that scoring reads: no images, no other split's."""
        found = [
            path
            for path in sorted(self.home.rglob("*"))
            if path.suffix in (".json", ".jsonl", ".tsv", ".txt")
        ]
        return [path for path in found if "test2015" not in path.name and "test-dev2015" not in path.name]


@pytest.fixture
def made(data: Path, tmp_path: Path) -> Callable[[str], Case]:
    return lambda case: Case(case, data, tmp_path)


def _reversed(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".json":
        try:
            value = json.loads(text)
        except json.JSONDecodeError:  # POPE's label files are JSON lines by another name
            path.write_text("".join(reversed(text.splitlines(keepends=True))))
            return
        for holder in ("data", "questions", "annotations"):
            if isinstance(value, dict) and holder in value:
                value[holder].reverse()
                break
        else:
            value = value[::-1] if isinstance(value, list) else dict(reversed(value.items()))
        path.write_text(json.dumps(value))
        return
    head, lines = ([], text.splitlines(keepends=True))
    if path.suffix == ".tsv":
        head, lines = lines[:1], lines[1:]
    path.write_text("".join([*head, *(line.rstrip("\n") + "\n" for line in reversed(lines))]))


@CASES
def test_the_order_of_lines_means_nothing(case: str, made: Callable[[str], Case], capsys: Out) -> None:
    this = made(case)
    straight = scored(capsys, *this.command())
    for path in this.files():
        _reversed(path)
    this.said = dict(reversed(this.said.items()))
    again = scored(capsys, *this.command())
    assert again["rows"] == straight["rows"]
    assert again["score"] == pytest.approx(straight["score"])
    assert again["sha256"] != straight["sha256"]


@CASES
def test_every_file_cut_in_two(case: str, made: Callable[[str], Case], capsys: Out) -> None:
    this = made(case)
    command = this.command()
    needed = set(scored(capsys, *command)["sha256"]) | {
        path.name for path in this.files() if path.suffix == ".txt"
    }
    for path in [path for path in this.files() if path.name in needed]:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert refused(capsys, *command)
        path.write_bytes(content)
    assert scored(capsys, *command)


@CASES
def test_unknown_questions_and_two_answers(case: str, made: Callable[[str], Case], capsys: Out) -> None:
    this = made(case)
    err = refused(capsys, *this.command(this.said | {"nowhere": "yes"}), "--allow-partial")
    assert "1 answer to no question of this file, first id nowhere" in err
    rows = [{"question_id": key, "text": text} for key, text in this.said.items()]
    err = refused(capsys, *this.command([*rows, rows[0]]), "--allow-partial")
    assert f"answers.jsonl:{len(rows) + 1}: question_id {rows[0]['question_id']} appears twice" in err


@CASES
def test_missing_answers(case: str, made: Callable[[str], Case], capsys: Out) -> None:
    this = made(case)
    this.said.popitem()
    command = this.command()
    count = len(this.said) + 1
    assert f"1 question of {count} without an answer" in refused(capsys, *command)
    report = scored(capsys, *command, "--allow-partial")
    assert report["partial"] is True
    assert report["missing"] == count - report["scored"] >= 1


@CASES
@pytest.mark.parametrize("text", ["", " \n\t ", "No\n\tbecause\r\nit is"])
def test_odd_answers_are_answers(case: str, text: str, made: Callable[[str], Case], capsys: Out) -> None:
    this = made(case)
    report = scored(capsys, *this.command(dict.fromkeys(this.said, text)))
    assert report["scored"] == report["expected"] == len(this.said)
    assert report["parse"].get("empty", 0) == (0 if text.strip() else len(this.said))
    assert report["partial"] is False


@pytest.mark.parametrize("case", ["gqa", "mm-vet", "mme", "pope", "textvqa"])
def test_questions_cut_off_between_two_lines(case: str, made: Callable[[str], Case], capsys: Out) -> None:
    """No line is broken; only the labels know that something is missing."""
    this = made(case)
    path = next(path for path in this.files() if path.name.startswith("llava"))
    *kept, _ = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept))
    if case == "mm-vet":
        grades = json.loads((this.folder / "grades.json").read_text())
        write_json(this.folder / "grades.json", dict(list(grades.items())[:-1]))
    this.said = dict(list(this.said.items())[:-1])
    err = refused(capsys, *this.command())
    assert "labels without a question" in err or "without exactly two questions" in err
