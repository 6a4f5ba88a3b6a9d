"""A language model taken out of a model folder is what its own library loads, and what is read here again."""

import json
import sys

import pytest
import torch
from mambapy.mamba import Mamba, RMSNorm
from mambapy.mamba import MambaConfig as MambapyConfig

from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.spec.spec import Spec
from vlm_llms import export as module
from vlm_llms.export import FORMS, export, load_llm
from vlm_llms.mamba.mamba_config import MambaConfig
from vlm_llms.tokenizer.tokenizer import train_bpe


@pytest.fixture
def tokenizer(tmp_path):
    train_bpe(["a cat on a mat, a dog in the fog"] * 3, 290).save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def unusual(tokenizer):
    """No size is the default's, and the vocabulary is no multiple of 8."""
    torch.manual_seed(0)
    fields = {"d_model": 24, "n_layer": 2, "vocab_size": 291, "d_state": 4, "d_conv": 3, "expand": 3}
    return MambaConfig(**fields, tokenizer=tokenizer).build().eval()


def ids_of(lm):
    return torch.randint(0, len(lm.tokenizer), (2, 17))


@torch.no_grad()
def own_logits(lm, ids):
    return lm.logits(lm(lm.embed(ids))[0])


@torch.no_grad()
@pytest.mark.parametrize("limit", ["5GB", "30KB"], ids=["whole", "sharded"])
def test_transformers_loads_it(unusual, tmp_path, monkeypatch, limit):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(module, "SHARD", limit)
    export(unusual, tmp_path / "out", "transformers")
    assert (tmp_path / "out" / "model.safetensors").exists() == (limit == "5GB")
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    ids = ids_of(unusual)
    torch.testing.assert_close(theirs.eval()(ids).logits, own_logits(unusual, ids), atol=2e-5, rtol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("a cat").input_ids == unusual.tokenizer.encode("a cat")
    assert tokenizer.eos_token_id == theirs.config.eos_token_id == unusual.tokenizer.eos_id


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_read_again_bit_by_bit(tokenizer, tmp_path, form, dtype):
    torch.manual_seed(0)
    own = MambaConfig(d_model=16, n_layer=2, tokenizer=tokenizer, dtype=dtype).build()
    export(own, tmp_path / "out", form)
    again = MambaConfig(weights=str(tmp_path / "out"), tokenizer=str(tmp_path / "out"), dtype=dtype).build()
    assert again.shape["vocab_size"] == own.shape["vocab_size"]
    assert again.tokenizer == own.tokenizer
    for (name, before), after in zip(own.state_dict().items(), again.state_dict().values(), strict=True):
        assert before.dtype == after.dtype, name
        assert torch.equal(before, after), name


@torch.no_grad()
def test_a_third_implementation_agrees(tokenizer, tmp_path):
    """mambapy, given what the state-spaces file and its config.json say."""
    torch.manual_seed(0)
    own = MambaConfig(d_model=32, n_layer=2, d_state=8, tokenizer=tokenizer).build().eval()
    export(own, tmp_path / "out", "state-spaces")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    state = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert config["vocab_size"] == len(own.tokenizer) < own.vocab_size
    assert state["lm_head.weight"].data_ptr() == state["backbone.embedding.weight"].data_ptr()
    shape = MambapyConfig(d_model=config["d_model"], n_layers=config["n_layer"], **config["ssm_cfg"])
    layers, norm = Mamba(shape), RMSNorm(config["d_model"])
    inside = "backbone.layers."
    layers.load_state_dict({k[len("backbone.") :]: v for k, v in state.items() if k.startswith(inside)})
    norm.weight = torch.nn.Parameter(state["backbone.norm_f.weight"])
    ids = ids_of(own)
    theirs = norm(layers(state["backbone.embedding.weight"][ids])) @ state["lm_head.weight"].T
    torch.testing.assert_close(own_logits(own, ids), theirs, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_from_the_command_line(tiny_folder, tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    argv = ["export", str(tiny_folder), str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    assert module.main() == 0
    assert str(out) in capsys.readouterr().out
    lm = load(tiny_folder)[0].llm
    ids = ids_of(lm)
    theirs = AutoModelForCausalLM.from_pretrained(out)(ids).logits
    torch.testing.assert_close(theirs, own_logits(lm, ids), atol=2e-5, rtol=1e-5)
    assert module.main() == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path / "no"), str(tmp_path / "other")])
    assert module.main() == 2
    assert "no such model folder" in capsys.readouterr().err


@torch.no_grad()
def test_a_model_of_transformers_goes_back_to_transformers(tiny_spec, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig

    LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=320,
        pad_token_id=0,
    ).save_pretrained(tokenizer)
    data = {**tiny_spec, "llm": {"type": "transformers", "model": tokenizer}}
    spec = Spec.model_validate(data)
    save(build(spec, weights=False), spec, tmp_path / "model")
    lm = load_llm(tmp_path / "model")
    export(lm, tmp_path / "out", "transformers")
    ids = ids_of(lm)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert torch.equal(theirs, own_logits(lm, ids))
    with pytest.raises(UserError, match="TransformersLM has no form 'state-spaces'; possible: Mamba in"):
        export(lm, tmp_path / "other", "state-spaces")


def test_a_language_model_of_a_third_party_says_no(unusual, tmp_path):
    class Foreign(torch.nn.Module):
        tokenizer = unusual.tokenizer

    with pytest.raises(UserError, match="Foreign has no form 'transformers'"):
        export(Foreign(), tmp_path / "out", "transformers")
