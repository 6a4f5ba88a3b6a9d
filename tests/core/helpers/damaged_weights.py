"""Model folders whose weight files are damaged, or forged together with their hashes: `CASES` damage in place."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "weights.safetensors"
LLM = Path("llm", WEIGHTS)
SOUND = ("F32", "F16", "BF16", "F64")


def raw(file: Path, header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> None:
    """A safetensors file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def parsed(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:end]), content[end:]


def tensors(change: Callable[[dict[str, Tensor]], object], part: str = "llm") -> Callable[[Path], None]:
    """Damage that is a valid file of other tensors."""

    def damage(folder: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(folder / part / WEIGHTS).items()}
        change(state)
        save_file(state, folder / part / WEIGHTS, metadata={"format": "pt"})

    return damage


def each(change: Callable[[Tensor], Tensor], part: str = "llm") -> Callable[[Path], None]:
    return tensors(
        lambda state: state.update({name: change(t).contiguous() for name, t in state.items()}), part
    )


def header(change: Callable[[dict[str, Any]], object], part: str = "llm") -> Callable[[Path], None]:
    """Damage of what a file says of its tensors, the bytes left as they are."""

    def damage(folder: Path) -> None:
        content, data = parsed(folder / part / WEIGHTS)
        change(content)
        raw(folder / part / WEIGHTS, content, data)

    return damage


def first(state: dict[str, Any]) -> str:
    return next(name for name in state if name != "__metadata__")


def _all(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: [
        fact.update({key: value}) for name, fact in header.items() if name != "__metadata__"
    ]


def _dtype(name: str) -> Callable[[Path], None]:
    """Each tensor under another number format, with bytes to match."""
    sizes = {
        "I64": 8,
        "BOOL": 1,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "C64": 8,
        "F64": 8,
        "U8": 1,
        "I32": 4,
        "F4": 0.5,
    }

    def damage(folder: Path) -> None:
        state, at = {}, 0
        for key, tensor in load_file(folder / LLM).items():
            size = int(tensor.numel() * sizes[name])
            state[key] = {"dtype": name, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
            at += size
        raw(folder / LLM, state, bytes(at))

    return damage


def _fifo(folder: Path) -> None:
    (folder / LLM).unlink()
    os.mkfifo(folder / LLM)


def _directory(folder: Path) -> None:
    (folder / LLM).unlink()
    (folder / LLM).mkdir()


def _pickle(folder: Path) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(folder / LLM).items()}
    torch.save(state, folder / LLM)


def _share(state: dict[str, Any]) -> None:
    """Two tensors of one shape on the same bytes."""
    names = [n for n in state if n != "__metadata__"]
    a, b = next((a, b) for a in names for b in names if a != b and state[a]["shape"] == state[b]["shape"])
    state[b]["data_offsets"] = state[a]["data_offsets"]


def _many(folder: Path, count: int = 120_000) -> None:
    """As many tensors as a header holds, none with a byte."""
    raw(folder / LLM, {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)})


def _swap(state: dict[str, Tensor]) -> None:
    """All tensors there, each under another's name."""
    names = list(state)
    values = [state[name] for name in names]
    state.update(zip(names, values[1:] + values[:1], strict=True))


def _poke(value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state[first(state)].view(-1)[:2].fill_(value)


CASES: dict[str, Callable[[Path], object]] = {
    **{f"dtype {name}": _dtype(name) for name in ("I64", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "U8", "I32")},
    "dtype unknown": header(_all("dtype", "F31")),
    "dtype null": header(_all("dtype", None)),
    "encoder in bool": each(lambda t: t > 0, "encoder"),
    "connector in int64": each(lambda t: t.long(), "connector"),
    "one tensor in int32": tensors(lambda held: held.update({first(held): held[first(held)].int()})),
    "shape with one row more": tensors(
        lambda h: h.update({first(h): torch.cat([h[first(h)], h[first(h)][:1]])})
    ),
    "shape transposed": tensors(
        lambda h: h.update({k: t.T.contiguous() for k, t in h.items() if t.ndim == 2})
    ),
    "shape flat": each(torch.flatten),
    "shape scalar": each(lambda t: t.reshape(-1)[0].clone()),
    "shape of no element": each(lambda t: t[:0]),
    "shape with dimensions of 1": each(lambda t: t[None]),
    "shape negative": header(_all("shape", [-1])),
    "shape of 10^12": header(_all("shape", [10**12])),
    "shape of 10^30": header(_all("shape", [10**30])),
    "shape that overflows": header(_all("shape", [2**32, 2**32])),
    "shape as text": header(_all("shape", "many")),
    "shape of 10^5 dimensions": header(_all("shape", [1] * 100_000)),
    "tensor missing": tensors(lambda held: held.pop(first(held))),
    "tensors all missing": tensors(lambda held: held.clear()),
    "tensor too many": tensors(lambda held: held.update(more=torch.zeros(3))),
    "tensor with a strange name": tensors(lambda held: held.update({"\x1b[31mred\n": torch.zeros(3)})),
    "tensors swapped": tensors(_swap),
    "tensors that share bytes": header(_share),
    "tensors 120 000 of no byte": _many,
    "offsets beyond the file": header(_all("data_offsets", [0, 10**15])),
    "offsets backwards": header(_all("data_offsets", [8, 0])),
    "offsets missing": header(
        lambda held: [fact.pop("data_offsets") for n, fact in held.items() if n[0] != "_"]
    ),
    "offsets negative": header(_all("data_offsets", [-8, 8])),
    "header of 90 MB": lambda f: raw(f / LLM, b'{"__metadata__": {"a": "' + b"x" * (90 << 20) + b'"}}'),
    "header longer than the file": lambda f: raw(f / LLM, {}, length=1 << 40),
    "header of 2^63": lambda f: raw(f / LLM, {}, length=(1 << 63) + 5),
    "header of nothing": lambda f: raw(f / LLM, b""),
    "header no JSON": lambda f: raw(f / LLM, b"not json"),
    "header no object": lambda f: raw(f / LLM, b"[]"),
    "header null": lambda f: raw(f / LLM, b"null"),
    "header nested": lambda f: raw(f / LLM, b'{"a":' * 500_000 + b"1" + b"}" * 500_000),
    "header not UTF-8": lambda f: raw(f / LLM, b'{"\xff\xfe": 1}'),
    "header with a key twice": lambda f: raw(f / LLM, b'{"a": 1, "a": 2}'),
    "metadata of numbers": header(lambda held: held.update(__metadata__={"a": 1})),
    "metadata a list": header(lambda held: held.update(__metadata__=[])),
    "file empty": lambda f: (f / LLM).write_bytes(b""),
    "file of 7 bytes": lambda f: (f / LLM).write_bytes(b"1234567"),
    "file truncated": lambda f: os.truncate(f / LLM, (f / LLM).stat().st_size // 2),
    "file truncated in its header": lambda f: os.truncate(f / LLM, 100),
    "file with more bytes": lambda f: (f / LLM).write_bytes((f / LLM).read_bytes() + bytes(64)),
    "file of noise": lambda f: (f / LLM).write_bytes(bytes(range(256)) * 64),
    "file a torch pickle": _pickle,
    "file a git-lfs pointer": lambda f: (f / LLM).write_text("version https://git-lfs.github.com/spec/v1\n"),
    "file a FIFO": _fifo,
    "file a folder": _directory,
    "file missing": lambda f: (f / LLM).unlink(),
    "file of the other part": lambda f: (f / LLM).write_bytes((f / "encoder" / WEIGHTS).read_bytes()),
}
SOUND_CASES: dict[str, Callable[[Path], None]] = {
    "dtype F64": _dtype("F64"),
    "weights in bf16": each(Tensor.bfloat16),
    "weights in fp16": each(Tensor.half),
}
"""Unusual, and no damage."""
POISONED: dict[str, Callable[[Path], None]] = {
    "weights of NaN": tensors(_poke(float("nan"))),
    "weights of infinity": tensors(_poke(float("inf"))),
    "weights of minus infinity in bf16": lambda f: (
        each(Tensor.bfloat16)(f),
        tensors(_poke(float("-inf")))(f),
    )[1],
    "encoder of NaN": tensors(_poke(float("nan")), "encoder"),
}
"""Loaded with a warning that counts them."""
