"""Plugin hooks of this package; imports pydantic and vlm_core only."""

from vlm_core.plugins import EncoderConfig, hookimpl
from vlm_encoders.configs import FusedConfig, OpenClipConfig, TimmConfig, TransformersConfig


@hookimpl
def vlm_encoders() -> list[type[EncoderConfig]]:
    """The encoder types of this package."""
    return [TimmConfig, OpenClipConfig, TransformersConfig, FusedConfig]
