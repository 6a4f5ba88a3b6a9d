"""The conformance suite of benchmarks over the tiny files of `more_layouts`."""

from typing import Any, ClassVar

import pytest
from more_layouts import more

from vlm_bench.benchmarks.layout import LayoutConfig
from vlm_core.testing import BenchmarkSuite


class TinySuite(BenchmarkSuite):
    fields: ClassVar[dict[str, Any]] = {}

    @classmethod
    def make_config(cls, tmp_path_factory: pytest.TempPathFactory) -> LayoutConfig:
        return cls.config(data=more(tmp_path_factory.mktemp("eval")), **cls.fields)
