"""Budgets, damage, full and foreign folders, and several processes: the cache is never more than a shortcut."""

import errno
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

import pytest
import torch

from vlm_core.errors import UserError
from vlm_core.states import tensor_file
from vlm_core.states.cache import CachedState, StateCache
from vlm_core.states.disk_cache import DiskCache


@dataclass(frozen=True)
class Numbers:
    """A state of some numbers."""

    value: torch.Tensor

    @property
    def nbytes(self):
        return self.value.nbytes

    def to_tensors(self):
        return {"value": self.value}


def entry(number, count=24):
    return CachedState(Numbers(torch.full((1, count), float(number))), torch.zeros(1, 1))


def load(tensors):
    return CachedState(Numbers(tensors["state.value"]), tensors["next_logits"])


def key(number):
    return f"{number:064x}"


SIZE = entry(0).nbytes


def test_memory_keeps_to_its_budget_and_drops_what_was_not_used():
    cache = StateCache(3 * SIZE)
    for i in range(3):
        cache.put(key(i), entry(i))
    assert cache.longest([key(0)], load)[0] == 0
    cache.put(key(3), entry(3))
    cache.put(key(3), entry(3))
    assert cache.longest([key(1)], load) is None
    assert [cache.longest([key(i)], load) is not None for i in (0, 2, 3)] == [True] * 3
    assert (cache.stats.nbytes, cache.stats.entries, cache.stats.evicted) == (3 * SIZE, 3, 1)
    cache.put(key(4), entry(4, 1000))
    assert cache.stats.entries == 3, "a state above the budget pushes nothing out"
    cache.clear()
    assert cache.stats.nbytes == 0


def test_the_owner_with_most_loses_states_in_memory():
    cache = StateCache(4 * SIZE)
    cache.put(key(0), entry(0), "modest")
    for i in range(1, 20):
        cache.put(key(i), entry(i), "busy")
    assert cache.longest([key(0)], load, "modest") is not None
    assert cache.longest([key(0)], load, "busy") is None
    assert [i for i in range(20) if cache.longest([key(i)], load, "busy")] == [17, 18, 19]


def test_the_owner_with_most_loses_states_on_disk_also_those_of_earlier_processes(tmp_path):
    DiskCache(tmp_path).put(key(0), *entry(0), "modest")
    disk = DiskCache(tmp_path, 4 * next(tmp_path.iterdir()).stat().st_size)
    assert disk.get(key(0), load) is None, "another owner's"
    for i in range(1, 20):
        disk.put(key(i), *entry(i), "busy")
    assert disk.get(key(0), load, "modest") is not None
    assert disk.size()[0] == 4
    assert disk.evicted == 16
    assert not any("modest" in name or "busy" in name for name in os.listdir(tmp_path))


def test_the_longest_prefix_is_taken():
    cache = StateCache()
    cache.put(key(1), entry(1))
    cache.put(key(2), entry(2))
    index, (state, _) = cache.longest([key(1), key(2), key(3)], load)
    assert (index, float(state.value[0, 0])) == (1, 2.0)


@pytest.mark.parametrize("bad", [-1, 2.5, None])
def test_a_budget_is_a_number_of_bytes(bad):
    with pytest.raises(UserError, match="number of bytes"):
        StateCache(bad)


def test_threads_share_a_cache():
    cache = StateCache(8 * SIZE)

    def work(first):
        for i in range(200):
            cache.put(key(first + i % 20), entry(i))
            cache.longest([key(i % 20)], load)
            cache.count(hit=True, reused=1, read=1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats
    assert stats.nbytes == stats.entries * SIZE <= 8 * SIZE
    assert stats.hits == stats.reused_positions == 800


def test_disk_keeps_to_its_budget(tmp_path):
    disk = DiskCache(tmp_path / "c")
    for i in range(6):
        disk.put(key(i), *entry(i))
        os.utime(tmp_path / "c" / f"{key(i)}.safetensors", (i, i))
    _, nbytes = disk.size()
    assert disk.get(key(0), load) is not None  # used just now
    small = DiskCache(tmp_path / "c", nbytes * 3 // 6)
    small.put(key(9), *entry(9))
    assert small.size()[1] <= nbytes * 3 // 6
    assert [small.get(key(i), load) is not None for i in (0, 1, 9)] == [True, False, True]
    assert small.evicted == 4
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other key", "other version", "text"])
def test_damaged_files_are_dropped_and_counted(tmp_path, damage, caplog):
    disk = DiskCache(tmp_path)
    disk.put(key(1), *entry(1))
    file = tmp_path / f"{key(1)}.safetensors"
    content = file.read_bytes()
    changed = {
        "cut": content[:-5],
        "bit": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "empty": b"",
        "text": b"no state",
        "other key": None,
        "other version": None,
    }[damage]
    if changed is None:
        facts = {"format": "vlm-cached-state", "version": 1, "key": key(1)}
        facts.update({"key": key(2)} if damage == "other key" else {"version": 2})
        tensor_file.write(file, {"state.value": torch.zeros(1, 24), "next_logits": torch.zeros(1, 1)}, facts)
    else:
        file.write_bytes(changed)
    cache = StateCache(disk=disk)
    assert cache.longest([key(1)], load) is None
    assert cache.stats.damaged == 1
    assert not file.exists()
    assert "removed and computed again" in caplog.text
    cache.put(key(1), entry(1))
    cache.clear()
    assert cache.longest([key(1)], load) is not None


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "x.safetensors").write_text("mine, too")
    disk = DiskCache(tmp_path, 1)
    disk.put(key(1), *entry(1))
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "x.safetensors"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, monkeypatch, caplog, number):
    cache = StateCache(disk=DiskCache(tmp_path))
    cache.put(key(0), entry(0))

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    for i in range(1, 4):
        cache.put(key(i), entry(i))
    assert caplog.text.count("are not written to the cache folder") == 1
    assert os.strerror(number) in caplog.text
    assert cache.stats.entries == 4
    assert os.listdir(tmp_path) == [f"{key(0)}.safetensors"]
    cache.clear()
    assert cache.longest([key(0)], load) is not None, "what is there is read"


def test_a_path_that_is_a_file_is_refused(tmp_path):
    """The option names the wrong thing; a folder that can't be made is another's fault, and only a warning."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: a file, not a folder for the state cache"):
        DiskCache(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = StateCache(disk=DiskCache(tmp_path / "file" / "cache"))
    for i in range(2):
        cache.put(key(i), entry(i))
        assert cache.longest([key(i)], load) is not None
    assert caplog.text.count("are not written") == 1


def test_a_folder_that_others_may_write_is_not_used(tmp_path, caplog):
    """A state that another user wrote could change an answer."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    disk = DiskCache(tmp_path / "open")
    disk.put(key(0), *entry(0))
    assert not os.listdir(tmp_path / "open")
    assert "can be written by other users; chmod go-w" in caplog.text


def test_damaged_weights_are_not_written(tmp_path, caplog):
    disk = DiskCache(tmp_path)
    disk.put(key(0), *entry(float("nan")))
    disk.put(key(1), *entry(1))
    assert disk.size()[0] == 1
    assert not caplog.text


SCRIPT = """
import sys, hashlib, torch
from vlm_core.model_folder.assemble import load
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.states.cache import StateCache
from vlm_core.states.disk_cache import DiskCache
from vlm_core.text.render import IMAGE, Message, render
torch.set_num_threads(1)
model, spec = load(sys.argv[1])
cache = StateCache(0, DiskCache(sys.argv[2], int(sys.argv[3])))
reader, digest = PrefixReader(model, spec.template, cache), hashlib.sha256()
for n in range(24):
    pixels = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(n % 4))
    tokens = [model.image_tokens(pixels)]
    prompt = render(spec.template, [Message("user", (IMAGE, "\\n", f"{n % 3}?"))], model.llm.tokenizer, tokens)
    session = Session(model)
    reader.read(session, prompt, [pixels])
    digest.update(session.known_logits().numpy().tobytes())
stats = cache.stats
print(digest.hexdigest(), stats.hits, stats.damaged, stats.disk_bytes)
"""


@pytest.mark.slow
def test_processes_share_a_folder(tiny_folder, tmp_path):
    """At the same time: the same bits, nothing damaged, no file left behind."""
    command = [sys.executable, "-c", SCRIPT, tiny_folder, tmp_path / "cache", 2**30]
    run = [subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [process.communicate()[0].split() for process in run]
    assert [process.returncode for process in run] == [0, 0]
    assert out[0][0] == out[1][0]
    assert [words[2] for words in out] == ["0", "0"]
    assert all(int(words[1]) >= 8 for words in out)
    assert not [name for name in os.listdir(tmp_path / "cache") if name.endswith(".tmp")]


def test_writers_that_evict_each_other_damage_nothing(tmp_path):
    """Two caches on one folder, as two processes have them, with a budget of three states."""
    DiskCache(tmp_path).put(key(0), *entry(0))
    budget = 3 * DiskCache(tmp_path).size()[1]
    caches = [DiskCache(tmp_path, budget) for _ in range(2)]

    def work(disk, first):
        for i in range(120):
            number = (first + i) % 7
            if (found := disk.get(key(number), load)) is not None:
                assert float(found.state.value[0, 0]) == number
            disk.put(key(number), *entry(number))

    threads = [threading.Thread(target=work, args=(disk, i)) for i, disk in enumerate(caches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [disk.damaged for disk in caches] == [0, 0]
    assert caches[0].size()[1] <= budget
