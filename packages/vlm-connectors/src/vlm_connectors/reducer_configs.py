"""Configs of the connectors with fewer tokens than patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from vlm_connectors.configs import RandomConfig
from vlm_core.errors import UserError
from vlm_core.plugins.config import FactoryCall

if TYPE_CHECKING:
    from vlm_core.interfaces import Connector

Width = Field(
    default=None,
    gt=0,
    le=1_000_000,
    description="width between the linear layers; by default the language model's",
)


class PixelShuffleConfig(RandomConfig):
    """Concatenates neighbouring patches into one token, then norm and a two-layer MLP, as InternVL."""

    type: Literal["pixel-shuffle"] = "pixel-shuffle"
    factor: int = Field(default=2, ge=2, le=16, description="factor × factor patches become one token")
    hidden: int | None = Width
    norm: Literal["layernorm", "rmsnorm", "none"] = Field(
        default="layernorm", description="the norm before the linear layers"
    )
    activation: Literal["gelu", "relu2"] = Field(
        default="gelu", description="activation between the linear layers"
    )
    bias: bool = Field(default=True, description="whether the linear layers have a bias")

    def label(self) -> str:
        return f"pixel-shuffle ({self.factor}×{self.factor})"

    def factory_call(self) -> FactoryCall:
        return FactoryCall("vlm_connectors.reducers:PixelShuffle", self.model_dump(exclude={"type"}))


class LDPv2Config(RandomConfig):
    """A two-layer MLP, average pooling to grid × grid tokens, a depthwise convolution; as MobileVLM V2."""

    type: Literal["ldpv2"] = "ldpv2"
    grid: PositiveInt = Field(default=12, le=256, description="side of the grid of output tokens")
    hidden: int | None = Width

    def label(self) -> str:
        return f"ldpv2 ({self.grid}×{self.grid})"

    def factory_call(self) -> FactoryCall:
        return FactoryCall("vlm_connectors.reducers:LDPv2", self.model_dump(exclude={"type"}))


class ResamplerConfig(RandomConfig):
    """grid × grid learned queries and one cross-attention, as Qwen-VL and MiniCPM-V."""

    type: Literal["resampler"] = "resampler"
    grid: PositiveInt = Field(default=16, le=256, description="side of the grid of learned queries")
    head_dim: PositiveInt = Field(
        default=128, le=1024, description="width of an attention head; divides the language model's width"
    )

    def label(self) -> str:
        return f"resampler ({self.grid}×{self.grid})"

    def build(self, d_in: int, d_out: int) -> Connector:
        if d_out % self.head_dim or d_out % 4:
            raise UserError(
                f"resampler: the language model's width {d_out} must be a multiple of 4 and of connector.head_dim, "
                f"which is {self.head_dim}; set head_dim to a divisor of {d_out}"
            )
        return super().build(d_in, d_out)

    def factory_call(self) -> FactoryCall:
        return FactoryCall("vlm_connectors.reducers:Resampler", self.model_dump(exclude={"type"}))
