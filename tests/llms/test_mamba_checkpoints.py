"""Files of Mamba checkpoints: every format that is published, and every way in which one can be wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm_core.errors import UserError
from vlm_llms.mamba.mamba_checkpoint import EMBEDDING, HEAD, load_weights
from vlm_llms.mamba.mamba_config import MambaConfig
from vlm_llms.tokenizer.tokenizer import train_bpe

LAYER = "backbone.layers.1.mixer."


def built(folder, **fields):
    return MambaConfig(weights=str(folder), **fields).build().eval()


def tensors(folder):
    """What the one weight file of a folder holds, and how to write it again."""
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.exists():
        return load_file(safe), lambda state: save_file(state, safe)
    return torch.load(pickled, weights_only=True), lambda state: torch.save(state, pickled)


def shard(folder):
    """Tensors dealt out to three files with an index, as both libraries do."""
    state, _ = tensors(folder)
    state = {k: v.clone() for k, v in state.items()}
    safe = (folder / "model.safetensors").exists()
    one = folder / ("model.safetensors" if safe else "pytorch_model.bin")
    files = {f"{one.stem}-0000{i}-of-00003{one.suffix}": sorted(state)[i::3] for i in range(3)}
    for name, keys in files.items():
        (save_file if safe else torch.save)({k: state[k] for k in keys}, folder / name)
    where = {k: name for name, keys in files.items() for k in keys}
    (folder / f"{one.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    one.unlink()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("form", ["hf_folder", "original_folder"])
def test_every_published_form_is_read_exactly(theirs, form, sharded, dtype, request):
    folder = request.getfixturevalue(form)
    state, write = tensors(folder)
    write({k: v.to(dtype) for k, v in state.items()})
    if sharded:
        shard(folder)
    own = built(folder).state_dict()
    for name, tensor in theirs.state_dict().items():
        if name != HEAD:
            seen = own[name.replace("embeddings", "embedding")]
            assert torch.equal(seen, tensor.to(dtype).float()), name


@pytest.mark.parametrize("form", ["hf_folder", "original_folder"])
@pytest.mark.parametrize(("stored", "model"), [(64, 61), (61, 64), (61, 61), (64, 64)])
def test_a_vocabulary_is_padded_or_cut(theirs, form, stored, model, request):
    """50277 and 50280 in small: either side may have rows that are no token's."""
    folder = request.getfixturevalue(form)
    config = json.loads((folder / "config.json").read_text())
    config |= {"vocab_size": model, "pad_vocab_size_multiple": 1}
    (folder / "config.json").write_text(json.dumps(config))
    state, write = tensors(folder)
    write({k: v[:stored].clone() if len(v) == 64 and v.shape[1:] == (32,) else v for k, v in state.items()})
    table = built(folder).backbone.embedding.weight
    common = min(stored, model)
    assert len(table) == model
    assert torch.equal(table[:common], theirs.backbone.embeddings.weight[:common])
    assert not table[common:].any()


def test_files_of_old_torch_are_read(theirs, original_folder):
    state, _ = tensors(original_folder)
    torch.save(state, original_folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    table = built(original_folder).backbone.embedding.weight
    assert torch.equal(table, theirs.backbone.embeddings.weight)


def test_other_vocabularies_are_not_cut(original_folder):
    state, write = tensors(original_folder)
    write({k: v[:40].clone() if k in (EMBEDDING, HEAD) else v for k, v in state.items()})
    with pytest.raises(UserError, match=r"embedding\.weight: 40×32 instead of 64×32"):
        built(original_folder)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(original_folder, tmp_path):
    train_bpe(["a cat on a mat"], 270).save(tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"the tokenizer has 26\d ids but the model only 64 embeddings"):
        MambaConfig(weights=str(original_folder), tokenizer=str(tmp_path / "tokenizer")).build(weights=False)


def test_the_tokenizer_beside_the_weights_is_the_default(original_folder, tmp_path):
    config = MambaConfig(weights=str(original_folder))
    assert config.tokenizer_source == "EleutherAI/gpt-neox-20b"
    train_bpe(["a cat on a mat"], 270).save(original_folder)
    assert config.tokenizer_source == str(original_folder)
    with pytest.raises(UserError, match="ids but the model only 64 embeddings"):
        config.build(weights=False)
    other = config.model_copy(update={"tokenizer": str(tmp_path)})
    assert other.tokenizer_source == str(tmp_path)


def test_a_published_name_is_held_against_its_own_config(original_folder, monkeypatch):
    """The architecture that is known by name decides nothing about weights whose config.json says otherwise."""
    path = original_folder / "config.json"
    settings = json.loads(path.read_text())
    shape = MambaConfig(weights=str(original_folder)).shape(lambda: 0)
    monkeypatch.setattr("vlm_llms.mamba.mamba_config.PUBLISHED", {"state-spaces/one": shape})
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: original_folder)
    MambaConfig(weights="state-spaces/one").build()
    path.write_text(json.dumps({**settings, "rms_norm": False}))
    with pytest.raises(UserError, match="rms_norm is False"):
        MambaConfig(weights="state-spaces/one").build()


class Canary:
    """Leaves a file when a pickle with it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def spoil(folder, kind):
    state, write = tensors(folder)
    weights = folder / "pytorch_model.bin"
    changes = {
        "missing": lambda: [
            state.pop(f"{LAYER}{name}") for name in ("D", "A_log", "dt_proj.bias", "x_proj.weight")
        ],
        "shape": lambda: state.update({f"{LAYER}D": torch.zeros(3)}),
        "unexpected": lambda: state.update({"backbone.layers.9.mixer.D": torch.zeros(3)}),
        "dtype": lambda: state.update({f"{LAYER}D": torch.zeros(64, dtype=torch.int8)}),
        "fp8": lambda: state.update({f"{LAYER}D": torch.zeros(64, dtype=torch.float8_e4m3fn)}),
        "untied": lambda: state.update({HEAD: torch.zeros(64, 32)}),
        "another": lambda: (state.clear(), state.update({"model.norm.weight": torch.zeros(32)})),
        "wrapped": lambda: state.update({"optimizer": {"lr": 1.0}}),
        "code": lambda: state.update({f"{LAYER}D": Canary(str(folder / "ran"))}),
    }
    if kind in changes:
        changes[kind]()
        write(state)
    if kind == "raw code":
        weights.write_bytes(b"cbuiltins\nopen\n(S'%b'\nS'w'\ntR." % str(folder / "ran").encode())
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-2000])
    if kind == "empty":
        weights.write_bytes(b"")
    if kind == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    if kind == "none":
        weights.unlink()
    if kind in ("shard", "outside", "no map"):
        shard(folder)
        index = folder / "pytorch_model.bin.index.json"
        if kind == "shard":
            (folder / "pytorch_model-00001-of-00003.bin").unlink()
        else:
            index.write_text('{"weight_map": {"a": "../b.bin"}}' if kind == "outside" else "{}")


@pytest.mark.parametrize(
    ("kind", "message"),
    {
        "missing": r"4 tensors missing from the file, though the model needs them \(\S+A_log, \S+D, \S+weight, …\)",
        "shape": r"1 tensor of another shape in the file than in the model \(backbone\S+mixer\.D: 3 instead of 64\)",
        "unexpected": r"1 tensor in the file, though the model has no such tensor \(backbone\.layers\.9\.mixer\.D\)",
        "dtype": r"1 tensor not in fp16, bf16 or fp32 \(\S+mixer\.D: torch\.int8\); quantised",
        "fp8": r"mixer\.D: torch\.float8_e4m3fn",
        "untied": r"lm_head\.weight differs from backbone\.embedding\.weight",
        "another": r"no tensor name matches, .*of another model: 32 tensors missing.*model\.norm\.weight",
        "wrapped": r"expected tensors by name.*state_dict",
        "code": "objects that could run code",
        "raw code": "objects that could run code",
        "truncated": "not a readable weight file, perhaps a download that did not finish",
        "empty": "not a readable weight file, perhaps a download that did not finish",
        "pointer": "pointer of git-lfs",
        "none": "no weights; expected one of",
        "shard": r"of 3 files 1 are missing \(pytorch_model-00001-of-00003\.bin\); the download did not finish",
        "outside": "expected a weight_map from tensors to files beside it",
        "no map": "expected a weight_map from tensors to files beside it",
    }.items(),
)
def test_bad_weights(original_folder, kind, message):
    spoil(original_folder, kind)
    with pytest.raises(UserError, match=message):
        built(original_folder)
    assert not (original_folder / "ran").exists()


def test_truncated_safetensors(hf_folder):
    file = hf_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"model\.safetensors: not a readable weight file, perhaps a download"
    ):
        built(hf_folder)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("original_folder", {"rms_norm": False}, "rms_norm is False; vlm-llms' Mamba-1 supports True only"),
        (
            "original_folder",
            {"ssm_cfg": {"layer": "Mamba2"}},
            "layer is 'Mamba2'; vlm-llms' Mamba-1 supports 'Mamba1' only",
        ),
        ("original_folder", {"attn_layer_idx": [1]}, r"attn_layer_idx is \[1\]"),
        ("original_folder", {"d_model": "wide"}, "no Mamba config: .*d_model"),
        ("original_folder", {"n_layer": None}, "no Mamba config: .*n_layer"),
        ("hf_folder", {"model_type": "llama"}, "holds a 'llama' model; .*type: transformers"),
        ("hf_folder", {"use_bias": True}, "use_bias is True"),
        ("hf_folder", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ("hf_folder", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        (
            "hf_folder",
            {"intermediate_size": 48},
            "intermediate_size is 48; vlm-llms' Mamba-1 supports 64 only",
        ),
    ],
)
def test_models_that_would_compute_something_else_are_refused(form, change, message, request):
    folder = request.getfixturevalue(form)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        built(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"config\.json: not JSON"), ("[]", "expected a JSON object"), ("{}", "key 'd_model' is missing")],
)
def test_a_config_that_is_none(original_folder, text, message):
    (original_folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        built(original_folder)
    (original_folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: missing; a checkpoint folder holds config\.json"):
        built(original_folder)


def test_hub_out_of_reach_says_what_to_do():
    with pytest.raises(UserError, match=r"'some/where'.*name a local copy: weights: path/to/folder"):
        MambaConfig(weights="some/where").build()


def test_of_two_formats_on_the_hub_only_one_is_fetched(theirs, hf_folder, original_folder, monkeypatch):
    asked = []

    def download(source, *, revision, allow_patterns):
        asked.append((revision, *allow_patterns))
        return {"safe": hf_folder, "old": original_folder}[source]

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    own = MambaConfig(weights=str(hf_folder)).build()
    load_weights(own, "safe", "v1")
    assert [{p.split(".")[-1] for p in patterns} for patterns in asked] == [{"v1", "json", "safetensors"}]
    asked.clear()
    load_weights(own, "old")
    assert asked[-1] == (None, "config.json", "*.bin", "*.bin.index.json")
