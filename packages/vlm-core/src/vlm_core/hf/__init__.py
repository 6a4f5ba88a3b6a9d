"""Importing this package makes transformers' Auto classes and pipelines understand model folders.

import vlm_core.hf
from transformers import pipeline

pipeline("image-text-to-text", model="runs/quickstart/model")
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from vlm_core.hf.collator import VLMDataCollator
from vlm_core.hf.configuration import VLMConfig
from vlm_core.hf.modeling import VLMForConditionalGeneration
from vlm_core.hf.processing import VLMProcessor

__all__ = ["VLMConfig", "VLMDataCollator", "VLMForConditionalGeneration", "VLMProcessor"]

AutoConfig.register(VLMConfig.model_type, VLMConfig, exist_ok=True)
AutoModelForImageTextToText.register(VLMConfig, VLMForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VLMConfig, VLMProcessor, exist_ok=True)
