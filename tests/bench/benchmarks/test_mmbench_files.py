"""MMBench's TSV: images stay in the file, scoring needs none, and what the protocol doesn't know is said."""

import base64
import gzip
import os
import tracemalloc
from pathlib import Path

import pytest
from commands import FAST, Out, answers, refused, scored
from layout import MMBENCH, png

from vlm_bench import benchmarks
from vlm_core.benchmark import EncodedImageInFile
from vlm_core.errors import UserError

SAID = {7: "A", 1_000_007: "B", 8: "B", 9: "A"}


@pytest.fixture
def tsv(data: Path) -> Path:
    return data / "mmbench/mmbench_dev_20230712.tsv"


def column(path: Path, name: str, *, drop: bool) -> None:
    """Drop a column, or empty its cells."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    at = rows[0].index(name)
    kept = [
        [*row[:at], *([] if drop else [row[at] if n == 0 else ""]), *row[at + 1 :]]
        for n, row in enumerate(rows)
    ]
    path.write_text("\n".join("\t".join(row) for row in kept) + "\n")


@pytest.mark.parametrize("drop", [True, False])
def test_scoring_needs_no_images(
    drop: bool, tsv: Path, tiny_folder: Path, tmp_path: Path, capsys: Out
) -> None:
    flags = ["--answers", answers(tmp_path, SAID)]
    straight = scored(capsys, "score", "mmbench", "--questions", tsv, *flags)
    column(tsv, "image", drop=drop)
    bare = scored(capsys, "score", "mmbench", "--questions", tsv, *flags)
    assert (bare["rows"], bare["score"]) == (straight["rows"], straight["score"])
    run = ["run", tiny_folder, "--benchmarks", "mmbench", "--set", f"mmbench.questions={tsv}", *FAST]
    err = refused(capsys, *run, "--out", tmp_path / "out")
    assert "mmbench: 4 of 4 images are not there, 4 of 4 questions are about them" in err
    assert f"{tsv}: no image at index 7" in err


def test_memory_does_not_grow_with_images(tmp_path: Path) -> None:
    """Rows of 400 kB: what is held is one row and the index."""
    path, count = tmp_path / "big.tsv", 40
    with path.open("w") as file:
        file.write("\t".join(MMBENCH) + "\n")
        for n in range(count):
            image = base64.b64encode(os.urandom(300_000)).decode()
            file.write(
                "\t".join([str(n), "Q?", "", "a", "b", "", "", "A", "c", image, "w", "p", "", "dev"]) + "\n"
            )
    row = path.stat().st_size / count
    tracemalloc.start()
    benchmark = benchmarks.MMBenchConfig(questions=path).build()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * row < path.stat().st_size / 3  # a csv reader holds a cell as four bytes a character
    image = benchmark.questions["39"].image
    assert isinstance(image, EncodedImageInFile)
    assert image.length == len(image.text) == 400_000


def test_images_of_packed_and_converted_files(tsv: Path) -> None:
    content = tsv.read_bytes()
    forms = [b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"), gzip.compress(content)]
    straight = benchmarks.MMBenchConfig(questions=tsv).build()
    for form in forms:
        tsv.write_bytes(form)
        again = benchmarks.MMBenchConfig(questions=tsv).build()
        assert dict(again.questions) == dict(straight.questions)
        image = again.questions["1000007"].image
        assert isinstance(image, EncodedImageInFile)
        assert image.read() == png()


def test_a_file_that_changes_under_a_run(tsv: Path) -> None:
    image = benchmarks.MMBenchConfig(questions=tsv).build().questions["8"].image
    assert isinstance(image, EncodedImageInFile)
    tsv.write_text(tsv.read_text().replace("What", "Whatever"))
    with pytest.raises(UserError, match="has changed since it was read"):
        image.read()
    tsv.unlink()
    with pytest.raises(UserError, match="cannot read this file"):
        image.read()


def test_line_ends_in_cells(tsv: Path) -> None:
    """A converted file asks the same; a line end inside a cell of one that was not converted stays."""
    text = tsv.read_text().replace('What ""is""', "What\nis")
    tsv.write_bytes(text.encode())
    prompt = benchmarks.MMBenchConfig(questions=tsv).build().questions["7"].prompt
    assert prompt.startswith("What\nis it?\nA. red")
    tsv.write_bytes(text.replace("\n", "\r\n").encode())
    assert benchmarks.MMBenchConfig(questions=tsv).build().questions["7"].prompt == prompt


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hint", "Hint", "unknown column 'Hint'; did you mean 'hint'?"),
        ("l2-category", "l2_category", "unknown column 'l2_category'; did you mean 'l2-category'?"),
        ("\tanswer", "\treply", "no column 'answer'; is this the test file?"),
        ("comment", "hint", "the column 'hint' appears twice"),
        ("1000007", "2000007", "1 of 3 questions lack a rotation, first index 7"),
        (
            "\t7\tweb",
            "\tseven\tweb",
            "the image is 'seven', expected base64 text or the index of another row",
        ),
        ("\t7\tweb", "\t1000007\tweb", "its image is that of row 1000007, which has none of its own"),
    ],
)
def test_faulty_files(old: str, new: str, message: str, tsv: Path, tmp_path: Path, capsys: Out) -> None:
    tsv.write_text(tsv.read_text().replace(old, new, 1))
    flags = ["--questions", tsv, "--answers", answers(tmp_path, SAID)]
    assert message in refused(capsys, "score", "mmbench", *flags)


def test_what_the_protocol_does_not_know(tsv: Path, tmp_path: Path, capsys: Out) -> None:
    text = (
        tsv.read_text()
        .replace("\tdev\n", "\ttest\n", 1)
        .replace("comment", "E")
        .replace("perception\t\t", "p\tx\t", 2)
    )
    tsv.write_text(text)
    flags = ["--questions", tsv, "--answers", answers(tmp_path, SAID)]
    assert scored(capsys, "score", "mmbench", *flags)["warnings"] == [
        '1 of 4 rows with an option such as "None", which ends their options',
        "2 of 4 rows with an option E, which is not asked",
        "1 of 4 rows of split 'test', where 'dev' is expected",
        "columns that are not known here: E",
    ]
