"""Where a saved transformers model and its processor come from."""

import shutil

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlm_core.hf  # noqa: F401  transformers' Auto classes know it from here on
from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import load


def test_what_the_model_came_from_may_be_gone(tiny_folder, tmp_path):
    """As where a trainer deletes the checkpoint that it began with."""
    shutil.copytree(tiny_folder, tmp_path / "first")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "first")
    processor = AutoProcessor.from_pretrained(tmp_path / "first")
    shutil.rmtree(tmp_path / "first")
    processor.save_pretrained(str(tmp_path / "second"))
    model.save_pretrained(tmp_path / "second")
    processor.save_pretrained(tmp_path / "second")
    assert load(str(tmp_path / "second"))[1] == load(tiny_folder)[1]


def test_a_processor_does_not_pass_for_another_models(tiny_folder, tmp_path):
    AutoModelForImageTextToText.from_pretrained(tiny_folder).save_pretrained(tmp_path / "m")
    processor = AutoProcessor.from_pretrained(tiny_folder)
    processor.files = {**processor.files, "spec.yaml": b"other"}
    with pytest.raises(UserError, match=r"another model than this processor's: spec\.yaml differs"):
        processor.save_pretrained(tmp_path / "m")
