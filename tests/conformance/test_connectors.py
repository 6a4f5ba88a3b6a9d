"""Every registered connector, in every variant, against the suite that third parties run."""

import pytest
import torch
from third_party_parts import NormedConfig

from vlm_connectors.configs import LinearConfig, MLPConfig, MSCConfig, VSSL2Config, VSSMLPConfig
from vlm_connectors.reducer_configs import (
    LDPv2Config,
    PixelShuffleConfig,
    ResamplerConfig,
    StateQueryConfig,
)
from vlm_core.plugins.registry import installed
from vlm_core.testing import ConnectorSuite, frozen_modules

VSS = [
    config(scan=scan, parameters=parameters, d_state=4)
    for config in (VSSMLPConfig, VSSL2Config)
    for scan in ("bsm", "csm")
    for parameters in ("shared", "ssm", "full")
]
NEIGHBOURS = [
    LinearConfig(),
    MLPConfig(depth=3, hidden=48),
    MSCConfig(d_state=8, head_dim=8),
    MSCConfig(d_state=4, head_dim=16, scan="csm", swiglu=False, blocks=1),
    PixelShuffleConfig(),
    PixelShuffleConfig(hidden=20, norm="rmsnorm", activation="relu2", bias=False),
    LDPv2Config(grid=3),
    ResamplerConfig(grid=3, head_dim=8),
    StateQueryConfig(queries=4, d_state=4),
    StateQueryConfig(queries=6, d_state=4, scan="csm", parameters="ssm"),
    StateQueryConfig(queries=3, d_state=4, placement="end"),
]
CASES = [MLPConfig(), *VSS, VSSL2Config(merge="mean", norm="rmsnorm"), *NEIGHBOURS]


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


class TestRunningStatistics(ConnectorSuite):
    config = NormedConfig()


def test_the_suite_finds_what_a_pass_should_not_write():
    class Counting(torch.nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, input):
            self.passes += 1
            return super().forward(input)

    module = Counting()
    for check in (
        frozen_modules.check_evaluation,
        frozen_modules.check_training,
        frozen_modules.check_frozen,
    ):
        with pytest.raises(AssertionError, match="passes"):
            check(module, lambda: module(torch.ones(3)))
    dropping = torch.nn.Sequential(torch.nn.Linear(9, 9), torch.nn.Dropout(0.5))
    with pytest.raises(AssertionError, match="dropout"):  # a plain module, which isn't a `Part`
        frozen_modules.check_frozen(dropping, lambda: dropping(torch.ones(9)))
