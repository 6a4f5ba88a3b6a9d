"""The eight benchmarks of the paper's tables and ten others, a folder each protocol: config, files, scoring rule."""

from vlm_bench.benchmarks.gqa.benchmark import GQAConfig
from vlm_bench.benchmarks.llava_bench.benchmark import LlavaBenchConfig
from vlm_bench.benchmarks.mm_vet.benchmark import MMVetConfig
from vlm_bench.benchmarks.mmbench.benchmark import MMBenchCNConfig, MMBenchConfig
from vlm_bench.benchmarks.mme.benchmark import MMEConfig
from vlm_bench.benchmarks.pope.benchmark import PopeAOKVQAConfig, PopeConfig, PopeGQAConfig
from vlm_bench.benchmarks.refcoco.benchmark import RefCOCOConfig, RefCOCOgConfig, RefCOCOPlusConfig
from vlm_bench.benchmarks.scienceqa.benchmark import ScienceQAConfig
from vlm_bench.benchmarks.seed_image.benchmark import SeedImageConfig
from vlm_bench.benchmarks.textvqa.benchmark import TextVQAConfig
from vlm_bench.benchmarks.vizwiz.benchmark import VizWizConfig
from vlm_bench.benchmarks.vqa_v2.benchmark import VQAv2Config
from vlm_bench.benchmarks.vsr.benchmark import VSRConfig

__all__ = [
    "GQAConfig",
    "LlavaBenchConfig",
    "MMBenchCNConfig",
    "MMBenchConfig",
    "MMEConfig",
    "MMVetConfig",
    "PopeAOKVQAConfig",
    "PopeConfig",
    "PopeGQAConfig",
    "RefCOCOConfig",
    "RefCOCOPlusConfig",
    "RefCOCOgConfig",
    "ScienceQAConfig",
    "SeedImageConfig",
    "TextVQAConfig",
    "VQAv2Config",
    "VSRConfig",
    "VizWizConfig",
]
