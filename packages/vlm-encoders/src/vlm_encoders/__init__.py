"""Vision encoders for vlm-core: any timm, open_clip or transformers tower as a patch grid.

Importing this package loads no library; `config.build()` imports the one that it needs.
"""

from vlm_encoders.configs import FusedConfig, OpenClipConfig, TimmConfig, TransformersConfig

__all__ = ["FusedConfig", "OpenClipConfig", "TimmConfig", "TransformersConfig"]
