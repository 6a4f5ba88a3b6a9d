"""The published answer files of LLaVA-1.5-13B, where they exist."""

import os
from pathlib import Path

import pytest

FILES = Path(os.environ.get("LLAVA_EVAL", Path(__file__).parents[4] / "shared" / "llava-eval"))


real = pytest.mark.skipif(not FILES.is_dir(), reason="needs LLaVA's published answer files")
