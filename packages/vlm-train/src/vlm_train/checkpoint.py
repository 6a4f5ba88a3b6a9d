"""Checkpoints: trained parts, optimizer and position, in folders that are whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from vlm_core.atomic import sync
from vlm_core.errors import UserError
from vlm_core.folder import MANIFEST, read_manifest, sha256, verify_folder, write_folder
from vlm_core.model import VLM
from vlm_core.weights import fill
from vlm_train import pieces
from vlm_train.pieces import Pieces

OPTIMIZER, EXTRAS, POSITION = "optimizer", "extras", "position.json"
Contents = Mapping[str, Mapping[str, Tensor]]
"""What one process holds: by stem, a part's name or `OPTIMIZER` or `EXTRAS`, tensors by name."""


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` steps of stage number `stage` are done, the latest by `world` processes."""

    stage: int
    step: int
    tokens: int = 0
    dropped: int = 0
    skipped: int = 0
    world: int = 1


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds besides the trained parts, in tensors by parameter name.

    `optimizer` has one for each slot (`name|slot`), `extras` those of averages (`ema|name`) and adapters (`lora|name`).
    """

    position: Position
    optimizer: Pieces
    extras: Pieces


def save(
    root: Path, name: str, contents: Callable[[], Contents], parts: list[str], position: Position,
    accelerator: Accelerator, writers: int,
) -> str | None:  # fmt: skip
    """Write `root/<stage>-<name>-<step>`, every process its own piece if `writers` is more than 1; all call this.

    A checkpoint of the same position is left as it is. Returns, on every process, why it could not be written; then
    nothing of it is left.
    """
    path = root / f"{position.stage:02d}-{name}-{position.step:08d}"
    share = _Share(contents, accelerator, writers)
    if not accelerator.is_main_process:
        share.join()
        return share.agreed(None)
    fault = None
    try:
        if not path.exists():
            root.mkdir(exist_ok=True)
            write_folder(path, lambda aside: share.lead(aside, position), {"parts": parts})
    except (UserError, OSError) as error:
        fault = str(error)
    if not share.begun:
        share.call(None)
    return share.agreed(fault)


class _Share:
    """The work of writing one checkpoint, divided among the processes."""

    def __init__(self, contents: Callable[[], Contents], accelerator: Accelerator, writers: int) -> None:
        self.contents, self.accelerator, self.writers = contents, accelerator, writers
        self.begun = False

    def call(self, folder: Path | None) -> Path | None:
        """The folder to write to, as the main process says; None for nothing to write."""
        self.begun = True
        return broadcast_object_list([folder])[0]

    def agreed(self, fault: str | None) -> str | None:
        """What the main process says came of it."""
        return broadcast_object_list([fault])[0]

    def lead(self, folder: Path, position: Position) -> Mapping[str, str]:
        """The main process's turn: write, and wait for the others; -> hashes of the pieces."""
        self.call(folder)
        hashes = self._write(folder)
        (folder / POSITION).write_text(json.dumps(asdict(position)) + "\n")
        return hashes

    def join(self) -> None:
        """The turn of any other process."""
        if folder := self.call(None):
            try:
                self._write(folder)
            except OSError:
                return  # the main process tells

    def _write(self, folder: Path) -> dict[str, str]:
        """Write this process's piece; raises `OSError` on every process if one couldn't write its own."""
        rank, hashes, fault = self.accelerator.process_index, {}, None
        try:
            if rank < self.writers:
                hashes = self._write_own(folder, rank)
        except Exception as error:  # whatever it is, the others must hear of it
            fault = f"process {rank}: {getattr(error, 'strerror', None) or error}"
        told = gather_object([(fault, hashes)])
        if faults := [fault for fault, _ in told if fault]:
            raise OSError(faults[0])
        return {name: value for _, found in told for name, value in found.items()}

    def _write_own(self, folder: Path, rank: int) -> dict[str, str]:
        files = [
            pieces.write(folder, stem, tensors, rank, self.writers)
            for stem, tensors in self.contents().items()
        ]
        for file in files:
            sync(file)
        return {file.name: sha256(file) for file in files}


def rotate(root: Path, keep: int) -> None:
    """Remove the oldest checkpoints, after the newest is complete."""
    for old in complete(root)[:-keep]:
        shutil.rmtree(old)


def complete(root: Path) -> list[Path]:
    """Finished checkpoints, oldest first; what a kill left half-written has no manifest or another name."""
    return sorted(p for p in root.glob("[0-9]*") if (p / MANIFEST).is_file()) if root.is_dir() else []


def newest(root: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of which every byte is as it was written; damaged ones are named and set aside.

    What a killed process left half-written is removed. One process calls this.
    """
    for left in root.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    for path in reversed(complete(root)):
        try:
            verify_folder(path)
            return path
        except UserError as error:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            say(str(error))
            say(f"kept as {aside.name}; going on from the checkpoint before it")
    return None


def position(path: Path) -> Position:
    """Where a checkpoint stands."""
    return Position(**json.loads((path / POSITION).read_text()))


def restore(path: Path, model: VLM) -> Saved:
    """Load trained parts into `model`, which holds what its stage adds, and return the rest."""
    for part in read_manifest(path)["parts"]:
        stored = Pieces(path, part)
        fill(getattr(model, part), stored.shapes, stored.tensor, stored.where)
    return Saved(position(path), Pieces(path, OPTIMIZER), Pieces(path, EXTRAS))
