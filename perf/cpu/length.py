"""Time and memory against length: linear, and constant.

    uv run python -m perf.cpu.length [--plot scan-length.png]

The scan alone and one layer of width 768, fp32, forward; and how many bytes a layer's state keeps alive.
The plot is of the scan alone, beside transformers' loop up to 2k tokens and mambapy's scan up to 8k (by then it
fills gigabytes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from perf.lib.common import need_mambapy, parser, start
from perf.lib.contestants import by_channel, our_scan, peer_scan, scan_inputs
from perf.lib.contests import inference, on
from perf.lib.tables import Run, Seconds, milliseconds, number, ratio, table, turns

from vlm_ssm import MambaMixer

WIDTH = 768
LENGTHS = [2**k for k in range(9, 16)]  # 512 … 32768
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


def peer(length: int, width: int, use_mambapy: bool) -> Run:
    inputs = by_channel(scan_inputs(length, width))
    return inference(lambda: peer_scan(inputs, use_mambapy))


def measure(made: Callable[[int], Run], lengths: Sequence[int], rounds: int) -> Times:
    """All lengths take turns."""
    times = turns({str(n): made(n) for n in lengths}, rounds)
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
    options = start(arguments)
    lengths, states, base = (SMOKE, SMOKE, SMOKE[0]) if options.smoke else (LENGTHS, STATES, BASE)
    mixer = MambaMixer(32 if options.smoke else WIDTH)
    curves = {
        "layer": measure(lambda n: layer(mixer, n), lengths, options.rounds),
        "scan": measure(lambda n: scan(n, mixer.d_inner), lengths, options.rounds),
    }
    units = (", ms", ", ms per 1k tokens", f", per token / at {base}")
    title = f"Forward at width {mixer.in_proj.in_features} (median and least of {options.rounds} interleaved rounds)"
    table(title, ["tokens", *(f"{c}{unit}" for c in curves for unit in units)], rows(curves, base))
    worst = ", ".join(f"{name} {deviation(times, base):.0%}" for name, times in curves.items())
    print(f"\nLargest deviation from linear, {base} to {lengths[-1]} tokens: {worst}.")
    table("A layer's state", ["tokens", "bytes"], ([str(n), str(state_bytes(mixer, n))] for n in states))
    if options.plot:
        plot(with_peers(curves["scan"], mixer.d_inner, options.rounds), options.plot, mixer.d_inner)


if __name__ == "__main__":
    main()
