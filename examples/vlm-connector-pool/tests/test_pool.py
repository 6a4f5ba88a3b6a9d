"""Conformance tests of the connector."""

from vlm_connector_pool.plugin import PoolConfig
from vlm_core.plugins.registry import installed
from vlm_core.testing import ConnectorSuite


class TestPool(ConnectorSuite):
    config = PoolConfig()


def test_a_spec_finds_it_by_name():
    assert installed().get("connector", "pool") is PoolConfig
