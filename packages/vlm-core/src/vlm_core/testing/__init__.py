"""Conformance tests of components: pytest classes to subclass in one line."""

from vlm_core.testing.benchmark import BenchmarkSuite
from vlm_core.testing.connector import ConnectorSuite
from vlm_core.testing.dataset import DatasetSuite
from vlm_core.testing.encoder import EncoderSuite
from vlm_core.testing.llm import LanguageModelSuite
from vlm_core.testing.scan import ScanSuite

__all__ = [
    "BenchmarkSuite",
    "ConnectorSuite",
    "DatasetSuite",
    "EncoderSuite",
    "LanguageModelSuite",
    "ScanSuite",
]
