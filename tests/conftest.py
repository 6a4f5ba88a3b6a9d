"""Shared by all tests: nothing reaches a network, and a model small enough to build in a blink."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

ENCODER = {
    "type": "timm",
    "model": "vit_tiny_patch16_224",
    "model_args": {"depth": 2, "embed_dim": 16, "num_heads": 2},
    "image_size": 32,
}
TEXTS = ["what color is the shape? red", "is there a circle? yes no", "a blue triangle on a white ground"]


@pytest.fixture(scope="module")
def one_thread():
    """Models this small only lose by threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text_rows(tmp_path_factory):
    """A LLaVA file of text-only rows, for a tokenizer to learn from."""
    import json

    path = tmp_path_factory.mktemp("texts") / "texts.json"
    rows = [
        {"id": str(i), "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]}
        for i, text in enumerate(TEXTS)
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def tiny_spec(text_rows):
    """The data of a complete spec: 2×2 patches, two Mamba layers, a tokenizer learnt from `TEXTS`."""
    return {
        "name": "tiny",
        "encoder": ENCODER,
        "connector": {"type": "vss-l2", "d_state": 4},
        "llm": {
            "type": "mamba",
            "d_model": 16,
            "n_layer": 2,
            "d_state": 4,
            "tokenizer": {"vocab_size": 300, "dataset": {"type": "llava", "path": str(text_rows)}},
        },
        "template": "short",
    }


@pytest.fixture(scope="session")
def tiny_folder(tiny_spec, tmp_path_factory):
    """A saved model folder of `tiny_spec`; don't write into it."""
    from vlm_core.assemble import build, save
    from vlm_core.spec import Spec

    spec = Spec.model_validate(tiny_spec)
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(build(spec), spec, path)
    return path


@pytest.fixture
def tiny_model(tiny_folder):
    """The model of `tiny_folder`, freshly loaded."""
    from vlm_core.assemble import load

    return load(tiny_folder)[0]
