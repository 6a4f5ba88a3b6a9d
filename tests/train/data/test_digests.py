"""Digests of datasets: the same for equal content under any name, another for any other content."""

import json
import os
import shutil

import pytest
from PIL import Image
from shards import held, parquet, tar

from vlm_core.io import digests
from vlm_core.rows import Rows, digest_of
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.webdataset import WebDatasetConfig

COLOURS = ("red", "green", "blue", "black")


def turns(answer):
    return [{"from": "human", "value": "<image>\nwhat color?"}, {"from": "gpt", "value": answer}]


def llava(folder, colours, answers):
    folder.mkdir(parents=True)
    for i, colour in enumerate(colours):
        Image.new("RGB", (20, 30), colour).save(folder / f"{i}.bmp")  # all of one size
    given = [{"image": f"{i}.bmp", "conversations": turns(a)} for i, a in enumerate(answers)]
    (folder / "data.json").write_text(json.dumps(given))
    return LlavaConfig(path=str(folder / "data.json"))


def parquets(folder, colours, answers):
    given = [
        {"image": held(c), "question": "what color?", "answer": a}
        for c, a in zip(colours, answers, strict=True)
    ]
    parquet(folder / "0.parquet", given[:2])
    parquet(folder / "1.parquet", given[2:])
    return ParquetConfig(path=str(folder))


def named(folder, colours, answers):
    """A parquet file whose images are files."""
    llava(folder, colours, answers)
    parquet(
        folder / "0.parquet",
        [{"image": f"{i}.bmp", "question": "?", "answer": a} for i, a in enumerate(answers)],
    )
    return ParquetConfig(path=str(folder / "0.parquet"))


def tars(folder, colours, answers):
    members = {}
    for i, (colour, answer) in enumerate(zip(colours, answers, strict=True)):
        members |= {f"{i}.png": held(colour)["bytes"], f"{i}.json": {"conversations": turns(answer)}}
    tar(folder / "0.tar", members)
    return WebDatasetConfig(path=str(folder))


class Third(Rows):
    """A third party's rows, which say nothing about a digest."""

    def __init__(self, config):
        self.inner = config.rows()

    def __len__(self):
        return len(self.inner)

    def row(self, index):
        return {**self.inner[index], "id": str(index)}


class AsRows:
    def __init__(self, config, kind):
        self.config, self.kind = config, kind

    def rows(self):
        return self.kind(self.config)


def third(folder, colours, answers):
    return AsRows(llava(folder, colours, answers), Third)


def plain(folder, colours, answers):
    """A list of rows."""
    return AsRows(llava(folder, colours, answers), lambda config: list(Third(config)))


@pytest.fixture(params=[llava, parquets, named, tars, third, plain], ids=lambda f: f.__name__)
def make(request):
    return request.param


@pytest.fixture(params=["small", "large"])
def limit(request, monkeypatch):
    if request.param == "large":
        monkeypatch.setattr(digests, "WHOLE_BYTES", 0)


def test_a_digest_is_of_the_content(tmp_path, make, limit):
    first = digest_of(make(tmp_path / "a", COLOURS, COLOURS).rows())
    again = make(tmp_path / "elsewhere" / "b", COLOURS, COLOURS)
    for folder, _, files in os.walk(tmp_path / "elsewhere"):
        for file in files:
            os.utime(os.path.join(folder, file), (1, 1))
    assert digest_of(again.rows()) == first
    others = {
        "answer": (COLOURS, ("red", "green", "blue", "teal!")),
        "picture": (("red", "green", "black", "black"), COLOURS),
        "order": (COLOURS[::-1], COLOURS[::-1]),
    }
    found = {name: digest_of(make(tmp_path / name, *given).rows()) for name, given in others.items()}
    if make is named and digests.WHOLE_BYTES == 0:
        del found[
            "picture"
        ]  # docs/data.md says so: pictures that a large parquet dataset names are not looked at
    assert len({first, *found.values()}) == len(found) + 1


def test_a_picture_that_is_missing_is_other_content(tmp_path):
    config = llava(tmp_path / "a", COLOURS, COLOURS)
    first = digest_of(config.rows())
    (tmp_path / "a" / "0.bmp").unlink()
    assert digest_of(config.rows()) != first


def ignoring(kind, folder, *ignore):
    """Four rows, read without what `ignore` names."""
    config = kind(folder, COLOURS, COLOURS)
    if kind is parquets:
        given = [{"images": [held(c)], "hint": "a colour", "question": "?", "answer": c} for c in COLOURS]
        parquet(folder / "0.parquet", given[:2])
        parquet(folder / "1.parquet", given[2:])
    return config.model_copy(update={"ignore": list(ignore)})


@pytest.mark.parametrize("kind", [llava, parquets, tars])
def test_what_is_left_out_on_purpose_makes_other_content(tmp_path, kind, limit):
    """With `ignore`, a row lacks its images, or is good that was bad before: the same files give other rows."""
    given = ([], ["hint"], ["images"], ["hint", "images"])
    found = [digest_of(ignoring(kind, tmp_path / str(i), *ignore).rows()) for i, ignore in enumerate(given)]
    assert len(set(found)) == len(given)
    again = digest_of(ignoring(kind, tmp_path / "again", "images", "hint").rows())
    assert again == found[-1], "in any order"


def test_many_pictures_are_known_by_size_and_a_sample(tmp_path, monkeypatch):
    config = llava(tmp_path / "a", COLOURS, COLOURS)
    monkeypatch.setattr(digests, "WHOLE_BYTES", 0)
    monkeypatch.setattr(digests, "SAMPLED", 2)
    first = digest_of(config.rows())
    shutil.copy(tmp_path / "a" / "0.bmp", tmp_path / "a" / "1.bmp")
    assert digest_of(config.rows()) == first, "the second of four is not among two"
    Image.new("RGB", (9, 9)).save(tmp_path / "a" / "1.bmp")
    assert digest_of(config.rows()) != first


def test_a_folder_of_weights_is_known_by_what_matters(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"x")
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "b" / "README.md").write_text("changed")
    assert digests.of_files(tmp_path / "a") == digests.of_files(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert digests.of_files(tmp_path / "a") != digests.of_files(tmp_path / "b")
