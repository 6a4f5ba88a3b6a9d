"""Half of a launcher's environment is an error, for every command that several processes may run."""

import pytest

from vlm_core.errors import UserError
from vlm_core.runtime.rank_env import Place, place

WHOLE = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def given(monkeypatch):
    for name in (*WHOLE, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    "values", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}, {"RANK": "", "MASTER_PORT": "1"}]
)
def test_alone(given, values):
    given(values)
    assert place() is None


@pytest.mark.parametrize(
    "values", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x"}, {"WORLD_SIZE": "-3"}, {"RANK": "0"}]
)
def test_half(given, values):
    given(values)
    with pytest.raises(UserError, match="as launchers do, but not"):
        place()


@pytest.mark.parametrize(
    "change",
    [
        {"MASTER_PORT": "x"},
        {"RANK": "²"},
        {"WORLD_SIZE": "9" * 5000},
        {"LOCAL_RANK": "-1"},
        {"RANK": "2"},
        {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"},
    ],
)
def test_wrong(given, change):
    given(WHOLE | change)
    with pytest.raises(UserError, match=r"expected numbers|expected a rank below the number of processes"):
        place()


def test_whole(given):
    given(WHOLE)
    assert place() == Place(0, 2, 0, 2)
