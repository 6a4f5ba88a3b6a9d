"""Lean loading: one copy in memory, fp32 where it must be, ties, and every fault by name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.model_folder.safetensors_file import opened
from vlm_core.model_folder.weights import (
    empty_parameters,
    fill,
    fp32_names,
    load_part_weights,
    save_part,
    to_dtype,
)
from vlm_core.spec.spec import Spec

FP32 = ("A_log", "D", "dt_proj.bias")


class Tied(nn.Module):
    """Two names for one matrix, a buffer that the file holds and one that it doesn't, a mark on a parameter."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)
        self.scale.marked = True
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("table", torch.arange(3.0), persistent=False)


def test_ties_buffers_and_marks_survive(tmp_path):
    module, file = Tied(), tmp_path / "w"
    save_part(module, file)
    with empty_parameters():
        empty = Tied()
    assert empty.embed.weight.is_meta
    assert empty.embed.weight is empty.head.weight
    assert not empty.table.is_meta
    load_part_weights(empty, file)
    assert empty.embed.weight is empty.head.weight
    assert torch.equal(empty.embed.weight, module.embed.weight)
    assert torch.equal(empty.table, torch.arange(3.0))
    assert empty.count == 7
    assert empty.scale.marked
    assert not empty.scale.requires_grad
    assert nn.Linear(2, 2).weight.device.type == "cpu", "the patch must be gone"


def test_the_patch_is_gone_after_an_error():
    with pytest.raises(RuntimeError), empty_parameters():
        raise RuntimeError
    assert not nn.Linear(2, 2).weight.is_meta


def fill_from(module, file):
    with opened(file) as stored:
        shapes = {name: tensor.shape for name, tensor in stored.tensors.items()}
        fill(module, shapes, stored.read, file)


def test_attached_weights_are_not_the_modules_old_memory(tmp_path):
    """Copying keeps the tensors, as an optimizer needs it; attaching replaces them."""
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    save_part(other, tmp_path / "w")
    before = module.weight
    fill_from(module, tmp_path / "w")
    assert module.weight is before
    assert torch.equal(before, other.weight)
    load_part_weights(module, tmp_path / "w")
    assert module.weight is not before
    with torch.no_grad():
        module.weight.zero_()
    load_part_weights(module, tmp_path / "w")
    assert torch.equal(module.weight, other.weight), "writing to a mapped weight must not reach the file"


@pytest.mark.parametrize("take", [fill_from, load_part_weights])
@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (nn.Linear(3, 2), r"wrong shape: weight \(2, 3\) for \(2, 2\)"),
        (nn.Linear(2, 2, bias=False), r"1 weights are missing, such as \['bias'\]"),
        (nn.Sequential(nn.Linear(2, 2)), r"unexpected \['0.bias', '0.weight'\]"),
    ],
)
def test_faults_by_name(tmp_path, take, stored, message):
    save_part(stored, tmp_path / "w")
    with pytest.raises(UserError, match=message):
        take(nn.Linear(2, 2), tmp_path / "w")


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "w").write_bytes(b"12345678")
    with pytest.raises(UserError, match="not a readable weight file"):
        load_part_weights(nn.Linear(2, 2), tmp_path / "w")


def dtypes(model):
    """Of what stays fp32, and of the rest."""
    inside = [p.dtype for n, p in model.named_parameters() if n.endswith(FP32)]
    return set(inside), {p.dtype for n, p in model.named_parameters() if not n.endswith(FP32)}


def test_a_cast_keeps_what_must_stay_fp32(tiny_spec):
    spec = Spec.model_validate(tiny_spec)
    exact, rough = build(spec), build(spec, dtype=torch.bfloat16)
    assert {n for n, _ in exact.named_parameters() if n.endswith(FP32)} == fp32_names(exact)
    assert dtypes(rough) == ({torch.float32}, {torch.bfloat16})
    for (name, a), (_, b) in zip(exact.named_parameters(), rough.named_parameters(), strict=True):
        assert torch.equal(a.to(b.dtype), b), name


def test_saved_in_bf16_loaded_in_bf16_or_as_wished(tiny_spec, tmp_path):
    spec = Spec.model_validate(tiny_spec)
    model = build(spec, dtype=torch.bfloat16)
    save(model, spec, tmp_path / "m")
    again, _ = load(tmp_path / "m")
    assert dtypes(again) == ({torch.float32}, {torch.bfloat16})
    pixels, ids = torch.rand(1, 3, 32, 32), torch.arange(9)[None]
    image_mask = torch.tensor([[False] * 3 + [True] * 4 + [False] * 2])
    with torch.no_grad():
        assert torch.equal(again(ids, image_mask, pixels)[0], model(ids, image_mask, pixels)[0])
    assert dtypes(load(tmp_path / "m", dtype=torch.float32)[0]) == ({torch.float32}, {torch.float32})


def test_conversion_on_load_equals_conversion_at_build(tiny_spec, tiny_folder):
    built = build(Spec.model_validate(tiny_spec), dtype=torch.bfloat16)
    loaded, _ = load(tiny_folder, dtype=torch.bfloat16)
    for (name, a), (_, b) in zip(built.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def test_rotary_frequencies_are_not_rounded():
    from transformers import LlamaConfig, LlamaForCausalLM

    from vlm_llms.transformers.hf_adapter import TransformersLM

    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        vocab_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    lm = TransformersLM(LlamaForCausalLM(config), load_tokenizer=lambda: None)
    before = lm.model.model.rotary_emb.inv_freq.clone()
    to_dtype(lm, torch.bfloat16)
    assert lm.model.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(lm.model.model.rotary_emb.inv_freq, before)


LEAN = """
import sys
from pathlib import Path
import torch
from torch import nn
from vlm_core.model_folder.weights import load_part_weights, empty_parameters, save_part

def high_water():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

def model():
    return nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(16)))  # 268 MB

file, size = Path(sys.argv[2]), 16 * 2048 * 2048 * 4
before = high_water()
if sys.argv[1] == "save":
    save_part(model(), file)
else:
    with empty_parameters():
        module = model()
    load_part_weights(module, file)
    with torch.no_grad():
        module(torch.ones(1, 2048))
print((high_water() - before) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_holds_the_weights_once(tmp_path):
    """Saving needs no second copy; loading and using need one."""
    for step in ("save", "load"):
        command = [sys.executable, "-c", LEAN, step, str(tmp_path / "w")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert 0.9 < float(done.stdout) < 1.25, step


@pytest.mark.parametrize("change", ["zeros", "cut"])
def test_weights_that_are_read_do_not_change_with_their_file(change, tmp_path):
    """`cp` over a file, or a download into it, while the model answers; a mapped file would end the process."""
    module = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 1)).eval()
    file = tmp_path / "w"
    save_part(module, file)
    with empty_parameters():
        again = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 1)).eval()
    load_part_weights(again, file)
    with file.open("r+b") as written:
        written.truncate(16) if change == "cut" else written.write(bytes(file.stat().st_size))
    x = torch.randn(3, 64)
    with torch.no_grad():
        assert torch.equal(again(x), module(x))


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    module, file = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1)), tmp_path / "w"
    save_part(module, file)
    with opened(file) as stored:
        first, second = sorted(stored.tensors)[:2]
        stored.read(first)
        with file.open("r+b") as written:
            written.truncate(600)
        with pytest.raises(UserError, match="w: changed while it was read; start again when it is whole"):
            stored.read(second)


def test_a_header_is_not_read_from_another_file_than_the_tensors(tmp_path, monkeypatch):
    """A file that is replaced by a rename while it is opened."""
    save_part(nn.Linear(64, 64), tmp_path / "w")
    save_part(nn.Linear(64, 64), tmp_path / "new")

    def replaced(path, *args):
        (tmp_path / "new").replace(path)
        return safe_open(path, *args)

    monkeypatch.setattr("vlm_core.model_folder.safetensors_file.safe_open", replaced)
    with pytest.raises(UserError, match="w: changed while it was read"), opened(tmp_path / "w"):
        pass


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
)
def test_every_number_format_is_read_as_the_library_does(dtype, tmp_path):
    shapes = [(), (3,), (0, 4), (2, 3, 5)]
    tensors = {str(i): torch.randint(0, 2, shape).to(dtype) for i, shape in enumerate(shapes)}
    save_file(tensors, tmp_path / "w")
    with opened(tmp_path / "w") as stored:
        for name, tensor in tensors.items():
            found = stored.read(name)
            assert found.dtype == dtype
            assert torch.equal(found, tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_model_keeps_its_files_mapped(tiny_folder, clean_spec, tmp_path):
    """Neither a model folder nor weights of transformers, which maps them."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from vlm_encoders import TransformersConfig

    folder = Path(clean_spec["encoder"]["model"])
    config = SiglipVisionConfig.from_pretrained(folder)
    shutil.copytree(folder, tmp_path / "sig")
    SiglipVisionModel(config).save_pretrained(tmp_path / "sig")
    models = load(tiny_folder)[0], TransformersConfig(model=str(tmp_path / "sig")).build()
    maps = Path("/proc/self/maps").read_text()
    assert all(any(True for _ in model.parameters()) for model in models)
    assert str(tiny_folder) not in maps
    assert str(tmp_path) not in maps
