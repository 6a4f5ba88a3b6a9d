"""Predictions that are killed, and options, targets and rows that can't be used."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from predictions import answers

from vlm_core.io.atomic import append_lines


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_loses_what_is_in_flight_alone(command, url, stub, echo, folder, kill):
    """Every whole line counts; a half-written one is dropped and asked again."""
    fifth, whole = threading.Event(), echo.answer

    def answer(body):
        if len(stub.requests) > 5:
            fifth.set()
            time.sleep(0.5)
        return whole(body)

    echo.answer = answer
    code = "import sys; from vlm_serve.cli.predict import main; sys.exit(main())"
    out = folder / "answers.jsonl"
    argv = ["--url", url, folder / "rows.jsonl", "--out", out, "--concurrency", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert fifth.wait(60)
    time.sleep(0.1)
    process.send_signal(kill)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (130 if kill == signal.SIGINT else -kill), err
    part = folder / "answers.jsonl.part"
    assert len(answers(part)) in (4, 5)
    assert not out.exists()
    with part.open("a") as file:
        file.write('{"id": "blue-2", "answer": "ha')
    echo.answer = whole
    code, _, err = command("--url", url)
    assert code == 0, err
    assert "dropped 1 half-written or damaged lines; their rows are asked again" in err
    assert len(answers(out)) == 9
    assert len(stub.requests) - 9 <= 2, "at most what was in flight is asked twice"


def test_two_commands_do_not_write_the_same_answers(command, url, echo, folder):
    assert command("--url", url)[0] == 0
    before = (folder / "answers.jsonl").read_bytes()
    with append_lines(folder / "answers.jsonl.part"):
        code, _, err = command("--url", url)
    assert code == 2
    assert "answers.jsonl.part: another process is writing this file" in err
    assert (folder / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "--device: it is for a model in this process, not for --url"),
        (["--temperature", "-1"], "--temperature -1.0: expected 0 (greedy) to 100"),
        (["--images", "/nowhere"], "--images /nowhere: no such folder"),
        (["--model", "other"], "no such model or address (404): no model 'other'"),
        (["--api-key-env", "NOT_SET"], "this environment variable is not set"),
    ],
)
def test_wrong_options(command, url, folder, options, message):
    code, out, err = command("--url", url, *options)
    assert out == ""
    assert message in err
    assert code in (1, 2)
    assert not (folder / "answers.jsonl.part").exists() or not (folder / "answers.jsonl.part").read_text()


def test_missing_folders_are_made_and_targets_checked_first(command, url, stub, echo, folder):
    assert command("--url", url, out="new/one/answers.jsonl")[0] == 0
    assert len(answers(folder / "new/one/answers.jsonl")) == 9
    assert "no regular file; name another --out" in command("--url", url, out="new")[2]
    assert "not a folder" in command("--url", url, out="red.png/answers.jsonl")[2]
    assert len(stub.requests) == 9


def test_rows_that_cannot_be_read(command, url, folder):
    (folder / "rows.jsonl").write_text("\n\n")
    assert "no row that can be asked; expected a JSON object a line" in command("--url", url)[2]
    (folder / "rows.jsonl").write_bytes((folder / "red.png").read_bytes())
    code, _, err = command("--url", url)
    assert code == 2
    assert "rows.jsonl:1: not UTF-8 text" in err
    (folder / "rows.jsonl").unlink()
    assert "cannot read this file: " in command("--url", url)[2]
    assert "name a model folder, or a server with --url" in command()[2]
