"""Reading files that others name, writing files that others read, and text that reaches a terminal."""

import os
import threading

import pytest

from vlm_core.errors import BadSample, UserError, one_line
from vlm_core.io import atomic
from vlm_core.io.atomic import atomic_dir, write_file
from vlm_core.io.files import open_regular, parse_json, read_bytes, read_file, read_text
from vlm_core.markup.printable import printable


def opened(path):
    with open_regular(path) as file:
        return file.read()


READERS = [read_bytes, read_text, opened]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["missing", "a folder", "a FIFO", "a device", "a NUL", "a surrogate"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, read, kind):
    path = {
        "missing": tmp_path / "none",
        "a folder": tmp_path,
        "a FIFO": tmp_path / "fifo",
        "a device": "/dev/zero",
        "a NUL": "a\0b",
        "a surrogate": "a\ud800b",
    }[kind]
    os.mkfifo(tmp_path / "fifo")
    expected = {"missing": "no such file", "a NUL": "no name", "a surrogate": "no name"}.get(kind, kind)
    with pytest.raises(UserError, match=expected) as caught:
        read(path)
    assert not isinstance(caught.value, BadSample), "no policy for rows skips it"


def test_a_file_above_the_limit_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UserError, match="5 bytes; at most 4 are read"):
        read_text(tmp_path / "a", 4)


def test_of_rows_it_is_a_bad_sample(tmp_path):
    with pytest.raises(BadSample) as caught:
        read_file(tmp_path)
    assert caught.value.reason == "not-a-file"


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", ""])
def test_json_that_cannot_be_read_is_an_error_with_its_place(text):
    with pytest.raises(UserError, match=r"^here: not JSON"):
        parse_json(text, "here")


def test_a_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.txt"
    write_file(path, "one")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"a\.txt: cannot write: No space left on device"):
        write_file(path, "two")
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["a.txt"], "nothing is left beside it"


def test_a_device_is_written_to_and_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(UserError, match="full: cannot write: No space left on device"):
        write_file(tmp_path / "full", "x")
    with pytest.raises(UserError, match="fifo: cannot write: No such device or address"):
        write_file(tmp_path / "fifo", "x")
    write_file("/dev/null", "x")
    with open(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        write_file(tmp_path / "fifo", "some text")
        assert reader.read() == b"some text"
    assert all(not os.path.isfile(p) for p in ("/dev/null", "/dev/full", tmp_path / "fifo"))
    assert sorted(os.listdir(tmp_path)) == ["fifo", "full"]


def test_of_a_link_the_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    for text in ("one", "two"):
        write_file(tmp_path / "link", text)
        assert (tmp_path / "real" / "a").read_text() == text
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", [".", "file/a", "a\0b", "a\ud800b", "x" * 300, "loop"])
def test_paths_that_cannot_be_written_are_told(tmp_path, name):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for write in (
        lambda: write_file(tmp_path / name, "x"),
        lambda: atomic_dir(tmp_path / name).__enter__(),
    ):
        with pytest.raises(UserError, match=r"cannot write|exists already"):
            write()
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_writer_left_is_swept(tmp_path, folder):
    old, young, others = (
        tmp_path / ".a.00000000.tmp",
        tmp_path / ".a.11111111.tmp",
        tmp_path / ".b.00000000.tmp",
    )
    for left in (old, young, others):
        left.mkdir() if folder else left.write_text("half")
        if left != young:
            os.utime(left, (0, 0))
    if folder:
        with atomic_dir(tmp_path / "a") as tmp:
            (tmp / "x").write_text("x")
    else:
        write_file(tmp_path / "a", "x")
    assert sorted(os.listdir(tmp_path)) == [".a.11111111.tmp", ".b.00000000.tmp", "a"]


def test_what_a_living_writer_holds_is_not_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "ABANDONED_S", -1.0)
    with atomic_dir(tmp_path / "a") as tmp:
        write_file(tmp_path / "a.txt", "x")
        atomic._sweep(tmp_path / "a")
        assert tmp.exists()
    assert (tmp_path / "a").is_dir()


def test_many_writers_of_one_file_leave_one_of_them_whole(tmp_path):
    contents = [str(i) * 100_000 for i in range(8)]
    writers = [threading.Thread(target=write_file, args=(tmp_path / "a", c)) for c in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "a").read_text() in contents
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("first\nsecond"), "first"),
        (ValueError(" \n"), "ValueError"),
        (ValueError("a\x1b[31m"), "a\\x1b[31m"),
        (ValueError("x" * 400), "x" * 299 + "…"),
    ],
)
def test_of_a_library_s_message_one_line_is_shown(error, line):
    assert one_line(error) == line


def test_control_characters_become_escapes():
    assert printable("a\x1b]0;title\x07\nb\u202e\ud800é漢") == r"a\x1b]0;title\x07\nb\u202e\ud800é漢"
    assert printable("a\tb\nc\rd", lines=True) == "a\tb\nc\\rd"
    assert printable("می\u200cخواهم") == "می\u200cخواهم", "joiners are letters' own"
    assert printable("x" * 300, 10) == "x" * 9 + "…"
