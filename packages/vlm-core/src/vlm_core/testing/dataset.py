"""What every dataset must do. Subclass with its config on a few rows:

    class TestMine(DatasetSuite):
        config = MyConfig(...)

A config that needs files is made by overriding `make_config(tmp_path_factory)`.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from vlm_core.config import DatasetConfig
from vlm_core.images import image_bytes, image_name, load_image
from vlm_core.rows import digest_of

Rows = Sequence[dict[str, Any]]


class DatasetSuite:
    """The contract of `DatasetConfig.rows` as tests."""

    config: ClassVar[Any] = None

    @classmethod
    def make_config(cls, tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
        """The config under test; override it where the config needs files."""
        return cls.config

    @pytest.fixture(scope="class")
    @classmethod
    def dataset_config(cls, tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
        return cls.make_config(tmp_path_factory)

    @pytest.fixture
    def rows(self, dataset_config: DatasetConfig) -> Rows:
        return dataset_config.rows()

    def test_every_row_has_an_id_of_its_own(self, rows: Rows) -> None:
        assert len(rows) > 0
        ids = [row["id"] for row in rows]
        assert all(isinstance(name, str) for name in ids)
        assert len(set(ids)) == len(ids)

    def test_turns_alternate_and_end_with_an_answer(self, rows: Rows) -> None:
        for row in rows:
            turns = row["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2), row["id"]
            assert turns, row["id"]
            assert all(isinstance(turn["value"], str) for turn in turns), row["id"]

    def test_every_placeholder_has_its_image(self, rows: Rows) -> None:
        for row in rows:
            asked = sum(turn["value"].count("<image>") for turn in row["conversations"][::2])
            assert asked == len(row["image"]), row["id"]

    def test_images_can_be_read(self, rows: Rows) -> None:
        for row in rows:
            assert all(load_image(image).mode == "RGB" for image in row["image"])

    def test_images_have_names_of_their_own(self, rows: Rows) -> None:
        """Equal names are one image: its features are computed once."""
        found: dict[str, bytes] = {}
        for image in (image for row in rows for image in row["image"]):
            data = image_bytes(image)
            assert found.setdefault(image_name(image), data) == data, image_name(image)
            assert image_bytes(pickle.loads(pickle.dumps(image))) == data, "workers get a copy"

    def test_a_category_is_text(self, rows: Rows) -> None:
        assert all(isinstance(row.get("category"), str | None) for row in rows)

    def test_the_digest_is_that_of_the_rows(self, rows: Rows, dataset_config: DatasetConfig) -> None:
        """A resumed run compares it: the same when read again, and in a worker's copy."""
        assert (
            digest_of(rows) == digest_of(dataset_config.rows()) == digest_of(pickle.loads(pickle.dumps(rows)))
        )

    def test_reading_again_gives_the_same_rows(self, rows: Rows, dataset_config: DatasetConfig) -> None:
        """A run is resumed by the position in the order of rows."""
        assert list(dataset_config.rows()) == list(rows)
