"""The implementation of each encoder, connector and language model on each device, for `--doctor`."""

from __future__ import annotations

from vlm_core.plugins.registry import installed

Rows = list[tuple[str, str]]


def engine_rows(devices: list[str]) -> Rows:
    """(component, "device: implementation, …"), from `ComponentConfig.engine`."""
    rows = []
    for entry in installed().all():
        if entry.kind in ("encoder", "connector", "llm"):
            engines = [f"{device}: {_engine(entry.value, device)}" for device in devices]
            rows.append((f"{entry.kind} {entry.name}", ", ".join(engines)))
    return rows


def _engine(config: type, device: str) -> str:
    try:
        return config.engine(device)  # pyright: ignore[reportAttributeAccessIssue]
    except ValueError as error:
        return f"nothing: {error}"
