"""What every measurement shares: its arguments, how the process is prepared, and the machine's line."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The arguments of every script; `rounds` is its default."""
    arguments = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=rounds)
    arguments.add_argument(
        "--keep-memory", action="store_true", help="glibc keeps freed memory: no page faults anew"
    )
    arguments.add_argument("--smoke", action="store_true", help="tiny shapes, one round: does it run at all")
    return arguments


def start(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse, prepare the process alike for all contestants, print the machine's line."""
    options = arguments.parse_args()
    options.rounds = 1 if options.smoke else options.rounds
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.keep_memory:
        keep_memory()
    print(machine(options.threads), flush=True)
    return options


def keep_memory() -> None:
    """glibc keeps what is freed, so that fresh memory costs nobody its page faults. Nothing happens elsewhere."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def need_mambapy() -> None:
    """transformers silently runs its loop where mambapy is missing; stop instead."""
    if importlib.util.find_spec("mambapy") is None:
        print("mambapy is missing; run with: uv run python -m perf.cpu.NAME", file=sys.stderr)
        raise SystemExit(2)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def machine(threads: int) -> str:
    """CPU with its vector instructions, threads and versions, on one line."""
    packages = ", ".join(map(package, ("torch", "numba", "transformers", "mambapy")))
    cores = os.cpu_count()
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{_cpu()}, {vectors}, {cores} cores, {threads} threads; Python {platform.python_version()}, {packages}"
