"""Tables on the terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from vlm_core.cli.check_measured import print_measured
from vlm_core.cli.tables import add, table
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
