"""The bar at every width: what matters stays, nothing is cut; time left doesn't count the steps that compile."""

import re
from io import StringIO

import pytest
from rich.console import Console

from vlm_train.monitoring import progress
from vlm_train.monitoring.progress import StageProgress, fitting

TOLD = {
    "samples_per_second": 1234.5,
    "tokens_per_second": 98765.4,
    "data_wait": 0.123,
    "peak_memory": 5e9,
    "mfu": 0.4,
}


@pytest.fixture
def clock(monkeypatch):
    times = [0.0]
    monkeypatch.setattr("vlm_train.monitoring.progress.time.monotonic", lambda: times[0])
    return times


def drawn(bar, width):
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system="truecolor")
    bar.console = console
    console.print(bar._line())
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).rstrip("\n").split("\n")


@pytest.mark.parametrize("name", ["align", "a" * 40])
@pytest.mark.parametrize("width", [*range(40, 90), 100, 120, 200])
def test_one_line_without_a_cut(name, width, clock):
    bar = StageProgress(name, 123456, 0, quiet=True)
    for done in (1, 500):
        clock[0] += 100.0
        bar.step(done, 12.3456, 1.25e-4, TOLD)
        lines = drawn(bar, width)
        assert len(lines) == 1
        assert len(lines[0].rstrip()) <= width
        whole = {*bar.fields.values(), f"{done}/123456"}
        pieces = {piece for piece in lines[0].split("  ") if piece and "━" not in piece}
        short = f"{name[: min(16, width // 4) - 1]}…"
        assert {piece.strip() for piece in pieces} - whole <= {name if len(name) < 9 else short, name}
        assert "left" in lines[0]
        assert "loss 12.346" in lines[0]
        if width >= 80:
            assert "━" in lines[0]
            assert "1,234.5 samples/s" in lines[0]
    if width == 200:
        assert all(text in lines[0] for text in (*bar.fields.values(), name, "500/123456"))


def test_the_less_important_goes_first():
    fields = {name: "x" * 10 for name in progress._IN_ORDER if name != "bar"}
    for width in range(40, 140):
        names = fitting(fields, width)
        assert len(names) >= len(fitting(fields, width - 1))
        assert names == [name for name in progress._IN_ORDER if name in names]
    assert fitting(fields, 40) == ["stage", "loss", "left"]


def test_time_left_does_not_count_compiling(clock, capsys):
    bar = StageProgress("align", 11, 0)
    bar.live = None
    shown = []
    for done, seconds in ((1, 300.0), (2, 60.0), (3, 30.0), (4, 2.0), (5, 2.0), (10, 10.0), (11, 2.0)):
        clock[0] += seconds
        bar.step(done, 1.0, 1e-3, TOLD)
        shown.append(bar.fields["left"])
    assert shown == ["left -:--"] * 3 + ["left 0:14", "left 0:12", "left 0:02", "left 0:00"]
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("align 1/11  loss 1.000  1,234.5 samples/s  left -:--  lr 0.001")
    assert "left 0:00" in last
