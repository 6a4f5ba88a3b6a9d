"""Which layers FSDP2 gathers together."""

from torch import nn

from vlm_core.diagnose.costs import training_memory
from vlm_train.distributed import fsdp2


def test_small_neighbours_of_one_kind_are_joined(monkeypatch):
    """A unit ends with the layer that fills it; another kind begins a new one."""
    monkeypatch.setattr(fsdp2, "UNIT", 12)
    small = [nn.Linear(2, 2) for _ in range(3)]  # 6 numbers each
    large, other = [nn.Linear(4, 4) for _ in range(2)], [nn.Conv1d(1, 1, 1)]
    assert fsdp2.units([*small, *large, *other]) == [small[:2], [small[2], large[0]], [large[1]], other]
    assert fsdp2.units([]) == []


def test_the_estimate_knows_the_size_of_a_unit():
    assert training_memory.UNIT == fsdp2.UNIT
