"""For `--doctor`: what computes each encoder, connector and language model."""

from __future__ import annotations

from vlm_core.plugins.registry import installed

Rows = list[tuple[str, str]]


def engine_rows(devices: list[str]) -> Rows:
    """What computes each encoder, connector and language model on each device, as its config's class says."""
    rows = []
    for entry in installed().all():
        if entry.kind in ("encoder", "connector", "llm"):
            told = [f"{device}: {_engine(entry.value, device)}" for device in devices]
            rows.append((f"{entry.kind} {entry.name}", ", ".join(told)))
    return rows


def _engine(config: type, device: str) -> str:
    try:
        return config.engine(device)  # pyright: ignore[reportAttributeAccessIssue]
    except ValueError as error:
        return f"nothing: {error}"
