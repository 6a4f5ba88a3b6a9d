"""Rows with images, and the command."""

import pytest
from chat_stub import Stub, running
from lively_model import save_lively
from PIL import Image
from predictions import question_of, write_rows

from vlm_serve.cli import predict

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def lively_folder(tiny_spec, tmp_path_factory):
    """A model folder; don't write into it."""
    return save_lively(tiny_spec, tmp_path_factory.mktemp("lively") / "model")


@pytest.fixture
def folder(tmp_path):
    """A folder with three images and nine rows: `rows.jsonl`."""
    for colour in COLOURS:
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{colour}.png")
    rows = [
        {"id": f"{colour}-{n}", "image": f"{colour}.png", "question": f"question {n} about it?"}
        for colour in COLOURS
        for n in range(3)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    return tmp_path


@pytest.fixture
def stub():
    return Stub()


@pytest.fixture
def url(stub):
    with running(stub.app) as address:
        yield address


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """`command(*options)` predicts `rows.jsonl` -> (exit code, stdout, stderr)."""

    def call(*options, out="answers.jsonl"):
        argv = ["vlm-predict", *options, folder / "rows.jsonl", "--out", folder / out]
        monkeypatch.setattr("sys.argv", [*map(str, argv)])
        try:
            code = predict.main()
        except SystemExit as stop:  # argparse
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def echo(stub):
    """The stub answers with the beginning of the question."""
    stub.answer = lambda body: f" {question_of(body)[:10]} "
    return stub
