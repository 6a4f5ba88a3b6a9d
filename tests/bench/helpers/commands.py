"""Running `vlm-bench` inside the test's process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_files import write_jsonl

from vlm_bench.cli.main import main

Out = pytest.CaptureFixture[str]
Runner = Callable[..., list[str]]
FAST = ["--max-new-tokens", "3"]
RUN = {
    "benchmark": "gqa",
    "model": "runs/mine/model",
    "model sha256": "ab" * 32,
    "batch_size": 8,
    "dtype": "bfloat16",
    "decoding": {"max_new_tokens": 128, "temperature": 0.0},
    "prefix_reuse": True,
    "device": "cuda",
}
"""What a run leaves beside its answers."""


def refused(capsys: Out, *argv: str | Path) -> str:
    """The message of a command that must fail as a user's fault."""
    assert main([*map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vlm-bench: ")
    assert "Traceback" not in err
    return err


def printed(capsys: Out, *argv: str | Path, code: int = 0) -> str:
    """What a command prints."""
    assert main([*map(str, argv)]) == code, capsys.readouterr().err
    return capsys.readouterr().out


def scored(capsys: Out, *argv: str | Path) -> dict[str, Any]:
    """The report of a command that must succeed."""
    return json.loads(printed(capsys, *argv, "--json"))


def answers(folder: Path, texts: dict[Any, str] | list[dict[str, Any]]) -> Path:
    """An answer file."""
    rows = texts if isinstance(texts, list) else [{"question_id": k, "text": t} for k, t in texts.items()]
    return write_jsonl(folder / "answers.jsonl", rows)


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of answers."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(folder: Path, name: str) -> dict[str, str]:
    """The answer to each question of a run."""
    answer_rows = rows(folder / f"{name}.jsonl")
    texts = {row["metadata"]["id"]: row["text"] for row in answer_rows}
    assert len(texts) == len(answer_rows), "an answer is there twice"
    return texts
