"""Vision encoders for vlm-core: any timm, open_clip or transformers tower as a patch grid.

Importing this package loads no library; `config.build()` imports the one that it needs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_encoders.configs import FusedConfig, OpenClipConfig, TimmConfig, TransformersConfig

__all__ = ["FusedConfig", "OpenClipConfig", "TimmConfig", "TransformersConfig"]


def __getattr__(name: str) -> Any:
    """A config at its first use: commands that need no encoder import the plugin of this package, but no config."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vlm_encoders import configs

    return getattr(configs, name)
