"""The connector contract, checked by the suite that vlm-core ships for plugins."""

from vlm_connector_pool.plugin import PoolConfig
from vlm_core.testing import ConnectorSuite


class TestPool(ConnectorSuite):
    config = PoolConfig()
