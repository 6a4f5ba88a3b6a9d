"""Tables 2 to 5 of VL-Mamba (arXiv 2403.13600): their rows, and the figures that are known of them.

Only the paper's text and its Table 1 were at hand. A figure that neither gives is left out here, never estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vlm_bench.report.published.paper_table import PAPER, ROWS, TITLES

FINAL: dict[str, float] = {
    name: value for name, value in zip(TITLES, ROWS[PAPER], strict=True) if value is not None
}
"""Table 1's row of VL-Mamba by benchmark."""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: known figures by row and benchmark, their sources, and what its text says."""

    title: str
    rows: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = field(default=())


_SAME = "the configuration of Table 1's VL-Mamba, so its figures are that row's"
TABLES: dict[str, PaperTable] = {
    "Table 2": PaperTable(
        "language models, with CLIP-ViT-L and an MLP",
        {"Mamba-1.4B": {}, "Mamba-2.8B-Pile": {}, "Mamba-2.8B-Slimpj": {}},
        ("the paper's text: Mamba-1.4B < Mamba-2.8B-Pile < Mamba-2.8B-Slimpj on all benchmarks",),
    ),
    "Table 3": PaperTable(
        "encoders, with Mamba-2.8B-Slimpj and an MLP",
        {"CLIP-ViT-L": {}, "SigLIP-SO": {}},
        ("the paper's text: SigLIP-SO is better on most benchmarks; CLIP-ViT-L is better on MME",),
    ),
    "Table 4": PaperTable(
        "connectors, with SigLIP-SO, Mamba-2.8B-Slimpj and BSM",
        {"MLP": {}, "VSS-MLP": {}, "VSS-L2": FINAL},
        (
            f"VSS-L2: {_SAME}",
            "the paper's text: VSS-L2 is the best on VQA-T, MME, MMB and MM-Vet",
        ),
    ),
    "Table 5": PaperTable(
        "2D scans, with SigLIP-SO, Mamba-2.8B-Slimpj and VSS-L2",
        {"BSM": FINAL, "CSM": {"vqa-v2": 76.6, "mme": 1364.0}},
        (
            f"BSM: {_SAME}",
            "CSM, VQA-v2: the paper's text",
            'CSM, MME: 1369.6 − 5.6; the text says "5.6 points higher than CSM" of a value of MME',
        ),
    ),
}
"""The paper's tables by the name that specs/ablations/tables.yaml gives them."""
