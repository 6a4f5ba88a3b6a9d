"""Hostile JSON files, and what the other kinds of hostile files are made with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

TURNS = '"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"yo"}]'
GOOD = "{" + TURNS + "}"
SMALL = 20 if "--small" in sys.argv else 1


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
    return lambda path: _write(path, before + inner * (times // SMALL) + after)


JSON: dict[str, Callable[[Path], None]] = {
    "lists.json": filled('[{"m":[', "[],", 20_000_000, "0]," + TURNS + "}]"),
    "lists.jsonl": filled(GOOD + '\n{"m":[', "[],", 20_000_000, "0]," + TURNS + "}\n"),
    "objects.jsonl": filled(GOOD + '\n{"m":[', '{"a":{}},', 6_000_000, "0]," + TURNS + "}\n"),
    "keys.jsonl": lambda p: _write(
        p, GOOD + "\n{" + "".join(f'"k{i}":{i},' for i in range(3_000_000 // SMALL)) + TURNS + "}\n"
    ),
    "long-key.jsonl": filled(GOOD + '\n{"', "prompts", 8_000_000, '":1,' + TURNS + "}\n"),
    "deep.json": filled('[{"m":', "[", 10_000_000, "]" * (10_000_000 // SMALL) + "," + TURNS + "}]"),
    "deep.jsonl": filled(
        GOOD + '\n{"m":', "[", 10_000_000, "]" * (10_000_000 // SMALL) + "," + TURNS + "}\n"
    ),
    "deep-500.jsonl": in_json(GOOD + '\n{"system":' + "[" * 500 + "]" * 500 + "," + TURNS + "}\n"),
    "marks.jsonl": filled(GOOD + '\n{"caption":"', "<image>", 8_000_000, '"}\n'),
    "text.jsonl": filled(GOOD + '\n{"caption":"\U0001f600', "x", 60_000_000, '","image":"a.png"}\n'),
    "id.jsonl": filled(GOOD + '\n{"image":"a.png","id":"', "x", 60_000_000, '",' + TURNS + "}\n"),
    "data-url.jsonl": filled(
        GOOD + '\n{"image":"data:image/png;base64,', "AAAA", 75_000_000, '","caption":"x"}\n'
    ),
    "images.jsonl": filled(GOOD + '\n{"image":[', '"a",', 5_000_000, '"a"],"caption":"x"}\n'),
    "escapes.jsonl": filled(GOOD + '\n{"m":"', '\\"', 20_000_000, "\n"),
    "many-bad.jsonl": filled(GOOD + "\n", "1\n", 8_000_000, ""),
    "blank-lines.jsonl": filled(GOOD, "\n", 300_000_000, GOOD),
    "blank-list.json": filled("[" + GOOD, " ", 300_000_000, "]"),
    "huge-int.json": in_json('[{"id":' + "1" * 5_000 + "," + TURNS + "}," + GOOD + "]"),
    "surrogate.jsonl": in_json(
        GOOD + '\n{"image":"\\ud800.png","caption":"x"}\n{"id":"\\ud800",' + TURNS + "}\n"
    ),
    "nul-terabyte.json": lambda p: sparse(p, 2**40),
    "terabyte.jsonl": lambda p: sparse(p, 2**40, GOOD.encode() + b"\n"),
    "line-10-gb.jsonl": lambda p: sparse(p, 10 * 2**30, b'{"caption":"', b'"}\n'),
    "fifo.json": lambda p: os.mkfifo(p),
    "device.json": lambda p: p.symlink_to("/dev/zero"),
    "folder.json": lambda p: p.mkdir(),
}
