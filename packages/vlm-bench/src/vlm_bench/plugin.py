"""Plugin of vlm-core: registers the benchmarks, which are imported when the hook is called."""

from __future__ import annotations

from vlm_core.plugins import BenchmarkConfig, hookimpl


@hookimpl
def vlm_benchmarks() -> list[type[BenchmarkConfig]]:
    from vlm_bench import benchmarks

    return [
        benchmarks.VQAv2Config,
        benchmarks.GQAConfig,
        benchmarks.ScienceQAConfig,
        benchmarks.TextVQAConfig,
        benchmarks.PopeConfig,
        benchmarks.MMEConfig,
        benchmarks.MMBenchConfig,
        benchmarks.MMVetConfig,
        benchmarks.VizWizConfig,
        benchmarks.SeedImageConfig,
        benchmarks.MMBenchCNConfig,
        benchmarks.LlavaBenchConfig,
        benchmarks.VSRConfig,
        benchmarks.RefCOCOConfig,
        benchmarks.RefCOCOPlusConfig,
        benchmarks.RefCOCOgConfig,
        benchmarks.PopeAOKVQAConfig,
        benchmarks.PopeGQAConfig,
    ]
