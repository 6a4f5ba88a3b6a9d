"""Configs of the connectors with one token per patch. What a paper leaves open is a field, see docs/paper.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, field_validator

from vlm_core.errors import UserError
from vlm_core.plugins.config import ConnectorConfig, FactoryCall, WeightsSource, random_values
from vlm_core.plugins.registry import installed

if TYPE_CHECKING:
    from vlm_core.interfaces import Connector
    from vlm_core.plugins.hooks import Scan


class RandomConfig(ConnectorConfig):
    """A connector without published weights; its initial values are random."""

    def weights_source(self) -> WeightsSource:
        return random_values()


class LinearConfig(RandomConfig):
    """One linear map, as the first LLaVA."""

    type: Literal["linear"] = "linear"

    def factory_call(self) -> FactoryCall:
        return FactoryCall("vlm_connectors.connectors:MLP", {})


class MLPConfig(RandomConfig):
    """`depth` linear layers with GELU between them; the default is LLaVA-1.5's two.

    `hidden` is the width after the first layer, the language model's if unset; all later layers have the language
    model's. Cobra's projector is `depth: 3, hidden: 8704`, four times the encoder's width.
    """

    type: Literal["mlp"] = "mlp"
    depth: int = Field(default=2, ge=2, le=16, description="linear layers, with GELU between them")
    hidden: int | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="width after the first layer; by default the language model's",
    )

    def label(self) -> str:
        return "mlp" if self.depth == 2 else f"mlp ({self.depth} layers)"

    def factory_call(self) -> FactoryCall:
        return FactoryCall("vlm_connectors.connectors:layers", self.model_dump(exclude={"type"}))


class ScanConfig(RandomConfig):
    """A connector with a 2D scan: `bsm`, `csm`, or one of another package."""

    scan: str = Field(default="bsm", description="the 2D scan: bsm, csm, or an installed one")

    @field_validator("scan")
    @classmethod
    def _installed(cls, name: str) -> str:
        try:
            installed().get("scan", name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    @classmethod
    def engine(cls, device: str) -> str:
        from vlm_ssm.backends import engine

        return engine(device)

    def mechanism(self) -> Scan:
        """The function of the scan named by `scan`."""
        return installed().get("scan", self.scan)

    def scan_call(self, function: str) -> FactoryCall:
        """A call of `function` with all fields, `scan` as a function."""
        return FactoryCall(function, {**self.model_dump(exclude={"type"}), "scan": self.mechanism()})


class VSSConfig(ScanConfig):
    """The Vision Selective Scan module: 2D scan, one Mamba layer, merge."""

    parameters: Literal["shared", "ssm", "full"] = Field(
        default="shared",
        description="parameters per direction: shared: none; ssm: all but the projections; full: a whole layer",
    )
    merge: Literal["sum", "mean"] = Field(default="sum", description="reduction over directions")
    norm: Literal["layernorm", "rmsnorm"] = Field(default="layernorm", description="norm after the scan")
    d_state: PositiveInt = Field(default=16, le=1024, description="state size of the Mamba layer")
    d_conv: PositiveInt = Field(default=4, le=16, description="kernel width of the Mamba layer's convolution")
    expand: PositiveInt = Field(
        default=2, le=16, description="inner width of the Mamba layer, as a multiple of its width"
    )

    def label(self) -> str:
        return f"{self.type_name()} ({self.scan}, {self.parameters})"

    def factory_call(self) -> FactoryCall:
        return self.scan_call(f"vlm_connectors.connectors:{self.type_name().replace('-', '_')}")


class VSSMLPConfig(VSSConfig):
    """Eq. 5: the scan at encoder width, then an MLP."""

    type: Literal["vss-mlp"] = "vss-mlp"


class VSSL2Config(VSSConfig):
    """Eq. 6, the paper's final model: Linear, the scan at model width, Linear."""

    type: Literal["vss-l2"] = "vss-l2"


class MSCConfig(ScanConfig):
    """ML-Mamba's Mamba-2 scan connector: Linear, blocks of scan and SwiGLU, a three-layer MLP."""

    type: Literal["msc"] = "msc"
    blocks: PositiveInt = Field(default=2, le=64, description="number of blocks, each with one scan")
    swiglu: bool = Field(default=True, description="a SwiGLU layer after each scan")
    d_state: PositiveInt = Field(default=128, le=1024, description="state size of the Mamba-2 layers")
    d_conv: PositiveInt = Field(default=4, le=16, description="kernel width of their convolution")
    expand: PositiveInt = Field(
        default=2, le=16, description="inner width of the Mamba-2 layers, as a multiple of their width"
    )
    head_dim: PositiveInt = Field(
        default=64, le=1024, description="width of a head; divides expand times the language model's width"
    )

    def label(self) -> str:
        return f"msc ({self.scan}, {self.blocks} blocks)"

    def build(self, d_in: int, d_out: int) -> Connector:
        if (inner := self.expand * d_out) % self.head_dim:
            raise UserError(
                f"msc: connector.head_dim {self.head_dim} doesn't divide the inner width {inner}, which is expand "
                f"{self.expand} times the language model's width {d_out}; set head_dim to a divisor of {inner}"
            )
        return super().build(d_in, d_out)

    def factory_call(self) -> FactoryCall:
        return self.scan_call("vlm_connectors.msc:MSC")
