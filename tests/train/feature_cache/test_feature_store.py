"""Features on disk: what is found again, and that nothing half-written ever is."""

import os
import pickle
import shutil
import signal
import time
from contextlib import suppress

import pytest
import torch

from vlm_core.errors import UserError
from vlm_train.feature_cache import store as store_module
from vlm_train.feature_cache.store import KEY_BYTES, FeatureStore, Writer

SHAPE = (2, 3, 4)


@pytest.fixture(autouse=True)
def fresh_warnings():
    store_module._warn_once.cache_clear()


def entry(number):
    """A key, of which many end with zeros, and features that follow from it."""
    key = number.to_bytes(4, "big").ljust(KEY_BYTES, b"\0") if number % 2 else os.urandom(KEY_BYTES)
    return key, torch.full(SHAPE, float(number))


def fill(folder, count, dtype=torch.float32, **sizes):
    folder.mkdir(exist_ok=True)
    store = FeatureStore(folder, SHAPE, dtype)
    entries = [(key, features.to(dtype)) for key, features in map(entry, range(count))]
    with Writer(store, **sizes) as writer:
        for key, features in entries:
            writer.add(key, features)
    store.refresh()
    return store, entries


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_everything_is_found_again_in_shards_of_bounded_size(tmp_path, dtype):
    one = 24 * dtype.itemsize
    store, entries = fill(tmp_path, 50, dtype, shard_bytes=7 * one, flush_bytes=2 * one)
    assert len(store) == 50
    assert all(torch.equal(store.get(key), features) for key, features in entries)
    assert store.get(b"x" * KEY_BYTES) is None
    assert (0).to_bytes(KEY_BYTES, "big") not in store
    sizes = [file.stat().st_size for file in tmp_path.glob("*.data")]
    assert len(sizes) == 8
    assert max(sizes) <= 7 * one


def test_several_writers_and_readers_share_a_folder(tmp_path):
    reader = FeatureStore(tmp_path, SHAPE, torch.float32)
    _, first = fill(tmp_path, 5)
    with Writer(FeatureStore(tmp_path, SHAPE, torch.float32)) as writer:
        for key, features in first[3:]:  # the same once more, as by a run that started at the same time
            writer.add(key, features)
        reader.refresh()
        assert len(reader) == 5
    reader.refresh()
    assert all(torch.equal(reader.get(key), features) for key, features in first)


def test_a_worker_process_gets_no_copy_of_the_features(tmp_path):
    store, entries = fill(tmp_path, 40)
    store.get(entries[0][0])
    sent = pickle.dumps(store)
    assert len(sent) < len(pickle.dumps(FeatureStore(tmp_path / "none", SHAPE, torch.float32))) + 40 * 60
    assert torch.equal(pickle.loads(sent).get(entries[7][0]), entries[7][1])


def test_a_shard_cut_anywhere_gives_its_whole_entries_and_no_other(tmp_path):
    _, entries = fill(tmp_path / "whole", 4)
    (keys,), (data,) = ((tmp_path / "whole").glob(kind) for kind in ("*.keys", "*.data"))
    for cut, lengths in ((keys, range(keys.stat().st_size)), (data, range(0, data.stat().st_size, 13))):
        for length in lengths:
            part = tmp_path / "part"
            shutil.copytree(tmp_path / "whole", part)
            os.truncate(part / cut.name, length)
            store = FeatureStore(part, SHAPE, torch.float32)
            found = [store.get(key) for key, _ in entries]
            whole = length * 4 // cut.stat().st_size
            assert len(store) == whole
            assert [f is not None for f in found] == [i < whole for i in range(4)]
            assert all(torch.equal(a, b) for a, (_, b) in zip(found[:whole], entries, strict=False))
            shutil.rmtree(part)


def test_a_killed_writer_leaves_only_whole_entries(tmp_path):
    child = os.fork()
    if not child:
        with Writer(
            FeatureStore(tmp_path, SHAPE, torch.float32), shard_bytes=2000, flush_bytes=300
        ) as writer:
            for number in range(10**9):
                writer.add(number.to_bytes(KEY_BYTES, "big"), torch.full(SHAPE, float(number)))
    while len(list(tmp_path.glob("*.keys"))) < 20:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    store = FeatureStore(tmp_path, SHAPE, torch.float32)
    assert len(store) > 50
    for number in range(len(store)):  # written in order, so none is missing in between
        assert torch.equal(store.get(number.to_bytes(KEY_BYTES, "big")), torch.full(SHAPE, float(number)))


def test_a_flipped_bit_is_found_by_name(tmp_path):
    store, entries = fill(tmp_path, 3)
    (data,) = tmp_path.glob("*.data")
    content = bytearray(data.read_bytes())
    content[store.entry_bytes + 5] ^= 1
    data.write_bytes(content)
    store.refresh()
    with pytest.raises(UserError, match=rf"{data.name}: entry 1 has a wrong checksum.*Remove it"):
        store.get(entries[1][0])
    assert torch.equal(store.get(entries[2][0]), entries[2][1])


def test_zeros_of_a_lost_write_are_no_keys(tmp_path):
    """After a power cut a file may have its length and not its content."""
    _, entries = fill(tmp_path, 3)
    (keys,) = tmp_path.glob("*.keys")
    keys.write_bytes(keys.read_bytes()[:24] + b"\0" * 48)
    store = FeatureStore(tmp_path, SHAPE, torch.float32)
    assert len(store) == 1
    assert store.get(entries[0][0]) is not None
    assert store.get(b"\0" * KEY_BYTES) is None


def halves(folder):
    (keys,), (data,) = (folder.glob(kind) for kind in ("*.keys", "*.data"))
    return keys, data


def replaced(path, make):
    path.unlink(missing_ok=True)
    make(path)


KINDS = {
    "nothing": lambda p: None,
    "a folder": lambda p: p.mkdir(),
    "a FIFO": os.mkfifo,
    "a dangling link": lambda p: p.symlink_to("nowhere"),
}


@pytest.mark.parametrize("half", [".keys", ".data"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_shard_costs_its_entries_and_no_others(tmp_path, caplog, half, kind):
    _, lost = fill(tmp_path, 3)
    replaced(halves(tmp_path)[0].with_suffix(half), KINDS[kind])
    store, entries = fill(tmp_path, 2)
    assert len(store) == 2
    assert all(torch.equal(store.get(key), features) for key, features in entries)
    assert store.get(lost[2][0]) is None or lost[2][0] == entries[0][0]
    assert len(caplog.records) == (0 if (half, kind) == (".keys", "nothing") else 1)


@pytest.mark.parametrize(
    "marks", [b"\xff\xfe\n", "²\n".encode(), b"9" * 5000, b"-1\n1.5\nx\n99\n", b"\0" * 999]
)
def test_marks_that_are_no_places_are_passed_over(tmp_path, marks):
    store, entries = fill(tmp_path, 3)
    halves(tmp_path)[0].with_suffix(".damaged").write_bytes(marks + b"\n1\n")
    store.refresh()
    assert [key in store for key, _ in entries] == [True, False, True]


@pytest.mark.parametrize("kind", ["a folder", "a FIFO"])
def test_marks_that_are_no_file_cost_the_shard(tmp_path, kind):
    store, _ = fill(tmp_path, 3)
    KINDS[kind](halves(tmp_path)[0].with_suffix(".damaged"))
    store.refresh()
    assert len(store) == 0


@pytest.mark.parametrize("other", [{"owner": "b"}, {"dtype": torch.int32}, {"shape": (2, 4, 3)}])
def test_a_shard_of_another_model_gives_nothing(tmp_path, caplog, other):
    """Of features of the same size in bytes: nothing else tells."""
    ours = {"shape": SHAPE, "dtype": torch.float32, "owner": "a"}
    store = FeatureStore(tmp_path, **ours)
    with Writer(store) as writer:
        writer.add(*entry(1))
    assert len(FeatureStore(tmp_path, **ours)) == 1
    theirs = FeatureStore(tmp_path, **{**ours, **other})
    assert theirs.get(entry(1)[0]) is None
    assert "another model" in caplog.text


def test_any_flipped_byte_is_found(tmp_path):
    """In either file: an entry is as it was written, is not there, or is refused."""
    _, entries = fill(tmp_path / "whole", 3)
    for kind in ("*.keys", "*.data"):
        (file,) = (tmp_path / "whole").glob(kind)
        content = file.read_bytes()
        for at in range(0, len(content), 5):
            file.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
            store = FeatureStore(tmp_path / "whole", SHAPE, torch.float32)
            for key, features in entries:
                with suppress(UserError):
                    assert (found := store.get(key)) is None or torch.equal(found, features)
            bad = store.drop_damaged([key for key, _ in entries])
            store.refresh()
            assert len(store) == 2, (kind, at, bad)
            for marks in (tmp_path / "whole").glob("*.damaged"):
                marks.unlink()
        file.write_bytes(content)


@pytest.mark.parametrize("change", [lambda p: p.unlink(), lambda p: os.truncate(p, 100)])
def test_a_file_that_goes_while_it_is_in_use_is_damage(tmp_path, change):
    store, entries = fill(tmp_path, 3)
    change(halves(tmp_path)[1])
    with pytest.raises(UserError, match="entry 2 has a wrong checksum"):
        store.get(entries[2][0])
    assert store.drop_damaged([key for key, _ in entries]) >= 2


def test_what_killed_writers_left_is_swept(tmp_path):
    """Halves of shards and shards without a record, unless a living writer holds them or they are new."""
    store, entries = fill(tmp_path, 3)
    for name in ("a.keys", "b.data", "c.keys", "c.data", "new.keys", ".about.json.12345678.tmp"):
        (tmp_path / name).write_bytes(b"x" * 24 * (name != "c.keys"))
        os.utime(tmp_path / name, None if name == "new.keys" else (1, 1))
    with Writer(store) as writer:
        writer.add(*entry(9))
        own = [file for file in tmp_path.iterdir() if file.stat().st_mtime > 1 and file.suffix == ".data"]
        for file in own:
            os.utime(file, (1, 1))
        store.sweep()
    left = {file.name for file in tmp_path.iterdir()}
    assert left >= {"new.keys", *(file.name for file in own)}
    assert not left & {"a.keys", "b.data", "c.keys", "c.data", ".about.json.12345678.tmp"}
    (tmp_path / "new.keys").unlink()
    store.refresh()
    assert len(store) == 4
    assert torch.equal(store.get(entries[0][0]), entries[0][1])
