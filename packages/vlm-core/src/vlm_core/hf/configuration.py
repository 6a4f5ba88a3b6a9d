"""What transformers reads before it builds the model; the model itself is described by the folder's own files."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig


class VLMConfig(PreTrainedConfig):
    """The numbers in a model folder's config.json."""

    model_type = "vlm-core"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache"]

    hidden_size: int = 0
    vocab_size: int = 0
    token_count: int = 0
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    image_size: Any = None
    image_tokens: int = 0
