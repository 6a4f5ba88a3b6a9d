"""Own Mamba-1 against transformers on the same weights, and its checkpoints in both published formats."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vlm_core.errors import UserError
from vlm_core.interfaces import PADDING, parameter_count
from vlm_llms.mamba_config import MambaConfig
from vlm_llms.mamba_shape import PUBLISHED

TINY = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}


@pytest.fixture(scope="module")
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
    config = {"d_model": 32, "n_layer": 3, "vocab_size": 61, "ssm_cfg": {"d_state": 8}, "rms_norm": True,
              "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    state = {k.replace("embeddings", "embedding"): v for k, v in theirs.state_dict().items()}
    state["lm_head.weight"] = state["backbone.embedding.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("form", ["hf_folder", "original_folder"])
def test_logits_equal_transformers(theirs, form, request):
    own = MambaConfig(weights=str(request.getfixturevalue(form))).build().eval()
    ids = torch.randint(0, 64, (2, 21))
    with torch.no_grad():
        hidden, _ = own(own.embed(ids))
        torch.testing.assert_close(own.logits(hidden), theirs(ids).logits, atol=2e-5, rtol=1e-5)


def test_gradients_equal_transformers(theirs, hf_folder):
    own = MambaConfig(weights=str(hf_folder)).build()
    ids = torch.randint(0, 64, (2, 15))
    own.logits(own(own.embed(ids))[0]).sin().sum().backward()
    theirs.zero_grad()
    theirs(ids).logits.sin().sum().backward()
    wanted = {k.replace("embeddings", "embedding"): p.grad for k, p in theirs.named_parameters()}
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=2e-3, rtol=2e-3, msg=name)


def test_padding_anywhere_takes_part_in_nothing():
    """Pieces of different length with padding scattered among them equal singles without any."""
    torch.manual_seed(0)
    own = MambaConfig(d_model=16, n_layer=3, vocab_size=8, d_state=4).build().eval()
    pieces = [[torch.randn(1, n, 16) for n in lengths] for lengths in ([5, 1, 2], [2, 3, 4], [7, 2, 1])]
    state, outs = None, [[], [], []]
    with torch.no_grad():
        for k in range(3):
            length = max(row[k].shape[1] for row in pieces) + 2
            x, segments = torch.randn(3, length, 16), torch.full((3, length), PADDING)
            places = [torch.randperm(length)[: row[k].shape[1]].sort().values for row in pieces]
            for i, place in enumerate(places):
                x[i, place], segments[i, place] = pieces[i][k][0], 0
            hidden, state = own(x, segments=segments, state=state)
            for i, place in enumerate(places):
                outs[i].append(hidden[i, place])
        for out, row in zip(outs, pieces, strict=True):
            torch.testing.assert_close(torch.cat(out), own(torch.cat(row, 1))[0][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "millions"), [("130m", 129.1), ("1.4b", 1372.2), ("2.8b", 2768.3)])
def test_published_sizes(name, millions):
    with torch.device("meta"):
        own = MambaConfig(weights=f"state-spaces/mamba-{name}").build(weights=False)
    assert parameter_count(own) / 1e6 == pytest.approx(millions, abs=0.1)
    assert PUBLISHED[f"state-spaces/mamba-{name}"].vocab_size == 50280


def spoil(folder, kind):
    weights = folder / "pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    name = "backbone.layers.1.mixer.D"
    if kind == "missing":
        del state[name]
    elif kind == "shape":
        state[name] = torch.zeros(3)
    elif kind == "unexpected":
        state["backbone.layers.9.mixer.D"] = torch.zeros(3)
    torch.save(state, weights)
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    if kind == "none":
        weights.unlink()
    if kind == "code":
        weights.write_bytes(b"cbuiltins\nexec\n(S'raise SystemExit(9)'\ntR.")
    if kind == "config":
        (folder / "config.json").write_text('{"model_type": "llama"}')
    if kind == "json":
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "1 tensors don't fit this model: missing backbone.layers.1.mixer.D"),
        ("shape", r"mixer\.D is \(3,\), expected \(64,\)"),
        ("unexpected", "unexpected backbone.layers.9.mixer.D"),
        ("truncated", "not a readable weight file"),
        ("none", "no weights; expected one of"),
        ("code", "not a readable weight file"),
        ("config", "holds a 'llama' model"),
        ("json", "not valid JSON"),
    ],
)
def test_bad_checkpoints(original_folder, kind, message):
    spoil(original_folder, kind)
    with pytest.raises(UserError, match=message):
        MambaConfig(weights=str(original_folder)).build()


def test_sharded_safetensors(theirs, hf_folder):
    state = dict(theirs.state_dict())
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({k: state[k].clone() for k in keys}, hf_folder / file)
    index = {"weight_map": {k: file for file, keys in shards.items() for k in keys}}
    (hf_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (hf_folder / "model.safetensors").unlink()
    own = MambaConfig(weights=str(hf_folder)).build()
    assert torch.equal(own.backbone.layers[2].mixer.D, state["backbone.layers.2.mixer.D"])


def test_hub_out_of_reach_says_what_to_do():
    with pytest.raises(UserError, match=r"'some/where'.*name a local copy"):
        MambaConfig(weights="some/where").build()
