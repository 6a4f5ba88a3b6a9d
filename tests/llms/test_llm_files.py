"""What the adapter says to files, code and hubs that are not as they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from vlm_core.errors import UserError
from vlm_llms.configs import TransformersLLMConfig
from vlm_llms.tokenizer.tokenizer import train_bpe

SMALL = train_bpe(["a cat on a mat"], 270)


def _llama(folder: Path) -> str:
    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, vocab_size=300
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    SMALL.save(folder)
    return str(folder)


def _change(folder: Path, kind: str) -> None:
    """Spoil the weights of a Llama."""
    file, name = folder / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(file)
    if kind == "missing":
        del tensors[name]
    if kind == "unexpected":
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(32, 16)
    if kind == "shape":
        tensors[name] = torch.zeros(3, 3)
    if kind == "dtype":
        tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, file, metadata={"format": "pt"})
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    if kind == "shard":
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, "part-1.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if kind in ("code", "shard"):
        file.unlink()
    if kind == "code":
        torch.save({name: Canary(str(folder / "ran"))}, folder / "pytorch_model.bin")


class Canary:
    """Leaves a file when a pickle with it is run."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("kind", "message"),
    {
        "missing": r"1 tensor missing from the files, though LlamaForCausalLM needs .*0\.mlp\.up_proj\.weight",
        "unexpected": r"1 tensor in the files, though LlamaForCausalLM has .*layers\.7\.mlp",
        "shape": r"1 tensor of another shape .*up_proj\.weight: 3×3 instead of 32×16",
        "dtype": r"1 tensor quantised.*up_proj\.weight: I8",
        "truncated": "transformers could not load it: SafetensorError",
        "shard": r"part-1\.safetensors",
        "code": "objects that could run code",
    }.items(),
)
def test_weights_that_do_not_fit_are_named(kind: str, message: str, tmp_path: Path) -> None:
    name = _llama(tmp_path)
    _change(tmp_path, kind)
    with pytest.raises(UserError, match=message):
        TransformersLLMConfig(model=name).build()
    assert not (tmp_path / "ran").exists()


def test_code_that_nobody_asked_for_is_not_run(tmp_path: Path) -> None:
    classes = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": classes}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(
        UserError, match=r"contains custom code.*trust_remote_code: true and revision to the commit"
    ):
        TransformersLLMConfig(model=str(tmp_path)).build()
    assert not (tmp_path / "ran").exists()


def test_the_hub_out_of_reach_says_what_was_wanted_and_what_to_do() -> None:
    with pytest.raises(
        UserError, match=r"'Qwen/Qwen3-0.6B'.*couldn't connect.*name a local copy: model: path"
    ):
        TransformersLLMConfig(model="Qwen/Qwen3-0.6B").build(weights=False)


def test_the_revision_of_a_model_is_not_asked_of_another_repository(monkeypatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(
        "vlm_llms.tokenizer.tokenizer.FastTokenizer.load", lambda *args: asked.append(args) or SMALL
    )
    name = _llama(tmp_path)
    for tokenizer in (None, "someone/tokenizer"):
        _ = (
            TransformersLLMConfig(model=name, tokenizer=tokenizer, revision="v1")
            .build(weights=False)
            .tokenizer
        )
    assert asked == [(name, "v1"), ("someone/tokenizer", None)]


def test_code_from_the_hub_must_be_pinned() -> None:
    for revision in (None, "main", "abc123"):
        with pytest.raises(ValidationError, match=r"revision must pin it.*40 hex digits"):
            TransformersLLMConfig(model="someone/model", trust_remote_code=True, revision=revision)
    assert TransformersLLMConfig(model="someone/model", trust_remote_code=True, revision="0a" * 20)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(UserError, match=r"transformers could not load it.*Expected a hub id or a folder"):
        TransformersLLMConfig(model=str(tmp_path)).build(weights=False)
