"""Checkpoints: folders of trained parts, optimizer state and position, each written atomically."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.io.atomic import sync, write_errors
from vlm_core.io.files import read_text
from vlm_core.io.manifest import read_manifest, sha256, verify_folder, write_folder
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.weights import fill
from vlm_train.checkpoint import sharded_safetensors
from vlm_train.checkpoint.run_dir import INPUTS
from vlm_train.checkpoint.sharded_safetensors import ShardedTensorReader

OPTIMIZER, EXTRAS, POSITION = "optimizer", "extras", "position.json"
log = logging.getLogger(__name__)
_NAME = re.compile(r"(\d{2,})-.*-(\d{8,})", re.DOTALL)
Contents = Mapping[str, Mapping[str, Tensor]]
"""Tensors by name that one process writes, by stem of the file: a part's name, `OPTIMIZER` or `EXTRAS`."""


@dataclass(frozen=True)
class Position:
    """Progress of a run: `step` steps of stage number `stage` are done, the latest by `world` processes.

    `tokens`, `dropped` rows and `skipped` steps are counted from the start of the run.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    stage: NonNegativeInt
    step: NonNegativeInt
    tokens: NonNegativeInt = 0
    dropped: NonNegativeInt = 0
    skipped: NonNegativeInt = 0
    world: NonNegativeInt = 1


@dataclass(frozen=True)
class Saved:
    """A checkpoint without its trained parts: position, and tensors by key.

    Keys of `optimizer` are `parameter|slot`; those of `extras` are `ema|parameter` (averages) and `lora|parameter`
    (adapters).
    """

    position: Position
    optimizer: ShardedTensorReader
    extras: ShardedTensorReader


def path_of(root: Path, stage: str, position: Position) -> Path:
    """`root/<stage number>-<stage>-<step>`."""
    return root / f"{position.stage:02d}-{stage}-{position.step:08d}"


def save(
    path: Path,
    contents: Callable[[], Contents],
    parts: list[str],
    position: Position,
    accelerator: Accelerator,
    writers: int,
) -> str | None:
    """Write the folder `path`; the first `writers` processes each write their shards. All processes must call this.

    The folder gets a copy of the run's `inputs.json`, the digests of what the weights were trained from. An existing
    folder is not written again. Returns, on every process, the reason if writing failed; nothing of it is left then.
    """
    writer = _Writer(contents, accelerator, writers)
    if not accelerator.is_main_process:
        writer.write_as_other()
        return writer.broadcast_fault(None)
    fault = None
    try:
        if not path.exists():
            inputs = path.parents[1] / INPUTS
            write_folder(
                path, lambda folder: writer.write_as_main(folder, position, inputs), {"parts": parts}
            )
    except (UserError, OSError) as error:
        fault = str(error)
    if not writer.begun:
        writer.broadcast_folder(None)
    return writer.broadcast_fault(fault)


class _Writer:
    """Writes one checkpoint from all processes."""

    def __init__(self, contents: Callable[[], Contents], accelerator: Accelerator, writers: int) -> None:
        self.contents, self.accelerator, self.writers = contents, accelerator, writers
        self.begun = False

    def broadcast_folder(self, folder: Path | None) -> Path | None:
        """The main process's folder to write to; None for nothing to write."""
        self.begun = True
        return broadcast_object_list([folder])[0]

    def broadcast_fault(self, fault: str | None) -> str | None:
        """The main process's reason why writing failed; None if it succeeded."""
        return broadcast_object_list([fault])[0]

    def write_as_main(self, folder: Path, position: Position, inputs: Path) -> Mapping[str, str]:
        """The main process's part: write, and wait for the others; -> sha256 by file name."""
        self.broadcast_folder(folder)
        hashes = self._write(folder)
        (folder / POSITION).write_text(json.dumps(asdict(position)) + "\n")
        if inputs.exists():
            shutil.copyfile(inputs, folder / INPUTS)
        return hashes

    def write_as_other(self) -> None:
        """The part of every other process."""
        if folder := self.broadcast_folder(None):
            with suppress(OSError):  # the main process reports it
                self._write(folder)

    def _write(self, folder: Path) -> dict[str, str]:
        """Write this process's files; raises `OSError` on every process if one of them failed."""
        rank, hashes, fault = self.accelerator.process_index, {}, None
        try:
            if rank < self.writers:
                hashes = self._write_shards(folder, rank)
        except Exception as error:  # of any type: the others wait for this process
            fault = f"process {rank}: {getattr(error, 'strerror', None) or error}"
        outcomes = gather_object([(fault, hashes)])
        if faults := [fault for fault, _ in outcomes if fault]:
            raise OSError(faults[0])
        return {name: value for _, hashes in outcomes for name, value in hashes.items()}

    def _write_shards(self, folder: Path, rank: int) -> dict[str, str]:
        files = [
            sharded_safetensors.write(folder, stem, tensors, rank, self.writers)
            for stem, tensors in self.contents().items()
        ]
        for file in files:
            sync(file)
        return {file.name: sha256(file) for file in files}


def rotate(root: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`. Each is renamed first: a kill must not leave half of one."""
    for old in checkpoints_in(root)[:-keep]:
        temporary = root / f".{old.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            os.rename(old, temporary)
        except OSError as error:
            log.warning("%s: cannot remove this checkpoint: %s", old, error.strerror or error)
        shutil.rmtree(temporary, ignore_errors=True)


def checkpoints_in(root: Path) -> list[Path]:
    """Paths in `root` with the name of a checkpoint, damaged ones included, the oldest first."""
    return sorted(p for p in root.iterdir() if _NAME.fullmatch(p.name)) if root.is_dir() else []


def newest(
    root: Path, stages: int, say: Callable[[str], None], belongs: Callable[[Path], None] | None = None
) -> Path | None:
    """The newest undamaged checkpoint, by the checksums of its files; None if there is no checkpoint at all.

    `stages` is the number of stages of the run; `belongs` raises `UserError` for a checkpoint of another run. Damaged
    checkpoints are reported through `say` and renamed if there is an undamaged one before them; if there is none,
    `UserError` is raised. Temporary folders of killed processes are removed. Only one process may call this.
    """
    if os.path.lexists(root) and not root.is_dir():
        raise UserError(f"{root}: expected the folder of a run's checkpoints, got a file")
    for temporary in root.glob(".*.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)
    faults: dict[Path, str] = {}
    for path in reversed(checkpoints_in(root)):
        try:
            verify(path)
            if position(path).stage >= stages:
                raise UserError(f"{path}: the run has only {stages} stages")
            if belongs:
                belongs(path)
        except UserError as error:
            faults[path] = str(error)
            continue
        for damaged, fault in faults.items():
            say(fault)
            say(f"kept as {_rename_damaged(damaged).name}; resuming from the checkpoint before it")
        return path
    if faults:
        raise UserError(
            f"{root}: every checkpoint of this run is damaged:",
            *(f"  {fault}" for fault in faults.values()),
            "restore one from a copy, or remove this folder to train from the beginning",
        )
    return None


def _rename_damaged(path: Path) -> Path:
    renamed = path.with_name(f"damaged-{path.name}")
    with write_errors(renamed):
        if renamed.is_dir():
            shutil.rmtree(renamed, ignore_errors=True)
        os.rename(path, renamed)
    return renamed


def verify(path: Path) -> None:
    """Raise `UserError` for a checkpoint in which anything is missing, damaged or different from its manifest."""
    if not path.is_dir():
        raise UserError(f"{path}: expected the folder of a checkpoint, got a file")
    manifest = verify_folder(path, (POSITION,), alone=True)
    parts, reached = manifest.get("parts"), position(path)
    if not isinstance(parts, list) or any(part not in PARTS for part in parts):
        raise UserError(f"{path}: damaged: its parts are {parts!r:.80}, expected some of {', '.join(PARTS)}")
    name = _NAME.fullmatch(path.name)
    if name is None or (int(name[1]), int(name[2])) != (reached.stage, reached.step):
        raise UserError(
            f"{path}: its position is step {reached.step} of stage {reached.stage}, which its name contradicts"
        )
    try:
        absent = [stem for stem in (*parts, OPTIMIZER) if not ShardedTensorReader(path, stem).files]
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if absent:
        raise UserError(f"{path}: damaged: it has no {absent[0]}.safetensors")


def position(path: Path) -> Position:
    """The position of a checkpoint; raises `UserError` if its file can't be read."""
    file = path / POSITION
    try:
        return TypeAdapter(Position).validate_json(read_text(file))
    except ValidationError as error:
        raise UserError(f"{file}: damaged: {error.errors(include_url=False)[0]['msg']}") from None


def restore(path: Path, model: VLM) -> Saved:
    """Load the trained parts into `model`, adapters of its stage included, and return the rest of the checkpoint."""
    for part in read_manifest(path)["parts"]:
        stored = ShardedTensorReader(path, part)
        fill(getattr(model, part), stored.shapes, stored.tensor, stored.where)
    return Saved(position(path), ShardedTensorReader(path, OPTIMIZER), ShardedTensorReader(path, EXTRAS))
