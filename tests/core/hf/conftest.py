"""A tiny model folder as transformers reads it."""

import pytest
from hf_talk import TALK


@pytest.fixture(scope="module")
def model(tiny_folder):
    from transformers import AutoModelForImageTextToText

    import vlm_core.hf  # noqa: F401  transformers' Auto classes know it from here on

    return AutoModelForImageTextToText.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def processor(tiny_folder):
    from transformers import AutoProcessor

    import vlm_core.hf  # noqa: F401

    return AutoProcessor.from_pretrained(tiny_folder)


@pytest.fixture
def batch(processor):
    return processor.apply_chat_template(TALK, tokenize=True)
