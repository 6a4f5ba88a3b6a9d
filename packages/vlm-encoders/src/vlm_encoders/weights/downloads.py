"""Downloads of pretrained towers: whole models, although a tower keeps only the blocks up to `layer`."""

from __future__ import annotations

from pathlib import Path

from vlm_core.plugins.config import Download

FP32 = 4


def of_timm(model: str) -> list[Download]:
    """timm's own repositories hold fp32 weights of the whole trunk, head and last block included."""
    import timm
    import torch

    scheme, _, source = model.rpartition(":")
    if scheme == "local-dir":
        return []
    if scheme:
        return [Download(source, "weights")]
    cfg = timm.get_pretrained_cfg(model)
    if cfg is None or not cfg.has_weights:
        return []
    with torch.device("meta"):
        count = sum(p.numel() for p in timm.create_model(model).parameters())
    return [Download(cfg.hf_hub_id or str(cfg.url), "weights", FP32 * count)]


def of_open_clip(model: str, pretrained: str | None) -> list[Download]:
    """A tag names a repository or an address; both towers are fetched."""
    import open_clip

    scheme, _, source = model.rpartition(":")
    if scheme:
        return [Download(source, "weights of both towers")] if scheme == "hf-hub" else []
    if not pretrained or Path(pretrained).exists():
        return []
    cfg = open_clip.get_pretrained_cfg(model, pretrained)
    return [Download(cfg.get("hf_hub") or cfg.get("url") or pretrained, "weights of both towers")]
