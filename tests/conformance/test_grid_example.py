"""examples/vlm-grid: the task tells nothing without places, and its encoder none of them."""

from collections import Counter

import pytest
import torch
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.testing import DatasetSuite, EncoderSuite
from vlm_grid.plugin import GridConfig, PatchEmbeddingConfig
from vlm_grid.scenes import COLOURS, Scene


class TestGrid(DatasetSuite):
    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("pictures") / "below"
        return GridConfig(split="test", pictures=6, turns=2, folder=str(folder))

    def test_questions_in_turns(self, rows):
        assert [len(row["conversations"]) // 2 for row in rows] == [2, 1] * 6


class TestPatchEmbedding(EncoderSuite):
    config = PatchEmbeddingConfig(dim=8, patch=4, image_size=12)

    def test_a_patch_knows_itself_alone(self, encoder, pixels):
        changed = pixels.clone()
        changed[:, :, 4:8, 8:12] = 0
        differs = (encoder(pixels) != encoder(changed)).any(-1)
        assert differs.nonzero().tolist() == [[n, 1, 2] for n in range(3)]

    def test_a_patch_does_not_know_its_place(self, encoder, pixels):
        assert torch.equal(encoder(pixels.roll((4, 8), (2, 3))), encoder(pixels).roll((1, 2), (1, 2)))


def rows(split, **keys):
    return GridConfig(split=split, images=False, **keys).rows()


def pictures(rows):
    return {row["id"].rsplit("-", 1)[0].split("-", 1)[1] for row in rows}


def test_no_picture_is_in_both_splits():
    train, test = pictures(rows("train", pictures=13608)), pictures(rows("test", pictures=1512))
    assert (len(train), len(test), len(train & test)) == (13608, 1512, 0)
    assert pictures(rows("train", pictures=100)) < train
    assert pictures(rows("test", pictures=100)) != pictures(rows("test", pictures=100, seed=1))
    with pytest.raises(UserError, match="test has 1512 images, but pictures is 1513"):
        rows("test", pictures=1513)


def test_words_alone_give_a_third():
    """Every picture has each colour three times, so that neither the question nor counting tells the answer."""
    asked = rows("test", pictures=1512)
    assert {row["category"] for row in asked} == {"ring", "row", "column"}
    for category in ("ring", "row", "column"):
        said = Counter(row["conversations"][-1]["value"] for row in asked if row["category"] == category)
        assert set(said) == set(COLOURS)
        assert sum(said.values()) == 1512, "one question of each kind about each picture"
        assert max(said.values()) < 0.37 * 1512


def test_answers_are_what_is_there():
    scene = Scene(("red", "green", "blue", "red", "blue", "green", "red", "green", "blue"), 4)
    assert {question: answer for _, question, answer in scene.questions()} == {
        "color of the ring?": "blue",
        "color left of the ring?": "red",
        "color right of the ring?": "green",
        "color above the ring?": "green",
        "color below the ring?": "green",
    }
    corner = Scene(scene.colours, 0)
    assert [q for _, q, _ in corner.questions()] == [
        "color of the ring?",
        "color right of the ring?",
        "color below the ring?",
    ]


def test_the_picture_shows_the_scene(tmp_path):
    """Squares are full and the ring is hollow, each in the colour that the name says."""
    (row,) = GridConfig(split="train", pictures=1, questions=1, folder=str(tmp_path / "x")).rows()
    picture = Image.open(row["image"][0])
    assert picture.size == (48, 48)
    (name,) = pictures([row])
    digits, ring = name.split("-")
    palette = {"0": (255, 0, 0), "1": (0, 128, 0), "2": (0, 0, 255)}
    for cell, digit in enumerate(digits):
        y, x = (16 * i for i in divmod(cell, 3))
        assert picture.getpixel((x + 8, y + 3)) == palette[digit]
        assert picture.getpixel((x + 8, y + 8)) == ((0, 0, 0) if cell == int(ring) else palette[digit])


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot write the images"):
        GridConfig(split="test", pictures=1, folder=str(tmp_path / "file")).rows()


def test_patches_that_do_not_divide_the_picture():
    with pytest.raises(ValueError, match="no multiple of patch"):
        PatchEmbeddingConfig(patch=7)
