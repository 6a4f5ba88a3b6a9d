"""A number of layers from a file never makes a library loop for hours or fill the memory."""

import json
import time

import pytest
from torch import nn

from vlm_core.errors import UserError
from vlm_core.model_folder.build_limits import bounded_modules
from vlm_core.plugins.layer_counts import check_config_file, check_layers
from vlm_core.spec.spec import Spec


def test_modules_are_counted_while_they_are_made():
    with bounded_modules(50):
        nn.Sequential(*[nn.Identity() for _ in range(50)])
    with pytest.raises(UserError, match="more than 50 modules: a number of layers"), bounded_modules(50):
        nn.Sequential(*[nn.Identity() for _ in range(51)])
    nn.Sequential(*[nn.Identity() for _ in range(51)])


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"text_config": {"n_layer": 1e9}},
        {"depths": [2, 10**6]},
    ],
)
def test_layers_are_counted_before_a_library_makes_them(tmp_path, config):
    with pytest.raises(UserError, match="expected a number from 0 to 1024"):
        check_layers(config, "x")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: "):
        check_config_file(tmp_path)


def test_configs_that_are_no_files_or_no_json_are_refused(tmp_path):
    check_config_file(tmp_path)
    check_config_file("org/repository")
    for text in ("[" * 10_000, "9" * 5000, "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json: "):
            check_config_file(tmp_path)


PARTS = {
    "encoder": {"type": "timm", "model": "test_vit"},
    "connector": {"type": "linear"},
    "llm": {"type": "mamba", "d_model": 8, "n_layer": 1},
}
LLAMA = {"model_type": "qwen2", "hidden_size": 8, "num_attention_heads": 1, "vocab_size": 8}


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("encoder", {"model_args": {"depth": 10**9}}),
        ("encoder", {"model_args": {"depth": 2000}}),
        ("encoder", {"model_args": {"embed_dim": 10**12}}),
        ("encoder", {"type": "fused", "towers": [PARTS["encoder"]] * 9}),
        ("encoder", {"type": "fused", "towers": [{"type": "fused", "towers": [PARTS["encoder"]] * 8}] * 3}),
        ("llm", {"n_layer": 10**9}),
        ("llm", {"d_model": 10**12}),
        ("llm", {"type": "transformers", "model": "x", "config": {**LLAMA, "num_hidden_layers": 10**9}}),
        ("llm", {"type": "transformers", "model": "x", "config": {**LLAMA, "hidden_size": 10**12}}),
        ("llm", {"type": "transformers", "model": "x", "config": {**LLAMA, "num_hidden_layers": -1}}),
    ],
)
def test_counts_of_a_spec_are_refused_at_once(part, keys):
    from vlm_core.diagnose.model_summary import build_on_meta

    new = keys if "type" in keys else {**PARTS[part], **keys}
    began = time.process_time()
    with pytest.raises(ValueError, match=r"\d"):  # pydantic's error, or a UserError of the build
        build_on_meta(Spec.model_validate({**PARTS, part: new}))
    assert time.process_time() - began < 30, "importing the libraries included"
