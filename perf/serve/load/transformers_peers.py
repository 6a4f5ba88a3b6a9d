"""The same load for transformers: `generate` in batches, and `transformers serve`.

`transformers serve` answers requests for a Mamba one after the other: with `--continuous-batching` each ends with
"ValueError: Invalid layer type: linear_attention" (transformers 5.24).
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from perf.lib.contestants import models
from perf.lib.serving import Rate, clocks, neox, question
from transformers import MambaForCausalLM

CLIENTS = 4
"""Who ask `transformers serve` at once: as it answers one after the other, more would only wait longer."""
STARTS, ANSWERS = 300, 1800
"""Seconds until the server has started, and until an answer has come."""
COMMAND = "from transformers.cli.transformers import main; main()"


def language_model(shape: tuple[int, int, int]) -> Any:
    """transformers' own Mamba of this width, depth and vocabulary, with random weights."""
    _, body = models(*shape)
    with torch.device("meta"):
        model: Any = MambaForCausalLM(body.config).eval()
    model.backbone, model.lm_head.weight = body, body.embeddings.weight
    return model


def generate(shape: tuple[int, int, int], batch: int, positions: int, tokens: int) -> Callable[[], Rate]:
    """Of `generate` on a batch of prompts of so many positions."""
    model, ids = language_model(shape), torch.randint(1, shape[2], (batch, positions))

    def run() -> Rate:
        begin = clocks()
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        return Rate.since(begin, clocks(), out.numel() - ids.numel())

    return run


@contextmanager
def serve(shape: tuple[int, int, int], words: int, tokens: int, threads: int) -> Iterator[Callable[[], Rate]]:
    """Of a running `transformers serve` that several clients ask at once, each for one answer."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        _save(shape, Path(folder))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        options = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "serve", folder, *options],
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _started(server, url, Path(folder) / "log")
            yield lambda: _rate(server, url, folder, words, tokens)
        finally:
            server.terminate()
            server.wait()


def why_not_served() -> str | None:
    """Why `transformers serve` can't run here."""
    if importlib.util.find_spec("fastapi") is None:
        return "`transformers serve` is left out: it needs fastapi, which `uv run --with fastapi python -m …` brings"
    return None


def _save(shape: tuple[int, int, int], folder: Path) -> None:
    language_model(shape).save_pretrained(folder)
    neox().save(folder)


def _started(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + STARTS
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"`transformers serve` doesn't start:\n{log.read_text()[-2000:]}")


def _rate(server: subprocess.Popen[bytes], url: str, model: str, words: int, tokens: int) -> Rate:
    def now() -> tuple[float, float]:
        times = psutil.Process(server.pid).cpu_times()
        return time.perf_counter(), times.user + times.system

    def ask(number: int) -> int:
        body = {"model": model, "prompt": question(random.Random(number), words), "max_tokens": tokens}
        data = json.dumps({**body, "temperature": 0}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/completions", data, headers)
        with urllib.request.urlopen(request, timeout=ANSWERS) as answer:
            return json.load(answer)["usage"]["completion_tokens"]

    begin = now()
    with ThreadPoolExecutor(CLIENTS) as clients:
        counts = list(clients.map(ask, range(CLIENTS)))
    return Rate.since(begin, now(), sum(counts))
