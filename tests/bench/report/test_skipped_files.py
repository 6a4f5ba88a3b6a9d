"""Files in a folder of results that are no reports, and reports that are damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Out, printed, refused
from layout import write_json

from vlm_bench.cli.main import main

OTHERS: dict[str, bytes] = {
    "list.json": b"[1, 2]",
    "plain.json": b'{"a": 1}',
    "cut.json": b'{"a": [1, ',
    "binary.json": b"\xff\xfe\x00",
    "empty.json": b"",
    "twice.json": b'{"a": 1, "a": 2}',
    "nearly.json": b'{"schema": 1, "protocol": "p"}',
    "service.run.json": b"[]",
    "deep.json": b"[" * 100_000,
    "marked.json": b'\xef\xbb\xbf{"b": 2}',
}
REASONS = {
    "list.json": "not a report but a JSON list",
    "plain.json": "its keys are 'a'",
    "cut.json": "not valid JSON",
    "binary.json": "not UTF-8 text",
    "empty.json": "not valid JSON",
    "twice.json": "the key 'a' appears twice",
    "nearly.json": "it lacks units",
    "service.run.json": "the name of the benchmark",
    "deep.json": "nested too deeply",
    "marked.json": "its keys are 'b'",
}


def test_files_that_are_no_reports_are_passed_over(results: Path, tmp_path: Path, capsys: Out) -> None:
    straight = printed(capsys, "report", results)
    for name, content in OTHERS.items():
        (results / name).write_bytes(content)
    (results / "folder.json").mkdir()
    assert main(["report", str(results), "--json", str(tmp_path / "r.json")]) == 0
    out, err = capsys.readouterr()
    assert out == straight
    assert f"{results}: skipped 10 files that are not reports:" in err
    for name, reason in REASONS.items():
        (line,) = (line for line in err.splitlines() if f"/{name}:" in line)
        assert reason in line
    assert len(json.loads((tmp_path / "r.json").read_text())["models"][0]["passed over"]) == 10
    for n in range(20):
        (results / f"more{n}.json").write_text("{}")
    assert main(["diff", str(results), str(results)]) == 0
    err = capsys.readouterr().err
    assert "skipped 30 files" in err
    assert "and 20 more" in err
    (tmp_path / "others").mkdir()
    (tmp_path / "others/a.json").write_text("[]")
    err = refused(capsys, "report", tmp_path / "others")
    assert "1 JSON files, but no report" in err
    assert "a.json: not a report but a JSON list" in err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score", "high"),
        ("score", None),
        ("units", {"10": {"all": [1]}}),
        ("rows", []),
        ("scored", -1),
        ("sha256", {"a": 1}),
        ("examples", [{"id": "1"}]),
        ("unit", "percent"),
    ],
)
def test_a_damaged_report_is_refused(key: str, value: Any, results: Path, capsys: Out) -> None:
    report = json.loads((results / "gqa.json").read_text())
    write_json(results / "gqa.json", report | {key: value})
    for command in (["report", results], ["diff", results / "gqa.json", results / "scienceqa.json"]):
        err = refused(capsys, *command)
        assert f"gqa.json: a damaged report, '{key}" in err
    del report[key]
    write_json(results / "gqa.json", report)
    expected = "it lacks units" if key == "units" else f"a damaged report, '{key}': Field required"
    assert expected in refused(capsys, "diff", results / "gqa.json", results / "scienceqa.json")
