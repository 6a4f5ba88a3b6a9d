"""The eight benchmarks of the paper's tables, a folder each: config and figures, files, scoring rule."""

from vlm_bench.benchmarks.gqa.benchmark import GQAConfig
from vlm_bench.benchmarks.mm_vet.benchmark import MMVetConfig
from vlm_bench.benchmarks.mmbench.benchmark import MMBenchConfig
from vlm_bench.benchmarks.mme.benchmark import MMEConfig
from vlm_bench.benchmarks.pope.benchmark import PopeConfig
from vlm_bench.benchmarks.scienceqa.benchmark import ScienceQAConfig
from vlm_bench.benchmarks.textvqa.benchmark import TextVQAConfig
from vlm_bench.benchmarks.vqa_v2.benchmark import VQAv2Config

__all__ = [
    "GQAConfig",
    "MMBenchConfig",
    "MMEConfig",
    "MMVetConfig",
    "PopeConfig",
    "ScienceQAConfig",
    "TextVQAConfig",
    "VQAv2Config",
]
