"""The table of measured MFU: interpolation, and what is assumed for a GPU that nobody has measured."""

import math

import pytest

from vlm_core.diagnose.costs import measured_mfu
from vlm_core.diagnose.costs.gpus import GPUS
from vlm_core.diagnose.costs.measured_mfu import TABLE, MeasuredMFU, utilization


@pytest.fixture
def rows(monkeypatch):
    rows = (
        MeasuredMFU("H200", True, 8000, 0.4),
        MeasuredMFU("H200", True, 1000, 0.1),
        MeasuredMFU("A100-80G", True, 1000, 0.2),
        MeasuredMFU("H200", False, 1000, 0.05),
    )
    monkeypatch.setattr(measured_mfu, "TABLE", rows)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("tokens", "mfu"), [(1, 0.1), (1000, 0.1), (2000, 0.2), (4000, 0.3), (8000, 0.4), (10**6, 0.4)]
)
def test_between_measurements_it_grows_with_the_logarithm_of_tokens(tokens, mfu):
    assert utilization(GPUS["H200"], llm=True, tokens=tokens).mfu == pytest.approx(mfu)


@pytest.mark.usefixtures("rows")
def test_a_gpu_without_measurements_takes_those_of_the_nearest_peak():
    assert utilization(GPUS["H200"], llm=True, tokens=1000) == (0.1, "H200", True)
    assert utilization(GPUS["B200"], llm=True, tokens=1000) == (0.1, "H200", False)
    assert utilization(GPUS["A800"], llm=True, tokens=1000) == (0.2, "A100-80G", False)
    assert utilization(GPUS["A800"], llm=False, tokens=1000) == (0.05, "H200", False)


def test_the_table():
    assert {row.gpu for row in TABLE} <= set(GPUS)
    assert {row.llm for row in TABLE} == {True, False}
    assert len({row[:3] for row in TABLE}) == len(TABLE)
    assert all(0 < row.mfu < 1 and row.tokens > 0 for row in TABLE)
    assert all(math.isfinite(row.mfu) for row in TABLE)
