"""Which members make a sample, in shards as webdataset writes them and in tars as operating systems do."""

import io
import subprocess
import tarfile

import pytest
from shards import png, said, tar, turns

from vlm_core.errors import BadSample, UserError
from vlm_train.data.webdataset import WebDatasetConfig

RED = png("red")


def rows(path):
    return WebDatasetConfig(path=str(path)).rows()


def read(found):
    """(id, images by their members' names, answer) of each row that is good."""
    good = [found[i] for i in range(len(found)) if i not in found.faults()]
    names = [[image.name.split(": ")[1].split(" (")[0] for image in row["image"]] for row in good]
    return [(row["id"], image, said(row)[-1]) for row, image in zip(good, names, strict=True)]


def faults(found):
    return {error.row: str(error).partition(": ")[2] for error in found.faults().values()}


TWO = {"conversations": turns("<image><image>", "two")}
MEMBERS = [
    (
        {"f.00.png": RED, "f.00.txt": "a", "f.01.png": RED, "f.01.txt": "b"},
        [("f.00", ["f.00.png"], "a"), ("f.01", ["f.01.png"], "b")],
    ),
    (
        {"s.png": RED, "s.txt": "a", "s.v2.png": RED, "s.v2.json": {"caption": "b"}},
        [("s", ["s.png"], "a"), ("s.v2", ["s.v2.png"], "b")],
    ),
    ({"7.left.png": RED, "7.right.png": RED, "7.json": TWO}, [("7", ["7.left.png", "7.right.png"], "two")]),
    ({"7.json": TWO, "7.1.png": RED, "7.0.png": RED}, [("7", ["7.1.png", "7.0.png"], "two")]),
    (
        {"7.png": RED, "7.seg.png": RED, "7.json": TWO, "7.meta.json": {"a": 1}, "7.cls": "3"},
        [("7", ["7.png", "7.seg.png"], "two")],
    ),
    (
        {"v1.2.a.png": RED, "v1.2.b.png": RED, "v1.2.json": TWO},
        [("v1.2", ["v1.2.a.png", "v1.2.b.png"], "two")],
    ),
    (
        {"d.1/a.png": RED, "d.1/a.txt": "x", "d.txt/a.png": RED, "d.txt/a.txt": "y"},
        [("d.1/a", ["d.1/a.png"], "x"), ("d.txt/a", ["d.txt/a.png"], "y")],
    ),
    (
        {"a.png": RED, "b.png": RED, "a.txt": "x", "b.txt": "y"},
        [("a", ["a.png"], "x"), ("b", ["b.png"], "y")],
    ),
    (
        {"c.0.json": {"conversations": turns("hi", "x")}, "c.1.json": {"conversations": turns("hi", "y")}},
        [("c.0", [], "x"), ("c.1", [], "y")],
    ),
    (
        {"A.PNG": RED, "A.TXT": "x", "b.jp2": RED, "b.txt": "y", "c.tga": RED, "c.txt": "z"},
        [("A", ["A.PNG"], "x"), ("b", ["b.jp2"], "y"), ("c", ["c.tga"], "z")],
    ),
]


@pytest.mark.parametrize(("members", "expected"), MEMBERS, ids=range(len(MEMBERS)))
def test_text_names_a_sample_and_images_belong_to_the_longest_name(tmp_path, members, expected):
    found = rows(tar(tmp_path / "x.tar", members))
    assert not found.faults()
    assert read(found) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (
            {"f.00.png": RED, "f.00.txt": "a", "f.01.png": RED},
            {"f.01": "f.01: has neither .json nor .txt; it has f.01.png"},
        ),
        (
            {"a.0.png": RED, "a.1.png": RED, "a.b.txt": "x"},
            {"a.0": "has neither", "a.1": "has neither", "a.b": "a caption, but no image"},
        ),
        (
            {"a.0.png": RED, "a.1.png": RED, "a.0.npy": "x"},
            {"a": "has neither .json nor .txt; it has a.0.png, a.1.png"},
        ),
        (
            {"a.mp4": b"x", "a.json": {"conversations": turns("hi", "yo")}},
            {"a": "0 <image> or <video> in the human turns, but 0 images and 1 videos"},
        ),
        ({"a.wav": b"x", "a.png": RED, "a.txt": "x"}, {"a": "a.wav: .wav is not read"}),
        ({"a.heic": b"x", "a.txt": "x"}, {"a": "a.heic: .heic is not read"}),
        ({"a.png": RED, "a.txt": "x", "a.json": {"audios": ["b.mp3"]}}, {"a": "'audios' is not read"}),
    ],
    ids=range(7),
)
def test_what_is_no_whole_sample_is_named(tmp_path, members, expected):
    found = faults(rows(tar(tmp_path / "x.tar", members)))
    assert found.keys() == expected.keys()
    assert all(expected[key] in found[key] for key in found)


def test_a_key_that_comes_again_is_another_sample(tmp_path):
    """Shards that were put together repeat keys."""
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name, content in (("0.png", RED), ("0.txt", b"x"), ("1.png", RED), ("1.txt", b"y")) * 2:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    assert [answer for _, _, answer in read(rows(tmp_path / "x.tar"))] == ["x", "y", "x", "y"]


def test_what_macos_adds_is_passed_over(tmp_path):
    """bsdtar writes an AppleDouble file before each file; Finder leaves its own behind."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        members = {
            "./": None,
            "./.DS_Store": b"x",
            "./._a.png": b"Mac",
            "./a.png": RED,
            "./._a.txt": b"Mac",
            "./a.txt": b"x",
            "__MACOSX/._a.png": b"x",
            "__MACOSX/b.png": b"x",
            "PaxHeaders.1/a.png": b"x",
            "./Thumbs.db": b"x",
        }
        for name, content in members.items():
            info = tarfile.TarInfo(name.rstrip("/") or ".")
            info.pax_headers = {"LIBARCHIVE.xattr.com.apple.quarantine": "MDA4MQ=="}
            info.type = tarfile.REGTYPE if content else tarfile.DIRTYPE
            info.size = len(content or b"")
            file.addfile(info, io.BytesIO(content or b""))
    found = rows(path)
    assert not found.faults()
    assert read(found) == [("a", ["a.png"], "x")]


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_a_folder_packed_by_tar(tmp_path, form):
    """Members in the file system's order, `./` before each, names beyond the header's field where the format can."""
    deep = {"v7": "d" * 40, "ustar": "d" * 60 + "/" + "e" * 60}.get(form, "d" * 120)
    folder = tmp_path / "data" / deep
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"é{i}.00.png").write_bytes(RED)
        (folder / f"é{i}.00.txt").write_text(f"number {i}")
    subprocess.run(["tar", f"--format={form}", "-cf", "x.tar", "-C", "data", "."], cwd=tmp_path, check=True)
    found = rows(tmp_path / "x.tar")
    assert not found.faults(), found.faults()
    assert sorted(read(found)) == [
        (f"{deep}/é{i}.00", [f"{deep}/é{i}.00.png"], f"number {i}") for i in range(5)
    ]


def test_links_and_sparse_files_are_bad_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.png").hardlink_to(tmp_path / "a.png")
    (tmp_path / "c.png").symlink_to("a.png")
    with (tmp_path / "d.png").open("wb") as file:
        file.truncate(2**20)
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text("x")
    names = [f"{name}.{kind}" for name in "abcd" for kind in ("png", "txt")]
    subprocess.run(["tar", "--sparse", "-cf", "x.tar", *names], cwd=tmp_path, check=True)
    found = rows(tmp_path / "x.tar")
    assert [row[0] for row in read(found)] == ["a"]
    assert faults(found) == {
        "b": "b.png: a link to a.png; expected a regular file",
        "c": "c.png: a link to a.png; expected a regular file",
        "d": "d.png: a sparse file; write the tar without --sparse; expected a regular file",
    }


@pytest.mark.parametrize(("option", "kind"), [("-z", "gzip"), ("-j", "bzip2"), ("-J", "xz")])
def test_a_packed_tar_is_refused_by_the_name_of_its_packing(tmp_path, option, kind):
    (tmp_path / "a.txt").write_text("x")
    done = subprocess.run(["tar", option, "-cf", "x.tar.gz", "a.txt"], cwd=tmp_path, capture_output=True)
    if done.returncode:
        pytest.skip(f"no {kind} here")
    with pytest.raises(UserError, match=f"not an uncompressed tar but {kind}: .*decompress shards first"):
        rows(tmp_path / "x.tar.gz")


def test_text_members_of_other_systems(tmp_path):
    members = {
        "a.png": RED,
        "a.txt": b"\xef\xbb\xbfone\r\ntwo\r\n",
        "b.json": b'\xef\xbb\xbf{"question": "a", "answer": "b"}',
    }
    found = rows(tar(tmp_path / "x.tar", members))
    assert [said(row) for row in found] == [["<image>", "one\ntwo"], ["a", "b"]]


def test_a_fault_survives_the_way_to_another_process(tmp_path):
    import pickle

    found = pickle.loads(pickle.dumps(rows(tar(tmp_path / "x.tar", {"a.txt": "x"}))))
    with pytest.raises(BadSample) as caught:
        found[0]
    assert caught.value.row == "a"
