"""Hooks of this package. torch is imported only by `build`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from vlm_core.plugins import ConnectorConfig, WeightsSource, hookimpl, random_values

if TYPE_CHECKING:
    from .pool import PoolConnector


class PoolConfig(ConnectorConfig):
    """Average `stride` × `stride` patches into one visual token, then Linear–GELU–Linear."""

    type: Literal["pool"] = "pool"
    stride: PositiveInt = Field(default=2, description="stride × stride patches become one token")

    def label(self) -> str:
        return f"pool/{self.stride}"

    def weights_source(self) -> WeightsSource:
        """Random values from the seed; a component with trained weights returns WeightsSource("their source")."""
        return random_values()

    def build(self, d_in: int, d_out: int) -> PoolConnector:
        from .pool import PoolConnector

        return PoolConnector(d_in, d_out, stride=self.stride)


@hookimpl
def vlm_connectors() -> list[type[ConnectorConfig]]:
    return [PoolConfig]
