"""Processes that read for a run: they end with it, and one that is killed is named with what helps."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

from vlm_core.runtime.system_faults import SystemFault
from vlm_train.cli import main
from vlm_train.data import data_workers
from vlm_train.data.dataset import Examples
from vlm_train.distributed import process_group

KILLED = (
    r"a data-reading process.* \(pid \d+\) was killed by SIGKILL; out of memory\? .*\(train\.num_workers\)"
)


class Rows(Dataset):
    """Numbers; the process that reads row `fatal` is killed."""

    def __init__(self, fatal):
        self.fatal = fatal

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def work(rows, step):
    """Take a step on each batch, as a run does."""
    loader = DataLoader(rows, 4, num_workers=2, worker_init_fn=data_workers.start_worker)
    with data_workers.naming_killed_workers():
        for _ in data_workers.read(loader):
            step()


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_killed_reader_is_named_wherever_the_run_stands(pause):
    """While it waits for rows, or in the midst of other work."""
    with pytest.raises(SystemFault, match=KILLED) as caught:
        work(Rows(30), lambda: time.sleep(pause))
    assert caught.value.code == 137


def test_other_errors_of_readers_pass_through():
    def fails():
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        work(Rows(-1), fails)
    assert list(data_workers.read(range(3))) == [0, 1, 2]


def test_the_signal_is_read_from_torchs_words():
    assert (
        data_workers._signal_number(
            "Bus error. It is possible that dataloader's workers are out of shared memory."
        )
        == 7
    )
    assert data_workers._signal_number("Killed. ") == 9
    assert data_workers._signal_number("Segmentation fault. ") == 11


@pytest.mark.parametrize("command", [("run", "--nproc", "1"), ("check",)])
def test_a_run_whose_reader_is_killed_exits_with_137(command, run_spec, monkeypatch, capfd):
    read = Examples.__getitem__

    def fatal(self, index):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    monkeypatch.setattr(Examples, "__getitem__", fatal)
    words = [command[0], str(run_spec(held_out_qa=None)), "--set", "train.num_workers=1", *command[1:]]
    monkeypatch.setattr(sys, "argv", ["vlm-train", *words])
    assert main.main() == 137
    err = capfd.readouterr().err
    assert "vlm-train: a data-reading process (pid " in err
    assert "this machine has" in err
    assert "bug" not in err


READING = """
import os, sys, time
from torch.utils.data import DataLoader
from vlm_train.data import data_workers
class Slow:
    def __len__(self): return 4
    def __getitem__(self, index):
        print(os.getpid(), flush=True)
        time.sleep(60)
list(DataLoader(Slow(), 1, num_workers=1, worker_init_fn=data_workers.start_training_worker))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a reader looks every second")
def test_a_reader_of_a_killed_run_ends_in_the_midst_of_a_row():
    run = subprocess.Popen([sys.executable, "-c", READING], stdout=subprocess.PIPE, text=True)
    reader = int(run.stdout.readline())
    run.kill()
    run.communicate()
    end = time.monotonic() + 5
    while Path(f"/proc/{reader}").exists() and ") Z" not in Path(f"/proc/{reader}/stat").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """`shared(free)` sets the free bytes of shared memory; 12 CPU cores and one process."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(12), raising=False)
    monkeypatch.setattr(process_group, "place", lambda: None)
    monkeypatch.setattr(data_workers, "SHARED_MEMORY", tmp_path)

    def having(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))

    having(10**12)
    return having


def test_workers_by_default(shared, monkeypatch):
    assert (
        data_workers.worker_count(3, "cpu", 1).number == data_workers.worker_count(3, "cuda", 1).number == 3
    )
    assert data_workers.worker_count("auto", "cpu", 1).number == 0
    assert data_workers.worker_count("auto", "cuda", 1).number == 8, "at most"
    for processes, number in ((2, 6), (4, 3), (100, 1)):
        place = SimpleNamespace(local_world=processes)
        monkeypatch.setattr(process_group, "place", lambda place=place: place)
        assert data_workers.worker_count("auto", "cuda", 1).number == number


def test_workers_by_default_fit_into_shared_memory(shared, monkeypatch):
    """As of a container, whose 64 MB would kill workers with batches of 28 MB."""
    shared(64 * 2**20)
    assert data_workers.worker_count("auto", "cuda", 28 * 10**6).number == 0
    few = data_workers.worker_count("auto", "cuda", 2 * 10**6)
    assert few.number == 5
    assert "has 67.11 MB free for batches of 2.00 MB" in few.reason
    assert data_workers.worker_count(8, "cuda", 28 * 10**6).number == 8, "the spec decides"
    monkeypatch.setattr(data_workers, "SHARED_MEMORY", Path("/nonexistent"))
    assert data_workers.worker_count("auto", "cuda", 28 * 10**6).number == 8
