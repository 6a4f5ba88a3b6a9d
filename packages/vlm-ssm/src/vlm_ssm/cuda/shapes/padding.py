"""Sizes that vectors of 8 don't divide: channels of a group and states are padded with zeros, which change nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from vlm_ssm.registration.inputs import ScanInputs

VECTOR = 8
"""Channels that a thread reads at once, and states that a lane has."""


def _lacking(size: int) -> int:
    return -size % VECTOR


def _lacking_states(size: int) -> int:
    """Between 48 and 64 states there are no kernels: lanes times channels of a block would be no whole warps."""
    return -size % VECTOR if size <= 48 else 64 - size


def _wider(t: Tensor | None, dimension: int, groups: int, lacking: int) -> Tensor | None:
    """With `lacking` zeros behind each of the equal groups of a dimension."""
    if t is None or not lacking:
        return t
    grouped = t.unflatten(dimension, (groups, -1))
    behind = grouped.ndim - 1 - (dimension % t.ndim + 1)
    return F.pad(grouped, (0, 0) * behind + (0, lacking)).flatten(dimension % t.ndim, dimension % t.ndim + 1)


def _narrower(t: Tensor, dimension: int, groups: int, lacking: int) -> Tensor:
    """Undoes `_wider`."""
    if not lacking:
        return t
    dimension %= t.ndim
    grouped = t.unflatten(dimension, (groups, -1))
    return grouped.narrow(dimension + 1, 0, grouped.shape[dimension + 1] - lacking).flatten(
        dimension, dimension + 1
    )


def needs_padding(inputs: ScanInputs) -> bool:
    own = inputs.u.shape[3] // inputs.B.shape[3]
    return bool(_lacking(own) or _lacking_states(inputs.A.shape[2]))


def scan_padded(
    inputs: ScanInputs, scan: Callable[[ScanInputs], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """`scan` of these inputs at sizes that its kernels take; outputs and gradients are those of the sizes given.

    A padded channel has u = 0, D = 0 and B, C like its group; a padded state has B = C = 0, so that it stays 0.
    """
    u, dt, A, B, C, D, bias, z, h0, *_ = inputs
    if not needs_padding(inputs):
        return scan(inputs)
    groups = B.shape[3]
    channels, states = _lacking(u.shape[3] // groups), _lacking_states(A.shape[2])
    u, dt, z = (_wider(t, -1, groups, channels) for t in (u, dt, z))
    D, bias = (_wider(t, -1, groups, channels) for t in (D, bias))
    A, h0 = (_wider(_wider(t, -2, groups, channels), -1, 1, states) for t in (A, h0))
    B, C = (_wider(t, -1, 1, states) for t in (B, C))
    assert u is not None
    assert dt is not None
    assert A is not None
    assert B is not None
    assert C is not None
    y, last = scan(inputs._replace(u=u, dt=dt, A=A, B=B, C=C, D=D, bias=bias, z=z, h0=h0))
    return _narrower(y, -1, groups, channels), _narrower(_narrower(last, -2, groups, channels), -1, 1, states)
