"""Samples a second of the loader that training uses, against bare Pillow decoding and the same transform.

    uv run python -m perf.cpu.loader [--workers N] [--rows-only]

Photographs come from scikit-image, at the size and in the format of LLaVA's (JPEG, 640×480 and larger), with a
conversation each. Bare is a loop in as many processes as the loader has workers: open, convert to RGB, transform;
no rows, no tokens, no checks, no batches. The loader delivers padded batches to the main process. --rows-only
measures what the rows of a large file cost instead: time to index, to open again, and memory a process.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from perf.lib.common import parser, start
from perf.lib.tables import Case, Seconds, number, table, turns
from PIL import Image

SAMPLES, BATCH, SIDE = 768, 16, 384
ROWS = 665_000
QUESTION = "<image>\nWhat can be seen in this picture, and where is each of the things that you name?"
ANSWER = "A cup of coffee on a saucer, seen from above; a spoon lies beside it. " * 4


def photographs() -> list[bytes]:
    """JPEG files of about 640×480 from what scikit-image carries."""
    from skimage import data

    found = []
    for name in ("astronaut", "chelsea", "coffee", "rocket", "cat"):
        image = Image.fromarray(getattr(data, name)()).convert("RGB")
        for width, height in ((640, 480), (500, 375), (480, 640)):
            file = io.BytesIO()
            image.resize((width, height)).save(file, "JPEG", quality=90)
            found.append(file.getvalue())
    return found


def row(i: int, image: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": f"{ANSWER} Number {i}."}]
    return {"id": str(i), "image": image, "conversations": turns}


def write_llava(folder: Path, files: list[bytes], count: int) -> dict[str, str]:
    for i in range(count):
        (folder / f"{i}.jpg").write_bytes(files[i % len(files)])
    (folder / "rows.json").write_text(json.dumps([row(i, f"{i}.jpg") for i in range(count)]))
    return {"type": "llava", "path": str(folder / "rows.json")}


def write_parquet(folder: Path, files: list[bytes], count: int) -> dict[str, str]:
    """Row groups of 100 rows, as the hub writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{**row(i, ""), "image": {"bytes": files[i % len(files)], "path": None}} for i in range(count)]
    pq.write_table(pa.Table.from_pylist(records), folder / "rows.parquet", row_group_size=100)
    return {"type": "parquet", "path": str(folder / "rows.parquet")}


def write_tar(folder: Path, files: list[bytes], count: int) -> dict[str, str]:
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for i in range(count):
            members = {"jpg": files[i % len(files)], "json": json.dumps(row(i, "")).encode()}
            for kind, data in members.items():
                info = tarfile.TarInfo(f"{i:06d}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return {"type": "webdataset", "path": str(folder / "rows.tar")}


WRITERS = {"llava": write_llava, "parquet": write_parquet, "webdataset": write_tar}


def _bare(transform: Callable[[Any], Any], paths: list[Path]) -> int:
    torch.set_num_threads(1)
    for path in paths:
        with Image.open(path) as image:
            transform(image.convert("RGB"))
    return len(paths)


def bare(transform: Callable[[Any], Any], paths: list[Path], workers: int) -> int:
    """Decode and transform, the files dealt to processes beforehand."""
    if not workers:
        return _bare(transform, paths)
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return sum(pool.map(partial(_bare, transform), [paths[i::workers] for i in range(workers)]))


class Loading:
    """vlm-train's own loader of one stage over one dataset."""

    def __init__(self, folder: Path, data: dict[str, str], workers: int, side: int, samples: int) -> None:
        from accelerate import Accelerator

        from vlm_core.diagnose.model_summary import build_on_meta
        from vlm_core.spec.spec import load_spec
        from vlm_train.config.section import train_section
        from vlm_train.data.dataset import sample_processor
        from vlm_train.data.mixture import joined
        from vlm_train.engine.stage_batches import StageBatches, StageData

        stage = {"name": "s", "trainable": ["connector"], "data": [data], "lr": 1e-3, "batch_size": BATCH}
        spec = {
            "name": "loader",
            "template": "llava-v1",
            "connector": {"type": "mlp"},
            "encoder": {
                "type": "timm",
                "model": "vit_tiny_patch16_224",
                "image_size": side,
                "model_args": {"depth": 2, "embed_dim": 16, "num_heads": 2},
            },
            "llm": {
                "type": "mamba",
                "d_model": 16,
                "n_layer": 1,
                "tokenizer": {
                    "vocab_size": 300,
                    "dataset": {"type": "llava", "path": str(folder / "texts.json")},
                },
            },
            "train": {"output": str(folder / "run"), "num_workers": workers, "stages": [stage]},
        }
        texts = [{k: v for k, v in row(i, "").items() if k != "image"} for i in range(3)]
        for text in texts:
            text["conversations"][0]["value"] = QUESTION.removeprefix("<image>")
        (folder / "texts.json").write_text(json.dumps(texts))
        (folder / "spec.yaml").write_text(json.dumps(spec))
        made, document = load_spec(folder / "spec.yaml")
        train, model = train_section(made, document), build_on_meta(made)
        reader = sample_processor(model, made, train, train.stages[0])
        rows = joined(train.stages[0].data)
        self.batches = StageBatches(model, train, 0, StageData(rows, reader), Accelerator(cpu=True))
        self.transform, self.samples = reader.transform, samples

    def __call__(self) -> None:
        seen = sum(len(m.batch.input_ids) for micros in self.batches.from_step(0) for m in micros if m.batch)
        assert seen == self.samples, f"{seen} of {self.samples} samples"


def cases(folder: Path, workers: list[int], samples: int, side: int) -> Iterator[Case]:
    files = photographs()
    data = {kind: write(folder, files, samples) for kind, write in WRITERS.items()}
    paths = [folder / f"{i}.jpg" for i in range(samples)]
    for count in workers:
        runs: dict[str, Any] = {
            kind: Loading(folder, found, count, side, samples) for kind, found in data.items()
        }
        transform = runs["llava"].transform
        runs = {"bare": partial(bare, transform, paths, count), **runs}
        yield f"{count or 'no'} worker{'s' if count > 1 else ''}" if count else "in the main process", runs


def rates(case: str, times: dict[str, Seconds], samples: int) -> list[str]:
    """Samples a second of each, and each format's share of bare."""
    found = [case, number(samples / times["bare"].median)]
    for kind in WRITERS:
        speed = samples / times[kind].median
        found.append(f"{number(speed)} ({100 * times['bare'].median / times[kind].median:.0f} %)")
    return found


_OPEN = """
import os, sys, time
from vlm_train.data.{module} import {config}
began = time.perf_counter()
def held(name):
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(name)) / 1024
import numpy, vlm_train.data.json_files.json_rows, vlm_train.data.tar_files.tar_rows
before = held("Private")
rows = {config}(path=sys.argv[1]).rows()
for i in range(0, len(rows), max(1, len(rows) // 1000)):
    rows[i]
print(time.perf_counter() - began, held("Private") - before, len(rows))
"""


def opened(module: str, config: str, path: Path, cache: Path) -> tuple[float, float, int]:
    """Seconds and private MiB of a fresh process that opens a file and reads a thousand of its rows."""
    code = _OPEN.format(module=module, config=config)
    environment = {**os.environ, "VLM_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    seconds, memory, count = done.stdout.split()
    return float(seconds), float(memory), int(count)


def large(folder: Path, count: int) -> Iterator[list[str]]:
    """Text-only rows, so that no image files are needed; a LLaVA list, its lines, and shards."""
    turns = [
        {"from": "human", "value": QUESTION.removeprefix("<image>\n")},
        {"from": "gpt", "value": ANSWER * 3},
    ]
    rows = ({"id": str(i), "conversations": turns} for i in range(count))
    with (folder / "rows.jsonl").open("w") as lines, tarfile.open(folder / "rows.tar", "w") as tar:
        for i, one in enumerate(rows):
            text = json.dumps(one)
            lines.write(text + "\n")
            info = tarfile.TarInfo(f"{i:07d}.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    for name, module, config in (
        ("rows.jsonl", "llava", "LlavaConfig"),
        ("rows.tar", "webdataset", "WebDatasetConfig"),
    ):
        cache = folder / "cache"
        first, _, _ = opened(module, config, folder / name, cache)
        again, memory, found = opened(module, config, folder / name, cache)
        size = (folder / name).stat().st_size / 2**20
        yield [name, f"{found}", number(size), number(first), number(again), number(memory)]


def main() -> None:
    made: argparse.ArgumentParser = parser(__doc__, rounds=5)
    made.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    made.add_argument("--rows-only", action="store_true", help="what the rows of large files cost")
    options = start(made)
    samples = 2 * BATCH if options.smoke else SAMPLES
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.rows_only or options.smoke:
            columns = ["", "rows", "MiB", "indexed, s", "opened again, s", "private MiB a process"]
            table("Rows of a large file", columns, large(folder, 100 if options.smoke else ROWS))
        if options.rows_only:
            return
        title = (
            f"Loader, samples/s and share of bare decoding (median of {options.rounds} interleaved rounds)"
        )
        found = cases(
            folder, [0] if options.smoke else options.workers, samples, 32 if options.smoke else SIDE
        )
        measured = (rates(case, turns(runs, options.rounds), samples) for case, runs in found)
        table(title, ["", "bare", *WRITERS], measured)


if __name__ == "__main__":
    main()
