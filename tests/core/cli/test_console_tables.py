"""Tables on the terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from vlm_core.cli import assemble, tables
from vlm_core.cli.check_measured import print_measured
from vlm_core.cli.tables import add, show, table
from vlm_core.diagnose.costs.measured_steps import StepCosts

COLUMNS = ("stage", "micro-batch", "samples/s", "tokens/s", "peak memory", "growth")
CELLS = ("a-stage-of-a-long-name", "16 × 4", "156.25", "12,662", "1.09 GB", "171.71 MB")


@pytest.mark.parametrize("width", [118, 80, 60, 40])
def test_a_narrow_terminal_loses_nothing(width: int) -> None:
    lines = table("measured", *COLUMNS)
    add(lines, *CELLS)
    console = Console(width=width, file=io.StringIO())
    console.print(lines)
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(map(len, shown.splitlines())) <= width
    assert sorted("".join(shown.split())) == sorted("".join("".join(("measured", *COLUMNS, *CELLS)).split()))


def test_headers_stay_whole_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "WIDTH", 80)
    headers = ("", "weights", "gradients", "optimizer", "activations", "total", "if 2048 long", "fits")
    lines = table("memory", *headers)
    add(lines, "FSDP2", "1.33 GB", "25.38 MB", "50.75 MB", "21.99 GB", "23.40 GB", "47.46 GB", "A800 yes")
    show(lines)
    shown = capsys.readouterr().out
    assert all(header in shown for header in headers[1:6])


def test_a_long_name_of_a_component_is_not_cut_off(
    tiny_spec: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tables, "WIDTH", 60)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**tiny_spec, "name": "a-very-long-name-of-a-model"}))
    monkeypatch.setattr("sys.argv", ["vlm-assemble", "--check", str(tmp_path / "tiny.yaml")])
    assert assemble.main() == 0
    assert "…" not in capsys.readouterr().out


def test_measured_costs_have_a_column_of_mfu_only_where_it_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpu = StepCosts(
        stage="instruct",
        device="cpu with 1 thread",
        gpus=1,
        samples=64,
        micro_batch_size=16,
        timed=25,
        seconds=0.4,
        cpu_seconds=0.39,
        tokens=272,
        peak_memory=10**9,
        growth=10**8,
        reserved=None,
        mfu=None,
        steps=100,
    )
    print_measured([cpu])
    assert "MFU" not in capsys.readouterr().out
    gpu = replace(cpu, cpu_seconds=None, growth=None, reserved=10**9, mfu=0.374)
    print_measured([gpu])
    assert "37.4%" in capsys.readouterr().out
