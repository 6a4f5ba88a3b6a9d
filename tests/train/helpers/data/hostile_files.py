"""Hostile data files, and what reading each comes to: outcome, seconds and memory, in a process of its own.

    python hostile_files.py [--small] FOLDER [NAME …]

A JSON line for each. `--small` makes files of a twentieth, most of them still beyond a limit.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from hostile_json import JSON
from hostile_parquet import PARQUET
from hostile_tars import TAR

SECONDS = 60
CASES = JSON | TAR | PARQUET


def read(path: Path) -> str:
    """What comes of a data file, as `vlm-train check` would read it."""
    from vlm_core.errors import BadSample, UserError
    from vlm_train.data.llava import LlavaConfig
    from vlm_train.data.parquet import ParquetConfig
    from vlm_train.data.webdataset import WebDatasetConfig

    kinds = {".tar": WebDatasetConfig, ".parquet": ParquetConfig}
    try:
        rows = kinds.get(path.suffix, LlavaConfig)(path=str(path)).rows()
        bad: dict[str, str] = {}
        good = 0
        for i in range(min(1000, len(rows))):
            try:
                rows[i]
                good += 1
            except BadSample as error:
                bad.setdefault(error.reason, str(error))
        rows.sizes()
        rows.digest()
        return f"{len(rows)} rows, {good} good, " + "; ".join(f"{k}: {v[:200]}" for k, v in bad.items())
    except UserError as error:
        return f"UserError: {error}"[:260]


def measured(path: Path, limit: int = 8 * 2**30) -> tuple[str, float, float]:
    """(outcome, seconds, MiB more than before), of a process that dies beyond `limit` bytes and `SECONDS`."""
    receive, send = os.pipe()
    began = time.time()
    child = os.fork()
    if not child:
        os.close(receive)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(SECONDS)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            outcome = read(path)
        except BaseException as error:
            outcome = f"!! {type(error).__name__}: {error}"[:200]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(send, json.dumps([outcome, (peak - before) / 1024]).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        data = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if not data:
        return f"!! signal {os.WTERMSIG(status)}", time.time() - began, usage.ru_maxrss / 1024
    outcome, grown = json.loads(data)
    return outcome, time.time() - began, grown


def main(folder: Path, names: list[str]) -> None:
    os.environ["VLM_CACHE"] = str(folder / "cache")
    from vlm_train.data.tar_files import tar_rows  # noqa: F401, loaded once for all

    for name in names or CASES:
        place = folder / name.replace(".", "-")
        place.mkdir(parents=True, exist_ok=True)
        (place / "a.png").write_bytes(b"")
        path = place / name
        if not os.path.lexists(path):
            if not (builder := os.fork()):
                CASES[name](path)
                os._exit(0)
            os.waitpid(builder, 0)
        outcome, seconds, grown = measured(path)
        figures = {
            "name": name,
            "outcome": outcome.replace(str(path), "FILE"),
            "seconds": round(seconds, 1),
            "mib": round(grown),
        }
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--small"]
    main(Path(given[0]), given[1:])
