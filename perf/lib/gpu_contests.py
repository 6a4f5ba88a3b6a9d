"""Seconds and memory of one contestant on a GPU, and cells of tables that may stay empty."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

import torch
from perf.lib.gpu import DEVICE, clock, held, peak, reset
from perf.lib.tables import Run, number, ratio, turns


class Measured(NamedTuple):
    """Seconds a call, and the GB that tensors took at most beyond what was held before, such as the weights."""

    seconds: float = math.nan
    extra: float = math.nan


def measured(make: Callable[[], Run], rounds: int) -> Measured:
    """Of what `make` prepares; NaN where memory runs out, or, on a GPU, with the traceback on stderr, where it fails.

    One contestant that fails in an hour of tables must not hide the others.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # else the graphs and caches of the contestant before stay
    reset()
    before = held()
    try:
        seconds = turns({"run": make()}, rounds, clock=clock)["run"].median
    except torch.OutOfMemoryError:
        return Measured()
    except Exception:
        if DEVICE.type == "cpu":
            raise
        traceback.print_exc()
        return Measured()
    return Measured(seconds, peak() - before)


def cell(value: float, text: Callable[[float], str] = number) -> str:
    """Empty for NaN."""
    return text(value) if math.isfinite(value) else ""


def quotient(a: float, b: float) -> str:
    return cell(a / b, ratio)
