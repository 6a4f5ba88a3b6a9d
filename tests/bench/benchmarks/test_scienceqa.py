"""ScienceQA: the letter rule, the IMG subset, both kinds of answer file."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench_files import write_jsonl

from vlm_bench.benchmarks.scienceqa.scoring import parse
from vlm_bench.cli.main import main
from vlm_bench.files.questions import LETTER

PARSING = [
    ("A", "A"),
    ("E", "E"),
    ("B. red", "B"),
    ("B. ", "B"),
    ("The answer is C.", "C"),
    ("I think. The answer is D because", "D"),
    ("The answer is Z.", "Z"),  # read, and wrong
    ("The answer is C", None),  # one more character must follow
    ("The answer is A. The answer is B.", None),
    ("F", None),
    ("b", None),
    ("(B)", None),
    ("B.", None),
    ("B.red", None),
    (" B", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "letter"), PARSING, ids=[repr(row[0]) for row in PARSING])
def test_parsing(text: str, letter: str | None) -> None:
    assert parse(text) == letter


def question(number: str, right: str, **extra: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"{number}?\nA. x\nB. y"}, {"from": "gpt", "value": right}]
    return {"id": number, "conversations": turns, **extra}


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.json"
    rows = [question("1", "A", image="1.png"), question("2", "B", image="2.png"), question("3", "B")]
    path.write_text(json.dumps(rows))
    return path


def run(capsys: pytest.CaptureFixture[str], questions: Path, answers: Path, *flags: str) -> tuple[int, str]:
    code = main(["score", "scienceqa", "--questions", str(questions), "--answers", str(answers), *flags])
    captured = capsys.readouterr()
    return code, captured.err or captured.out


def test_img_is_a_subset(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question_id": n, "text": text} for n, text in (("3", "B"), ("1", "A"), (2, "(B)"))]
    code, out = run(capsys, questions, write_jsonl(tmp_path / "a.jsonl", rows), "--json")
    report = json.loads(out)
    assert code == 0
    assert report["score"] == pytest.approx(0.5)
    assert report["rows"]["IMG"] == {"n": 2, "correct": 1, "accuracy": 0.5}
    assert report["rows"]["all"] == {"n": 3, "correct": 2, "accuracy": pytest.approx(2 / 3)}
    assert report["parse"] == {"no letter found (wrong)": 1}


def test_llava_analysis_files(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"pred": "A", "parsed_ans": "ignored"}
    rows = [answer | {"question_id": n, "question": f"<image>\n{n}?\nA. x\nB. y\n{LETTER}"} for n in "123"]
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps({"correct": rows[:1], "incorrect": rows[1:]}, indent=2))
    assert "IMG accuracy  50.00" in run(capsys, questions, path)[1]
    rows[2]["question"] = "another one"
    path.write_text(json.dumps({"correct": rows, "incorrect": []}))
    assert run(capsys, questions, path)[0] == 2


def test_refusals(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only_text = write_jsonl(tmp_path / "a.jsonl", [{"question_id": "3", "text": "B"}])
    code, err = run(capsys, questions, only_text)
    assert code == 2
    assert "2 questions of 3 without an answer" in err
    code, out = run(capsys, questions, only_text, "--allow-partial")
    assert code == 0
    assert "PARTIAL" in out
    assert "IMG accuracy is undefined" in out
    questions.write_text(json.dumps([question("1", "F")]))
    assert "the right answer is 'F'; possible: A, B, C, D, E" in run(capsys, questions, only_text)[1]
    questions.write_text('[{"id": 1}]')
    assert (
        "'conversations' is missing, expected a question and its answer"
        in run(capsys, questions, only_text)[1]
    )
    questions.write_text('[{"id": 1, "conversations": []}]')
    assert "'conversations' must hold" in run(capsys, questions, only_text)[1]
    questions.write_text(json.dumps([question("1", "C")]))
    assert "the right answer is 'C', but its options are A, B" in run(capsys, questions, only_text)[1]
    row = question("1", "A")
    row["conversations"][0]["value"] = "<image>\n1?\nA. x\nB. y"
    questions.write_text(json.dumps([row]))
    assert "the question has <image>, but 'image' is missing" in run(capsys, questions, only_text)[1]
    row["conversations"][1]["from"] = "user"
    questions.write_text(json.dumps([row]))
    assert "unknown from 'user'; possible: gpt" in run(capsys, questions, only_text)[1]
    questions.write_text("[{")
    assert "questions.json:1: not valid JSON" in run(capsys, questions, only_text)[1]
