"""`accelerate` on small random models of transformers: outputs, gradients, what it leaves and refuses."""

import copy
import io
import logging

import pytest
import torch
from accelerated_models import KINDS, SIZES, TOKENS, accelerated, near, padded, pair
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2Model,
    MambaConfig,
    MambaForCausalLM,
    MambaModel,
)

import vlm_ssm
from vlm_llms.mamba.mamba import MambaLM

PEFT = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("options", [{}, {"use_bias": True}, {"use_conv_bias": False}, {"conv_kernel": 2}])
def test_logits(kind, dtype, limit, options):
    ours, theirs = pair(kind, dtype, **options)
    batch = padded()
    right = {**batch, "attention_mask": batch["attention_mask"].flip(1)}
    with torch.no_grad():
        for inputs in (
            batch,
            right,
            {"input_ids": batch["input_ids"]},
            {"input_ids": torch.ones(1, 1).long()},
        ):
            near(ours(**inputs).logits, theirs(**inputs).logits, limit)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(kind, checkpointing):
    """Of every parameter and of the embeddings, with a loss over padded rows."""
    models = pair(kind)
    batch = padded()
    for model in models:
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**batch, labels=batch["input_ids"]).loss.backward()
    ours, theirs = (dict(model.named_parameters()) for model in models)
    assert all(p.grad is not None for p in theirs.values())
    for name, parameter in theirs.items():
        near(ours[name].grad, parameter.grad, 1e-4)


def test_parameters_stay_the_same_objects():
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**SIZES))
    before, names = dict(model.named_parameters()), list(model.state_dict())
    vlm_ssm.accelerate(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert list(model.state_dict()) == names
    assert model.lm_head.weight is model.backbone.embeddings.weight
    assert accelerated(model) == 3
    assert "3 x MambaBlock" in str(model)
    assert "computed by vlm_ssm" in str(model)
    text = str(model)
    vlm_ssm.accelerate(model)
    assert str(model) == text


def test_saving_and_loading(tmp_path):
    ours, theirs = pair()
    ours.save_pretrained(tmp_path)
    again = MambaForCausalLM.from_pretrained(tmp_path).eval()
    assert "vlm_ssm" not in str(again)
    ids = torch.randint(1, 52, (2, 6))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_copies_and_pickles_stay_accelerated():
    ours, _ = pair()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    ids = torch.randint(1, 52, (2, 6))
    for other in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert accelerated(other) == 3
        with torch.no_grad():
            assert torch.equal(other(ids).logits, ours(ids).logits)


@PEFT
@pytest.mark.parametrize("first", [True, False], ids=["accelerated before", "accelerated after"])
def test_lora(first):
    """Adapters on in_proj and x_proj: equal outputs and gradients, and trained adapters merge."""
    peft = pytest.importorskip("peft")
    _, theirs = pair()
    ours = copy.deepcopy(theirs)
    models = []
    for model in (ours, theirs):
        if model is ours and first:
            vlm_ssm.accelerate(model)
        torch.manual_seed(1)
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(r=2, target_modules=["in_proj", "x_proj"], init_lora_weights=False)
        )
        if model is ours and not first:
            assert vlm_ssm.accelerate(adapted) is adapted
        models.append(adapted)
    batch = padded()
    for model in models:
        model(**batch, labels=batch["input_ids"]).loss.backward()
    assert accelerated(models[0]) == 3
    grads = [{n: p.grad for n, p in m.named_parameters() if p.requires_grad} for m in models]
    assert len(grads[1]) == 12
    for name, grad in grads[1].items():
        near(grads[0][name], grad, 1e-4)
    made = [m.generate(**batch, **TOKENS) for m in models]
    assert torch.equal(*made)


@PEFT
def test_an_adapter_that_transformers_ignores_is_ignored():
    """transformers reads dt_proj.weight, past any wrapper: such a layer keeps its forward pass, with a warning."""
    peft = pytest.importorskip("peft")
    ours, theirs = pair()
    models = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        config = peft.LoraConfig(r=2, target_modules=["dt_proj"], init_lora_weights=False)
        models.append(peft.get_peft_model(model, config))
    ids = torch.randint(1, 52, (2, 6))
    with torch.no_grad(), pytest.warns(UserWarning, match="dt_proj is hooked, wrapped or quantised"):
        assert torch.equal(models[0](ids).logits, models[1](ids).logits)
    with pytest.raises(ValueError, match="3 × its dt_proj is hooked"):
        vlm_ssm.accelerate(models[1])


def test_hooked_layers_are_left_and_counted(caplog):
    _, model = pair()
    before = copy.deepcopy(model)
    model.backbone.layers[1].mixer.conv1d.register_forward_hook(lambda *_: None)
    with (
        caplog.at_level(logging.INFO, "vlm_ssm"),
        pytest.warns(UserWarning, match="2 of 3 .* 1 × its conv1d"),
    ):
        vlm_ssm.accelerate(model)
    assert accelerated(model) == 2
    assert "scan backend numba" in caplog.text
    ids = torch.randint(1, 52, (2, 6))
    with torch.no_grad():
        near(model(ids).logits, before(ids).logits, 1e-5)


def test_hooks_on_mixers_and_projections_still_fire():
    ours, _ = pair()
    fired = []
    mixer = ours.backbone.layers[0].mixer
    for module in (mixer, mixer.in_proj, mixer.out_proj):
        module.register_forward_hook(lambda module, *_: fired.append(module))
    with torch.no_grad():
        cache = ours(torch.ones(1, 4).long(), use_cache=True).cache
        ours(torch.ones(1, 1).long(), cache=cache, use_cache=True)
    assert fired == [mixer.in_proj, mixer.out_proj, mixer] * 2


def test_a_bare_model_and_one_inside_another():
    torch.manual_seed(0)
    theirs = MambaModel(MambaConfig(**SIZES)).eval()
    ours = nn.Sequential(vlm_ssm.accelerate(copy.deepcopy(theirs)))
    x = torch.randn(2, 5, 24)
    with torch.no_grad():
        near(ours[0](inputs_embeds=x).last_hidden_state, theirs(inputs_embeds=x).last_hidden_state, 1e-5)
    assert vlm_ssm.accelerate(ours) is ours


def test_compiled():
    ours, theirs = pair()
    ids = torch.randint(1, 52, (2, 6))
    compiled = torch.compile(ours, backend="aot_eager")
    with torch.no_grad():
        near(compiled(ids, use_cache=False).logits, theirs(ids).logits, 1e-5)
    assert vlm_ssm.accelerate(compiled) is compiled


class Other(nn.Module):
    """Named as a layer of transformers, without its attributes."""


Other.__name__ = "MambaMixer"


def test_refusals():
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, intermediate_size=8))
    with pytest.raises(ValueError, match="LlamaForCausalLM has no Mamba-1 layer of transformers; possible"):
        vlm_ssm.accelerate(llama)
    second = Mamba2Model(Mamba2Config(**sizes, num_heads=2, head_dim=8, state_size=4, n_groups=1))
    with pytest.raises(ValueError, match="it has Mamba2Mixer"):
        vlm_ssm.accelerate(second)
    with pytest.raises(ValueError, match="vlm_ssm's own"):
        vlm_ssm.accelerate(MambaLM(24, 2, 37, load_tokenizer=lambda: None))
    with pytest.raises(ValueError, match="1 × a MambaMixer without intermediate_size"):
        vlm_ssm.accelerate(nn.Sequential(Other()))
    with pytest.raises(ValueError, match="3 × its activation is 'gelu'"):
        vlm_ssm.accelerate(MambaForCausalLM(MambaConfig(**SIZES, hidden_act="gelu")))


@pytest.mark.parametrize(
    ("other", "seen"),
    [(None, "'NoneType' object"), ("model", "'str'"), (MambaForCausalLM, "the class MambaFor")],
)
def test_what_is_no_model_is_refused(other, seen):
    with pytest.raises(ValueError, match=f"accelerate takes a transformers model, not {seen}"):
        vlm_ssm.accelerate(other)


def test_another_version_of_transformers(monkeypatch):
    """Before 5.24 the cache was called `cache_params`."""
    kind = type(MambaModel(MambaConfig(**SIZES)).layers[0].mixer)

    def forward(self, hidden_states, cache_params=None, attention_mask=None):
        raise AssertionError

    monkeypatch.setattr(kind, "forward", forward)
    with pytest.raises(
        ValueError, match=r"forward\(self, hidden_states, cache_params, attention_mask\) is not that"
    ):
        vlm_ssm.accelerate(MambaModel(MambaConfig(**SIZES)))
