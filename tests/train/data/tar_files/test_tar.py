"""webdataset shards: read by place, never extracted; what is broken or hostile is named, and the rest is read."""

import io
import json
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
from shards import colour, png, said, tar, turns

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import image_name, load_image
from vlm_train.data.json_files import json_index
from vlm_train.data.tar_files import tar_index
from vlm_train.data.webdataset import WebDatasetConfig

OPENED: list[str] = []
RUN: list[str] = []


def _watch(event, args):
    if event == "open":
        OPENED.append(str(args[0]))
    elif event in ("subprocess.Popen", "os.system", "os.exec", "pickle.find_class"):
        RUN.append(event)


sys.addaudithook(_watch)
CAT = {"conversations": turns("<image>\nwhat?", "a cat")}


def rows(path, **keys):
    return WebDatasetConfig(path=str(path), **keys).rows()


def test_samples_of_every_kind(tmp_path):
    tar(
        tmp_path / "a-000.tar",
        {
            "000.jpg": png("red"),
            "000.txt": " a red field\n",
            "x/001.json": CAT,
            "x/001.png": png("blue"),
            "002.0.png": png("red"),
            "002.1.PNG": png("blue"),
            "002.json": {
                "id": 7,
                "messages": [{"role": "user", "content": "two?"}, {"role": "assistant", "content": "2"}],
            },
            "003.json": {"conversations": turns("hi", "yo"), "category": "text"},
            "004.cls": "3",
            "004.npy": b"x",
            "README": "no sample",
        },
    )
    meta = {"caption": "of the json", "url": "u", "width": 3}
    tar(
        tmp_path / "a-001.tar",
        {
            "005.jpg": png("red"),
            "005.json": {"url": "u", "width": 3},
            "005.txt": "of the text",
            "006.jpg": png("teal"),
            "006.json": meta,
            "006.txt": "of the text",
        },
    )
    found = rows(tmp_path / "a-{000..001}.tar")
    assert [said(row) for row in found] == [
        ["<image>", "a red field"], ["<image>\nwhat?", "a cat"], ["<image>\n<image>\ntwo?", "2"], ["hi", "yo"],
        ["<image>", "of the text"], ["<image>", "of the json"],
    ]  # fmt: skip
    assert [row["id"] for row in found] == ["000", "x/001", "7", "003", "005", "006"]
    assert [colour(found[2], k) for k in (0, 1)] == [(255, 0, 0), (0, 0, 255)]
    assert found.sizes().tolist() == [[sum(map(len, said(row))), len(row["image"]), 0] for row in list(found)]
    assert image_name(found[0]["image"][0]) == f"{tmp_path}/a-000.tar: 000.jpg (byte 512)"
    assert not found.faults()
    renamed = rows(tmp_path / "a-001.tar", columns={"caption": "url"})
    assert said(renamed[0])[1] == "u", "columns that are asked for are not passed over"


@pytest.mark.parametrize(
    ("members", "reason", "message"),
    [
        ({"b.jpg": png("red")}, "schema", "has neither .json nor .txt"),
        ({"b.txt": "alone"}, "placeholders", "a caption, but no image"),
        ({"b.json": CAT}, "placeholders", "1 <image> in the human turns, but 0 images"),
        (
            {"b.json": {**CAT, "conversations": turns("no mark", "x")}, "b.txt": "text", "b.jpg": png("red")},
            "placeholders",
            "0 <image>",
        ),
        ({"b.json": b"{", "b.jpg": png("red"), "b.txt": "text"}, "json", "not valid JSON"),
        ({"b.json": b"[1]", "b.jpg": png("red")}, "schema", "expected a mapping"),
        ({"b.json": {"url": "u"}, "b.jpg": png("red")}, "schema", "no column holds a conversation"),
        ({"b.txt": b"\xff\xfe", "b.jpg": png("red")}, "schema", "not UTF-8 text"),
    ],
)
def test_bad_samples_are_known_before_training(tmp_path, members, reason, message):
    good = {"a.jpg": png("red"), "a.txt": "good", "c.jpg": png("red"), "c.txt": "good"}
    items = list(good.items())
    found = rows(tar(tmp_path / "x.tar", {**dict(items[:2]), **members, **dict(items[2:])}))
    assert {row: error.reason for row, error in found.faults().items()} == {1: reason}
    with pytest.raises(BadSample, match=rf"x\.tar: b.*{message}"):
        found[1]
    assert [said(found[i])[1] for i in (0, 2)] == ["good", "good"]


def write(path, *infos):
    """A tar of raw TarInfos (name, type, content, link)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name, kind, content, link in infos:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), link
            file.addfile(info, io.BytesIO(content))
    return path


class Canary:
    def __reduce__(self):
        return os.system, ("touch canary",)


def test_hostile_members_are_harmless(tmp_path, monkeypatch):
    """Names that climb, links, FIFOs and devices, pickles: nothing is opened but the tar, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    regular, canary = tarfile.REGTYPE, pickle.dumps(Canary())
    path = write(
        tmp_path / "x.tar",
        ("../../etc/a.jpg", regular, png("red"), ""),
        ("../../etc/a.txt", regular, b"climbs", ""),
        ("/etc/b.jpg", regular, png("red"), ""),
        ("/etc/b.txt", regular, b"absolute", ""),
        ("c.jpg", tarfile.SYMTYPE, b"", "/etc/passwd"),
        ("c.txt", regular, b"link", ""),
        ("d.jpg", tarfile.LNKTYPE, b"", "/etc/passwd"),
        ("d.txt", regular, b"hard link", ""),
        ("e.jpg", tarfile.FIFOTYPE, b"", ""),
        ("e.txt", regular, b"fifo", ""),
        ("f.jpg", tarfile.CHRTYPE, b"", ""),
        ("f.txt", regular, b"device", ""),
        ("g.jpg", regular, png("red"), ""),
        ("g.pyd", regular, canary, ""),
        ("g.pickle", regular, canary, ""),
        ("g.pkl", regular, canary, ""),
        ("g.pth", regular, canary, ""),
        ("g.txt", regular, b"pickles", ""),
        ("h\n\x1b[31m.jpg", regular, png("red"), ""),
        ("h\n\x1b[31m.txt", regular, b"colours", ""),
        ("i.jpg", regular, png("red"), ""),
        ("i.jpg", regular, png("red"), ""),
        ("i.txt", regular, b"twice", ""),
    )
    OPENED.clear()
    RUN.clear()
    found = rows(path)
    good = [i for i in range(len(found)) if i not in found.faults()]
    read = [(found[i]["id"], said(found[i])[1], colour(found[i])) for i in good]
    assert read == [
        ("../../etc/a", "climbs", (255, 0, 0)), ("/etc/b", "absolute", (255, 0, 0)),
        ("g", "pickles", (255, 0, 0)), (r"h\n\x1b[31m", "colours", (255, 0, 0)),
    ]  # fmt: skip
    assert [error.reason for error in found.faults().values()] == ["not-a-file"] * 4 + ["schema"]
    assert {name for name in OPENED if not name.isdigit()} == {str(path)}
    assert not RUN
    assert sorted(os.listdir(tmp_path)) == ["x.tar"]


@pytest.mark.parametrize("name", ["pipe:touch canary", "https://x/y.tar", "s3://x/y.tar"])
def test_commands_and_urls_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    RUN.clear()
    with pytest.raises(UserError, match="shards must be local files"):
        rows(name)
    assert not RUN
    assert not os.listdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Ten samples of two members, and the byte at which each member's header begins."""
    members = {}
    for i in range(10):
        members |= {f"{i:03d}.jpg": png("red"), f"{i:03d}.txt": f"number {i}"}
    path = tar(tmp_path_factory.mktemp("whole") / "x.tar", members)
    with tarfile.open(path) as file:
        return path.read_bytes(), [member.offset for member in file]


@pytest.mark.parametrize(
    ("cut", "whole_samples"),
    [
        (lambda at: at[10], 4),
        (lambda at: at[10] + 100, 4),
        (lambda at: at[10] + 600, 4),
        (lambda at: at[11], 5),
        (lambda at: at[11] + 514, 5),
        (lambda at: at[1] + 515, 0),
    ],
)
def test_a_truncated_tar_is_named_and_what_is_whole_is_read(tmp_path, whole, cut, whole_samples):
    """The sample before the break is not whole for sure: a further member of it may be what is missing."""
    data, at = whole
    (tmp_path / "x.tar").write_bytes(data[: cut(at)])
    found = rows(tmp_path / "x.tar")
    assert len(found) == whole_samples + 1
    assert [said(found[i])[1] for i in range(whole_samples)] == [f"number {i}" for i in range(whole_samples)]
    ((row, fault),) = found.faults().items()
    assert (row, fault.reason) == (whole_samples, "truncated")
    assert "x.tar: " in str(fault)
    assert f"after {whole_samples} complete samples" in str(fault)


@pytest.mark.parametrize("at", [0, 7])
def test_garbage_inside_a_tar_is_no_end(tmp_path, whole, at):
    """tarfile would stop there in silence; sizes that lie are found as well."""
    data, places = bytearray(whole[0]), whole[1]
    data[places[10] + at : places[10] + at + 300] = b"\xfe" * 300
    (tmp_path / "x.tar").write_bytes(data)
    assert [error.reason for error in rows(tmp_path / "x.tar").faults().values()] == ["truncated"]


def test_a_size_beyond_the_file_is_not_allocated(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.size = 2**60
    head = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(head + b"x" * 2048)
    assert [e.reason for e in rows(tmp_path / "x.tar").faults().values()] == ["truncated"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an uncompressed tar"),
        (b"x" * 5000, "not an uncompressed tar"),
        (bytes(10240), "has no samples"),
        (b"\x1f\x8b" + b"x" * 5000, "decompress shards first"),
        (None, "no such .tar file"),
    ],
)
def test_what_is_no_shard(tmp_path, data, message):
    if data is not None:
        (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(UserError, match=message):
        rows(tmp_path / "x.tar")


def test_the_index_of_large_shards_is_kept_and_mapped(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(json_index, "MIN_CACHED_BYTES", 1)
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    build, calls = tar_index._build, []
    monkeypatch.setattr(tar_index, "_build", lambda *a: calls.append(a) or build(*a))
    path = tmp_path / "x.tar"
    path.write_bytes(whole[0])
    found, again = rows(path), rows(path)
    assert len(calls) == 1
    assert isinstance(again.table, np.memmap)
    assert list(found) == list(again)
    copy = pickle.loads(pickle.dumps(again))
    assert isinstance(copy.table, np.memmap)
    assert len(pickle.dumps(again)) < 1500, "a worker maps the index, too"
    assert list(copy) == list(found)
    assert load_image(pickle.loads(pickle.dumps(copy[3]["image"][0]))).size == (20, 30)
    rows(path, columns={"caption": "text"})
    assert len(calls) == 2, "other columns are another index"
    path.write_bytes(whole[0] + bytes(512))
    with pytest.raises(UserError, match="changed since this run began"):
        found[0]
    rows(path)
    assert len(calls) == 3


def test_json_lists_of_turns_keep_their_escapes(tmp_path):
    text = "a \\u00e4 <image> 雪"
    row = {"conversations": turns("say", json.loads(f'"{text}"'))}
    assert said(rows(tar(tmp_path / "x.tar", {"a.json": row}))[0])[1] == "a ä <image> 雪"
