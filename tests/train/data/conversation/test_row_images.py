"""Images of a row: inside it, named by it, or members of its sample."""

import pytest
from PIL import Image
from row_writers import BLUE, NAMED, RED, URL, WRITERS, llava, messages, shard
from shards import colour, data_url, png, text, turns

from vlm_core.errors import BadSample
from vlm_core.io.images import image_bytes
from vlm_train.data.llava import LlavaConfig


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("{root}/red.png", True),
        ("file://{root}/red.png", True),
        ("images/red.png", True),
        ("own/images/red.png", True),
        ("./red.png", True),
        ("/etc/passwd", "must be a name inside"),
        ("{root}/../secret.png", "must be a name inside"),
        ("file:///etc/passwd", "must be a name inside"),
        ("file://host{root}/red.png", "must be a name inside"),
        ("https://x/y.png", "training downloads no images"),
        ("images\\red.png", "is a Windows path"),
        ("C:\\images\\red.png", "is a Windows path"),
        ("images/none.png", "image is missing"),
    ],
)
def test_names_of_images(tmp_path, name, found):
    """Absolute ones, those that begin with the folder's name, and the faults of others."""
    root = tmp_path / "own" / "images"
    root.mkdir(parents=True)
    for path in (root / "red.png", root.parent / "secret.png"):
        Image.new("RGB", (20, 30), "red").save(path)
    row = {"conversations": turns("<image>", "x"), "image": name.format(root=root)}
    rows = llava(tmp_path, row, images=str(root))
    if found is not True:
        with pytest.raises(BadSample, match=found):
            rows[0]
    else:
        assert colour(rows[0]) == RED


@pytest.mark.parametrize("write", WRITERS)
def test_an_image_inside_a_row_has_the_limits_of_a_file(folder, write, monkeypatch):
    row = write(folder, messages(URL, text("what?")))[0]
    assert image_bytes(row["image"][0]) == png("red")
    broken = {"type": "image_url", "image_url": {"url": data_url("red")[:-3] + "!"}}
    with pytest.raises(BadSample, match="the image is not valid base64"):
        image_bytes(write(folder / "broken", messages(broken))[0]["image"][0])
    monkeypatch.setattr("vlm_train.data.conversation.image_values.MAX_BYTES", 10)
    with pytest.raises(BadSample, match=r"rows\.\w+: .*image 0: \d+ bytes; at most 10 are read"):
        image_bytes(row["image"][0])


def test_a_sample_of_a_shard_takes_its_images_in_the_order_in_which_json_names_them(folder):
    row = {"conversations": turns("<image> <image>", "x"), "images": ["red.png", "blue.png"]}
    assert [colour(shard(folder, row)[0], k) for k in (0, 1)] == [RED, BLUE], (
        "members stand the other way round"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"conversations": turns("<image>", "x"), "image": "a/none.png"},
            ".json names 1 images .'a/none.png'., but the sample has 0",
        ),
        (messages({"type": "image", "image": "none.png"}), "image 'none.png' is not a member of this sample"),
    ],
)
def test_a_sample_of_a_shard_lacks_an_image(folder, row, message):
    with pytest.raises(BadSample, match=message):
        shard(folder, row)[0]


def test_an_index_that_is_kept_knows_ids_and_images_inside_rows(folder, monkeypatch):
    monkeypatch.setattr("vlm_train.data.json_files.json_index.MIN_CACHED_BYTES", 1)
    monkeypatch.setenv("VLM_CACHE", str(folder / "cache"))
    found = [
        messages(URL, text("what?"), id="a"),
        messages(NAMED, text("what?")),
        {"id": "b", "audios": ["x"]},
        messages({"type": "image", "image": "none.png"}, id="c"),
        messages(URL, NAMED, objects=[1]),
    ]
    llava(folder, *found)
    for ignore, bad in (
        ([], {2: "b", 3: "c", 4: f"{folder}/rows.json: row 4"}),
        (["objects"], {2: "b", 3: "c"}),
    ):
        for _ in range(2):
            rows = LlavaConfig(path=str(folder / "rows.json"), ignore=ignore).rows()
            assert {row: error.row for row, error in rows.faults().items()} == bad
            assert [colour(rows[i]) for i in (0, 1)] == [RED, RED]
