"""TensorBoard and Weights & Biases. Both are optional: the run folder has all records."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.atomic import write_errors, write_file
from vlm_core.io.files import read_text
from vlm_core.markup.printable import printable

log = logging.getLogger(__name__)
_RUN_ID = re.compile("[0-9a-f]{8}")
WriteScalars = Callable[[dict[str, float], int], None]


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record without `stage` and `step`; keys of nested mappings are joined, as in `lr/llm`."""
    scalars: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            scalars |= {f"{key}/{inner}": x for inner, x in numbers(value).items()}
        elif isinstance(value, int | float) and key not in ("stage", "step"):
            scalars[key] = value
    return scalars


def _run_id(file: Path) -> str:
    """The id of this run at a tracker, stored in `file`; an invalid one is replaced."""
    with suppress(UserError):
        if _RUN_ID.fullmatch(run_id := read_text(file)):
            return run_id
    run_id = uuid.uuid4().hex[:8]
    write_file(file, run_id)
    return run_id


class Trackers:
    """Writes the records of a run folder to trackers; `starts` are the numbers of steps before each stage.

    `done` steps are done: TensorBoard discards what it has of later ones.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, spec: Mapping[str, Any], starts: Sequence[int], done: int
    ) -> None:
        self.starts, self.closers = starts, []
        openers = {"tensorboard": self._tensorboard, "wandb": self._wandb}
        with write_errors(folder):
            self.writers = {name: openers[name](folder, spec, done) for name in names}

    def __call__(self, file: str, record: dict[str, Any]) -> None:
        kind = Path(file).stem
        prefix = "" if kind == "metrics" else f"{kind}/"
        values = {printable(prefix + name): x for name, x in numbers(record).items()}
        step = self.starts[record["stage"]] + record["step"]
        for name, write in list(self.writers.items()):
            try:
                write(values, step)
            except OSError as error:
                del self.writers[name]
                log.warning(
                    "%s: cannot write: %s; it receives no further records of this run",
                    name,
                    error.strerror or error,
                )

    def close(self) -> None:
        for close in self.closers:
            try:
                close()
            except OSError as error:
                log.warning("a tracker cannot write its last values: %s", error.strerror or error)

    def _tensorboard(self, folder: Path, spec: Mapping[str, Any], done: int) -> WriteScalars:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "trackers: tensorboard isn't installed: pip install 'vlm-train[tensorboard]'"
            ) from None
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        self.closers.append(writer.close)

        def write(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        return write

    def _wandb(self, folder: Path, spec: Mapping[str, Any], done: int) -> WriteScalars:
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError:
            raise UserError("trackers: wandb isn't installed: pip install 'vlm-train[wandb]'") from None
        run = wandb.init(
            id=_run_id(folder / "wandb-id"),
            resume="allow",
            name=folder.name,
            dir=str(folder),
            config=dict(spec),
        )
        self.closers.append(run.finish)
        return lambda values, step: run.log(values, step=step)
