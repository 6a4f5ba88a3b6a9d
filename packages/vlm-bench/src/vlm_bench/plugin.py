"""What this package offers to vlm-core: the benchmarks of the paper's tables."""

from __future__ import annotations

from vlm_bench import configs
from vlm_core.plugins import BenchmarkConfig, hookimpl


@hookimpl
def vlm_benchmarks() -> list[type[BenchmarkConfig]]:
    return [
        configs.VQAv2Config,
        configs.GQAConfig,
        configs.ScienceQAConfig,
        configs.TextVQAConfig,
        configs.PopeConfig,
        configs.MMEConfig,
        configs.MMBenchConfig,
        configs.MMVetConfig,
    ]
