"""Benchmark files of strangers: they name no file elsewhere, don't unpack without end, and are read strictly."""

import gzip
import os
import time
from pathlib import Path

import pytest
from commands import Out, answers, printed, refused
from hostile import IN_NAMES, is_inert
from layout import write_json

from vlm_bench.files import json_files

QUESTIONS = {
    "gqa": "gqa/llava_gqa_testdev_balanced.jsonl",
    "textvqa": "textvqa/llava_textvqa_val_v051_ocr.jsonl",
    "vqa-v2": "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
    "mm-vet": "mm-vet/llava-mm-vet.jsonl",
    "scienceqa": "scienceqa/llava_test_CQM-A.json",
    "pope": "pope/llava_pope_test.jsonl",
    "mme": "MME/llava_mme.jsonl",
}
OUTSIDE = ["/outside/", "../../", "x/../../../", "http://evil.example/", f"../{IN_NAMES}/"]


def rename_images(data: Path, name: str, before: str) -> None:
    """`before` in front of the name of every image, in the questions and in what is joined with them by it."""
    paths = [data / QUESTIONS[name], *(data / "pope/coco").glob("*.json" if name == "pope" else "none")]
    escaped = before.encode("unicode_escape").decode().replace("\\x", "\\u00")
    for path in paths:
        path.write_text(path.read_text().replace('"image": "', f'"image": "{escaped}'), encoding="utf-8")


@pytest.mark.parametrize("before", OUTSIDE, ids=ascii)
@pytest.mark.parametrize("name", QUESTIONS)
def test_images_lie_in_their_folder(data: Path, tmp_path: Path, capsys: Out, name: str, before: str) -> None:
    rename_images(data, name, before)
    err = refused(capsys, "score", name, "--data", data, "--answers", answers(tmp_path, {"1": "x"}))
    assert is_inert(err)
    assert "must be a name inside" in err
    assert Path(QUESTIONS[name]).name in err


IMAGES = {"textvqa": "textvqa/train_images/0a1b.jpg", "mm-vet": "mm-vet/images/v1_0.png"}


@pytest.mark.parametrize(("name", "image"), IMAGES.items())
def test_links_out_of_the_folder(data: Path, tmp_path: Path, capsys: Out, name: str, image: str) -> None:
    secret = (data / image).rename(tmp_path / "secret")
    (data / image).symlink_to(secret)
    command = [
        "submit",
        name,
        "--data",
        data,
        "--answers",
        answers(tmp_path, {"1": "x"}),
        "--out",
        tmp_path / "o",
    ]
    assert "allow it with --symlinks" in refused(capsys, *command)
    assert "symbolic link" not in refused(capsys, *command, "--symlinks")


def test_packed_files_have_an_end(
    data: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "MAX_BYTES", 2**22)
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b" " * 2**20)
    said = answers(tmp_path, {"10": "x"})
    began = time.monotonic()
    for flags in (
        ["score", "gqa", "--data", data, "--answers", bomb],
        ["score", "gqa", "--data", data, "--answers", said, "--questions", bomb],
        ["score", "mmbench", "--data", data, "--answers", said, "--questions", bomb],
        ["score", "mm-vet", "--data", data, "--grades", bomb],
        ["diff", bomb, bomb],
    ):
        assert "bytes when unpacked" in refused(capsys, *flags)
    assert time.monotonic() - began < 20
    bomb.write_bytes(bomb.read_bytes()[:1000])
    assert "damaged or cut off" in refused(capsys, "score", "gqa", "--data", data, "--answers", bomb)


ODD = {
    "digits": '{"question_id": ' + "9" * 5000 + ', "text": "x"}',
    "NaN": '{"question_id": NaN, "text": "x"}',
    "infinity": '{"question_id": 1, "text": -Infinity}',
    "surrogate": '{"question_id": 1, "text": "\\ud800"}',
    "depth": '{"question_id": 1, "text": ' + "[" * 10**6,
    "large": '{"question_id": 1e999, "text": "x"}',
}


@pytest.mark.parametrize("kind", ODD)
def test_json_is_read_strictly(data: Path, tmp_path: Path, capsys: Out, kind: str) -> None:
    path = tmp_path / "a.jsonl"
    for line, text in ((1, ODD[kind]), (2, '{"question_id": 10, "text": "x"}\n' + ODD[kind])):
        path.write_text(text + "\n")
        for flags in (
            ["--answers", path],
            ["--answers", answers(tmp_path, {"10": "x"}), "--questions", path],
        ):
            assert f"{path}:{line}: " in refused(capsys, "score", "gqa", "--data", data, *flags)
    for file in ("r.json", "a.jsonl.run.json"):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).write_text(ODD[kind])
        assert "Traceback" not in refused(capsys, "report", folder)


def test_numbers_that_python_would_take_long_to_read(data: Path, tmp_path: Path, capsys: Out) -> None:
    table = data / "mmbench/mmbench_dev_20230712.tsv"
    table.write_text(table.read_text().replace("\n7\t", f"\n{'7' * 5000}\t"))
    said = answers(tmp_path, {"7": "A"})
    assert "expected a number" in refused(capsys, "score", "mmbench", "--data", data, "--answers", said)
    for image in ("x", "-1", "9" * 500):
        asked = [{"question_id": 1, "image_id": image, "question": "?"}]
        write_json(data / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
        flags = ["--data", data, "--split", "val", "--answers", said]
        assert refused(capsys, "score", "vqa-v2", *flags)


def test_fifos_in_the_data_are_refused_at_once(data: Path, tmp_path: Path, capsys: Out) -> None:
    said = answers(tmp_path, {"1": "x"})
    for name, file in QUESTIONS.items():
        (data / file).unlink()
        os.mkfifo(data / file)
        assert "expected a regular file" in refused(capsys, "score", name, "--data", data, "--answers", said)
    (data / "mmbench/mmbench_dev_20230712.tsv").unlink()
    os.mkfifo(data / "mmbench/mmbench_dev_20230712.tsv")
    assert "a FIFO" in refused(capsys, "score", "mmbench", "--data", data, "--answers", said)


def test_no_device_is_replaced_by_a_report(data: Path, tmp_path: Path, capsys: Out) -> None:
    odd = tmp_path / "odd"
    os.mkfifo(odd)
    said = answers(tmp_path, {"10": "dog", "2": "red", "31": "yes"})
    assert "cannot write: " in refused(
        capsys, "score", "gqa", "--data", data, "--answers", said, "--save", odd
    )
    assert odd.is_fifo()
    printed(capsys, "score", "gqa", "--data", data, "--answers", said, "--save", tmp_path / "r" / "r.json")
    assert "cannot write: " in refused(capsys, "report", tmp_path / "r", "--html", odd)
