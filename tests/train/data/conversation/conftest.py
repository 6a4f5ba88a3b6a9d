"""A folder with two pictures."""

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "broken").mkdir(parents=True)
    for name in ("red", "blue"):
        Image.new("RGB", (20, 30), name).save(tmp_path / "data" / f"{name}.png")
    return tmp_path / "data"
