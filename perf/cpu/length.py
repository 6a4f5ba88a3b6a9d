"""Time and memory against length: linear, and constant.

    uv run python -m perf.cpu.length [--clock user] [--plot scan-length.png]

The scan alone and one layer of width 768, fp32, forward; what memory a call takes besides its output, and how often it
faults; and how many bytes a layer's state keeps alive. The column "fill" is the time of writing zeros to a new output
of the scan. `--clock cpu` counts the process's own time, for a machine that others use, too; `user` leaves out the time
that the system takes to provide pages, which in a virtual machine depends on what its host took back.
The plot is of the scan alone, beside transformers' loop up to 2k tokens and mambapy's scan up to 8k (by then it
fills gigabytes).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from perf.lib.common import need_mambapy, parser, start
from perf.lib.contestants import by_channel, our_scan, peer_scan, scan_inputs
from perf.lib.contests import inference, on
from perf.lib.page_faults import memory_of
from perf.lib.tables import Clock, Run, Seconds, milliseconds, number, ratio, table, timed, turns

from vlm_ssm import MambaMixer
from vlm_ssm.runtime.huge_pages import with_huge_pages

WIDTH = 768
LENGTHS = [2**k for k in range(9, 17)]  # 512 … 65536
STATES = [1, 1024, 32768]
SMOKE = [16, 32, 64]
BASE = 1024  # what a time is compared with
Times = dict[int, Seconds]


def layer(mixer: MambaMixer, length: int) -> Run:
    x = torch.randn(1, length, mixer.in_proj.in_features)
    return on("numba", inference(lambda: mixer(x)[0]))


def scan(length: int, width: int) -> Run:
    inputs = scan_inputs(length, width)
    return inference(lambda: our_scan(inputs, "numba"))


def fill(length: int, width: int) -> Run:
    return inference(lambda: with_huge_pages(torch.empty(1, length, width)).zero_())


def peer(length: int, width: int, use_mambapy: bool) -> Run:
    inputs = by_channel(scan_inputs(length, width))
    return inference(lambda: peer_scan(inputs, use_mambapy))


def cpu_time(run: Run) -> float:
    """Seconds of one call on all cores, those of other processes left out."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def user_time(run: Run) -> float:
    """As `cpu_time`, without the time in the system."""
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - begin


CLOCKS = {"wall": timed, "cpu": cpu_time, "user": user_time}


def measure(made: Callable[[int], Run], lengths: Sequence[int], rounds: int, clock: Clock = timed) -> Times:
    """All lengths take turns."""
    times = turns({str(n): made(n) for n in lengths}, rounds, clock=clock)
    return {int(n): t for n, t in times.items()}


def per_1k(times: Times) -> dict[int, float]:
    """Milliseconds a thousand (1024) tokens."""
    return {n: t.median * 1e3 * BASE / n for n, t in times.items()}


def rows(curves: dict[str, Times], base: int) -> Iterator[list[str]]:
    for n in next(iter(curves.values())):
        cells = []
        for times in curves.values():
            rate = per_1k(times)
            cells += [milliseconds(times[n]), number(rate[n]), ratio(rate[n] / rate[base])]
        yield [str(n), *cells]


def deviation(times: Times, base: int) -> float:
    """The largest departure from a time proportional to the length, from `base` on."""
    rate = per_1k(times)
    return max(abs(rate[n] / rate[base] - 1) for n in rate if n >= base)


def memory_rows(made: dict[str, Callable[[int], Run]], lengths: Sequence[int]) -> Iterator[list[str]]:
    """Peak memory besides the output, in MB, and page faults, of one call after another of the same length."""
    for n in lengths:
        cells = []
        for make in made.values():
            run = make(n)
            run()
            memory = memory_of(run)
            cells += ["" if memory.beyond is None else number(memory.beyond / 1e6), str(memory.faults)]
        yield [str(n), *cells]


@torch.no_grad()
def state_bytes(mixer: MambaMixer, length: int) -> int:
    """What stays allocated as long as the state does: whole storages, also where a tensor shows only a part."""
    _, state = mixer(torch.randn(1, length, mixer.in_proj.in_features))
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state}
    return sum(storages.values())


def plot(curves: dict[str, Times], path: Path, width: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for marker, (name, times) in zip("osd", curves.items(), strict=True):
        axes.loglog(list(times), [t.median * 1e3 for t in times.values()], marker=marker, label=name)
    ticks = sorted({n for times in curves.values() for n in times})
    axes.set_xticks(ticks, [f"{n // 1024}k" if n >= 1024 else str(n) for n in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(
        xlabel="length (tokens)", ylabel="time (ms)", title=f"Selective scan, forward, fp32, E = {width}"
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path)


def with_peers(ours: Times, width: int, rounds: int) -> dict[str, Times]:
    """The peers' scans up to 2k (loop) and 8k tokens (mambapy)."""
    need_mambapy()
    lengths = list(ours)
    loop = measure(lambda n: peer(n, width, False), lengths[:3], rounds)
    mambapy = measure(lambda n: peer(n, width, True), lengths[:5], rounds)
    return {"ours (numba)": ours, "transformers, loop": loop, "transformers, mambapy": mambapy}


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--plot", type=Path, help="where to save the plot; only for it are peers measured")
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="what is counted")
    options = start(arguments)
    lengths, states, base = (SMOKE, SMOKE, SMOKE[0]) if options.smoke else (LENGTHS, STATES, BASE)
    mixer = MambaMixer(32 if options.smoke else WIDTH)
    made: dict[str, Callable[[int], Run]] = {
        "layer": lambda n: layer(mixer, n),
        "scan": lambda n: scan(n, mixer.d_inner),
    }
    with_fill = {**made, "fill": lambda n: fill(n, mixer.d_inner)}
    curves = {
        name: measure(make, lengths, options.rounds, CLOCKS[options.clock])
        for name, make in with_fill.items()
    }
    units = (", ms", ", ms per 1k tokens", f", per token / at {base}")
    title = f"Forward at width {mixer.in_proj.in_features} (median and least of {options.rounds} interleaved rounds)"
    table(title, ["tokens", *(f"{c}{unit}" for c in curves for unit in units)], rows(curves, base))
    worst = ", ".join(f"{name} {deviation(curves[name], base):.0%}" for name in made)
    print(f"\nLargest deviation from linear, {base} to {lengths[-1]} tokens: {worst}.")
    columns = [
        "tokens",
        *(f"{name}, {what}" for name in made for what in ("MB besides the output", "faults")),
    ]
    table("Memory of one call", columns, memory_rows(made, lengths))
    table("A layer's state", ["tokens", "bytes"], ([str(n), str(state_bytes(mixer, n))] for n in states))
    if options.plot:
        plot(with_peers(curves["scan"], mixer.d_inner, options.rounds), options.plot, mixer.d_inner)


if __name__ == "__main__":
    main()
