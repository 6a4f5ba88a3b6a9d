"""Every registered connector, in every variant, against the suite that third parties run."""

import pytest

from vlm_connectors.configs import MLPConfig, VSSL2Config, VSSMLPConfig
from vlm_core.registry import installed
from vlm_core.testing import ConnectorSuite

VSS = [
    config(scan=scan, parameters=parameters, d_state=4)
    for config in (VSSMLPConfig, VSSL2Config)
    for scan in ("bsm", "csm")
    for parameters in ("shared", "ssm", "full")
]
CASES = [MLPConfig(), *VSS, VSSL2Config(merge="mean", norm="rmsnorm")]


def _suite(config):
    return type(f"Test{config.label()}", (ConnectorSuite,), {"config": config})


for number, config in enumerate(CASES):
    globals()[f"Test{number}{type(config).__name__}"] = _suite(config)


@pytest.mark.parametrize(
    "name",
    [e.name for e in installed().all() if e.kind == "connector" and e.distribution == "vlm-connectors"],
)
def test_every_registered_connector_has_a_case(name):
    assert name in {config.type_name() for config in CASES}
