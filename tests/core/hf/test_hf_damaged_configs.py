"""config.json and generation_config.json of strangers, which transformers reads: what it stumbles over is told."""

import json
import shutil

import pytest
import strangers
from transformers import AutoConfig

from vlm_core.errors import UserError
from vlm_core.hf.configuration import VLMConfig

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "m")


def opened(folder):
    strangers.seal(folder)
    return strangers.openers(folder, folder)["transformers"]()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_labels": 10**9},
        {"num_labels": True},
        {"hidden_size": "x"},
        {"vocab_size": 10**30},
        {"token_count": None},
        {"image_tokens": -1},
        {"eos_token_id": {"a": 1}},
        {"eos_token_id": [[1]]},
        {"bos_token_id": "x"},
        {"bos_token_id": 1e300},
        {"dtype": "os.system"},
        {"id2label": "x"},
        {"sub_configs": 1},
        {"experts_implementation": "a/b"},
    ],
    ids=str,
)
def test_values_of_a_config(folder, changes):
    strangers.rewrite_json(folder / "config.json", **changes)
    with pytest.raises(UserError, match=r"config\.json: "):
        opened(folder)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "[" * 100_000,
        "\0",
        '{"self": 1}',
        '{"watermarking_config": {"x": 1}}',
        '{"a": ' + "9" * 5000 + "}",
    ],
    ids=range(7),
)
def test_a_generation_config(folder, text):
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=r"generation_config\.json: "):
        opened(folder)


def test_a_sound_one_is_honoured(folder):
    (folder / "generation_config.json").write_text('{"max_new_tokens": 7}')
    assert opened(folder).generation_config.max_new_tokens == 7


def test_an_unknown_argument_of_the_config_is_refused(tmp_path):
    """Auto classes hand over what is meant for a tokenizer or a processor, so those are left to them."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vlm-core", "hidden_size": 3}))
    with pytest.raises(UserError, match=r"does not know hiden_size; .*did you mean 'hidden_size'"):
        VLMConfig.from_pretrained(tmp_path, hiden_size=4)
    assert VLMConfig.from_pretrained(tmp_path, hidden_size=4).hidden_size == 4
    config, unused = VLMConfig.from_pretrained(tmp_path, hiden_size=4, return_unused_kwargs=True)
    assert (config.hidden_size, unused["hiden_size"]) == (3, 4)
    assert AutoConfig.from_pretrained(tmp_path, padding_side="left").hidden_size == 3
