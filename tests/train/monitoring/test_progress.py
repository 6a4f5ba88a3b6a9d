"""The bar at every width: what matters stays, nothing is cut; time left doesn't count the steps that compile."""

import re
from io import StringIO

import pytest
from rich.console import Console

from vlm_core.cli.progress import Progress, fitting
from vlm_train.monitoring.throughput import WARMUP_STEPS, step_texts

METRICS = {
    "samples_per_second": 1234.5,
    "tokens_per_second": 98765.4,
    "data_wait": 0.123,
    "peak_memory": 5e9,
    "mfu": 0.4,
}


@pytest.fixture
def clock(monkeypatch):
    times = [0.0]
    monkeypatch.setattr("vlm_core.cli.progress.time.monotonic", lambda: times[0])
    return times


def drawn(bar, width):
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system="truecolor")
    bar.console = console
    console.print(bar._bar())
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).rstrip("\n").split("\n")


@pytest.mark.parametrize("name", ["align", "a" * 40])
@pytest.mark.parametrize("width", [*range(40, 90), 100, 120, 200])
def test_one_line_without_a_cut(name, width, clock):
    bar = Progress(name, 123456, quiet=True)
    for done in (1, 500):
        clock[0] += 100.0
        bar.update(done, step_texts(12.3456, 1.25e-4, METRICS))
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
    texts = step_texts(1.0, 1e-3, METRICS)
    fields = dict.fromkeys(["name", "left", *texts, "count"], "x" * 10)
    order = ["name", "bar", "count", "loss", "rate", "left", "lr", "tokens", "wait", "memory", "mfu"]
    for width in range(40, 140):
        names = fitting(fields, width)
        assert len(names) >= len(fitting(fields, width - 1))
        assert names == [name for name in order if name in names]
    assert fitting(fields, 40) == ["name", "loss", "left"]


def test_time_left_does_not_count_compiling(clock, capsys):
    bar = Progress("align", 11, warmup=WARMUP_STEPS)
    bar.live = None
    shown = []
    for done, seconds in ((1, 300.0), (2, 60.0), (3, 30.0), (4, 2.0), (5, 2.0), (10, 10.0), (11, 2.0)):
        clock[0] += seconds
        bar.update(done, step_texts(1.0, 1e-3, METRICS))
        shown.append(bar.fields["left"])
    assert shown == ["left -:--"] * 3 + ["left 0:14", "left 0:12", "left 0:02", "left 0:00"]
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("align 1/11  loss 1.000  1,234.5 samples/s  left -:--  lr 0.001")
    assert "left 0:00" in last


def test_a_resumed_stage_counts_its_own_steps_alone(clock):
    """The steps before the checkpoint took no time of this process, and its first steps compile again."""
    bar = Progress("align", 20, 10, warmup=WARMUP_STEPS, quiet=True)
    shown = []
    for seconds in (300.0, 60.0, 30.0, 2.0, 2.0):
        clock[0] += seconds
        bar.advance()
        shown.append(bar._left(clock[0]))
    assert shown == ["left -:--"] * 3 + ["left 0:12", "left 0:10"]


def test_items_with_a_unit(clock, capsys):
    with Progress("features for align", 30, unit="images") as progress:
        clock[0] += 20.0
        progress.advance(10)
        clock[0] += 1.0
        progress.advance(10)
        progress.advance(10)
    lines = ["features for align 10/30 images  left 0:40", "features for align 30/30 images  left 0:00"]
    assert capsys.readouterr().err.splitlines() == lines
