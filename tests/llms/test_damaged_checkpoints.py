"""Published weights of a stranger: whatever is wrong with them is a `UserError` before it costs memory or time."""

import json
import os
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers import MambaConfig as TheirMambaConfig

from vlm_core.errors import UserError
from vlm_llms.configs import TransformersLLMConfig
from vlm_llms.mamba.mamba_config import MambaConfig
from vlm_llms.tokenizer.tokenizer import train_bpe

CONFIG, WEIGHTS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 304}
FORMS = {
    "llama": (
        LlamaConfig(**SIZES, num_attention_heads=4, intermediate_size=32),
        TransformersLLMConfig,
        "model",
    ),
    "mamba": (TheirMambaConfig(**SIZES, state_size=4), MambaConfig, "weights"),
}


@pytest.fixture(scope="module", params=FORMS)
def published(request, tmp_path_factory):
    """A sound checkpoint, and what reads a folder like it."""
    config, kind, key = FORMS[request.param]
    folder = tmp_path_factory.mktemp("published") / request.param
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    train_bpe(["a cat on a mat"], 270).save(folder)
    return folder, lambda path: kind(**{key: str(path)}).build()


@pytest.fixture
def checkpoint(published, tmp_path):
    """A copy to damage, and what reads it."""
    folder, read = published
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path, lambda: read(tmp_path)


def say(**values):
    """Another config.json."""

    def damage(folder):
        content = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(content | values))

    return damage


def index(*names):
    """An index in place of the weight file."""

    def damage(folder):
        (folder / WEIGHTS).rename(folder / "shard.safetensors")
        content = {"metadata": {}, "weight_map": {str(i): name for i, name in enumerate(names)}}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))

    return damage


def pickled(change):
    """Another pytorch_model.bin in place of the weight file."""

    def damage(folder):
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        (folder / WEIGHTS).unlink()
        torch.save(change(tensors), folder / PICKLED)

    return damage


def compressed(folder):
    """An archive that is far larger than its file."""
    pickled(lambda tensors: {**tensors, "zeros": torch.zeros(10_000_000)})(folder)
    with zipfile.ZipFile(folder / PICKLED) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / PICKLED, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


DAMAGES = {
    **{
        f"{key} {value!r:.20}": say(**{key: value})
        for key in SIZES
        for value in (10**9, 10**5, 0, -1, "many", None, [1], 1.5)
    },
    "labels": say(num_labels=10**9, hidden_size=10**6),
    "an index of itself": index(f"{WEIGHTS}.index.json"),
    "an index of files elsewhere": index("../shard.safetensors"),
    "an index of nothing": index(),
    "expanded tensors": pickled(lambda tensors: {n: torch.zeros(1).expand(10**9) for n in tensors}),
    "sparse tensors": pickled(lambda tensors: {n: t.to_sparse() for n, t in tensors.items()}),
    "integers": pickled(lambda tensors: {n: t.long() for n, t in tensors.items()}),
    "numbers": pickled(lambda tensors: [1, 2]),
    "a compressed archive": compressed,
    "config.json nested": lambda folder: (folder / CONFIG).write_text("[" * 10**6),
    "config.json a FIFO": lambda folder: ((folder / CONFIG).unlink(), os.mkfifo(folder / CONFIG)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_told(checkpoint, damage):
    folder, read = checkpoint
    damage(folder)
    with pytest.raises(UserError):
        read()


def test_numbers_that_are_not_finite_are_told(checkpoint, caplog):
    folder, read = checkpoint
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    name = next(name for name in tensors if "norm" in name)
    tensors[name][0] = float("nan")
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    try:
        read()
    except UserError:  # the adapter computes with a model before it believes it
        return
    assert "with NaN or infinity" in caplog.text
