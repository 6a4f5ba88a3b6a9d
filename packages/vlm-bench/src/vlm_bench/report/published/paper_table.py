"""Table 1 of VL-Mamba (arXiv 2403.13600): its columns, figures and protocols."""

from __future__ import annotations

PAPER = "VL-Mamba-2.8B"
TITLES = {
    "vqa-v2": "VQA-v2",
    "gqa": "GQA",
    "scienceqa": "SQA-I",
    "textvqa": "VQA-T",
    "pope": "POPE",
    "mme": "MME",
    "mmbench": "MMB",
    "mm-vet": "MM-Vet",
}
"""Column titles by benchmark, in the paper's order."""
ROWS: dict[str, tuple[float | None, ...]] = {
    PAPER: (76.6, 56.2, 65.4, 48.9, 84.4, 1369.6, 57.0, 32.6),
    "LLaVA-1.5-7B": (78.5, 62.0, 66.8, 58.2, 85.9, 1510.7, 64.3, 30.5),
    "LLaVA-1.5-13B": (80.0, 63.3, 71.6, 61.3, 85.9, 1531.3, 67.7, 35.4),
    "LLaVA-Phi-2.7B": (71.4, None, 68.4, 48.6, 85.0, 1335.1, 59.8, 28.9),
    "MobileVLM-3B": (None, 59.0, 61.2, 47.5, 84.9, 1288.9, 59.6, None),
    "Qwen-VL-Chat-7B": (78.2, 57.5, 68.2, 61.5, None, 1487.5, 60.6, None),
    "Qwen-VL-7B": (78.8, 59.3, 67.1, 63.8, None, None, 38.2, None),
    "InstructBLIP-7B": (None, 49.2, 60.5, 50.1, None, None, 36.0, 26.2),
    "InstructBLIP-13B": (None, 49.5, 63.1, 50.7, 78.9, 1212.8, None, 25.6),
    "BLIP-2-13B": (41.0, 41.0, 61.0, 42.5, 85.3, 1293.8, None, 22.4),
    "IDEFICS-9B": (50.9, 38.4, None, 25.9, None, None, 48.2, None),
    "IDEFICS-80B": (60.0, 45.2, None, 30.9, None, None, 54.5, None),
    "Shikra-13B": (77.4, None, None, None, None, None, 58.8, None),
    "Otter-7B": (None, None, None, None, None, 1292.3, 48.3, 24.6),
    "mPLUG-Owl-7B": (None, None, None, None, None, 967.3, 49.4, None),
    "MiniGPT-4-7B": (None, 32.2, None, None, None, 581.7, 23.0, None),
}
"""Figures by model: the paper's row, then its nearest peers, then the others; None is an empty cell."""
PEERS = tuple(ROWS)[:5]
PROTOCOLS = {
    "vqa-v2": ("llava-1.5/vqa-v2-test-dev", 107394),
    "gqa": ("llava-1.5/gqa-testdev-balanced", 12578),
    "scienceqa": ("llava-1.5/scienceqa-img", 4241),
    "textvqa": ("llava-1.5/textvqa-val m4c, with OCR tokens", 5000),
    "pope": ("llava-1.5/pope@e3e39262 mean-F1", 8910),
    "mme": ("llava-1.5/mme perception", 2374),
    "mmbench": ("llava-1.5/mmbench-dev@20230712 circular, exact-matching", 4377),
    "mm-vet": ("mm-vet grades by gpt-4-0613", 218),
}
"""Protocol and number of answers of LLaVA-1.5's row, as far as known; only equal ones are comparable."""

LLAVA_13B = {"pope": 85.9, "scienceqa": 71.6, "mme": 1531.3, "mmbench": 67.7, "mm-vet": 36.1}
"""LLaVA-1.5-13B in LLaVA's model zoo, for benchmarks whose answer files are public.

MM-Vet's 36.1 belongs to those files; the paper's table has 35.4, LLaVA's earlier figure.
"""


def published_figures(benchmark: str) -> dict[str, float]:
    """The nearest figures by model, the paper's first; none for a benchmark that the paper does not have."""
    if benchmark not in TITLES:
        return {}
    place = list(TITLES).index(benchmark)
    return {model: value for model in PEERS if (value := ROWS[model][place]) is not None}
