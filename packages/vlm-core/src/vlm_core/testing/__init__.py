"""Conformance tests for components: pytest classes that a package subclasses with one line each."""

from vlm_core.testing.connector import ConnectorSuite
from vlm_core.testing.encoder import EncoderSuite
from vlm_core.testing.llm import LanguageModelSuite

__all__ = ["ConnectorSuite", "EncoderSuite", "LanguageModelSuite"]
