"""Plugin of vlm-core: registers the benchmarks of the paper's tables."""

from __future__ import annotations

from vlm_bench import benchmarks
from vlm_core.plugins import BenchmarkConfig, hookimpl


@hookimpl
def vlm_benchmarks() -> list[type[BenchmarkConfig]]:
    return [
        benchmarks.VQAv2Config,
        benchmarks.GQAConfig,
        benchmarks.ScienceQAConfig,
        benchmarks.TextVQAConfig,
        benchmarks.PopeConfig,
        benchmarks.MMEConfig,
        benchmarks.MMBenchConfig,
        benchmarks.MMVetConfig,
    ]
