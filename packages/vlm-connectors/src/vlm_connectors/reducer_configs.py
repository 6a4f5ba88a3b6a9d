"""Configs of the connectors with fewer tokens than patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from vlm_connectors.configs import RandomConfig, ScanConfig
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


class StateQueryConfig(ScanConfig):
    """Learned queries among the patches of a 2D scan: what a Mamba layer returns at their places."""

    type: Literal["state-query"] = "state-query"
    queries: PositiveInt = Field(default=16, le=4096, description="tokens of an image")
    placement: Literal["spread", "end"] = Field(
        default="spread",
        description="spread: each query follows the patch at the centre of its cell; end: all follow the last patch",
    )
    parameters: Literal["shared", "ssm"] = Field(
        default="shared", description="parameters per direction: shared: none; ssm: all but the projections"
    )
    d_state: PositiveInt = Field(default=16, le=1024, description="state size of the Mamba layer")
    d_conv: PositiveInt = Field(default=4, le=16, description="kernel width of the Mamba layer's convolution")
    expand: PositiveInt = Field(
        default=2, le=16, description="inner width of the Mamba layer, as a multiple of its width"
    )

    def label(self) -> str:
        return f"state-query ({self.queries}, {self.scan})"

    def build(self, d_in: int, d_out: int) -> Connector:
        if d_out % 4:
            raise UserError(
                f"state-query: the language model's width {d_out} must be a multiple of 4, for sines and cosines of "
                "rows and columns"
            )
        return super().build(d_in, d_out)

    def factory_call(self) -> FactoryCall:
        return self.scan_call("vlm_connectors.state_query:StateQuery")
