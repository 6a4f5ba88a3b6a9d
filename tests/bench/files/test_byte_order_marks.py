"""A byte order mark, other line ends or another order of lines make no other file, wherever a file is read."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Out, answers, scored
from llava_answers import FILES, real
from score_cases import CASES, Case

from vlm_bench.benchmarks.pope.files import read_labels
from vlm_bench.files.answers import read_answers
from vlm_bench.files.json_files import sha256
from vlm_core.errors import UserError
from vlm_core.io.files import decode_text, read_text

BOM = b"\xef\xbb\xbf"


def converted(path: Path) -> None:
    path.write_bytes(BOM + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


@pytest.fixture
def made(data: Path, tmp_path: Path) -> Callable[[str], Case]:
    return lambda case: Case(case, data, tmp_path)


@CASES
def test_marks_and_line_ends(case: str, made: Callable[[str], Case], capsys: Out) -> None:
    this = made(case)
    command = this.command()
    straight = scored(capsys, *command)
    for path in (*this.files(), this.folder / "answers.jsonl", *this.folder.glob("grades.json")):
        converted(path)
    assert scored(capsys, *command) == straight


def test_answers_in_every_form(tmp_path: Path) -> None:
    row = {"question_id": 1, "text": "a\u2028b"}
    forms = [
        json.dumps(row),
        json.dumps([row]),
        json.dumps({"1": row["text"]}),
        json.dumps([{"question_id": 1, "answer": row["text"]}]),
        json.dumps({"1": row["text"]}, indent=1),
        json.dumps([row], indent=1),
        json.dumps(row) + "\n\n",
    ]
    path = tmp_path / "a.json"
    for form in forms:
        path.write_text(form)
        plain = [(a.id, a.text) for a in read_answers(path)]
        converted(path)
        assert [(a.id, a.text) for a in read_answers(path)] == plain == [("1", "a\u2028b")], form


def test_hash(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for text in (b"", b"\n", b"ab\ncd", b"ab\n", b"x" * 2**20 + b"\n" + b"y" * 2**20):
        path.write_bytes(text)
        plain = sha256(path)
        for other in (BOM + text, text.replace(b"\n", b"\r\n"), gzip.compress(BOM + text)):
            path.write_bytes(other)
            assert sha256(path) == plain
    path.write_bytes(b"a\rb")  # no line end of any of the two
    one = sha256(path)
    path.write_bytes(b"a\nb")
    assert sha256(path) != one


def test_text_that_is_none(tmp_path: Path) -> None:
    assert decode_text(BOM + b"a\r\nb\rc", "x") == "a\nb\nc"
    with pytest.raises(UserError, match=r"x:2: not UTF-8 text \(byte 4 is 0xff\)"):
        decode_text(b"ab\nc\xff", "x")
    path = tmp_path / "x"
    path.write_bytes(BOM + b"ab")
    assert read_text(path) == "ab"
    with pytest.raises(UserError, match="5 bytes; at most 4 are read"):
        read_text(path, max_bytes=4)
    with pytest.raises(UserError, match="cannot read this file"):
        read_text(tmp_path)


@real
@pytest.mark.parametrize("name", ["e3e39262", "head"])
def test_revisions_of_pope(name: str, tmp_path: Path) -> None:
    """The labels are recognised, not their bytes: any line ends, mark, order, spelling of JSON."""
    folder, revision = f"pope_labels_{name}", {"head": "3df3ba1b"}.get(name, name)
    assert read_labels(FILES / folder).revision == revision
    for path in (FILES / folder).iterdir():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        text = "\n".join(json.dumps(row, sort_keys=True, separators=(",", ":")) for row in reversed(lines))
        (tmp_path / path.name).write_bytes(BOM + text.encode())
    assert read_labels(tmp_path).revision == revision
    first = tmp_path / "coco_pope_random.json"
    first.write_text(first.read_text().replace("yes", "no", 1))
    assert read_labels(tmp_path).revision == "unknown"


def test_a_run_goes_on_with_converted_files(data: Path, tmp_path: Path, capsys: Out) -> None:
    """The metadata of the answers knows the files by their content."""
    said = answers(tmp_path, {"10": "dog", "2": "red", "31": "yes"})
    report = scored(capsys, "score", "gqa", "--data", data, "--answers", said)
    metadata = {"benchmark": "gqa", "model": "m", "files": report["sha256"]}
    said.with_name("answers.jsonl.run.json").write_bytes(BOM + json.dumps(metadata).encode())
    for path in data.glob("gqa/**/*.json*"):
        converted(path)
    again = scored(capsys, "score", "gqa", "--data", data, "--answers", said)
    assert again["warnings"] == []
    assert again["settings"] == {"model": "m"}
