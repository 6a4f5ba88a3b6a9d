"""Damages data files at random and says what reading them makes of it; the same seed is the same damage.

    python fuzz_files.py FOLDER [EXAMPLES [SEED]]

Prints whatever breaks the promise: what is read is as it was written, or is of the bytes that were damaged; what is
missing is reported; nothing but `BadSample` and `UserError` is raised.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from shards import parquet, png, tar, turns

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import image_bytes
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.webdataset import WebDatasetConfig

COUNT = 6
VALUES = [
    "\ud800",
    "x" * 5000,
    0,
    -1,
    10**400,
    1e999,
    float("nan"),
    None,
    True,
    [],
    {},
    [[]],
    {"a": {}},
    "<image>",
    "../a.png",
    "/dev/zero",
    "a\0b",
    "data:image/png;base64,?",
    "pipe:ls",
    "file:///dev/zero",
    "",
]


class File(NamedTuple):
    """An undamaged file: its bytes, and the content of its rows with the stretch of bytes that each stands on."""

    data: bytes
    rows: dict[str, range]
    config: Callable[[str], Any]


def _records() -> list[dict[str, Any]]:
    return [
        {"id": f"row {i}", "image": f"{i}.png", "conversations": turns(f"<image>\nnumber {i}?", f"it is {i}")}
        for i in range(COUNT)
    ]


def content(row: dict[str, Any]) -> str:
    """A row with the bytes of its images, as text that can be compared."""
    images = [image_bytes(image).hex() for image in row["image"]]
    return json.dumps([row["id"], images, row["conversations"], row.get("category"), row.get("system")])


def _lines(folder: Path, as_list: bool) -> File:
    texts = [json.dumps(record) for record in _records()]
    data = ("[" + ",\n".join(texts) + "]" if as_list else "\n".join(texts)).encode()
    name = "x.json" if as_list else "x.jsonl"
    (folder / name).write_bytes(data)
    for i in range(COUNT):
        (folder / f"{i}.png").write_bytes(png((i, 0, 0), (2, 2)))
    return _whole(
        folder / name, lambda path: LlavaConfig(path=path), lambda i: _stretch(data, texts[i].encode())
    )


def _stretch(data: bytes, piece: bytes) -> range:
    start = data.index(piece)
    return range(start, start + len(piece) + 1)


def _tar(folder: Path) -> File:
    members: dict[str, Any] = {}
    for i, record in enumerate(_records()):
        members |= {f"{i}.json": record, f"{i}.png": png((i, 0, 0), (2, 2))}
    tar(folder / "x.tar", members)
    size = 2048  # of two headers, and a block for each content
    return _whole(
        folder / "x.tar", lambda path: WebDatasetConfig(path=path), lambda i: range(i * size, (i + 1) * size)
    )


def _parquet(folder: Path) -> File:
    from vlm_train.data.parquet import ParquetConfig

    records = [
        {**r, "image": {"bytes": png((i, 0, 0), (2, 2)), "path": None}} for i, r in enumerate(_records())
    ]
    path = parquet(folder / "x.parquet", records, group=2)
    return _whole(path, lambda name: ParquetConfig(path=name), lambda i: range(path.stat().st_size))


def _whole(path: Path, config: Callable[[str], Any], stretch: Callable[[int], range]) -> File:
    rows = config(str(path)).rows()
    return File(path.read_bytes(), {content(rows[i]): stretch(i) for i in range(COUNT)}, config)


def originals(folder: Path) -> dict[str, File]:
    """The files to damage, by what they are called."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "x.jsonl": _lines(folder, False),
        "x.json": _lines(folder, True),
        "x.tar": _tar(folder),
        "x.parquet": _parquet(folder),
    }


def damaged(data: bytes, chance: random.Random) -> tuple[bytes, range]:
    """Data with some bytes changed, cut, copied or put in, and the stretch that is no longer as it was."""
    at, size = chance.randrange(len(data)), chance.choice([1, 1, 2, 8, 40])
    kind = chance.randrange(6)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :], range(at, at + 1)
    if kind == 1:
        return data[:at] + chance.randbytes(size) + data[at + size :], range(at, at + size)
    if kind == 2:
        return data[:at], range(at, len(data))
    if kind == 3:
        return data[:at] + data[at + size :], range(at, at + size)
    if kind == 4:
        source = chance.randrange(len(data))
        return data[:at] + data[source : source + size] + data[at + size :], range(at, at + size)
    return data[:at] + chance.choice([b"[", b"{", b"\xff", b"\0", b"\\ud800", b'"', b"9" * 99]) + data[
        at:
    ], range(at, at + 1)


def replaced(data: bytes, chance: random.Random) -> tuple[bytes, range]:
    """JSON with one of its values replaced by an odd one."""
    texts = (
        data.decode().splitlines() if not data.startswith(b"[") else [json.dumps(r) for r in json.loads(data)]
    )
    number = chance.randrange(len(texts))
    row = json.loads(texts[number])
    holder: Any = chance.choice([row, row["conversations"], *row["conversations"]])
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key] = chance.choice(VALUES)
    old, new = texts[number].encode(), json.dumps(row).encode()
    start = data.index(old)
    return data[:start] + new + data[start + len(old) :], range(start, start + len(old))


def problem(folder: Path, name: str, file: File, chance: random.Random) -> str:
    """What breaks the promise for one damaged file; empty if nothing does."""
    by_value = name.startswith("x.json") and chance.random() < 0.3
    data, touched = (replaced if by_value else damaged)(file.data, chance)
    (folder / name).write_bytes(data)
    outcomes, bad = Counter[str](), 0
    try:
        rows = file.config(str(folder / name)).rows()
        for i in range(len(rows)):
            try:
                outcomes[content(rows[i])] += 1
            except BadSample as error:
                bad += 1
                if not str(error).replace("\n", "").isprintable():
                    return f"{name}: an unprintable message {str(error)!r:.200}"
        rows.sizes()
        rows.digest()
    except UserError:
        return ""
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error!r:.300}"
    return _judged(name, file, outcomes, bad, touched)


def _judged(name: str, file: File, outcomes: Counter[str], bad: int, touched: range) -> str:
    hit = [
        row for row, place in file.rows.items() if place.start < touched.stop and touched.start < place.stop
    ]
    other = sum((outcomes - Counter([*file.rows])).values())
    missing = [row for row in file.rows if row not in outcomes]
    if other > max(1, len(hit)) and name != "x.parquet":
        return f"{name}: {other} rows that nobody wrote, where {len(hit)} were damaged"
    if any(row not in hit for row in missing) and not bad:
        return f"{name}: a row is missing that was not damaged, and nothing is reported"
    return ""


def fuzz(folder: Path, examples: int, seed: int, names: list[str]) -> list[str]:
    """The broken promises of so many damaged files."""
    files, chance = originals(folder), random.Random(seed)
    problems = (
        problem(folder, name, files[name], chance)
        for i in range(examples)
        for name in [names[i % len(names)]]
    )
    return [text for text in problems if text]


def main() -> None:
    arguments = [*sys.argv[1:], "2000", "0"][:3] if len(sys.argv) == 2 else [*sys.argv[1:], "0"][:3]
    folder, examples, seed = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    names = os.environ.get("FUZZ_FILES", "x.jsonl x.json x.tar x.parquet").split()
    problems = fuzz(folder, examples, seed, names)
    sys.stdout.write(
        "".join(f"{text}\n" for text in problems) + f"{len(problems)} problems in {examples} files\n"
    )
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
