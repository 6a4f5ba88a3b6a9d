"""Steps of the quickstart's two stages with pictures, with and without the feature cache, and what filling it costs.

    uv run python -m perf.cpu.feature_cache

A step is what `vlm-train run` does: rows from the loader, forward, backward, optimizer. Both contestants read the
same rows in the same order.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from accelerate import Accelerator
from perf.lib.common import parser, start
from perf.lib.tables import Case, Run, compare, number, table, timed

from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import Spec, load_spec
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import sample_processor
from vlm_train.data.mixture import joined
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine.stage_batches import StageData
from vlm_train.engine.train_step import take_step
from vlm_train.engine.trainer import StageTrainer
from vlm_train.feature_cache.cache import Features
from vlm_train.feature_cache.size import shape_of
from vlm_train.loss import target_count

SPEC = Path(__file__).parents[2] / "specs" / "quickstart.yaml"
STAGES = (1, 2)
SMOKE = [f"train.stages.{i}.{change}" for i in STAGES for change in ("batch_size=4", "steps=2")]
NAMES = ["pixels", "features"]


class Contestant:
    """One model on its way through the stages, with the cache in a folder or without any."""

    def __init__(self, spec: Spec, cache: str | None) -> None:
        kept = {"feature_cache": {"path": cache}} if cache else {}
        self.spec, self.train = spec, TrainConfig.model_validate({**(spec.train or {}), **kept})
        self.model, self.strategy = build(spec), DDPStrategy(Accelerator(cpu=True))

    def trainer(self, number: int) -> StageTrainer:
        stage = self.train.stages[number]
        accelerator = self.strategy.accelerator
        features = Features.of(self.model, self.spec.encoder, self.train, stage, accelerator)
        reader = sample_processor(self.model, self.spec, self.train, stage)
        folder, rows = RunDir("unused"), joined(stage.data)
        return StageTrainer(
            self.model, self.train, number, StageData(rows, reader, features), folder, self.strategy
        )

    def step(self, trainer: StageTrainer) -> Run:
        """Each call is one more step of the stage."""
        stage_state, clip = trainer.stage_state, trainer.stage.max_grad_norm
        stage_state.start(self.strategy)
        steps = trainer.batches.from_step(0)

        def run() -> object:
            batches = [micro.batch for micro in next(steps) if micro.batch is not None]
            targets = sum(map(target_count, batches))
            return take_step(self.strategy, stage_state.module, stage_state.optimizer, batches, clip, targets)

        return run


def cases(contestants: dict[str, Contestant], filled: Callable[[StageTrainer], None]) -> Iterator[Case]:
    for stage in STAGES:
        trainers = {name: contestant.trainer(stage) for name, contestant in contestants.items()}
        filled(trainers["features"])
        runs = {name: contestants[name].step(trainer) for name, trainer in trainers.items()}
        yield f"{trainers['pixels'].stage.name}, {trainers['pixels'].stage.batch_size} samples", runs


def main() -> None:
    options = start(parser(__doc__, rounds=15))
    spec, _ = load_spec(SPEC, SMOKE if options.smoke else [])
    filling: list[list[str]] = []
    with tempfile.TemporaryDirectory() as cache:
        contestants = {"pixels": Contestant(spec, None), "features": Contestant(spec, cache)}

        def stored() -> int:
            return sum(file.stat().st_size for file in Path(cache).rglob("*.data"))

        def filled(trainer: StageTrainer) -> None:
            before = stored()
            with redirect_stdout(StringIO()):
                seconds = timed(lambda: trainer.batches.precompute_features(0))
            new = stored() - before
            count = new // (4 * math.prod(shape_of(contestants["features"].model)))
            each = number(1e3 * seconds / count) if count else ""
            filling.append([trainer.stage.name, str(count), number(new / 1e6), number(seconds), each])

        ratios = [("pixels", "features")]
        compare("A training step", NAMES, ratios, cases(contestants, filled), options.rounds)
    table(
        "Before a stage's first step, with the cache",
        ["", "images encoded", "MB written", "seconds", "ms an image"],
        filling,
    )


if __name__ == "__main__":
    main()
