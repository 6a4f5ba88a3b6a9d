"""Conformance tests of datasets. Subclass with a config of a few rows:

    class TestMine(DatasetSuite):
        config = MyConfig(...)

All rows must be usable except `bad_rows` of them. If the config needs files, override `make_config(tmp_path_factory)`.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from vlm_core.errors import BadSample
from vlm_core.io.images import image_bytes, image_name, load_image
from vlm_core.placeholders import IMAGE_PLACEHOLDER
from vlm_core.plugins.config import DatasetConfig
from vlm_core.rows import ROW_KEYS, digest_of, known_faults, readable

Rows = Sequence[dict[str, Any]]


class DatasetSuite:
    """The contract of `DatasetConfig.rows` as tests."""

    config: ClassVar[Any] = None
    bad_rows: ClassVar[int] = 0

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

    def test_row_ids_are_unique(self, rows: Rows) -> None:
        assert len(rows) > 0
        ids = [row["id"] for row in readable(rows)]
        assert all(isinstance(row_id, str) for row_id in ids)
        assert len(set(ids)) == len(ids)

    def test_rows_have_no_unknown_keys(self, rows: Rows) -> None:
        """Content under an unknown key (`images`, `tools`, `video`) would be ignored silently."""
        for row in readable(rows):
            assert not row.keys() - ROW_KEYS, row["id"]
            assert isinstance(row["image"], list), row["id"]
            assert all(turn.keys() == {"from", "value"} for turn in row["conversations"]), row["id"]

    def test_turns_alternate_and_end_with_an_answer(self, rows: Rows) -> None:
        for row in readable(rows):
            turns = row["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2), row["id"]
            assert turns, row["id"]
            assert all(isinstance(turn["value"], str) for turn in turns), row["id"]

    def test_no_text_begins_with_a_byte_order_mark(self, rows: Rows) -> None:
        """Files from other systems may have one; `vlm_core.io.files.read_text` skips it."""
        for row in readable(rows):
            texts = [row["id"], row.get("system") or "", *(turn["value"] for turn in row["conversations"])]
            assert not any(text.startswith("\ufeff") for text in texts), row["id"]

    def test_every_placeholder_has_its_image(self, rows: Rows) -> None:
        for row in readable(rows):
            placeholders = sum(turn["value"].count(IMAGE_PLACEHOLDER) for turn in row["conversations"][::2])
            assert placeholders == len(row["image"]), row["id"]

    def test_images_can_be_read(self, rows: Rows) -> None:
        for row in readable(rows):
            assert all(load_image(image).mode == "RGB" for image in row["image"])

    def test_image_names_are_unique(self, rows: Rows) -> None:
        """Images with equal names must be equal: their features are computed once."""
        contents: dict[str, bytes] = {}
        for image in (image for row in readable(rows) for image in row["image"]):
            data = image_bytes(image)
            assert contents.setdefault(image_name(image), data) == data, image_name(image)
            assert image_bytes(pickle.loads(pickle.dumps(image))) == data, "worker processes get a copy"

    def test_category_and_system_are_text(self, rows: Rows) -> None:
        assert all(
            isinstance(row.get(key), str | None) for row in readable(rows) for key in ("category", "system")
        )

    def test_bad_rows_are_expected_and_have_an_id(self, rows: Rows) -> None:
        """Training lists dropped rows by id and reason; the id is the third argument of `BadSample`."""
        bad: dict[int, BadSample] = {}
        for number in range(len(rows)):
            try:
                rows[number]
            except BadSample as error:
                bad[number] = error
        assert len(bad) == self.bad_rows, [str(fault) for fault in bad.values()]
        assert known_faults(rows).keys() <= bad.keys()
        assert all(fault.reason and fault.row for fault in bad.values()), [str(f) for f in bad.values()]

    def test_the_digest_depends_on_the_rows_only(self, rows: Rows, dataset_config: DatasetConfig) -> None:
        """A resumed run compares it: it is the same when rows are read again and in a worker's copy."""
        assert (
            digest_of(rows) == digest_of(dataset_config.rows()) == digest_of(pickle.loads(pickle.dumps(rows)))
        )

    def test_reading_again_gives_the_same_rows(self, rows: Rows, dataset_config: DatasetConfig) -> None:
        """A run resumes at a position in the order of rows."""
        assert list(readable(dataset_config.rows())) == list(readable(rows))
