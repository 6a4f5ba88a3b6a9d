"""The same faults in the files of every benchmark: reordered, cut off, asked and answered twice, odd answers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Out, refused, scored
from layout import write_json
from score_cases import CASES, Case


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
    for path in [path for path in this.files() if any(f"/{path}".endswith(f"/{name}") for name in needed)]:
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
