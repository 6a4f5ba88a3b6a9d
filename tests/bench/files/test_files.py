"""Faulty files are refused with file and line."""

import gzip
from pathlib import Path

import pytest

from vlm_bench.benchmarks.pope.files import read_labels, read_questions
from vlm_bench.files.answers import read_answers
from vlm_bench.files.json_files import read_jsonl, sha256
from vlm_core.errors import UserError

GOOD = '{"question_id": 1, "text": "Yes"}\n'
FAULTS = {
    "cut off": (GOOD + '{"question_id": 2, "te', r"a\.jsonl:2: not valid JSON .* cut off"),
    "a quote too few": ('{"question_id": 1, text": "Yes"}\n' + GOOD, r"a\.jsonl:1: not valid JSON \(.*\)$"),
    "no object": (GOOD + "[1]", r"a\.jsonl:2: expected a JSON object, got \[1\]"),
    "no text": (
        GOOD + '\n{"question_id": 2}',
        r"a\.jsonl:3: 'text' is missing, expected text; its keys are 'question_id'",
    ),
    "text no string": ('{"question_id": 2, "text": null}', r"'text' is None, expected text"),
    "no id": (
        '{"text": "Yes"}',
        r"a\.jsonl:1: 'question_id' is missing, expected a number or text; its keys are 'text'",
    ),
    "boolean id": (
        '{"question_id": true, "text": "Yes"}',
        r"'question_id' must be a number or text, got True",
    ),
    "empty": ("\n \n", "the file is empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_answers(name: str, tmp_path: Path) -> None:
    content, message = FAULTS[name]
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_answers(path)


def test_unicode_line_separators_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question_id": 1, "text": "a\u2028b\u0085c"}\r\n', encoding="utf-8")
    assert read_answers(path)[0].text == "a\u2028b\u0085c"


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        list(read_jsonl(tmp_path / "absent.jsonl"))
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(GOOD.encode() * 100)[:-9])
    with pytest.raises(UserError, match="damaged or cut off"):
        list(read_jsonl(broken))
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_jsonl(broken))


def test_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(GOOD)
    (tmp_path / "a.gz").write_bytes(gzip.compress(GOOD.encode()))
    assert sha256(tmp_path / "a") == sha256(tmp_path / "a.gz")


def test_pope_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected coco_pope_random.json or .*\.gz; neither exists"):
        read_labels(tmp_path)
    for split in ("random", "popular", "adversarial"):
        row = '{"image": "a.jpg", "text": "Is there a dog?", "label": "Yes"}'
        (tmp_path / f"coco_pope_{split}.json").write_text(row)
    with pytest.raises(UserError, match="the label is 'Yes', expected 'yes' or 'no'"):
        read_labels(tmp_path)
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question_id": 1, "image": "a.jpg", "text": "?", "category": "randon"}')
    with pytest.raises(UserError, match=r"unknown category 'randon'.*did you mean 'random'"):
        read_questions(questions)
