"""Checkpoints: trained parts, optimizer and position, in folders that are whole or not there."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
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
"""What one process holds: by stem, a part's name or `OPTIMIZER` or `EXTRAS`, tensors by name."""


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` steps of stage number `stage` are done, the latest by `world` processes."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    stage: NonNegativeInt
    step: NonNegativeInt
    tokens: NonNegativeInt = 0
    dropped: NonNegativeInt = 0
    skipped: NonNegativeInt = 0
    world: NonNegativeInt = 1


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds besides the trained parts, in tensors by parameter name.

    `optimizer` has one for each slot (`name|slot`), `extras` those of averages (`ema|name`) and adapters (`lora|name`).
    """

    position: Position
    optimizer: ShardedTensorReader
    extras: ShardedTensorReader


def path_of(root: Path, stage: str, position: Position) -> Path:
    """`root/<stage number>-<stage>-<step>`."""
    return root / f"{position.stage:02d}-{stage}-{position.step:08d}"


def save(
    path: Path, contents: Callable[[], Contents], parts: list[str], position: Position,
    accelerator: Accelerator, writers: int,
) -> str | None:  # fmt: skip
    """Write the folder `path`, every process its own piece if `writers` is more than 1; all call this.

    It gets a copy of the run's `inputs.json`, which tells what the weights were trained from. A checkpoint of the same
    position is left as it is. Returns, on every process, why it could not be written; then nothing of it is left.
    """
    share = _Share(contents, accelerator, writers)
    if not accelerator.is_main_process:
        share.join()
        return share.agreed(None)
    fault = None
    try:
        if not path.exists():
            inputs = path.parents[1] / INPUTS
            write_folder(path, lambda aside: share.lead(aside, position, inputs), {"parts": parts})
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

    def lead(self, folder: Path, position: Position, inputs: Path) -> Mapping[str, str]:
        """The main process's turn: write, and wait for the others; -> hashes of the pieces."""
        self.call(folder)
        hashes = self._write(folder)
        (folder / POSITION).write_text(json.dumps(asdict(position)) + "\n")
        if inputs.exists():
            shutil.copyfile(inputs, folder / INPUTS)
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
            sharded_safetensors.write(folder, stem, tensors, rank, self.writers)
            for stem, tensors in self.contents().items()
        ]
        for file in files:
            sync(file)
        return {file.name: sha256(file) for file in files}


def rotate(root: Path, keep: int) -> None:
    """Remove the oldest checkpoints, after the newest is complete; what a kill leaves of one has another name."""
    for old in found(root)[:-keep]:
        aside = root / f".{old.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            os.rename(old, aside)
        except OSError as error:
            log.warning("%s: cannot remove this checkpoint: %s", old, error.strerror or error)
        shutil.rmtree(aside, ignore_errors=True)


def found(root: Path) -> list[Path]:
    """What are checkpoints by their names, whole or damaged, the oldest first."""
    return sorted(p for p in root.iterdir() if _NAME.fullmatch(p.name)) if root.is_dir() else []


def newest(
    root: Path, stages: int, say: Callable[[str], None], belongs: Callable[[Path], None] | None = None
) -> Path | None:
    """The newest checkpoint of which every byte is as it was written, None if there is no checkpoint at all.

    `stages` is how many the run has; `belongs` raises `UserError` for a checkpoint of another run.

    Damaged ones are named and, if there is a whole one before them, set aside. If none is whole, that is a `UserError`.
    What a killed process left half-written is removed. One process calls this.
    """
    if os.path.lexists(root) and not root.is_dir():
        raise UserError(f"{root}: expected the folder of a run's checkpoints, got a file")
    for left in root.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    faults: dict[Path, str] = {}
    for path in reversed(found(root)):
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
            say(f"kept as {_set_aside(damaged).name}; going on from the checkpoint before it")
        return path
    if faults:
        raise UserError(
            f"{root}: every checkpoint of this run is damaged:",
            *(f"  {fault}" for fault in faults.values()),
            "restore one from a copy, or remove this folder to train from the beginning",
        )
    return None


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"damaged-{path.name}")
    with write_errors(aside):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
    return aside


def verify(path: Path) -> None:
    """Raise `UserError` for a checkpoint of which anything is missing, damaged or not what its manifest says."""
    if not path.is_dir():
        raise UserError(f"{path}: expected the folder of a checkpoint, got a file")
    manifest = verify_folder(path, (POSITION,), alone=True)
    parts, stands = manifest.get("parts"), position(path)
    if not isinstance(parts, list) or any(part not in PARTS for part in parts):
        raise UserError(f"{path}: damaged: its parts are {parts!r:.80}, expected some of {', '.join(PARTS)}")
    name = _NAME.fullmatch(path.name)
    if name is None or (int(name[1]), int(name[2])) != (stands.stage, stands.step):
        raise UserError(
            f"{path}: it stands at step {stands.step} of stage {stands.stage}, not where its name says"
        )
    try:
        absent = [stem for stem in (*parts, OPTIMIZER) if not ShardedTensorReader(path, stem).files]
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if absent:
        raise UserError(f"{path}: damaged: it has no {absent[0]}.safetensors")


def position(path: Path) -> Position:
    """Where a checkpoint stands; raises `UserError` if that can't be read."""
    file = path / POSITION
    try:
        return TypeAdapter(Position).validate_json(read_text(file))
    except ValidationError as error:
        raise UserError(f"{file}: damaged: {error.errors(include_url=False)[0]['msg']}") from None


def restore(path: Path, model: VLM) -> Saved:
    """Load trained parts into `model`, which holds what its stage adds, and return the rest."""
    for part in read_manifest(path)["parts"]:
        stored = ShardedTensorReader(path, part)
        fill(getattr(model, part), stored.shapes, stored.tensor, stored.where)
    return Saved(position(path), ShardedTensorReader(path, OPTIMIZER), ShardedTensorReader(path, EXTRAS))
