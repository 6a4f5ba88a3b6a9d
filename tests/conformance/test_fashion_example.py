"""examples/vlm-fashion, on four small files in Fashion-MNIST's format; no download."""

import gzip
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.testing import DatasetSuite
from vlm_fashion.idx_files import LABELS
from vlm_fashion.plugin import FashionGridConfig
from vlm_fashion.scenes import CLASSES


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes, compressed."""
    sizes = np.array([0x800 + array.ndim, *array.shape], ">u4")
    return gzip.compress(sizes.tobytes() + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Forty items of each split; the pixels of item i are all i in `train` and 80 + i in `test`."""
    folder = tmp_path_factory.mktemp("fashion")
    for prefix, first in (("train", 0), ("t10k", 80)):
        pixels = np.repeat(np.arange(first, first + 40), 28 * 28).reshape(40, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(pixels))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(40) % 10))
    return folder


@pytest.fixture
def config(files, tmp_path):
    """`config(**keys)`: over these files, with images in a folder of the test's own."""

    def make(**keys):
        defaults = {"split": "train", "pictures": 8, "path": str(files), "folder": str(tmp_path / "pictures")}
        return FashionGridConfig(**(defaults | keys))

    return make


class TestFashionGrid(DatasetSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def dataset_config(cls, files, tmp_path_factory):
        folder = tmp_path_factory.mktemp("pictures") / "below"
        return FashionGridConfig(split="test", pictures=6, turns=2, path=str(files), folder=str(folder))


def cells(path, first) -> tuple[np.ndarray, int]:
    """Item numbers of a drawn image's cells, (9,), and the inverted cell. Items are numbered from `first`."""
    pixels = np.array(Image.open(path))
    assert pixels.shape == (84, 84)
    grid = pixels.reshape(3, 28, 3, 28)
    assert (grid == grid[:, :1, :, :1]).all()
    values = grid[:, 0, :, 0].astype(int).flatten() - first
    ((white,),) = ((values < 0) | (values >= 40)).nonzero()
    values[white] = 255 - (values[white] + first) - first
    return values, int(white)


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("test", 80)])
def test_answers_are_what_the_image_shows_and_items_are_the_splits_own(config, split, first):
    asked = Counter()
    moves = {"on": 0, "left": -1, "right": 1, "above": -3, "below": 3}
    for row in config(split=split, questions=5).rows():
        shown, white = cells(row["image"][0], first)
        assert ((shown >= 0) & (shown < 40)).all()
        question, answer = (turn["value"].removeprefix("<image>\n") for turn in row["conversations"])
        where = question.split()[1]
        assert LABELS[shown[white + moves[where]] % 10] == answer
        assert row["category"] == {0: "white", 1: "row", 3: "column"}[abs(moves[where])]
        assert where not in ("left", "right") or (white + moves[where]) // 3 == white // 3
        asked[question] += 1
    assert len(asked) == 5, "every question is asked"


def test_words_alone_give_a_third(config):
    answers = Counter(row["conversations"][-1]["value"] for row in config(pictures=3000, images=False).rows())
    assert set(answers) == set(CLASSES)
    assert max(answers.values()) < 0.36 * sum(answers.values())


def test_text_alone_needs_no_files(config, tmp_path):
    """A tokenizer is built from it, also where Fashion-MNIST is not installed."""
    texts = [
        [row["conversations"] for row in config(path=path, images=False, turns=3).rows()]
        for path in (str(tmp_path / "none"), config().path)
    ]
    assert texts[0] == texts[1]
    assert not any("<image>" in turn["value"] for turns in texts[0] for turn in turns)


def test_turns_of_one_conversation(config):
    rows = config(turns=2).rows()
    assert [len(row["conversations"]) for row in rows] == [4, 2] * 8
    assert [row["conversations"][0]["value"].count("<image>") for row in rows] == [1] * 16
    assert {row["category"] for row in config(questions=1, pictures=40, images=False).rows()} == {
        "white",
        "row",
        "column",
    }


def test_other_files_or_seeds_are_other_pictures(config):
    """A drawn image is named by its content, so that a folder serves several configs."""
    first, other = ({row["image"][0] for row in config(seed=seed).rows()} for seed in (0, 1))
    assert len(first) == len(other) == 8
    assert not first & other


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "no such file; install Debian's package dataset-fashion-mnist"),
        ("train-labels-idx1-ubyte.gz", b"no gzip", "not a gzip file"),
        ("train-labels-idx1-ubyte.gz", idx(np.arange(40) % 10)[:-9], "is cut off"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"12", mtime=0), "not an IDX file of unsigned bytes"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros((4, 4))), "not an IDX file of unsigned bytes"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros(40)), "has no item of class trouser"),
        ("train-labels-idx1-ubyte.gz", idx(np.arange(90) % 10), "has 90 labels, but 40 images"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((40, 27, 28))), "items of shape"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(np.array([0x803, 40, 28, 28], ">u4").tobytes() + b"1234", mtime=0),
            "has 4 bytes after its header, which promises 40 items",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files(files, config, tmp_path, name, content, message):
    """One line that names the file and what is wrong with it."""
    if name:
        for path in files.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes() if path.name != name else content)
    with pytest.raises(UserError, match=message):
        config(path=str(tmp_path), questions=4, pictures=40).rows()


def test_a_folder_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot write the images"):
        config(folder=str(tmp_path / "file")).rows()
