"""A key of another trainer, or one of another place, is an error that says which key to use."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from vlm_core.errors import UserError
from vlm_core.spec.spec import load_spec
from vlm_train.config.other_trainers import OTHER_TRAINERS
from vlm_train.config.stage import Stage
from vlm_train.config.train import TrainConfig


@pytest.mark.parametrize(
    ("setting", "use"),
    [
        ("train.learning_rate=1e-3", r"train\.stages\[\]\.lr"),
        ("train.stages.0.learning_rate=1e-3", r"train\.stages\[\]\.lr"),
        ("train.lr=1e-3", r"train\.stages\[\]\.lr"),
        ("train.stages.0.precision=bf16", r"train\.precision"),
        ("train.bf16=true", r"train\.precision"),
    ],
)
def test_the_message_names_the_key_to_use(run_spec, setting, use):
    with pytest.raises(UserError, match=f"unknown key here; use {use}$"):
        load_spec(run_spec(), [setting])


@pytest.mark.parametrize("key", sorted({path.split()[-1] for path in OTHER_TRAINERS.values()}))
def test_every_key_that_a_message_names_exists(key):
    section, _, field = key.removeprefix("train.").rpartition(".")
    owners: dict[str, type[BaseModel]] = {"": TrainConfig, "stages[]": Stage}
    owner = owners.get(section)
    assert field in owner.model_fields if owner else section in TrainConfig.model_fields


def test_the_keys_of_the_page_are_known():
    page = (Path(__file__).parents[3] / "docs" / "spec-train.md").read_text()
    table = page.split("## Names in other trainers")[1].split("| there | here |")[1].split("\n\n")[0]
    keys = {key for line in table.splitlines()[2:] for key in re.findall(r"`(\w+)", line.split("|")[1])}
    assert len(keys) > 30
    assert keys <= OTHER_TRAINERS.keys()
