"""Tensors in safetensors files: one file, or one a process, each with its rows of every sharded tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm_core.model_folder.weights import disk_errors


def write(folder: Path, stem: str, tensors: Mapping[str, Tensor], rank: int, world: int) -> Path:
    """Write process `rank`'s piece: `stem.safetensors`, or `stem-00001-of-00002.safetensors`.

    Memory that several names share, as the tables of 8-bit optimizers, is written for each.
    """
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        kept[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    name = f"{stem}.safetensors" if world == 1 else f"{stem}-{rank + 1:05d}-of-{world:05d}.safetensors"
    with disk_errors():
        save_file(kept, str(folder / name))
    return folder / name


class ShardedTensorReader:
    """The tensors of all files of one stem, read whole or by rows when asked for.

    Rows follow each other in the order of the files. What isn't sharded is in the first file alone.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        one = folder / f"{stem}.safetensors"
        self.where = one if one.exists() else folder / stem
        self.files = [one] if one.exists() else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[str, list[tuple[Path, int]]] = {}
        for file in self.files:
            with safe_open(file, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - no mapping
                    self._add(name, file, tuple(stored.get_slice(name).get_shape()))

    def _add(self, name: str, file: Path, shape: tuple[int, ...]) -> None:
        rows, *rest = shape or (0,)
        self._pieces.setdefault(name, []).append((file, rows))
        total = sum(count for _, count in self._pieces[name])
        self.shapes[name] = (total, *rest) if shape else ()

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def tensor(self, name: str, rows: slice | None = None) -> Tensor:
        """The tensor of this name, or these of its rows; nothing else is read."""
        shape = self.shapes[name]
        wanted = range(*(rows or slice(None)).indices(shape[0])) if shape else range(0)
        found, start = [], 0
        with ExitStack() as opened:
            for file, count in self._pieces[name]:
                stored = opened.enter_context(safe_open(file, "pt")).get_slice(name)
                if not shape:
                    return stored[...]
                low, high = max(wanted.start - start, 0), min(wanted.stop - start, count)
                found.append(stored[min(low, count) : max(high, low, 0)] if low < high else stored[0:0])
                start += count
            return found[0] if len(found) == 1 else torch.cat(found)
