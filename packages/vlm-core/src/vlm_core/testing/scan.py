"""Conformance tests of 2D scans. Subclass in one line:

class TestMine(ScanSuite):
    scan = staticmethod(mine)
"""

from __future__ import annotations

import pytest

from vlm_core.plugins.hooks import Scan

GRIDS = [(1, 1), (1, 5), (5, 1), (2, 2), (4, 6), (7, 3), (27, 27)]


class ScanSuite:
    """The contract of `Scan` as tests."""

    scan: Scan

    @pytest.mark.parametrize(("h", "w"), GRIDS)
    def test_every_direction_visits_every_patch_once(self, h: int, w: int) -> None:
        for k, order in enumerate(self.scan(h, w)):
            assert sorted(order) == list(range(h * w)), f"direction {k} of a {h}×{w} grid"

    def test_every_grid_has_the_same_number_of_directions(self) -> None:
        """Parameters belong to directions, so their number is fixed when the layer is built."""
        counts = {len(self.scan(h, w)) for h, w in GRIDS}
        assert len(counts) == 1, f"numbers of directions: {sorted(counts)}"
        assert min(counts) > 0

    def test_the_scan_is_deterministic(self) -> None:
        assert self.scan(4, 6) == self.scan(4, 6)
