"""transformers towers from the files people have: every format, and every way in which one can be wrong."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_towers import VISION, code_that_touches, tiny_transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel

from vlm_core.errors import UserError
from vlm_core.plugins.hub import with_trust
from vlm_encoders import TransformersConfig

FILE = "model.safetensors"


@pytest.fixture
def clip(tmp_path: Path) -> tuple[TransformersConfig, Any]:
    """A dual CLIP checkpoint in a folder, and the model it came from."""
    config = tiny_transformers("clip", tmp_path)
    model = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    model.save_pretrained(tmp_path)
    return config, model


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def to_bin(folder: Path) -> None:
    torch.save(load_file(folder / FILE), folder / "pytorch_model.bin")
    (folder / FILE).unlink()


def to_shards(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for part, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_text(folder: Path) -> None:
    """What is not there cannot have been read."""
    edit(folder, lambda t: [t.pop(k) for k in list(t) if k.startswith("text_model.")])


@pytest.mark.parametrize("layout", [to_bin, to_shards, no_text])
@torch.no_grad()
def test_layouts_of_a_dual_checkpoint(
    layout: Any, clip: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The vision half alone is built and read, and what is left over is not reported as if it were a fault."""
    config, model = clip
    layout(tmp_path)
    with caplog.at_level(logging.INFO):
        tower = config.build()
    assert "UNEXPECTED" not in caplog.text
    pixels = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    states = model.vision_model((pixels - mean) / std, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tower(pixels).flatten(1, 2), states[-2][:, 1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_number_formats(dtype: torch.dtype, clip: Any, tmp_path: Path) -> None:
    config, model = clip
    edit(tmp_path, lambda t: t.update({k: v.to(dtype) for k, v in t.items() if v.is_floating_point()}))
    parameters = dict(config.build().named_parameters())
    key = "embeddings.patch_embedding.weight"
    expected = model.vision_model.get_parameter(key).to(dtype).float()
    assert torch.equal(parameters[f"model.{key}"], expected)
    assert {p.dtype for p in parameters.values()} == {torch.float32}


def test_a_classifier_without_pooler_is_whole(tmp_path: Path) -> None:
    """Published ViT classifiers hold a head that the tower lacks and lack a pooler that it drops."""
    config = tiny_transformers("vit", tmp_path)
    AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [k for k in tensors if k.startswith("pooler")]:
            del tensors[name]
        tensors["classifier.weight"] = torch.zeros(10, 16)

    edit(tmp_path, change)
    assert config.build().dim == 16


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*BlipModel.*")
def test_a_dual_model_whose_half_the_library_cannot_build_alone(tmp_path: Path) -> None:
    tiny_transformers("clip", tmp_path)
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "blip", "vision_config": VISION, "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    model.save_pretrained(tmp_path)
    tower = TransformersConfig(model=str(tmp_path), mean=[0.0] * 3, std=[1.0] * 3).build()
    pixels = torch.rand(1, 3, 32, 32)
    states = model.vision_model(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tower(pixels).flatten(1, 2), states[-2][:, 1:])
    edit(tmp_path, lambda t: t.pop(KEY))
    with pytest.raises(
        UserError, match=r"1 of the \d+ tensors of the vision tower are missing \(encoder\.layers\.0"
    ):
        TransformersConfig(model=str(tmp_path)).build()


KEY = "vision_model.encoder.layers.0.mlp.fc1.weight"
ANOTHER = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def more_blocks(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())
    text["vision_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(text))


def another_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2", **ANOTHER}))


def half_downloaded(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[: len(content) // 2])


def lost_shard(folder: Path) -> None:
    to_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _set(key: str, tensor: Tensor) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda t: t.update({key: tensor}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            more_blocks,
            r"16 belong to blocks that config\.json does not count \((vision_model\.)?encoder\.layers\.3",
        ),
        (
            another_model,
            r"do not fit Dinov2Model as its config\.json describes it: (\d+) of the \1 tensors of the "
            r"vision tower are missing \(embeddings.cls_token, .*, …\)",
        ),
        (
            _set(KEY, torch.zeros(9, 16)),
            r"1 are of another shape \(encoder\.layers\.0\.mlp\.fc1\.weight: 9×16 instead"
            " of 24×16",
        ),
        (
            _set(KEY, torch.zeros(24, 16, dtype=torch.int8)),
            r"1 are in a number format that holds no plain weights "
            r"\(vision_model\.encoder\.layers\.0",
        ),
        (half_downloaded, r"could not read .* \(weights\): "),
        (lost_shard, r"could not read .* \(weights\): .*model-00002-of-00002"),
    ],
)
def test_damaged_weights(damage: Any, message: str, clip: Any, tmp_path: Path) -> None:
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        clip[0].build()


def test_pickled_code_is_not_run(clip: Any, tmp_path: Path) -> None:
    (tmp_path / FILE).unlink()
    trace = tmp_path / "trace"
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))):
        write({"x": code_that_touches(trace)}, tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"could not read .* \(weights\)"):
            clip[0].build()
    assert not trace.exists()


CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

class Config(PretrainedConfig):
    model_type = "mine"

class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.cut = torch.nn.Conv2d(3, 16, 8, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, pixel_values):
        x = self.cut(pixel_values).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = x + layer(x)
        return BaseModelOutput(last_hidden_state=x)
"""


def test_code_of_a_repository_runs_only_if_the_spec_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "cache")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(CODE)
    auto = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto, **VISION}))
    given: dict[str, Any] = {"model": str(folder), "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(
        UserError,
        match=r"could not read .* \(config.json\).*custom code.*trust_remote_code: true and a revision",
    ):
        TransformersConfig(**given).build(weights=False)
    with pytest.raises(ValueError, match="revision must pin it: got 'main', expected the 40 hex digits"):
        TransformersConfig(**given, trust_remote_code=True, revision="main")
    opted = TransformersConfig(**given, trust_remote_code=True, revision="0" * 40)
    tower = opted.build(weights=False)
    assert tower(torch.rand(1, 3, 32, 32)).shape == (1, 4, 4, 16)
    tower.save_assets(tmp_path / "saved")
    assert (tmp_path / "saved" / "mine.py").read_text() == CODE
    again = opted.build(weights=False, assets=tmp_path / "saved")
    again.load_state_dict(tower.state_dict())
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(pixels), tower(pixels))
    for source in ({}, {"assets": tmp_path / "saved"}):
        with pytest.raises(UserError, match=r"would run code of .*\n  mine\.py  sha256 [0-9a-f]{64}\n"):
            with_trust(opted.model_copy(), "commits").build(weights=False, **source)


@pytest.mark.parametrize("weights", [True, False])
def test_unreachable_hub(weights: bool) -> None:
    with pytest.raises(
        UserError,
        match=r"could not read nobody/nothing \(preprocessor_config.json\).*offline, model: can name a local folder",
    ):
        TransformersConfig(model="nobody/nothing").build(weights=weights)
