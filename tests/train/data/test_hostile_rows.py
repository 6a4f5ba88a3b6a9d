"""Hostile images and rows have one documented outcome each, cost little, and touch nothing of their neighbours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hostile_images import CORPUS, GREY
from shards import held, parquet, png, tar, turns

from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.spec.spec import load_spec
from vlm_train.config.section import train_section
from vlm_train.data.collate import to_micro_batch
from vlm_train.data.dataset import DroppedSample, Example, Examples, sample_processor
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.webdataset import WebDatasetConfig

DARKER = {"bilevel.png": None, "hidden-red.png": 255, "wide.png": 0, "flipped.jpg": None}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of one process that reads all of them through every transform."""
    script = Path(__file__).parents[1] / "helpers" / "data" / "hostile_images.py"
    command = [sys.executable, "-W", "error", str(script), str(tmp_path_factory.mktemp("corpus"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_hostile_image_has_its_outcome(outcomes):
    assert {name: outcome for name, (outcome, _, _) in outcomes["found"].items()} == {
        name: outcome for name, (outcome, _) in CORPUS.items()
    }
    assert len(CORPUS) > 40
    for name, (_, colour, _) in outcomes["found"].items():
        wanted = DARKER.get(name, GREY)
        assert wanted is None or all(abs(value - wanted) <= 8 for value in colour), (name, colour)


def test_none_of_them_costs_much_or_starts_a_program(outcomes):
    assert outcomes["memory"] < 1000, "MiB, of which most are torch"
    assert outcomes["memory"] - outcomes["before"] < 400
    assert max(seconds for _, _, seconds in outcomes["found"].values()) < 2
    assert not outcomes["started"]


@pytest.fixture(scope="module")
def reader(tiny_spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spec")
    spec = {
        **tiny_spec,
        "train": {
            "output": "x",
            "stages": [
                {
                    "name": "s",
                    "trainable": ["llm"],
                    "data": [{"type": "llava", "path": "x.json"}],
                    "lr": 1e-3,
                    "batch_size": 2,
                }
            ],
        },
    }
    (folder / "spec.yaml").write_text(json.dumps(spec))
    found, document = load_spec(folder / "spec.yaml")
    return sample_processor(build_on_meta(found), found, train_section(found, document))


CASES = [
    ([], "<image>\nred?", "yes"), (["red", "blue"], "<image>\nred?", "yes"), (["red"], "red?", "yes"),
    (["red"], "<image> <image>\nred?", "yes"), (["red"], "red?", "an <image>"),
]  # fmt: skip
GOOD = [
    (["red"], "<image>\nred?", "yes"),
    (["blue", "red"], "<image><image>\nsame?", "an <image> tag"),
    ([], "is it?", "no"),
]


def llava(folder, rows):
    for colour in ("red", "blue"):
        (folder / f"{colour}.png").write_bytes(png(colour))
    found = [{"image": [f"{c}.png" for c in images], "conversations": turns(*said)} for images, *said in rows]
    (folder / "x.json").write_text(json.dumps(found))
    return LlavaConfig(path=str(folder / "x.json"))


def columns(folder, rows):
    found = [{"image": [held(c) for c in images], "conversations": turns(*said)} for images, *said in rows]
    return ParquetConfig(path=str(parquet(folder / "x.parquet", found)))


def shard(folder, rows):
    members = {}
    for i, (images, *said) in enumerate(rows):
        members[f"{i}.json"] = {"conversations": turns(*said)}
        members |= {f"{i}.{k}.png": png(c) for k, c in enumerate(images)}
    return WebDatasetConfig(path=str(tar(folder / "x.tar", members)))


@pytest.mark.parametrize("write", [llava, columns, shard])
def test_rows_whose_images_and_places_differ_leave_their_neighbours_alone(tmp_path, reader, write):
    """LLaVA's own code would give the next sample's image to a row that has one too few."""
    mixed = [row for pair in zip(GOOD * 2, [*CASES, GOOD[0]], strict=True) for row in pair]
    (tmp_path / "good").mkdir()
    items = list(map(Examples(write(tmp_path, mixed).rows(), reader.read).__getitem__, range(12)))
    assert [item.reason for item in items[1:11:2]] == ["placeholders"] * 5
    assert all(isinstance(item, Example) for item in [*items[::2], items[11]])
    alone = Examples(write(tmp_path / "good", [*GOOD * 2, GOOD[0]]).rows(), reader.read)
    batch, wanted = to_micro_batch(items).batch, to_micro_batch([alone[i] for i in range(7)]).batch
    for name in ("input_ids", "image_mask", "loss_mask", "segments", "pixel_values"):
        assert torch.equal(getattr(batch, name), getattr(wanted, name)), name
    assert all(isinstance(item, DroppedSample) for item in to_micro_batch(items).dropped)
