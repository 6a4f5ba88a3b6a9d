"""Every test here runs on one thread and from one seed."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _small(one_thread: None) -> None:
    """Towers this small only lose by threads."""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
