"""A split by image: no image is in both parts, and neither names nor the order of rows decide."""

import json
import pickle
import random
from unicodedata import normalize

import numpy as np
import pytest
from shards import parquet, png, tar

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import image_bytes, load_image
from vlm_core.rows import Blocks, Rows, digest_of, known_faults
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.split import SplitConfig
from vlm_train.data.split_rows import sides
from vlm_train.data.split_rows.groups import groups_of
from vlm_train.data.split_rows.subset import Subset
from vlm_train.data.webdataset import WebDatasetConfig


def colour(i):
    return (i % 256, 7 * i % 256, 50)


def row(i, *names):
    marks = "<image>" * len(names)
    turns = [{"from": "human", "value": f"{marks}what is {i}?"}, {"from": "gpt", "value": str(i)}]
    return {"id": str(i), "image": list(names), "conversations": turns}


def write(folder, rows, images):
    """`rows` as data.json, and `images` {name: colour}."""
    folder.mkdir(exist_ok=True)
    for name, value in images.items():
        (folder / name).write_bytes(png(value))
    (folder / "data.json").write_text(json.dumps(rows))
    return LlavaConfig(path=str(folder / "data.json"))


def parts(dataset, **options):
    return [SplitConfig(dataset=dataset, part=part, **options).rows() for part in ("train", "held-out")]


def contents(rows):
    return {image_bytes(image) for row in rows for image in row["image"]}


@pytest.fixture
def forty(tmp_path):
    """Two rows about each of 40 images."""
    images = {f"{i}.png": colour(i) for i in range(40)}
    return write(tmp_path / "forty", [row(i, f"{i % 40}.png") for i in range(80)], images)


def test_every_row_is_in_one_part_and_no_image_is_in_both(forty):
    train, held_out = parts(forty, held_out=0.25)
    assert sorted(int(r["id"]) for r in [*train, *held_out]) == list(range(80))
    assert not contents(train) & contents(held_out)
    assert len(contents(held_out)) * 2 == len(held_out)
    assert 4 <= len(contents(held_out)) <= 16


def test_a_copy_under_another_name_is_in_the_same_part(tmp_path):
    images = {f"{i}.png": colour(i) for i in range(30)} | {f"copy of {i}.png": colour(i) for i in range(30)}
    dataset = write(tmp_path / "x", [row(i, name) for i, name in enumerate(images)], images)
    train, held_out = parts(dataset, held_out=0.3)
    assert len(contents(train)) + len(contents(held_out)) == 30
    assert not contents(train) & contents(held_out)


def test_order_names_and_further_rows_change_nothing(tmp_path, forty):
    held_out = contents(parts(forty, held_out=0.25)[1])
    order = random.Random(1).sample(range(60), 60)
    images = {f"new {i}.png": colour(i) for i in range(60)}
    more = write(tmp_path / "more", [row(i, f"new {i}.png") for i in order], images)
    ours = {png(colour(i)) for i in range(40)}
    assert contents(parts(more, held_out=0.25)[1]) & ours == held_out


def test_the_seed_and_the_share_decide(forty):
    first, second = (contents(parts(forty, held_out=0.25, seed=seed)[1]) for seed in (0, 1))
    assert first != second
    assert first < contents(parts(forty, held_out=0.6)[1]), "a larger share holds out more, and the same"


def test_every_format_is_split_alike(tmp_path, forty):
    records = [{"image": {"bytes": png(colour(i))}, "question": f"{i}?", "answer": "x"} for i in range(40)]
    members = {}
    for i in range(40):
        members |= {f"{i:02d}.png": png(colour(i)), f"{i:02d}.txt": "a caption"}
    datasets = (
        forty,
        ParquetConfig(path=str(parquet(tmp_path / "x.parquet", records))),
        WebDatasetConfig(path=str(tar(tmp_path / "x.tar", members))),
    )
    first, second, third = (contents(parts(dataset, held_out=0.25)[1]) for dataset in datasets)
    assert first == second == third


def test_rows_that_share_one_of_several_images_are_in_one_part(tmp_path):
    images = {f"{i}.png": colour(i) for i in range(21)}
    chain = [row(i, f"{i}.png", f"{i + 1}.png") for i in range(20) if i % 5 != 4]
    train, held_out = parts(write(tmp_path / "x", chain, images), held_out=0.5)
    assert len(train)
    assert len(held_out)
    assert not contents(train) & contents(held_out)


def test_rows_without_images_are_split_by_their_first_question(tmp_path):
    rows = [row(i) for i in range(20)] + [row(i) for i in range(20)]
    train, held_out = parts(write(tmp_path / "x", rows, {}), held_out=0.3)
    questions = [{r["conversations"][0]["value"] for r in part} for part in (train, held_out)]
    assert len(train) + len(held_out) == 40
    assert not questions[0] & questions[1]


def test_a_question_is_the_same_in_either_form_of_its_accents(tmp_path):
    """macOS writes an accent as a character of its own: the same question must not be in both parts."""
    questions = [f"O\u00f9 est le caf\u00e9 {i} ?" for i in range(20)]
    turns = [
        [{"from": "human", "value": normalize(form, q)}, {"from": "gpt", "value": "l\u00e0"}]
        for form in ("NFC", "NFD")
        for q in questions
    ]
    rows = [{"id": str(i), "conversations": one} for i, one in enumerate(turns)]
    sides = [
        {normalize("NFC", r["conversations"][0]["value"]) for r in part}
        for part in parts(write(tmp_path / "x", rows, {}), held_out=0.3)
    ]
    assert not sides[0] & sides[1]


def test_a_bad_row_is_not_held_out(tmp_path):
    images = {f"{i}.png": colour(i) for i in range(10)}
    rows = [row(i, f"{i}.png") for i in range(12)]
    dataset = write(tmp_path / "x", rows, images)
    (tmp_path / "x" / "10.png").write_bytes(b"no image")
    train, held_out = parts(dataset, held_out=0.9)
    assert train[len(train) - 2]["id"] == "10", "the damaged image"
    assert [(i, fault.reason) for i, fault in known_faults(train).items()] == [(len(train) - 1, "missing")]
    assert train.missing() == dataset.rows().missing() != []
    assert held_out.missing() == []
    with pytest.raises(BadSample):
        train[len(train) - 1]
    assert 5 <= len(held_out) <= 10
    assert all(load_image(image) for row in held_out for image in row["image"])


def test_two_images_are_the_fewest(tmp_path):
    two = write(tmp_path / "two", [row(0, "a.png"), row(1, "b.png")], {"a.png": "red", "b.png": "blue"})
    assert [len(part) for part in parts(two, held_out=0.01)] == [1, 1]
    one = write(tmp_path / "one", [row(0, "a.png"), row(1, "b.png")], {"a.png": "red", "b.png": "red"})
    with pytest.raises(UserError, match=r"data\.json: .* fewer than two different images"):
        parts(one)


def test_a_large_dataset_is_split_once(forty, monkeypatch, tmp_path):
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    expected = [r["id"] for r in parts(forty)[1]]
    monkeypatch.setattr(sides, "MIN_CACHED_ROWS", 10)
    assert [r["id"] for r in parts(forty)[1]] == expected
    monkeypatch.setattr(sides, "row_keys", lambda rows: pytest.fail("split again"))
    train, held_out = parts(forty)
    assert [r["id"] for r in held_out] == expected
    assert [r["id"] for r in pickle.loads(pickle.dumps(train))] == [r["id"] for r in train]


def test_the_digests_of_the_parts_differ(forty):
    train, held_out = parts(forty)
    assert len({digest_of(rows) for rows in (train, held_out, forty.rows())}) == 3
    assert digest_of(parts(forty)[0]) == digest_of(train)


class Blocked(Rows):
    def __len__(self):
        return 7

    def row(self, index):
        return {"id": str(index)}

    def sizes(self):
        return np.stack([np.arange(7), np.ones(7, int), np.zeros(7, int)], axis=1)

    def blocks(self):
        return Blocks(np.array([3, 2, 2]), 1)


def test_blocks_and_sizes_are_those_of_the_selected_rows():
    subset = Subset(Blocked(), np.array([1, 0, 1, 0, 0, 0, 1], dtype=bool))
    blocks = subset.blocks()
    assert blocks is not None
    assert blocks.sizes.tolist() == [2, 1]
    assert subset.sizes().tolist() == [[0, 1, 0], [2, 1, 0], [6, 1, 0]]


def test_groups_are_connected_rows():
    keys = [["b"], ["c", "d"], None, ["a", "b"], ["d", "e"], ["f", "f"], ["e", "a"], ["g"]]
    assert groups_of(keys) == {"a": [0, 1, 3, 4, 6], "f": [5], "g": [7]}
