"""What the adapter promises beyond the contract: weights, limits of packing, padding anywhere, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from vlm_core.errors import UserError
from vlm_core.interfaces import PADDING
from vlm_llms.configs import TransformersLLMConfig
from vlm_llms.tokenizer.tokenizer import train_bpe
from vlm_llms.transformers.hf_adapter import TransformersLM
from vlm_llms.transformers.hf_logits import LogitRule
from vlm_llms.transformers.hf_verify import verify

_SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 300, "num_attention_heads": 4}
FIELDS: dict[str, dict[str, Any]] = {
    "llama": {**_SIZE, "intermediate_size": 32, "num_key_value_heads": 2},
    "gemma2": {
        **_SIZE,
        "intermediate_size": 32,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "sliding_window": 4,
    },
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 300, "state_size": 4},
}

SMALL = train_bpe(["a cat on a mat"], 270)


def _folder(model_type: str, folder: Path, weights: bool = False) -> str:
    config = CONFIG_MAPPING[model_type](**FIELDS[model_type])
    config.save_pretrained(folder)
    if weights:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    SMALL.save(folder)
    return str(folder)


def _tiny(model_type: str, folder: Path) -> TransformersLM:
    torch.manual_seed(0)
    return TransformersLLMConfig(model=_folder(model_type, folder)).build(weights=False).eval()


@torch.no_grad()
def test_what_a_config_says_of_outputs_changes_nothing(tmp_path: Path) -> None:
    config = TransformersLLMConfig(model=_folder("llama", tmp_path))
    ids = torch.randint(300, (2, 7))
    for key, value in {"return_dict": False, "output_attentions": True, "use_cache": False}.items():
        plain = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**plain, key: value}))
        lm = config.build(weights=False).eval()
        assert lm(lm.embed(ids))[0].shape == (2, 7, 16)


@torch.no_grad()
def test_published_weights_give_the_models_own_logits(tmp_path: Path) -> None:
    config = TransformersLLMConfig(model=_folder("llama", tmp_path, weights=True))
    lm, own = config.build(), AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(300, (2, 7))
    torch.testing.assert_close(lm.logits(lm(lm.embed(ids))[0]), own(ids).logits)
    assert lm.tokenizer.eos_id == 0


def test_the_precision_of_the_weights_is_chosen(tmp_path: Path) -> None:
    name = _folder("llama", tmp_path, weights=True)
    for weights in (True, False):
        lm = TransformersLLMConfig(model=name, dtype="bfloat16").build(weights=weights)
        assert {p.dtype for p in lm.parameters()} == {torch.bfloat16}


def test_the_meta_device_needs_no_weights(tmp_path: Path) -> None:
    config = TransformersLLMConfig(model=_folder("llama", tmp_path))
    with torch.device("meta"):
        lm = config.build(weights=False)
    assert all(p.is_meta for p in lm.parameters())
    assert lm.logits(torch.empty(1, 3, lm.dim, device="meta")).shape == (1, 3, 300)


@pytest.mark.parametrize("model_type", ["llama", "mamba"])
@torch.no_grad()
def test_padding_between_two_turns_is_as_if_it_were_not_there(model_type: str, tmp_path: Path) -> None:
    lm = _tiny(model_type, tmp_path)
    x = lm.embed(torch.randint(300, (2, 8)))
    segments = torch.tensor([[PADDING, PADDING, 0], [0, 0, 0]])
    _, state = lm(x[:, :2])
    hidden, state = lm(x[:, 2:5], segments=segments, state=state)
    after, _ = lm(x[:, 5:], state=state)
    for row, kept in enumerate(([0, 1, 4, 5, 6, 7], list(range(8)))):
        alone = lm(x[row : row + 1, kept])[0][0, 2:]
        real = segments[row] != PADDING
        torch.testing.assert_close(torch.cat([hidden[row, real], after[row]]), alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_window_cannot_skip_padding_between_two_turns(tmp_path: Path) -> None:
    lm = _tiny("gemma2", tmp_path)
    x = torch.zeros(1, 2, lm.dim)
    _, state = lm(x, segments=torch.tensor([[PADDING, 0]]))
    _, state = lm(x, state=state)
    with pytest.raises(ValueError, match=r"padding between chunks.*first chunk only"):
        lm(x, segments=torch.tensor([[PADDING, 0]]), state=state)


@torch.no_grad()
def test_padding_at_the_end_leaves_the_state_alone(tmp_path: Path) -> None:
    lm = _tiny("mamba", tmp_path)
    x = lm.embed(torch.randint(300, (2, 6)))
    segments = torch.tensor([[0, 0, PADDING, PADDING], [0, 0, 0, 0]])
    _, state = lm(x[:, :4], segments=segments)
    after, _ = lm(x[:, 4:], state=state)
    alone, _ = lm(x[:1, [0, 1, 4, 5]])
    torch.testing.assert_close(after[:1], alone[:, 2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gemma2", "mamba"])
def test_models_with_windows_or_running_states_refuse_packed_rows(model_type: str, tmp_path: Path) -> None:
    lm = _tiny(model_type, tmp_path)
    assert not lm.supports_packing
    with pytest.raises(ValueError, match=r"several samples can't share a row in .*give each sample its own"):
        lm(torch.zeros(1, 2, lm.dim), segments=torch.tensor([[0, 1]]))


def test_a_packed_row_continues_no_state(tmp_path: Path) -> None:
    lm = _tiny("llama", tmp_path)
    _, state = lm(torch.zeros(1, 2, lm.dim))
    with pytest.raises(ValueError, match="continue a state"):
        lm(torch.zeros(1, 2, lm.dim), segments=torch.tensor([[0, 1]]), state=state)
    assert lm(torch.zeros(1, 2, lm.dim), segments=torch.tensor([[0, 1]]))[1] is None


def test_training_keeps_no_cache(tmp_path: Path) -> None:
    lm = _tiny("llama", tmp_path).train()
    assert lm(torch.zeros(1, 2, lm.dim))[1] is None
    with torch.no_grad():
        assert lm(torch.zeros(1, 2, lm.dim))[1].length == 2


def test_a_cap_on_the_logits_is_applied() -> None:
    logits = torch.linspace(-9, 9, 5)
    torch.testing.assert_close(LogitRule(2.0, 3.0)(logits), 3 * torch.tanh(2 * logits / 3))
    assert LogitRule()(logits) is logits


def test_a_model_with_a_rule_of_its_own_is_refused(tmp_path: Path) -> None:
    lm = _tiny("llama", tmp_path)
    head = lm.model.lm_head
    lm.model.forward = lambda input_ids, use_cache: type("Out", (), {"logits": head(lm.embed(input_ids))})
    with pytest.raises(UserError, match=r"its own logits differ.*logit_scale.*Write your own LanguageModel"):
        verify(lm)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    name = _folder("llama", tmp_path / "model")
    train_bpe([f"{i} {i * 7919} {i * 104729}" for i in range(200)], 400).save(tmp_path / "other")
    config = TransformersLLMConfig(model=name, tokenizer=str(tmp_path / "other"))
    with pytest.raises(UserError, match="the tokenizer has 400 ids but the model only 300 embeddings"):
        config.build(weights=False)


DEFECTIVE: dict[str, tuple[dict[str, Any], str]] = {
    "recurrent_gemma": (
        {
            **_SIZE,
            "num_hidden_layers": 3,
            "intermediate_size": 32,
            "lru_width": 16,
            "head_dim": 4,
            "attention_window_size": 4,
            "num_key_value_heads": 4,
        },
        "a text in chunks and whole differ by .*it keeps state outside its cache",
    ),
    "ctrl": (
        {"n_embd": 16, "n_layer": 2, "n_head": 4, "dff": 32, "vocab_size": 300},
        "it overwrites its input",
    ),
    "xlstm": (
        {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 300, "num_heads": 2},
        "it fails: AttributeError",
    ),
    "rwkv": (
        {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 300},
        "must take inputs_embeds and one of",
    ),
}


@pytest.mark.parametrize("model_type", DEFECTIVE)
def test_models_that_would_answer_wrongly_are_refused(model_type: str, tmp_path: Path) -> None:
    fields, message = DEFECTIVE[model_type]
    CONFIG_MAPPING[model_type](**fields, architectures=None).save_pretrained(tmp_path)
    torch.manual_seed(0)
    with pytest.raises(UserError, match=rf"can't be used: .*{message}"):
        TransformersLLMConfig(model=str(tmp_path)).build(weights=False)


def test_a_model_that_overlooks_padding_is_refused(tmp_path: Path) -> None:
    lm = _tiny("llama", tmp_path)
    lm._run = lambda x, state, real, remember=True: TransformersLM._run(lm, x, state, None, remember)
    with pytest.raises(UserError, match="rows with padding in front and without differ"):
        verify(lm)


def test_packing_is_withdrawn_where_it_fails(tmp_path: Path) -> None:
    lm = _tiny("llama", tmp_path)
    assert lm.supports_packing
    lm._forward_packed = lambda x, segments, state: lm._run(x, lm._empty(len(x)), None)[0]
    verify(lm)
    assert not lm.supports_packing


def test_the_plugin_imports_nothing_heavy() -> None:
    check = "import sys, vlm_llms.plugin; print(*{'torch','transformers','tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_architecture_in_the_spec_needs_no_file() -> None:
    config = {"model_type": "llama", **FIELDS["llama"]}
    with torch.device("meta"):
        lm = TransformersLLMConfig(model="somebody/somewhere", config=config).build(weights=False)
    own = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**FIELDS["llama"]))
    assert {n: p.shape for n, p in lm.model.named_parameters()} == {
        n: p.shape for n, p in own.named_parameters()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "Unrecognized model identifier: lama"),
        ({"model_type": None}, "needs model_type"),
        ({"hiden_size": 8}, "llama has no key 'hiden_size'.*did you mean 'hidden_size'"),
        ({"hidden_size": "wide"}, "expected int, got str"),
    ],
)
def test_an_architecture_that_transformers_does_not_know(change: dict[str, Any], message: str) -> None:
    config = {"model_type": "llama", **FIELDS["llama"], **change}
    with pytest.raises(UserError, match=message):
        TransformersLLMConfig(model="somebody/somewhere", config=config).build(weights=False)


def test_weights_must_be_of_the_architecture_in_the_spec(tmp_path: Path) -> None:
    name, config = _folder("llama", tmp_path, weights=True), {"model_type": "llama", **FIELDS["llama"]}
    assert TransformersLLMConfig(model=name, config=config).build().dim == 16
    wrong = TransformersLLMConfig(model=name, config=config | {"num_hidden_layers": 3})
    with pytest.raises(UserError, match=r"does not describe .*num_hidden_layers 3 for 2"):
        wrong.build()
    with pytest.raises(UserError, match=r"model_type 'mistral', but .* is 'llama'"):
        TransformersLLMConfig(model=name, config={"model_type": "mistral"}).build()


def test_positions_that_a_model_was_made_for(tmp_path: Path) -> None:
    """Rotary embeddings that are stretched reach further, and recurrent layers know no limit."""
    name = _folder("llama", tmp_path / "llama")
    config = TransformersLLMConfig(model=name)
    assert config.build(weights=False).max_positions == 2048
    path = tmp_path / "llama/config.json"
    stretched = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_parameters": stretched}))
    assert config.build(weights=False).max_positions is None
    assert _tiny("mamba", tmp_path / "mamba").max_positions is None
