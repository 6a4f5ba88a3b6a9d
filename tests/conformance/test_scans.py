"""Every registered scan against the suite that third parties run."""

import pytest

from vlm_connectors import scans
from vlm_core.plugins.registry import installed
from vlm_core.testing import ScanSuite

CASES = {"bsm": scans.bsm, "csm": scans.csm}


class TestBSM(ScanSuite):
    scan = staticmethod(scans.bsm)


class TestCSM(ScanSuite):
    scan = staticmethod(scans.csm)


@pytest.mark.parametrize("name", installed().names("scan"))
def test_every_registered_scan_has_a_case(name):
    assert installed().get("scan", name) is CASES[name]
