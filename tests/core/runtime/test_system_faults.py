"""Memory that ran out and processes that the system killed are told as such, with exit codes of their own."""

import errno
import signal
from pathlib import Path

import pytest
import torch

from vlm_core.cli.common import Parser, run
from vlm_core.errors import UserError
from vlm_core.runtime import system_faults
from vlm_core.runtime.system_faults import SystemFault, killed, system_fault

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB"


def allocate():
    torch.empty(2**50)


def wrapped():
    try:
        allocate()
    except RuntimeError as error:
        raise ValueError("a library's own words") from error


def raising(error):
    def fails():
        raise error

    return fails


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (allocate, "out of memory: .*can't allocate memory: you tried to allocate 4503599627370496 bytes"),
        (wrapped, "out of memory: .*can't allocate"),
        (raising(MemoryError()), "out of memory: MemoryError"),
        (raising(MemoryError("std::bad_alloc")), r"out of memory: std::bad_alloc"),
        (
            raising(MemoryError("Caught MemoryError in DataLoader worker process 0.\nTraceback")),
            r"worker process 0\.",
        ),
        (raising(OSError(errno.ENOMEM, "Cannot allocate memory")), "out of memory: .*Cannot allocate"),
        (
            raising(torch.OutOfMemoryError(CUDA)),
            "out of CUDA memory: CUDA out of memory. Tried to allocate 2.00 GiB",
        ),
        (
            raising(RuntimeError("CUDA error: out of memory\nmore")),
            "out of CUDA memory: CUDA error: out of memory\n",
        ),
    ],
)
def test_memory_that_ran_out_is_told_with_what_helps(fails, says, capsys):
    def command(args):
        fails()

    assert run(Parser(prog="vlm-x"), command, []) == 71
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert len(lines) == 2, err
    assert "bug" not in err
    assert "micro_batch_size" in lines[1]
    assert ("activation_checkpointing: true" in lines[1]) == ("CUDA" in lines[0])
    with pytest.raises(Exception, match=says) as caught:
        raise system_fault(_error(fails)) from None
    assert caught.value.code == 71


def _error(fails):
    with pytest.raises(Exception) as caught:
        fails()
    return caught.value


def test_other_errors_are_none():
    for error in (
        RuntimeError("out of memory of mine"),
        UserError("x"),
        OSError(errno.ENOENT, "gone"),
        KeyError(),
    ):
        assert system_fault(error) is None


def test_a_killed_process_is_told_with_its_signal(capsys):
    fault = killed("rank 3", signal.SIGKILL, "use fewer workers")
    assert str(fault).startswith("rank 3 was killed by SIGKILL; out of memory? use fewer workers")
    assert str(killed("x", signal.SIGSEGV, "use fewer workers")) == "x was killed by SIGSEGV"
    assert "/dev/shm" in str(killed("x", signal.SIGBUS, "use fewer workers"))
    assert (fault.code, system_fault(fault)) == (137, fault)

    def command(args):
        raise ValueError("later") from fault

    assert run(Parser(prog="vlm-x"), command, []) == 137
    assert capsys.readouterr().err.startswith("vlm-x: rank 3 was killed by SIGKILL")


def test_the_limits_of_memory_that_the_system_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(system_faults, "_machine_memory", lambda: 64_000_000_000)
    monkeypatch.setattr(system_faults, "_ulimit", lambda: 9_000_000_000)
    monkeypatch.setattr(system_faults, "_control_group", lambda: 8_000_000_000)
    told = system_faults.memory_limit()
    assert told == (
        "; this machine has 64.0 GB, and the control group of this process may use 8.0 GB, and ulimit -v allows 9.0 GB"
    )
    for name in ("_machine_memory", "_ulimit", "_control_group"):
        monkeypatch.setattr(system_faults, name, lambda: None)
    assert system_faults.memory_limit() == ""


@pytest.mark.parametrize(
    ("line", "file"),
    [("0::/a/b", "a/memory.max"), ("4:memory:/a", "memory/a/memory.limit_in_bytes"), ("0::/", "memory.max")],
)
def test_the_smallest_limit_of_nested_control_groups(monkeypatch, tmp_path, line, file):
    """Version 2 and version 1 of the kernel's control groups."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("5000000000\n")
    (tmp_path / "cgroup").write_text(f"9:cpu:/elsewhere\n{line}\n")
    monkeypatch.setattr(system_faults, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(system_faults, "_CGROUPS", tmp_path)
    assert system_faults._control_group() == 5_000_000_000
    (tmp_path / file).write_text("max\n")
    assert system_faults._control_group() is None
    monkeypatch.setattr(system_faults, "_CGROUP", Path("nowhere"))
    assert system_faults._control_group() is None


def test_a_system_fault_is_no_users_fault():
    assert not issubclass(SystemFault, UserError)
