"""Files for evaluation servers: complete id sets, the servers' own formats."""

import io
import json
from pathlib import Path

import openpyxl
import pytest
from commands import Out, answers, printed, refused
from layout import lines, mmbench

from vlm_bench.files.xlsx import workbook
from vlm_core.errors import UserError

LETTERED = {7: "A", 1_000_007: "B", 8: "=1+2", 9: "A"}


def test_vqa_v2_holds_all_of_test2015(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {73: "The McDonald's.", 72: "Yes"})
    flags = ["submit", "vqa-v2", "--data", data, "--answers", said, "--out", tmp_path / "up"]
    out = printed(capsys, *flags)
    file = tmp_path / "up" / "vqav2_test2015.json"
    assert json.loads(file.read_text()) == [
        {"question_id": 71, "answer": ""},
        {"question_id": 72, "answer": "yes"},
        {"question_id": 73, "answer": "mcdonald 's"},
    ]
    assert "2 of 2 answers" in out
    assert "about 0 for test-standard" in out
    printed(capsys, *flags, "--answer-format", "raw")
    assert json.loads(file.read_text())[2]["answer"] == "The McDonald's."


def test_vqa_v2_refuses_another_id_set(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["submit", "vqa-v2", "--data", data, "--out", tmp_path / "up", "--answers"]
    assert "1 question of 2 without an answer, first id 73" in refused(
        capsys, *flags, answers(tmp_path, {72: "x"})
    )
    assert "PARTIAL" in printed(capsys, *flags, tmp_path / "answers.jsonl", "--allow-partial")
    err = refused(capsys, *flags, answers(tmp_path, {71: "x", 72: "y", 73: "z"}))
    assert "1 answer to no question of this file, first id 71" in err
    ids = data / "vqav2/llava_vqav2_mscoco_test2015.jsonl"
    ids.write_text("".join(ids.read_text().splitlines(keepends=True)[:2]))
    err = refused(capsys, *flags, answers(tmp_path, {72: "y", 73: "z"}))
    assert "1 of 2 questions without a place in test2015, first id 73" in err
    questions = data / "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl"
    rows = [{"question_id": "x1", "image": "i", "text": "?", "category": "default"}]
    for file in (ids, questions):
        lines(file, rows)
    assert "'x1' is no number" in refused(capsys, *flags, answers(tmp_path, {"x1": "y"}))


def test_mmbench_table(data: Path, tmp_path: Path, capsys: Out) -> None:
    mmbench(data, split="test")
    said = answers(tmp_path, LETTERED)
    flags = ["submit", "mmbench", "--split", "test", "--data", data, "--answers", said]
    printed(capsys, *flags, "--out", tmp_path)
    sheet = openpyxl.load_workbook(tmp_path / "mmbench_test.xlsx").active
    header, *rows = sheet.iter_rows(values_only=True)
    assert header == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[0] == (7, 'What "is" it?', "red", "blue", None, None, "A", None, "test")
    assert rows[2][6] == "=1+2"
    assert sheet["G4"].data_type == "s"  # a text, no formula


def test_a_control_character_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"row 7: .* holds a control character"):
        workbook(["index", "prediction"], [[7, "a\x07b"]])
    sheet = openpyxl.load_workbook(io.BytesIO(workbook(["a"], [["x\ny\t"]]))).active
    assert sheet["A2"].value == "x\ny\t"


def test_mm_vet_and_mme(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {2: "left", 0: "x =\n-1", 1: ""})
    printed(capsys, "submit", "mm-vet", "--data", data, "--answers", said, "--out", tmp_path)
    assert json.loads((tmp_path / "mm-vet.json").read_text()) == {
        "v1_0": "x =\n-1",
        "v1_1": "",
        "v1_2": "left",
    }
    rows = [
        {
            "question_id": "OCR/0001.png",
            "prompt": f"{text}\nAnswer the question using a single word or phrase.",
            "text": "Yes,\tit\nis",
        }
        for text in ("Is this OCR?", "Is this another?")
    ]
    flags = ["submit", "mme", "--data", data, "--answers", answers(tmp_path, rows), "--out", tmp_path]
    printed(capsys, *flags, "--allow-partial")
    assert (tmp_path / "OCR.txt").read_text() == (
        "0001.txt\tIs this another?\tNo\tYes, it is\n0001.txt\tIs this OCR?\tYes\tYes, it is\n"
    )
    assert refused(capsys, "submit", "pope", "--data", data, "--answers", said, "--out", tmp_path)


def test_what_is_scored_here_has_no_submission(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {"4": "A", "5": "B"})
    err = refused(capsys, "submit", "scienceqa", "--data", data, "--answers", said, "--out", tmp_path)
    assert "there is no server to submit to" in err
