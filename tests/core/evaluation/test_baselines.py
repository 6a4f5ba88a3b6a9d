"""Questions of baselines: without the image, and about an image with other pixels."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vlm_core.benchmark import Question
from vlm_core.errors import UserError
from vlm_core.evaluation.baselines import QuestionAlone, ShuffledImages, other_image
from vlm_core.io.images import image_content

COLORS = ("red", "green", "blue", "teal", "gold", "navy", "pink")


def questions(folder: Path, colors: tuple[str, ...] = COLORS) -> dict[str, Question]:
    """Two questions about each image, and one without an image."""
    asked = [Question("text", "Why?")]
    for n, color in enumerate(colors):
        path = folder / f"{n}.png"
        Image.new("RGB", (6, 4), color).save(path)
        asked += [Question(f"{n}{letter}", f"{letter}?", path) for letter in "ab"]
    return {question.id: question for question in asked}


def test_other_image_is_half_a_list_further() -> None:
    order = "aabcd"
    assert [other_image(order, place, str.__ne__) for place in range(5)] == ["b", "c", "d", "a", "a"]
    assert other_image("aaa", 1, str.__ne__) is None


def test_the_same_prompt_without_an_image(tmp_path: Path) -> None:
    own = questions(tmp_path)
    alone = QuestionAlone(own)
    assert list(alone) == [key for key in own if key != "text"]
    assert "text" not in alone
    for key, question in alone.items():
        assert (question.id, question.prompt, question.image) == (key, own[key].prompt, None)


def test_each_image_replaces_one_other(tmp_path: Path) -> None:
    own = questions(tmp_path)
    shuffled = ShuffledImages(own)
    for key, question in shuffled.items():
        assert question.prompt == own[key].prompt
        assert isinstance(question.image, Path)
        assert question.image != own[key].image
        assert question.image == shuffled[key[0] + "a"].image, "questions about one image stay together"
    assert Counter(question.image for question in shuffled.values()) == {
        own[f"{n}a"].image: 2 for n in range(7)
    }


def test_the_pairs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    own = questions(tmp_path)
    pairs = {seed: dict(ShuffledImages(own, seed)) for seed in (0, 1)}
    assert dict(ShuffledImages(dict(reversed(own.items())), 0)) == pairs[0]
    assert pairs[1] != pairs[0]
    sample = ShuffledImages(own, 0)
    assert sample["3a"] == pairs[0]["3a"], "read alone, a question has the same image"


def test_copies_of_an_image_do_not_replace_each_other(tmp_path: Path) -> None:
    """Another name, format and orientation tag, the same pixels."""
    own = questions(tmp_path, ("red", "red", "red", "red", "blue"))
    for n, suffix in ((1, "bmp"), (2, "webp")):
        path = tmp_path / f"{n}.{suffix}"
        Image.new("RGB", (6, 4), "red").save(path, **({"lossless": True} if suffix == "webp" else {}))
        for letter in "ab":
            own[f"{n}{letter}"] = Question(f"{n}{letter}", "?", path)
    for key, question in ShuffledImages(own).items():
        image = own[key].image
        assert isinstance(image, Path)
        assert isinstance(question.image, Path)
        assert image_content(question.image) != image_content(image)


def test_missing_and_damaged_images_replace_none(tmp_path: Path) -> None:
    own = questions(tmp_path)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no image")
    others = {question.image for question in ShuffledImages(own).values()}
    assert others == {tmp_path / f"{n}.png" for n in range(2, 7)}


@pytest.mark.parametrize(
    ("colors", "reason"),
    [
        (("red",), "about 1 image: all"),
        (("red", "red"), "about 2 images: all that can be read have the same"),
    ],
)
def test_one_image_cannot_be_shuffled(tmp_path: Path, colors: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        ShuffledImages(questions(tmp_path, colors))


def test_without_readable_images(tmp_path: Path) -> None:
    own = questions(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="about 7 images: none of them can be read"):
        ShuffledImages(own)
