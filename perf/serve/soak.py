"""Minutes of load with faults: every request is answered or fails clearly, and no slot is lost.

    uv run python -m perf.serve.soak --seconds 600

A real `vlm-serve` on a tiny model. Clients ask for whole answers and streams; some read slowly, some go away in the
middle, some send what is refused. Meanwhile the worker is killed twice, and for a while it can't write its state cache
(its files are limited to no bytes, as on a full disk). Exit code 1 if a request got neither an answer nor an error, or
if a slot is in use after the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil
from perf.lib.tables import table
from perf.serve.load.clients import KINDS, Tally, client_loop

ENDS = ("answered", "failed clearly", "broken off by the client", "silent")
TEXTS = ["what color is the shape? red", "is there a circle? yes no", "a blue triangle on a white ground"]
KILLS, FULL = (0.25, 0.5), (0.65, 0.8)
"""When the worker is killed, and while it can't write, as shares of the time."""


def tiny_model(folder: Path) -> Path:
    """A saved model with random weights, which answers quickly."""
    from vlm_core.model_folder.assemble import build, save
    from vlm_core.spec.spec import Spec

    texts = folder / "texts.json"
    talks = [[{"from": "human", "value": text}, {"from": "gpt", "value": text}] for text in TEXTS]
    rows = [{"id": str(i), "conversations": talk} for i, talk in enumerate(talks)]
    texts.write_text(json.dumps(rows))
    tokenizer = {"vocab_size": 300, "dataset": {"type": "llava", "path": str(texts)}}
    tower = {"depth": 2, "embed_dim": 16, "num_heads": 2}
    spec = Spec.model_validate(
        {
            "name": "tiny",
            "encoder": {
                "type": "timm",
                "model": "vit_tiny_patch16_224",
                "model_args": tower,
                "image_size": 32,
            },
            "connector": {"type": "mlp"},
            "llm": {"type": "mamba", "d_model": 32, "n_layer": 2, "tokenizer": tokenizer},
            "template": "short",
            "keep_random": ["encoder"],
        }
    )
    save(build(spec), spec, folder / "tiny")
    return folder / "tiny"


class Log(threading.Thread):
    """The lines that a server prints, read from a pipe: a file of its own would count as a file that it writes."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(daemon=True)
        self.pipe, self.lines = pipe, list[str]()
        self.start()

    def run(self) -> None:
        self.lines.extend(line.rstrip() for line in iter(self.pipe.readline, ""))

    def address(self) -> str:
        """Waits for the line with the address."""
        end = time.monotonic() + 180
        while time.monotonic() < end and self.is_alive():
            if match := re.search(r"http://[\d.]+:\d+", " ".join(self.lines)):
                return match[0]
            time.sleep(0.2)
        raise SystemExit("\n".join(["the server did not start", *self.lines]))


@contextmanager
def server(model: Path, folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A running `vlm-serve` and its address; its last lines are printed at its end."""
    command = [sys.executable, "-m", "vlm_serve.cli.main", str(model), "--port", "0", "--no-access-log"]
    command += ["--slots", "8", "--max-queue", "32", "--cache-memory", "64KiB", "--grace", "10"]
    command += ["--cache-folder", str(folder / "states")]
    output = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdout=output, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        log = Log(process.stdout)
        try:
            yield psutil.Process(process.pid), log.address()
        finally:
            process.send_signal(signal.SIGTERM)
            print(f"\nexit code {process.wait(60)}; the last lines of its log:")
            log.join(5)
            print(*log.lines[-20:], sep="\n")


def workers(process: psutil.Process) -> list[psutil.Process]:
    """The processes that own a model; multiprocessing's resource tracker is none, nor is one that has ended."""
    owners = []
    for child in process.children():
        with suppress(psutil.NoSuchProcess):  # a zombie, too
            owners += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return owners


async def ready_workers(process: psutil.Process, address: str) -> list[psutil.Process]:
    """The workers once one can answer; raises `TimeoutError` after a minute."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(healthy, address):
            await asyncio.sleep(0.1)
    return workers(process)


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=10):
            return True
    except OSError:  # 503, too
        return False


async def faults(process: psutil.Process, address: str, seconds: float) -> None:
    """Kill the worker twice; then let it write no file for a while."""
    begin = time.monotonic()

    async def until(share: float) -> None:
        await asyncio.sleep(max(0.0, begin + share * seconds - time.monotonic()))

    for share in KILLS:
        await until(share)
        for worker in await ready_workers(process, address):
            worker.kill()
            print(f"{time.monotonic() - begin:.0f} s: killed worker {worker.pid}", flush=True)
    await until(FULL[0])
    limited = await ready_workers(process, address)
    for worker in limited:
        worker.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
        print(f"{time.monotonic() - begin:.0f} s: worker {worker.pid} can write no file", flush=True)
    await until(FULL[1])
    for worker in limited:
        worker.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    print(f"{time.monotonic() - begin:.0f} s: files can be written", flush=True)


async def load(process: psutil.Process, address: str, seconds: float, clients: int) -> Tally:
    tally, end = Tally(), time.monotonic() + seconds
    loops = [client_loop(address, "tiny", seed, end, tally) for seed in range(clients)]
    await asyncio.gather(faults(process, address, seconds), *loops)
    return tally


def gauges(address: str) -> dict[str, float]:
    """The engine's numbers in /metrics."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        name: float(value)
        for name, value in re.findall(r"^vlm_serve_engine_(\w+) (\S+)$", text, re.MULTILINE)
    }


def idle_gauges(address: str) -> dict[str, float]:
    """The same once nothing is in use, or after 20 seconds."""
    end = time.monotonic() + 20
    while busy(numbers := gauges(address)) and time.monotonic() < end:
        time.sleep(0.5)
    return numbers


def busy(numbers: dict[str, float]) -> float:
    """Slots, waiting requests and bytes of states: 0 once every request has ended."""
    return sum(numbers[name] for name in ("slots_in_use", "queue_requests", "state_bytes"))


def report(tally: Tally, numbers: dict[str, float], seconds: float) -> bool:
    """Print what came of all requests -> whether all is as it must be."""
    rows = [[kind, *(str(tally.ends[kind, end]) for end in ENDS)] for kind in KINDS]  # pyright: ignore[reportArgumentType]
    total = sum(tally.ends.values())
    table("requests by kind of client", ["client", *ENDS], rows)
    print()
    print(
        f"{total} requests in {seconds:.0f} s; {tally.count('answered')} answered, "
        f"{tally.count('failed clearly')} failed clearly, {tally.count('silent')} silent"
    )
    if len(tally.first_token) > 1:
        cuts = statistics.quantiles(tally.first_token, n=100)
        print(
            f"time to the first token of streams: median {cuts[49]:.3f} s, 99th percentile {cuts[98]:.3f} s"
        )
    print("errors:", *[f"{number} × {text}" for text, number in tally.errors.most_common(12)], sep="\n  ")
    print("silent:", *tally.silent[:10], sep="\n  ")
    print("engine:", *[f"{name} {value:g}" for name, value in sorted(numbers.items())], sep="\n  ")
    return total > 0 and not tally.silent and not busy(numbers)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--smoke", action="store_true", help="half a minute: does it run at all")
    options = parser.parse_args()
    seconds = 30.0 if options.smoke else options.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with server(tiny_model(folder), folder) as (process, address):
            tally = asyncio.run(load(process, address, seconds, options.clients))
            sound = report(tally, idle_gauges(address), seconds)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
