"""Hostile data files, and what reading each of them comes to: outcome, seconds and memory, each in a process of its own.

python hostile_files.py FOLDER [NAME …]
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TURNS = '"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"yo"}]'
GOOD = "{" + TURNS + "}"
MIB = 2**20
SECONDS = 60


def sparse(path: Path, size: int, head: bytes = b"", tail: bytes = b"") -> None:
    """A file that is mostly a hole."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
        if tail:
            file.seek(size - len(tail))
            file.write(tail)


def in_json(text: str) -> Callable[[Path], None]:
    return lambda path: _write(path, text)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def filled(before: str, inner: str, times: int, after: str) -> Callable[[Path], None]:
    return lambda path: _write(path, before + inner * times + after)


JSON: dict[str, Callable[[Path], None]] = {
    "lists.json": filled('[{"m":[', "[],", 20_000_000, "0]," + TURNS + "}]"),
    "lists.jsonl": filled(GOOD + '\n{"m":[', "[],", 20_000_000, "0]," + TURNS + "}\n"),
    "objects.jsonl": filled(GOOD + '\n{"m":[', '{"a":{}},', 6_000_000, "0]," + TURNS + "}\n"),
    "keys.jsonl": lambda p: _write(p, GOOD + "\n{" + "".join(f'"k{i}":{i},' for i in range(3_000_000)) + TURNS + "}\n"),
    "long-key.jsonl": filled(GOOD + '\n{"', "prompts", 8_000_000, '":1,' + TURNS + "}\n"),
    "deep.json": filled('[{"m":', "[", 10_000_000, "]" * 10_000_000 + "," + TURNS + "}]"),
    "deep.jsonl": filled(GOOD + '\n{"m":', "[", 10_000_000, "]" * 10_000_000 + "," + TURNS + "}\n"),
    "deep-500.jsonl": filled(GOOD + '\n{"system":', "[", 500, "]" * 500 + "," + TURNS + "}\n"),
    "marks.jsonl": filled(GOOD + '\n{"caption":"', "<image>", 8_000_000, '"}\n'),
    "text.jsonl": filled(GOOD + '\n{"caption":"\U0001f600', "x", 60_000_000, '","image":"a.png"}\n'),
    "id.jsonl": filled(GOOD + '\n{"image":"a.png","id":"', "x", 60_000_000, '",' + TURNS + "}\n"),
    "data-url.jsonl": filled(GOOD + '\n{"image":"data:image/png;base64,', "AAAA", 75_000_000, '","caption":"x"}\n'),
    "images.jsonl": filled(GOOD + '\n{"image":[', '"a",', 5_000_000, '"a"],"caption":"x"}\n'),
    "escapes.jsonl": filled(GOOD + '\n{"m":"', '\\"', 20_000_000, "\n"),
    "many-bad.jsonl": filled(GOOD + "\n", "1\n", 8_000_000, ""),
    "blank-lines.jsonl": filled(GOOD, "\n", 300_000_000, GOOD),
    "blank-list.json": filled("[" + GOOD, " ", 300_000_000, "]"),
    "huge-int.json": filled('[{"id":', "1", 5_000, "," + TURNS + "}]"),
    "surrogate.jsonl": in_json(GOOD + '\n{"image":"\\ud800.png","caption":"x"}\n{"id":"\\ud800",' + TURNS + "}\n"),
    "nul-terabyte.json": lambda p: sparse(p, 2**40),
    "terabyte.jsonl": lambda p: sparse(p, 2**40, GOOD.encode() + b"\n"),
    "line-10-gb.jsonl": lambda p: sparse(p, 10 * 2**30, b'{"caption":"', b'"}\n'),
    "fifo.json": lambda p: os.mkfifo(p),
    "device.json": lambda p: p.symlink_to("/dev/zero"),
    "folder.json": lambda p: p.mkdir(),
}  # fmt: skip


def header(name: bytes, size: int, kind: bytes = b"0", extra: bytes = b"") -> bytes:
    """A tar header, unchecked: sizes may be negative or lie."""
    number = b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + size.to_bytes(11, "big", signed=True)
    if size < 0:
        number = b"\xff" + size.to_bytes(11, "big", signed=True)
    block = bytearray(512)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[148:156] = number, b"00000000000\0", b" " * 8
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[386 : 386 + len(extra)] = extra
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: bytes, data: bytes) -> bytes:
    return header(name, len(data)) + padded(data)


SAMPLE = member(b"0.json", GOOD.encode())
END = bytes(10240)


def tar_of(*blocks: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(SAMPLE + b"".join(blocks) + END) and None


def pax(**records: str) -> bytes:
    data = b"".join(b"%d %s=%s\n" % (len(k) + len(v) + 6, k.encode(), v.encode()) for k, v in records.items())
    return header(b"pax", len(data), b"x") + padded(data)


TAR: dict[str, Callable[[Path], None]] = {
    "pax-gigabyte.tar": lambda p: sparse(p, 2 * 2**30, SAMPLE + header(b"x", 2**30, b"x")),
    "pax-digits.tar": tar_of(*[header(b"x", 60_000, b"x") + padded(b"1" * 60_000) + SAMPLE] * 20),
    "long-name.tar": tar_of(header(b"x", MIB, b"L"), b"a" * MIB, SAMPLE),
    "dots.tar": tar_of(*[header(b"x", 60_000, b"L") + padded(b"a." * 29_990 + b"json") + SAMPLE] * 50),
    "long-name-chain.tar": tar_of(header(b"x", 4, b"L") + padded(b"abc\0") * 1, *[header(b"x", 4, b"L") + padded(b"abc\0")] * 5000, SAMPLE),
    "sparse-terabyte.tar": tar_of(header(b"1.json", 512, b"S", b"%011o\0%011o\0" % (0, 512) + bytes(73) + b"\x80" + (2**40).to_bytes(11, "big")), bytes(512)),
    "size-terabyte.tar": lambda p: sparse(p, 2**40 + 2**20, SAMPLE + header(b"1.png", 2**40) ),
    "negative.tar": tar_of(header(b"1.json", -512), SAMPLE),
    "empty-members.tar": lambda p: p.write_bytes(SAMPLE + header(b"1.jpg", 0) * 400_000 + END) and None,
    "one-sample.tar": lambda p: p.write_bytes(SAMPLE + b"".join(header(b"0.%d.jpg" % i, 0) for i in range(100_000)) + END) and None,
    "links.tar": tar_of(header(b"1.json", 0, b"1"), header(b"2.json", 0, b"2"), header(b"3.json", 0, b"3"), header(b"4.json", 0, b"6")),
    "zeros-terabyte.tar": lambda p: sparse(p, 2**40),
    "zeros-behind.tar": lambda p: sparse(p, 2**40, SAMPLE),
    "lists.tar": tar_of(member(b"1.json", b'{"m":[' + b"[]," * 20_000_000 + b"0]," + TURNS.encode() + b"}")),
    "deep-500.tar": tar_of(member(b"1.json", b'{"system":' + b"[" * 500 + b"]" * 500 + b"," + TURNS.encode() + b"}")),
    "fifo.tar": lambda p: os.mkfifo(p),
}  # fmt: skip


def table(path: Path, columns: dict[str, Any], **options: Any) -> None:
    pq.write_table(pa.table(columns), path, **{"compression": "zstd", "store_schema": False, **options})


def repeated(value: Any, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), count), pa.array([value]))


def ids(count: int) -> list[str]:
    """Texts that take more bytes in the file than there are rows."""
    return [random.Random(i).randbytes(8).hex() for i in range(count)]


def long_list(path: Path) -> None:
    empty = pa.repeat(pa.scalar(""), 50_000_000)
    turns = pa.StructArray.from_arrays([empty, empty], ["from", "value"])
    table(path, {"conversations": pa.ListArray.from_arrays(pa.array([0, len(turns)], pa.int32()), turns)})


def repeated_turns(path: Path) -> None:
    turns = pa.StructArray.from_arrays([repeated("human", 4000), repeated("x" * 1_000_000, 4000)], ["from", "value"])
    table(path, {"conversations": pa.ListArray.from_arrays(pa.array([0, 1, 4000], pa.int32()), turns), "id": ["a", "b"]})


def nested_lists(path: Path) -> None:
    inner = pa.ListArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 30_000_001), pa.array([], pa.int8()))
    outer = pa.ListArray.from_arrays(pa.array([0, len(inner)], pa.int32()), inner)
    table(path, {"question": ["q"], "answer": ["a"], "system": outer})


def not_utf8(path: Path) -> None:
    table(path, {"question": ["??????", "fine"], "answer": ["a", "b"]}, compression="none", write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"??????", b"\xff\xfe\xff\xfe\xff\xfe"))


def footer_of(size: int) -> Callable[[Path], None]:
    return lambda path: sparse(path, size + 12, b"PAR1", struct.pack("<I", size) + b"PAR1")


PARQUET: dict[str, Callable[[Path], None]] = {
    "dictionary.parquet": lambda p: table(p, {"question": repeated("x" * 100_000, 1_000_000), "answer": repeated("y", 1_000_000)}),
    "few.parquet": lambda p: table(p, {"question": repeated("x" * 1_000_000, 4000), "answer": repeated("y", 4000), "id": ids(4000)}),
    "turns.parquet": repeated_turns,
    "shares.parquet": lambda p: table(p, {"question": ["x" * 1_000_000] * 400, "answer": ["a"] * 400, "id": ids(400)}, use_dictionary=False, column_encoding={"question": "DELTA_BYTE_ARRAY"}, write_statistics=False),
    "rows.parquet": lambda p: table(p, {"question": repeated("q", 300_000_000), "answer": repeated("a", 300_000_000)}, row_group_size=300_000_000),
    "zeros.parquet": lambda p: table(p, {"question": ["\0" * 1_500_000_000], "answer": ["a"]}, use_dictionary=False, write_statistics=False),
    "list.parquet": long_list,
    "lists.parquet": nested_lists,
    "delta.parquet": lambda p: table(p, {"question": ["x" * 100_000] * 20_000, "answer": ids(20_000)}, use_dictionary=False, column_encoding={"question": "DELTA_BYTE_ARRAY"}, write_statistics=False),
    "bytes.parquet": not_utf8,
    "types.parquet": lambda p: table(p, {"question": [1], "answer": [2.5]}, store_schema=True),
    "dates.parquet": lambda p: table(p, {"question": ["q"], "answer": ["a"], "id": pa.array([2**52], pa.timestamp("s", "Nowhere/Here"))}, store_schema=True),
    "footer-gigabyte.parquet": footer_of(2**30),
    "columns.parquet": lambda p: table(p, {f"c{i}": [1] for i in range(30_000)}),
    "terabyte.parquet": lambda p: sparse(p, 2**40),
    "fifo.parquet": lambda p: os.mkfifo(p),
}  # fmt: skip
CASES = JSON | TAR | PARQUET


def read(path: Path) -> str:
    """What comes of a data file, as `vlm-train check` would read it."""
    from vlm_core.errors import BadSample, UserError
    from vlm_train.llava import LlavaConfig
    from vlm_train.parquet import ParquetConfig
    from vlm_train.webdataset import WebDatasetConfig

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
    from vlm_train import llava, parquet, webdataset  # noqa: F401
    from vlm_train import parquet_rows, rowfile, tar_rows  # noqa: F401

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
        sys.stdout.write(
            f"{name:24} {seconds:6.1f} s {grown:7.0f} MiB  {outcome.encode('ascii', 'backslashreplace').decode()}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
