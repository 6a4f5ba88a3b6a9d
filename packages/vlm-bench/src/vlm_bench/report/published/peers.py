"""Published figures of other state-space vision-language models, each with its source."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

COBRA = "Cobra (AAAI 2025, arXiv 2403.14520), Tables 2 and 4"
ML_MAMBA = "ML-Mamba (arXiv 2407.19832v3), Table 2"
MM_MAMBA = "mmMamba (arXiv 2502.13145v2), Table 1"
FIRST_OCR = "OCR tokens before the question; 1.2M training samples"
VALIDATION = "validation splits of VQA-v2, VizWiz and TextVQA"
AVERAGES = "MME perception, MMBench-EN, POPE averaged over its splits"
OWN_HARNESS = "validation split of VQA-v2, all by Zyphra's harness, based on VLMEvalKit"


class Peer(NamedTuple):
    """A model's figures by benchmark; what its source does not have is missing here.

    `differs` names the columns of the paper's table whose split or prompt is another one in the source; `protocol` is
    what the source says about its splits and prompts.
    """

    figures: Mapping[str, float]
    source: str
    protocol: str
    differs: Collection[str] = ()


PEERS = {
    "Cobra-3.5B": Peer(
        {
            "vqa-v2": 77.8,
            "gqa": 62.3,
            "textvqa": 58.2,
            "pope": 88.4,
            "vizwiz": 49.7,
            "vsr": 58.4,
            "refcoco": 52.7,
            "refcoco+": 45.6,
        },
        COBRA,
        FIRST_OCR,
        ("textvqa",),
    ),
    "Cobra-8B": Peer(
        {
            "vqa-v2": 79.2,
            "gqa": 63.9,
            "textvqa": 59.5,
            "pope": 87.6,
            "vizwiz": 56.2,
            "vsr": 62.9,
            "refcoco": 58.2,
            "refcoco+": 52.5,
            "refcocog": 54.4,
        },
        COBRA,
        FIRST_OCR,
        ("textvqa",),
    ),
    "ML-Mamba-2.7B": Peer(
        {"vqa-v2": 75.26, "gqa": 60.68, "textvqa": 52.2, "pope": 88.3, "vizwiz": 45.17, "vsr": 51.5},
        ML_MAMBA,
        VALIDATION,
        ("vqa-v2",),
    ),
    "mmMamba-linear-2.7B": Peer(
        {
            "gqa": 57.4,
            "scienceqa": 79.2,
            "textvqa": 47.7,
            "pope": 85.2,
            "mme": 1303.5,
            "mmbench": 57.2,
            "mm-vet": 31.1,
            "mmmu_val": 30.7,
        },
        MM_MAMBA,
        AVERAGES,
    ),
    "mmMamba-hybrid-2.7B": Peer(
        {
            "gqa": 59.3,
            "scienceqa": 86.9,
            "textvqa": 55.1,
            "pope": 86.7,
            "mme": 1371.1,
            "mmbench": 63.7,
            "mm-vet": 36.9,
            "mmmu_val": 32.3,
        },
        MM_MAMBA,
        AVERAGES,
    ),
    "Zamba2-VL-1.2B": Peer(
        {
            "vqa-v2": 78.0,
            "textvqa": 71.9,
            "seed-image": 71.1,
            "mmmu_val": 32.4,
            "ai2d": 81.5,
            "chartqa": 77.6,
            "ocrbench": 71.4,
            "realworldqa": 65.9,
        },
        "model card of Zyphra/Zamba2-VL-1.2B",
        OWN_HARNESS,
        ("vqa-v2", "textvqa"),
    ),
    "Zamba2-VL-2.7B": Peer(
        {"vqa-v2": 79.6, "textvqa": 77.4, "ai2d": 85.8, "chartqa": 79.6, "ocrbench": 73.6},
        "model card of Zyphra/Zamba2-VL-2.7B",
        OWN_HARNESS,
        ("vqa-v2", "textvqa"),
    ),
}
"""By model.

Left out: mmMamba's SEED, which may be with or without its videos, and the RefCOCOg of Cobra-3.5B, which is 46.9 in
Table 4 and 48.9 in Table 5.
"""


def sources() -> list[str]:
    """Where the figures come from, a line per source."""
    models: dict[str, list[str]] = {}
    for model, peer in PEERS.items():
        models.setdefault(f"{peer.source}: {peer.protocol}", []).append(model)
    return [f"{', '.join(names)}: {source}." for source, names in models.items()]
