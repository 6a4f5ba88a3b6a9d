"""Which layers FSDP2 gathers together."""

from torch import nn

from vlm_train.distributed import strategy


def test_small_neighbours_of_one_kind_are_joined(monkeypatch):
    """A unit ends with the layer that fills it; another kind begins a new one."""
    monkeypatch.setattr(strategy, "UNIT", 12)
    small = [nn.Linear(2, 2) for _ in range(3)]  # 6 numbers each
    large, other = [nn.Linear(4, 4) for _ in range(2)], [nn.Conv1d(1, 1, 1)]
    assert strategy.units([*small, *large, *other]) == [small[:2], [small[2], large[0]], [large[1]], other]
    assert strategy.units([]) == []
