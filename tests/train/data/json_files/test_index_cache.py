"""Kept indexes: verified, made again where they don't verify, and done without where nothing can be kept."""

import fcntl
import json
import logging
import os

import numpy as np
import pytest
from index_damages import DAMAGES, damage_permuted

from vlm_core.errors import UserError
from vlm_core.io.manifest import MANIFEST, verify_folder
from vlm_train.data import index_cache
from vlm_train.data.json_files import json_index
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.tar_files import tar_index
from vlm_train.data.webdataset import WebDatasetConfig

from shards import tar  # isort: skip


def row(i):
    turns = [{"from": "human", "value": f"number {i:04}?"}, {"from": "gpt", "value": "x" * 200}]
    return {"id": str(i), "conversations": turns}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Every file counts as large, and the cache is this folder."""
    monkeypatch.setattr(json_index, "MIN_CACHED_BYTES", 1)
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    index_cache._warn_once.cache_clear()
    return tmp_path / "cache" / "rows"


@pytest.fixture(params=["jsonl", "tar"])
def dataset(request, tmp_path, cache):
    """(config, how often it was indexed); two equal ways to hold 500 rows."""
    path = tmp_path / f"data.{request.param}"
    if request.param == "jsonl":
        path.write_text("\n".join(json.dumps(row(i)) for i in range(500)))
        return LlavaConfig(path=str(path)), json_index
    tar(path, {f"{i:04}.json": row(i) for i in range(500)})
    return WebDatasetConfig(path=str(path)), tar_index


@pytest.fixture
def builds(dataset, monkeypatch):
    module, calls = dataset[1], []
    build = module._build
    monkeypatch.setattr(module, "_build", lambda *a: calls.append(a) or build(*a))
    return calls


def said(rows, i):
    return rows[i]["conversations"][0]["value"]


def test_an_edit_that_nothing_but_the_content_shows(dataset, builds, monkeypatch):
    """Equal size, between the pieces that are sampled, with the time of modification set back."""
    monkeypatch.setattr(index_cache, "_SAMPLE_BYTES", 8)
    config, path = dataset[0], dataset[0].path
    assert said(config.rows(), 250) == "number 0250?"
    with open(path, "r+b") as file:
        before, facts = index_cache.sampled_digest(file), os.stat(path)
        file.seek(file.read().index(b"number 0250?"))
        file.write(b"NUMBER 0250?")
        file.flush()
        assert index_cache.sampled_digest(file) == before
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == facts.st_mtime_ns
    assert said(config.rows(), 250) == "NUMBER 0250?"
    assert len(builds) == 2


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_an_index_that_does_not_verify_is_made_again(dataset, builds, cache, damage, caplog):
    config = dataset[0]
    first = list(config.rows())
    [entry] = cache.iterdir()
    damage(entry)
    assert list(config.rows()) == first
    assert len(builds) == 2
    assert caplog.text.count("the cached index can't be used and is rebuilt") == len(warnings(caplog)) == 1
    assert list(config.rows()) == first
    assert len(builds) == 2, "what was made again is kept"


def test_an_index_that_cannot_be_replaced_is_reported_once(dataset, builds, cache, monkeypatch, caplog):
    """As one in another user's folder."""
    config = dataset[0]
    first = list(config.rows())
    [entry] = cache.iterdir()
    damage_permuted(entry)
    monkeypatch.setattr(index_cache, "remove", lambda path: None)
    assert list(config.rows()) == first
    assert len(builds) == 2
    assert [text.count("rebuilt") for text in warnings(caplog)] == [1, 1]
    assert "are rebuilt in each run" in warnings(caplog)[1]


@pytest.mark.parametrize("name", [".0a.12345678.tmp", ".somebody-elses.tmp"])
@pytest.mark.parametrize("locked", [True, False])
def test_what_killed_builders_left_is_swept(dataset, cache, name, locked):
    """But not what a living one holds, or has made this minute."""
    for left in (cache / name, cache / f"{name[:-4]}-new.tmp"):
        left.mkdir(parents=True)
        (left / "rows.npy").write_bytes(b"x" * 100)
    os.utime(cache / name, (1, 1))
    handle = os.open(cache / name, os.O_RDONLY)
    if locked:
        fcntl.flock(handle, fcntl.LOCK_EX)
    dataset[0].rows()
    os.close(handle)
    assert (cache / name).exists() == locked
    assert (cache / f"{name[:-4]}-new.tmp").exists()


def test_builders_at_once_share_one_index(dataset, cache, caplog):
    children = []
    for _ in range(6):
        if not (child := os.fork()):
            os._exit(0 if said(dataset[0].rows(), 499) == "number 0499?" else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    [entry] = cache.iterdir()
    assert verify_folder(entry)
    assert said(dataset[0].rows(), 499) == "number 0499?"
    assert not caplog.records


def test_an_index_cut_at_any_byte_is_made_again(dataset, builds, cache):
    config = dataset[0]
    first = said(config.rows(), 250)
    for cut in (0.0, 0.3, 0.9):
        for kind in ("rows.npy", "faults.json", MANIFEST):
            [entry] = cache.iterdir()
            os.truncate(entry / kind, int((entry / kind).stat().st_size * cut))
            assert said(config.rows(), 250) == first
    assert len(builds) == 10


def test_rows_that_an_index_swapped_are_refused(dataset, cache):
    """Were the manifest forged, too: a row's bytes are compared with what was indexed."""
    config = dataset[0]
    rows = config.rows()
    table = np.array(rows.table)
    for name in ("start", "size"):
        table[name] = table[name][::-1]
    rows.table = table
    with pytest.raises(UserError, match="indexed"):
        rows[0]


def a_file(path):
    path.write_text("")


def nothing(path):
    pass


@pytest.mark.parametrize(
    ("make", "where"), [(a_file, "taken"), (nothing, "/proc/nowhere"), (a_file, "taken/deep")]
)
def test_a_cache_that_cannot_be_written_costs_speed(
    dataset, builds, tmp_path, monkeypatch, caplog, make, where
):
    index_cache._warn_once.cache_clear()
    make(tmp_path / "taken")
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / where))
    config = dataset[0]
    rows = config.rows()
    assert said(rows, 499) == "number 0499?"
    assert said(config.rows(), 3) == "number 0003?"
    assert len(builds) == 2
    assert caplog.text.count("can't be cached") == 1, "said once"


def test_a_user_without_a_home(dataset, builds, monkeypatch, caplog):
    index_cache._warn_once.cache_clear()
    for name in ("VLM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id without an entry
    assert said(dataset[0].rows(), 7) == "number 0007?"
    assert "no home folder is known" in caplog.text


def test_a_disk_that_is_full(dataset, builds, cache, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert said(dataset[0].rows(), 7) == "number 0007?"
    assert "No space left on device" in caplog.text
    assert not list(cache.iterdir()), "nothing half-written is left"


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VLM_CACHE", "~/kept")
    assert index_cache.cache_folder() == tmp_path / "kept" / "rows"
    monkeypatch.delenv("VLM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert index_cache.cache_folder() == tmp_path / ".cache" / "vlm" / "rows"


def test_a_cache_that_others_can_write_is_not_read(dataset, builds, cache, monkeypatch, tmp_path, caplog):
    """In the user's own cache folder; a folder that VLM_CACHE names may be a team's."""
    monkeypatch.delenv("VLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    config = dataset[0]
    config.rows()
    assert said(config.rows(), 250) == "number 0250?"
    assert len(builds) == 1
    (tmp_path / "home" / "vlm").chmod(0o777)
    for _ in range(2):
        assert said(config.rows(), 250) == "number 0250?"
    assert len(builds) == 3
    assert caplog.text.count(f"chmod go-w {tmp_path / 'home' / 'vlm'}") == 1
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "home" / "vlm"))
    config.rows()
    assert len(builds) == 3
