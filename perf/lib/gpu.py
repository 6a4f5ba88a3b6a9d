"""What the measurements on a GPU share. Without one they run on the CPU, to see that they run."""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
from collections.abc import Callable

import torch
from perf.lib.common import keep_memory, machine, package
from perf.lib.tables import Run, number, timed
from torch import Tensor

from vlm_ssm import backends

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FAST = backends.default(DEVICE)
"""The backend that is chosen there."""
ENOUGH = 0.02  # seconds of calls between two looks at the clock


def start(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """As `common.start`; everything that follows is made on the device, in bf16 unless it says otherwise."""
    options = arguments.parse_args()
    options.rounds = 1 if options.smoke else options.rounds
    torch.manual_seed(0)
    torch.set_default_device(DEVICE)
    if DEVICE.type == "cpu":
        torch.set_num_threads(options.threads)
        keep_memory()
    print(machine(options.threads) if DEVICE.type == "cpu" else gpu(), flush=True)
    return options


def gpu() -> str:
    import triton

    memory = torch.cuda.get_device_properties(DEVICE).total_memory / 2**30
    versions = f"torch {torch.__version__}, Triton {triton.__version__}, CUDA {torch.version.cuda}"
    if not backends.missing("mamba_ssm"):
        versions += "".join(f", {package(name)}" for name in ("mamba_ssm", "causal_conv1d"))
    return f"{torch.cuda.get_device_name(DEVICE)}, {memory:.0f} GiB; Python {platform.python_version()}, {versions}"


def clock(run: Run) -> float:
    """Seconds a call. On a GPU calls follow one another for a while, between two marks on its own clock."""
    if DEVICE.type == "cpu":
        return timed(run)
    first = _marked(run, 1)
    calls = min(200, int(ENOUGH / max(first, 1e-6)))
    return _marked(run, calls) if calls > 1 else first


def _marked(run: Run, calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def replayed(run: Callable[[], object]) -> Run:
    """The same launches as a CUDA graph: what the GPU needs, without the time to launch. On a CPU the run itself.

    The result keeps `run`: the graph reads tensors that only `run` may hold.
    """
    if DEVICE.type == "cpu":
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def again(kept: object = run) -> object:
        graph.replay()
        return result

    return again


def moving(size: int) -> Run:
    """The floor of what only moves memory: a copy that reads and writes `size` bytes together."""
    source = torch.ones(max(1, size // 8), dtype=torch.int32)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def bandwidth() -> float:
    """Bytes a second, read and written, of a large copy."""
    size = 2**32 if DEVICE.type == "cuda" else 2**26
    run = moving(size)
    run()
    return size / statistics.median(clock(run) for _ in range(3))


def nbytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def peak() -> float:
    """GB that tensors took at most since `reset`; nan on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else float("nan")


def held() -> float:
    """GB that tensors take now; nan on a CPU."""
    return torch.cuda.memory_allocated() / 1e9 if DEVICE.type == "cuda" else float("nan")


def reset() -> None:
    """Forget the peak, and what nothing refers to any more."""
    if DEVICE.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gigabytes(value: float) -> str:
    return "" if value != value else number(value)
