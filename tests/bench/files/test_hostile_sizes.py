"""Small files that would take gigabytes or hours, and folders of answers with links out of them."""

import gzip
import time
from pathlib import Path

import pytest
from commands import Out, Runner, printed, refused

from vlm_bench.benchmarks.textvqa.prompts import read_prompt, without_tokens
from vlm_bench.cli.main import main
from vlm_bench.files import json_files
from vlm_bench.files.answers import read_answers
from vlm_core.errors import UserError

ROW = b'{"question_id": 1, "text": ""}\n'


@pytest.mark.parametrize("piece", [b" ", b"\n", b"[],", ROW], ids=["spaces", "lines", "lists", "rows"])
def test_packed_files_unpack_to_so_many_times_their_size(tmp_path: Path, piece: bytes) -> None:
    with gzip.open(tmp_path / "bomb.gz", "wb") as file:
        file.write(piece * (2**25 // len(piece)))
    assert (tmp_path / "bomb.gz").stat().st_size < 2**18
    with pytest.raises(UserError, match=f"more than {json_files.ANY_RATIO_BYTES} bytes when unpacked"):
        read_answers(tmp_path / "bomb.gz")


def test_values_and_rows_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MAX_VALUES", 100)
    monkeypatch.setattr(json_files, "MAX_ROWS", 10)
    (tmp_path / "values.json").write_text(f"[{'[],' * 100}0]")
    with pytest.raises(UserError, match=r"values\.json: about 201 values; at most 100 are read"):
        json_files.read_json(tmp_path / "values.json")
    (tmp_path / "rows.jsonl").write_bytes(ROW * 10 + b"\n" * 10**6)
    assert len(list(json_files.read_jsonl(tmp_path / "rows.jsonl"))) == 10
    (tmp_path / "rows.jsonl").write_bytes(ROW * 11)
    with pytest.raises(UserError, match=r"rows\.jsonl: more than 10 rows"):
        list(json_files.read_jsonl(tmp_path / "rows.jsonl"))


def test_prompts_are_read_in_one_pass() -> None:
    began = time.monotonic()
    for text in ("OCR tokens: " + "Question: " * 10**6, "Question: " + " Short answer" * 10**6):
        assert read_prompt(text) is None
        assert without_tokens(text) == text
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["pope.jsonl", "pope.jsonl.run.json", "pope.part-0.jsonl", "pope.json"])
def test_nothing_is_written_through_a_link(command: Runner, tmp_path: Path, capsys: Out, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("mine\n")
    (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    assert "a link that leaves the folder" in refused(capsys, *command("pope"))
    assert (tmp_path / "precious").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["pope.jsonl", "pope.part-0.jsonl"])
@pytest.mark.parametrize("key", ["text", "prompt", "metadata"])
def test_answers_with_a_flipped_bit_are_asked_again(
    command: Runner, tmp_path: Path, capsys: Out, name: str, key: str
) -> None:
    printed(capsys, *command("pope"))
    file, whole = tmp_path / "out/pope.jsonl", (tmp_path / "out/pope.jsonl").read_bytes()
    place = whole.index(f'"{key}"'.encode()) + len(key) + 5
    place += whole[place:].index(b'"id": "') + 7 if key == "metadata" else 0
    file.rename(tmp_path / "out" / name)
    (tmp_path / "out" / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert main([*map(str, command("pope"))]) == 0
    assert "pope: dropped 1 half-written or damaged line; asked again" in capsys.readouterr().err
    assert file.read_bytes() == whole


@pytest.mark.parametrize("values", [{"WORLD_SIZE": "x"}, {"WORLD_SIZE": "2"}, {"RANK": "0"}])
def test_half_of_a_launcher(
    command: Runner, capsys: Out, monkeypatch: pytest.MonkeyPatch, values: dict[str, str]
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert "start through torchrun, or unset them" in refused(capsys, *command("pope"))
