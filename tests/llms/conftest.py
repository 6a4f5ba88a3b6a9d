"""A tiny Mamba of transformers, and its weights as they are published."""

import json

import pytest
import torch

TINY = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}


@pytest.fixture(scope="session")
def theirs():
    from transformers import MambaConfig as Config
    from transformers import MambaForCausalLM

    torch.manual_seed(0)
    return MambaForCausalLM(Config(**TINY)).eval()


@pytest.fixture
def hf_folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def original_folder(theirs, tmp_path):
    """The same weights as `state-spaces` publishes them."""
    folder = tmp_path / "original"
    folder.mkdir()
    config = {
        "d_model": 32,
        "n_layer": 3,
        "vocab_size": 61,
        "ssm_cfg": {"d_state": 8},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    (folder / "config.json").write_text(json.dumps(config))
    state = {k.replace("embeddings", "embedding"): v for k, v in theirs.state_dict().items()}
    state["lm_head.weight"] = state["backbone.embedding.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    return folder
