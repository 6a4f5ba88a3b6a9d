"""Typed configs of the connectors. What the paper leaves open is a field; docs/paper.md lists the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, field_validator

from vlm_core.config import ConnectorConfig
from vlm_core.errors import UserError
from vlm_core.registry import installed

if TYPE_CHECKING:
    from vlm_connectors.vss import VSS
    from vlm_core.interfaces import Connector


class MLPConfig(ConnectorConfig):
    """Linear–GELU–Linear, as LLaVA-1.5."""

    type: Literal["mlp"] = "mlp"

    def build(self, d_in: int, d_out: int) -> Connector:
        from vlm_connectors.connectors import MLP

        return MLP(d_in, d_out)


class VSSConfig(ConnectorConfig):
    """The Vision Selective Scan module: 2D scan, one Mamba layer, merge."""

    scan: str = "bsm"
    parameters: Literal["shared", "ssm", "full"] = "shared"
    merge: Literal["sum", "mean"] = "sum"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    d_state: PositiveInt = Field(default=16, le=1024)
    d_conv: PositiveInt = Field(default=4, le=16)
    expand: PositiveInt = Field(default=2, le=16)

    @field_validator("scan")
    @classmethod
    def _installed(cls, name: str) -> str:
        try:
            installed().get("scan", name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    def label(self) -> str:
        return f"{self.type_name()} ({self.scan}, {self.parameters})"

    def vss(self, dim: int) -> VSS:
        """The module at width `dim`."""
        from vlm_connectors.vss import VSS

        return VSS(
            dim,
            installed().get("scan", self.scan),
            parameters=self.parameters,
            merge=self.merge,
            d_state=self.d_state,
            d_conv=self.d_conv,
            expand=self.expand,
        )


class VSSMLPConfig(VSSConfig):
    """Eq. 5: the scan at encoder width, then an MLP."""

    type: Literal["vss-mlp"] = "vss-mlp"

    def build(self, d_in: int, d_out: int) -> Connector:
        from vlm_connectors.connectors import VSSMLP

        return VSSMLP(d_in, d_out, self.vss(d_in), norm=self.norm)


class VSSL2Config(VSSConfig):
    """Eq. 6, the paper's final model: Linear, the scan at model width, Linear."""

    type: Literal["vss-l2"] = "vss-l2"

    def build(self, d_in: int, d_out: int) -> Connector:
        from vlm_connectors.connectors import VSSL2

        return VSSL2(d_in, d_out, self.vss(d_out), norm=self.norm)
