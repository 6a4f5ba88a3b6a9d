"""Tensors in safetensors files: one file, or one per process with that process's rows of every sharded tensor."""

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
    """Write the file of process `rank`: `stem.safetensors`, or `stem-00001-of-00002.safetensors`.

    Tensors that share memory, such as the code books of 8-bit optimizers, are written once for each name.
    """
    addresses: set[int] = set()
    unaliased = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        unaliased[name] = tensor.clone() if tensor.data_ptr() in addresses else tensor
        addresses.add(tensor.data_ptr())
    name = f"{stem}.safetensors" if world == 1 else f"{stem}-{rank + 1:05d}-of-{world:05d}.safetensors"
    with disk_errors():
        save_file(unaliased, str(folder / name))
    return folder / name


class ShardedTensorReader:
    """Lazy reader of the tensors in all files of one stem.

    A sharded tensor's rows are concatenated in the order of the files. Other tensors are in the first file alone.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        single = folder / f"{stem}.safetensors"
        self.where = single if single.exists() else folder / stem
        self.files = [single] if single.exists() else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._row_counts: dict[str, list[tuple[Path, int]]] = {}
        for file in self.files:
            with safe_open(file, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - it is not iterable
                    self._add(name, file, tuple(stored.get_slice(name).get_shape()))

    def _add(self, name: str, file: Path, shape: tuple[int, ...]) -> None:
        rows, *row_shape = shape or (0,)
        self._row_counts.setdefault(name, []).append((file, rows))
        total = sum(count for _, count in self._row_counts[name])
        self.shapes[name] = (total, *row_shape) if shape else ()

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_counts)

    def tensor(self, name: str, rows: slice | None = None) -> Tensor:
        """Read a tensor, or only its `rows`."""
        shape = self.shapes[name]
        wanted = range(*(rows or slice(None)).indices(shape[0])) if shape else range(0)
        pieces, start = [], 0
        with ExitStack() as opened:
            for file, count in self._row_counts[name]:
                stored = opened.enter_context(safe_open(file, "pt")).get_slice(name)
                if not shape:
                    return stored[...]
                low, high = max(wanted.start - start, 0), min(wanted.stop - start, count)
                pieces.append(stored[min(low, count) : max(high, low, 0)] if low < high else stored[0:0])
                start += count
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
