"""TensorBoard and Weights & Biases, for whoever asks for them; the run folder holds everything without."""

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
_MARK = re.compile("[0-9a-f]{8}")
Tell = Callable[[dict[str, float], int], None]


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, those of mappings as `lr/llm`; its place, `stage` and `step`, is left out."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{inner}": x for inner, x in numbers(value).items()}
        elif isinstance(value, int | float) and key not in ("stage", "step"):
            found[key] = value
    return found


def _mark(file: Path) -> str:
    """The id of this run at a tracker, made once; one that can't be read is made again."""
    with suppress(UserError):
        if _MARK.fullmatch(mark := read_text(file)):
            return mark
    mark = uuid.uuid4().hex[:8]
    write_file(file, mark)
    return mark


class Trackers:
    """Listens to a run folder's records; `starts` is how many steps precede each stage."""

    def __init__(
        self, names: Sequence[str], folder: Path, spec: Mapping[str, Any], starts: Sequence[int], done: int
    ) -> None:
        self.starts, self.closers = starts, []
        opened = {"tensorboard": self._tensorboard, "wandb": self._wandb}
        with write_errors(folder):
            self.tell = {name: opened[name](folder, spec, done) for name in names}

    def __call__(self, file: str, record: dict[str, Any]) -> None:
        kind = Path(file).stem
        prefix = "" if kind == "metrics" else f"{kind}/"
        values = {printable(prefix + name): x for name, x in numbers(record).items()}
        step = self.starts[record["stage"]] + record["step"]
        for name, tell in list(self.tell.items()):
            try:
                tell(values, step)
            except OSError as error:
                del self.tell[name]
                log.warning(
                    "%s: cannot write: %s; it gets nothing more of this run", name, error.strerror or error
                )

    def close(self) -> None:
        for close in self.closers:
            try:
                close()
            except OSError as error:
                log.warning("a tracker cannot write its last values: %s", error.strerror or error)

    def _tensorboard(self, folder: Path, spec: Mapping[str, Any], done: int) -> Tell:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "trackers: tensorboard isn't installed: pip install 'vlm-train[tensorboard]'"
            ) from None
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        self.closers.append(writer.close)

        def tell(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        return tell

    def _wandb(self, folder: Path, spec: Mapping[str, Any], done: int) -> Tell:
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError:
            raise UserError("trackers: wandb isn't installed: pip install 'vlm-train[wandb]'") from None
        run = wandb.init(
            id=_mark(folder / "wandb-id"),
            resume="allow",
            name=folder.name,
            dir=str(folder),
            config=dict(spec),
        )
        self.closers.append(run.finish)
        return lambda values, step: run.log(values, step=step)
