"""TensorBoard and Weights & Biases, for whoever asks for them; the run folder holds everything without."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.printable import printable

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


class Trackers:
    """Listens to a run folder's records; `starts` is how many steps precede each stage."""

    def __init__(
        self, names: Sequence[str], folder: Path, spec: Mapping[str, Any], starts: Sequence[int], done: int
    ) -> None:
        self.starts, self.closers = starts, []
        opened = {"tensorboard": self._tensorboard, "wandb": self._wandb}
        self.tell = [opened[name](folder, spec, done) for name in names]

    def __call__(self, file: str, record: dict[str, Any]) -> None:
        kind = Path(file).stem
        prefix = "" if kind == "metrics" else f"{kind}/"
        values = {printable(prefix + name): x for name, x in numbers(record).items()}
        for tell in self.tell:
            tell(values, self.starts[record["stage"]] + record["step"])

    def close(self) -> None:
        for close in self.closers:
            close()

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
        mark = folder / "wandb-id"
        if not mark.exists():
            mark.write_text(uuid.uuid4().hex[:8])
        run = wandb.init(
            id=mark.read_text(), resume="allow", name=folder.name, dir=str(folder), config=dict(spec)
        )
        self.closers.append(run.finish)
        return lambda values, step: run.log(values, step=step)
