"""`vlm-bench paper-tables`: a sweep's Tables 2 to 5 beside the paper's figures, finished or not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import Out, answers, printed, refused
from layout import write_json

from vlm_bench.report.ablations.paper_figures import FINAL, TABLES
from vlm_bench.report.ablations.sweep_tables import UNKNOWN, sweep_tables
from vlm_bench.report.published.paper_table import PROTOCOLS, TITLES
from vlm_core.io.manifest import sha256

POPE = "pope: mean F1, %"


def column(name: str, protocol: str, unit: str = "%", kind: str = "benchmark") -> dict[str, str]:
    return {"kind": kind, "name": name, "unit": unit, "protocol": protocol}


def cell(values: dict[str, float], spread: float | None, scored: int, expected: int) -> dict[str, Any]:
    counts = {"scored": scored, "expected": expected, "partial": scored < expected}
    mean = sum(values.values()) / len(values)
    return {"mean": mean, "spread": spread, "values": values, "questions": dict.fromkeys(values, counts)}


def sweep(folder: Path, rows: list[dict[str, Any]], seeds: list[int]) -> Path:
    """A `table.json` with Tables 4 and 5."""
    data = {
        "seeds": seeds,
        "columns": {
            POPE: column("pope", PROTOCOLS["pope"][0]),
            "mme: perception": column("mme", "another", "points"),
            "all": column("all", "", kind="accuracy"),
        },
        "tables": {
            "Table 4": {"MLP": "connector-mlp", "VSS-L2": "final"},
            "Table 5": {"BSM": "final", "CSM": "scan-csm"},
        },
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", data)
    return folder


def row(name: str, n: int = 0) -> dict[str, Any]:
    return {"name": name, "folder": name, "n": n, "columns": {}}


def unfinished(folder: Path) -> Path:
    """Two seeds; one run has both, one has one of them, one none."""
    full = PROTOCOLS["pope"][1]
    final = row("final", 2)
    final["columns"] = {
        POPE: cell({"0": 84.0, "1": 86.0}, 1.4142, full, full),
        "mme: perception": cell({"0": 1300.0, "1": 1302.0}, 1.4142, 2374, 2374),
        "all": {"mean": 1.0, "spread": None, "values": {"0": 1.0}},
    }
    mlp = row("connector-mlp", 1)
    mlp["columns"] = {POPE: cell({"0": 80.0}, None, 12, full)}
    return sweep(folder, [mlp, final, row("scan-csm")], [0, 1])


def test_each_row_stands_above_the_papers(tmp_path: Path) -> None:
    fourth, fifth = sweep_tables(unfinished(tmp_path))
    assert list(TITLES)[4:6] == ["pope", "mme"]
    assert dict(fourth.rows) == {
        "MLP (1 of 2 runs)": ["–", "–", "–", "–", "80.0*", "–", "–", "–"],
        "MLP, paper": [UNKNOWN] * 8,
        "VSS-L2": ["–", "–", "–", "–", "85.0 ± 1.4", "1301.0 ± 1.4≠", "–", "–"],
        "VSS-L2, paper": ["76.6", "56.2", "65.4", "48.9", "84.4", "1369.6", "57.0", "32.6"],
    }
    assert fifth.rows["BSM"] == fourth.rows["VSS-L2"]
    assert fifth.rows["CSM (0 of 2 runs)"] == ["–"] * 8
    assert fifth.rows["CSM, paper"] == ["76.6", *["?"] * 4, "1364.0", "?", "?"]
    assert "rows of the paper that the sweep does not have: VSS-MLP" in fourth.notes


def test_on_the_terminal_and_as_markdown(tmp_path: Path, capsys: Out) -> None:
    folder = unfinished(tmp_path / "sweep")
    out = printed(capsys, "paper-tables", folder, "--markdown", tmp_path / "t.md")
    assert re.search(r"^VSS-L2, paper +76\.6 +56\.2", out, re.MULTILINE)
    assert "? not in the paper's text" in out
    assert "≠ another protocol" in out
    text = (tmp_path / "t.md").read_text()
    assert "| CSM, paper | 76.6 | ? |" in text
    assert text.count("## Table ") == 2


def test_no_figure_of_the_paper_is_invented() -> None:
    """Only the two rows that are Table 1's model, and two cells of the text, have figures."""
    known = {(t, r): figures for t, table in TABLES.items() for r, figures in table.rows.items() if figures}
    assert known == {
        ("Table 4", "VSS-L2"): FINAL,
        ("Table 5", "BSM"): FINAL,
        ("Table 5", "CSM"): {"vqa-v2": 76.6, "mme": 1364.0},
    }
    assert len(FINAL) == 8


def test_reports_of_a_runs_model_fill_what_the_sweep_does_not_score(
    tmp_path: Path, data: Path, capsys: Out
) -> None:
    """VQA-v2 waits for its server, MM-Vet for its judge; a report of GQA is taken, one of another model refused."""
    folder = unfinished(tmp_path / "sweep")
    run = folder / "final/seed-1"
    write_json(run / "model/manifest.json", {})
    about = {"model": str(run / "model"), "model sha256": sha256(run / "model/manifest.json")}
    bench = run / "bench"
    bench.mkdir()
    said = answers(bench, {"10": "dog", "2": "red", "31": "no"}).rename(bench / "gqa.jsonl")
    write_json(bench / "gqa.jsonl.run.json", {"benchmark": "gqa", **about})
    printed(capsys, "score", "gqa", "--data", data, "--answers", said, "--save", bench / "gqa.json")
    answers(bench, {72: "yes"}).rename(bench / "vqa-v2.jsonl")
    server = {"benchmark": "vqa-v2", "scored_by": "server", **about}
    write_json(bench / "vqa-v2.jsonl.run.json", server)
    cells = sweep_tables(folder)[0].rows["VSS-L2"]
    assert cells[:2] == ["needs submission", "66.7≠ (1 of 2 runs)"]
    assert cells[4] == "85.0 ± 1.4", "the sweep's own score stays"
    report = json.loads((bench / "gqa.json").read_text())
    write_json(bench / "lenient.json", report | {"protocol": "gqa, normalized", "score": 1.0})
    cells = sweep_tables(folder)[0].rows["VSS-L2"]
    assert cells[1] == "66.7≠ (1 of 2 runs) / 100.0≠ (1 of 2 runs)", "protocols are not seeds"
    write_json(bench / "copy.json", report)
    assert "two results of one run by one protocol" in refused(capsys, "paper-tables", folder)
    (bench / "copy.json").unlink()
    write_json(run / "model/manifest.json", {"another": 1})
    assert "not a result of" in refused(capsys, "paper-tables", folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tables": {}}, "the sweep has no tables"),
        ({"tables": {"T": {"a": "none"}}}, "'none' is neither a run nor a column"),
        ({"columns": {}}, "is neither a run nor a column"),
        (
            {"rows": [{"name": "a", "folder": "../b", "n": 0, "columns": {}}], "tables": {}},
            "no folder of this",
        ),
        ({"seeds": "0"}, "a damaged table, 'seeds'"),
    ],
)
def test_damaged_tables(tmp_path: Path, capsys: Out, change: dict[str, Any], said: str) -> None:
    folder = unfinished(tmp_path)
    table = json.loads((folder / "table.json").read_text())
    write_json(folder / "table.json", {**table, **change})
    assert said in refused(capsys, "paper-tables", folder)


def test_no_sweep_at_all(tmp_path: Path, capsys: Out) -> None:
    assert "`vlm-train sweep` writes it" in refused(capsys, "paper-tables", tmp_path)
    write_json(tmp_path / "table.json", {"rows": []})
    assert "earlier version" in refused(capsys, "paper-tables", tmp_path)
