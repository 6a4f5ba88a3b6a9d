"""Saved reports and answers of strangers: whatever text they hold, pages, tables and terminals show it as text."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, printed, refused
from hostile import HOSTILE, IN_NAMES, TEXTS, is_inert, tags
from hypothesis import HealthCheck, given, settings
from layout import gqa, write_json
from markdown_it import MarkdownIt

from vlm_bench.cli.main import main
from vlm_bench.report import html, leaderboard
from vlm_bench.report.collect import collect

DIFFERENCE = {"points": False, "first": 0.5, "second": 0.5, "low": -0.1, "high": 0.1} | {
    "units": 9,
    "better": 1,
    "worse": 1,
    "left_out": 0,
    "p": 1.0,
}


def report_of(text: str) -> dict[str, Any]:
    """A report whose every text is `text`, and every key that is not one of the format's own."""
    example = dict.fromkeys(("id", "prompt", "answer", "right", "read", "image_base64"), text)
    return {
        "schema": 1,
        "benchmark": text,
        "protocol": text,
        "metric": text,
        "score": 0.5,
        "unit": "fraction",
        "partial": True,
        "scored": 1,
        "expected": 2,
        "missing": 1,
        "unscored": 0,
        "rows": {text: {text: 0.5, "n": 1}},
        "points": [text],
        "parse": {text: 1},
        "notes": {text: text},
        "settings": {"model": text, "model sha256": text, text: {text: [text]}, "decoding": {text: text}},
        "published": {f"{text}2": 1.5},
        "sha256": {text: text},
        "warnings": [text],
        "combine": "mean",
        "examples": [{**example, "credit": 0.5}, {**example, "credit": 0.0}],
        "units": {text: {text: [1, 1]}},
        "content": {text: text},
        "interval": [0.4, 0.6],
        "baselines": [
            {"name": text, "how": text, "difference": None},
            {"name": f"{text}2", "how": text, "difference": DIFFERENCE | {"metric": text}},
        ],
    }


def results(folder: Path, text: str) -> Any:
    write_json(folder / "r.json", report_of(text))
    metadata = {
        "benchmark": text,
        "protocol": text,
        "model": text,
        "versions": {text: text},
        "scored_by": "judge",
    }
    write_json(folder / "a.jsonl.run.json", metadata | {"model sha256": text})
    (folder / "a.jsonl").write_text("{}\n")
    return collect(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_any_text_is_text_in_page_and_markdown(tmp_path: Path, text: str) -> None:
    plain, foreign = ([results(tmp_path, one)] for one in ("t", text))
    assert tags(html.to_html(foreign)) == tags(html.to_html(plain))
    written = leaderboard.to_markdown(foreign)
    kinds = [token.type for token in _tokens(written)]
    assert kinds == [token.type for token in _tokens(leaderboard.to_markdown(plain))]
    assert "://" not in written.replace(r"\://", "")
    assert json.loads(leaderboard.to_json(foreign))["models"][0]["results"][0]["protocol"] == text


def _tokens(text: str) -> list[Any]:
    """Blocks and what is in them, texts and escapes apart."""
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inner = [child for block in parsed for child in block.children or () if child.type != "text"]
    return [*parsed, *(child for child in inner if child.type != "text_special")]


def test_reports_of_strangers_on_the_terminal(tmp_path: Path, capsys: Out) -> None:
    folder = tmp_path / IN_NAMES
    results(folder, HOSTILE)
    write_json(folder / f"{IN_NAMES}.json", {HOSTILE: 1})
    for flags in ([], ["--html", tmp_path / "p.html"], ["--json", tmp_path / "p.json"]):
        assert main(["report", str(folder), *map(str, flags)]) == 0
        out, err = capsys.readouterr()
        assert is_inert(out)
        assert is_inert(err)
    assert is_inert((tmp_path / "p.json").read_text())
    assert main(["diff", str(folder / "r.json"), str(folder / "r.json")]) == 0
    assert is_inert(capsys.readouterr().out)
    other = report_of(HOSTILE) | {"protocol": f"{HOSTILE}2"}
    assert is_inert(refused(capsys, "diff", folder / "r.json", write_json(tmp_path / "o.json", other)))
    other = report_of(HOSTILE) | {"units": {f"{HOSTILE}2": {}}, "content": {f"{HOSTILE}2": HOSTILE}}
    assert is_inert(refused(capsys, "diff", folder / "r.json", write_json(tmp_path / "o.json", other)))


def test_answers_of_strangers_on_the_terminal(tmp_path: Path, capsys: Out) -> None:
    gqa(tmp_path)
    flags = ["score", "gqa", "--data", tmp_path, "--answers"]
    for said in (
        {HOSTILE: "dog"},
        [{"question_id": "10", "text": "dog"}, {"question_id": HOSTILE, "text": HOSTILE}],
        [{"question_id": HOSTILE, "text": 1}],
        [{HOSTILE: HOSTILE}],
        [{"question_id": "10", "text": "dog", "prompt": HOSTILE}],
    ):
        assert is_inert(refused(capsys, *flags, answers(tmp_path, said)))  # type: ignore[arg-type]
    named = answers(tmp_path, {"10": HOSTILE, "2": HOSTILE, "31": HOSTILE}).rename(
        tmp_path / f"{IN_NAMES}.jsonl"
    )
    for form in ("--json", "--markdown"):
        assert is_inert(printed(capsys, *flags, named, form))
    assert is_inert(printed(capsys, *flags, named))
    assert is_inert(refused(capsys, *flags, tmp_path / IN_NAMES))
    with pytest.raises(SystemExit):
        main(["score", "gqa", f"--{HOSTILE}"])
    assert is_inert(capsys.readouterr().err)


WRONG = {
    "score": "0.5",
    "scored": "<b>",
    "expected": 1.5,
    "missing": [],
    "parse": {"a": "1"},
    "rows": [],
    "unit": "x",
    "units": {"a": {"b": [1]}},
    "published": {"a": "x"},
    "examples": {},
    "settings": [],
    "partial": 1,
    "points": {},
    "warnings": [1],
    "sha256": {"a": 1},
    "combine": None,
    "metric": 3,
    "notes": {"a": 1},
    "content": {"a": 1},
}


@pytest.mark.parametrize("key", WRONG)
@pytest.mark.parametrize("absent", [False, True])
def test_reports_with_a_wrong_type_are_named(tmp_path: Path, capsys: Out, key: str, absent: bool) -> None:
    data = {k: v for k, v in report_of("t").items() if k != key}
    path = write_json(tmp_path / "r.json", data if absent else data | {key: WRONG[key]})
    if absent and key in ("units", "content"):
        return  # no report at all, or an old one
    for command in (["report", tmp_path], ["diff", path, path]):
        err = refused(capsys, *command)
        assert "r.json: a damaged report" in err
        assert key in err


@pytest.mark.parametrize(
    "metadata", [{"seconds": "1"}, {"files": []}, {"scored_by": "me"}, {"versions": {"a": 1}}], ids=str
)
def test_accounts_with_a_wrong_type_are_named(tmp_path: Path, capsys: Out, metadata: Any) -> None:
    write_json(tmp_path / "a.jsonl.run.json", {"benchmark": "gqa", **metadata})
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert f"'{next(iter(metadata))}" in refused(capsys, "report", tmp_path)


def test_a_report_shows_no_other_file_of_this_machine(tmp_path: Path) -> None:
    """Only the image that was scored: its digest must be in the report."""
    gqa(tmp_path)
    secret = next(p for p in tmp_path.rglob("*.jpg") if p.is_file())
    data = report_of("t")
    for extra in ({}, {"image_sha256": "0" * 64}):
        del data["examples"][0]["image_base64"]
        data["examples"] = [{**data["examples"][1], "image_base64": None, "image": str(secret), **extra}] * 2
        write_json(tmp_path / "out" / "r.json", data)
        text = html.to_html([collect(tmp_path / "out")])
        assert "data:image" not in text
        assert "is not the scored file" in text


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, capsys: Out, kind: str) -> None:
    gqa(tmp_path)
    odd = tmp_path / "odd.jsonl"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    else:
        odd = Path("/dev/zero")
    said = answers(tmp_path, {"10": "dog"})
    assert "expected a regular file" in refused(capsys, "score", "gqa", "--data", tmp_path, "--answers", odd)
    for name in ("--questions", "--labels"):
        flags = ["score", "gqa", "--data", tmp_path, "--answers", said, name, odd]
        assert "expected a regular file" in refused(capsys, *flags)
    assert refused(capsys, "diff", said, odd)
