"""Names that stand for many files: as `glob` finds them, and only so many."""

import os
from glob import glob

import pytest

from vlm_core.errors import UserError
from vlm_train.data import file_patterns
from vlm_train.data.file_patterns import braces, local_files


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.tar", "a/y.tar", "a/b/z.tar", "a/.h/w.tar", "a/.v.tar", "c/x.txt", "t.tar"):
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "w"):
            pass
    os.symlink("a/x.tar", "link.tar")
    os.symlink("nowhere", "broken.tar")
    os.symlink("loop.tar", "loop.tar")
    os.mkfifo("fifo.tar")
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    ["*.tar", "a/*.tar", "*/*.tar", "**/*.tar", "a/**", "**", "a/**/z.tar", "./a/?.tar", "a/[xy].tar", "a/.*.tar",
     "**/.h/*", "nothing*", "c/[", "*/b/*.tar", "a/../a/*.tar"],
)  # fmt: skip
def test_a_pattern_finds_what_glob_finds(tree, pattern):
    expected = sorted(path for path in glob(pattern, recursive=True) if os.path.isfile(path))
    assert local_files(pattern, ".tar") == expected
    whole = os.path.join(tree, pattern)
    assert [os.path.normpath(p) for p in local_files(whole, ".tar")] == [
        os.path.normpath(os.path.join(tree, p)) for p in expected
    ]


def test_a_folder_and_a_file(tree):
    assert local_files("a", ".tar") == ["a/.h/w.tar", "a/.v.tar", "a/b/z.tar", "a/x.tar", "a/y.tar"]
    assert local_files("t.tar", ".tar") == ["t.tar"]
    assert local_files("fifo.tar", ".tar") == local_files("none.tar", ".tar") == []


@pytest.mark.parametrize("pattern", ["/**/*.tar", "a/**", "a", "*/*", "**/**/x.tar"])
def test_a_search_ends_at_its_limit(tree, monkeypatch, pattern):
    monkeypatch.setattr(file_patterns, "MAX_ENTRIES", 3)
    with pytest.raises(UserError, match="more than 3 files and folders; name a smaller folder"):
        local_files(pattern, ".tar")


def test_braces_are_counted_before_they_are_written_out():
    assert braces("a-{08..10}.{x,y}{z}") == [f"a-{n}.{e}{{z}}" for n in ("08", "09", "10") for e in "xy"]
    assert braces("{}{a}") == ["{}{a}"]
    assert braces("{2..1}") == ["{2..1}"]
    assert braces("{}" * 3000) == ["{}" * 3000]
    for pattern in ("{0..999999999}", "{a,b}" * 40, "{0..999}{0..999}", "{1.." + "9" * 4000 + "}"):
        with pytest.raises(UserError, match="expands to more than 100000 names"):
            braces(pattern)
