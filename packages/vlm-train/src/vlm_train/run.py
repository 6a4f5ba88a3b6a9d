"""A whole run: stages in order, evaluation after each, results and the model at the end."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from accelerate.utils import set_seed

from vlm_core.diagnose.model_summary import build_on_meta, summarize
from vlm_core.interfaces import Tokenizer
from vlm_core.io.manifest import read_manifest
from vlm_core.io.yaml_loader import Document
from vlm_core.model import VLM
from vlm_core.model_folder import assemble
from vlm_core.model_folder.initial_weights import refuse_untrained
from vlm_core.rows import known_faults
from vlm_core.spec.spec import Spec, locate_template_errors
from vlm_train.checkpoint import checkpoint, run_inputs
from vlm_train.checkpoint.checkpoint import Position
from vlm_train.checkpoint.prepare_run_dir import (
    check_weights,
    claim,
    has_trained,
    newest_checkpoint,
    save_model,
    save_tokenizer,
    saved_model,
    with_saved_tokenizer,
)
from vlm_train.checkpoint.resume import resolved
from vlm_train.checkpoint.run_dir import AVERAGE, ENVIRONMENT, MODEL, RunDir
from vlm_train.checkpoint.run_inputs import Inputs
from vlm_train.config.section import train_section
from vlm_train.config.template_checks import check_templates
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data.dataset import SampleProcessor, sample_processor
from vlm_train.data.mixture import joined
from vlm_train.distributed import process_group, watchdog
from vlm_train.distributed.accelerator import accelerator_of
from vlm_train.distributed.base import DDPStrategy
from vlm_train.distributed.select import strategy_of
from vlm_train.engine.bad_samples import check_budget, refuse
from vlm_train.engine.evaluator import Evaluator
from vlm_train.engine.stage_batches import StageData, total_steps
from vlm_train.engine.stage_state import validate_stage
from vlm_train.engine.trainer import StageTrainer
from vlm_train.evaluation.benchmarks import BenchmarkEvaluator, benchmark_tasks, inputs_of
from vlm_train.evaluation.stage_evaluations import Evaluations, last_name
from vlm_train.evaluation.train_overlap import EvalRows
from vlm_train.evaluation.validation import ValidationLoss
from vlm_train.feature_cache.cache import Features
from vlm_train.feature_cache.size import estimate_cache_size
from vlm_train.micro_batch.auto import micro_batch_size
from vlm_train.monitoring import run_messages
from vlm_train.monitoring.environment import environment, versions
from vlm_train.monitoring.run_messages import log_on_main
from vlm_train.monitoring.trackers import Trackers
from vlm_train.monitoring.weights_summary import summary
from vlm_train.profiling.fit_warnings import fit_warnings
from vlm_train.report import results

log = logging.getLogger(__name__)


class Run:
    """One run of a spec: all stages, their evaluations, and the results."""

    model: VLM

    def __init__(self, spec: Spec, train: TrainConfig, strategy: DDPStrategy, tokenizer: Tokenizer) -> None:
        self.spec = resolved(spec, train)
        self.train, self.tokenizer = train, tokenizer
        self.strategy, self.accelerator = strategy, strategy.accelerator
        self.dir = RunDir(train.output)
        self.trackers: Trackers | None = None
        self.parts = self.spec
        accelerator = strategy.accelerator
        with accelerator.local_main_process_first():  # the others find a large file's index made
            self.rows = [joined(stage.data) for stage in train.stages]
            self.questions = joined(train.held_out_qa.data if train.held_out_qa else [])
            self.unseen = joined(train.validation.data if train.validation else [])
            self.tasks = benchmark_tasks(train.benchmarks)
        self.evaluations = Evaluations(train, self.questions, self.rows, self.dir, accelerator)
        for stage, rows in zip(train.stages, self.rows, strict=True):
            check_budget(rows, train, f"stage {stage.name}")
        for name, rows in (("held_out_qa", self.questions), ("validation", self.unseen)):
            refuse(known_faults(rows), len(rows), name, "mend or remove them")

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    def go(self) -> results.Results:
        """Start, or resume from the newest checkpoint in the folder; -> the rows of the results table."""
        try:
            process_group.call_on_main(self.accelerator, self._claim)
            self.parts = with_saved_tokenizer(self.dir, self.spec)
            return self._go()
        finally:
            if self.trackers:
                self.trackers.close()
            self.dir.close()

    def _claim(self) -> None:
        watchdog.beat("comparing data with those that the run began with", patient=True)
        self.evaluations.inputs = claim(self.dir, self.spec, self._inputs(), self._say)
        save_tokenizer(self.dir, self.spec, self.tokenizer)
        self.dir.write(ENVIRONMENT, json.dumps(environment(self.spec, self.strategy), indent=1) + "\n")

    def _inputs(self) -> Inputs:
        """Digests of everything that this run reads, and package versions."""
        keys = [key for key, _ in run_inputs.datasets(self.train)]
        parts = [part for rows in (*self.rows, self.questions, self.unseen) for part in rows.parts]
        data = run_inputs.data_sources(self.train, dict(zip(keys, parts, strict=True)), {})
        benchmarks, files = inputs_of(self.tasks), run_inputs.file_sources(self.spec, {})
        return Inputs(data, benchmarks, files, versions(self.spec))

    def _go(self) -> results.Results:
        set_seed(self.train.seed)
        if (self.dir.path / MODEL).exists():
            self.model = self._saved(MODEL)
        else:
            self.model = self._untrained()
            self._stages()
        return self._finish()

    def _untrained(self) -> VLM:
        """The model of the spec with its initial weights; on the device, unless the strategy shards it."""
        model = assemble.build(self.parts, seed=self.train.seed)
        return model if self.strategy.sharded else model.to(self.accelerator.device)

    def _saved(self, name: str) -> VLM:
        return saved_model(self.dir, self.spec, name).to(self.accelerator.device)

    def _newest(self) -> tuple[Path | None, Position]:
        """The newest checkpoint, the same on every process, and its position."""
        path = process_group.call_on_main(
            self.accelerator, lambda: newest_checkpoint(self.dir, self.train, self._say)
        )
        return path, checkpoint.position(path) if path else Position(0, 0)

    def _stages(self) -> None:
        """Train all stages, or those that are left."""
        for stage in self.train.stages:
            validate_stage(self.model, stage)
        position, resumed = self._resume()
        self._tell_overlap()
        ahead = list(zip(self.train.stages, self.rows, strict=True))[position.stage :]
        self._say(*filter(None, (estimate_cache_size(self.model, self.train, *each) for each in ahead)))
        for number in range(position.stage, len(self.train.stages)):
            if number > position.stage:
                position, resumed = replace(position, stage=number, step=0), None
            position = self._train(position, resumed)
            name = f"after {self.train.stages[number].name}"
            self.evaluations.ask(name, self.model, self.reader)
        self._say(*run_messages.dropped_samples(self.dir, position))

    def _resume(self) -> tuple[Position, Path | None]:
        """Where the run begins, and the checkpoint that it resumes from."""
        resumed, position = self._newest()
        parts = read_manifest(resumed)["parts"] if resumed else None
        process_group.call_on_main(
            self.accelerator, lambda: check_weights(self.dir, self.model, parts, self._say)
        )
        if resumed:
            name = self.train.stages[position.stage].name
            self._say(*run_messages.resumed(position, name, self.accelerator.num_processes))
        if self.main:
            self.dir.drop_after(position.stage, position.step)
            self._track(position)
        return position, resumed

    def _track(self, position: Position) -> None:
        """Start the trackers at this position."""
        if not self.train.trackers:
            return
        steps = [total_steps(s, len(rows)) for s, rows in zip(self.train.stages, self.rows, strict=True)]
        starts = [sum(steps[:i]) for i in range(len(steps))]
        facts, done = self.spec.model_dump(mode="json"), starts[position.stage] + position.step
        self.trackers = Trackers(self.train.trackers, self.dir.path, facts, starts, done)
        self.dir.listeners.append(self.trackers)

    def _train(self, position: Position, resumed: Path | None) -> Position:
        """Train one stage from `position` to its end, evaluate its average, merge its adapters."""
        name = self.train.stages[position.stage].name
        watchdog.beat(f"starting stage {name}", patient=True)
        trainer = self._trainer(position.stage, resumed)
        if position.step < trainer.steps:
            self._say(*run_messages.parameter_groups(trainer.stage_state.groups))
            position = trainer.fit(position)
            watchdog.beat(f"finishing stage {name}", patient=True)
            if trainer.uses_up:
                del trainer, self.model
                self.accelerator.free_memory()
                self.model = self._untrained()
                trainer = self._trainer(position.stage, self._newest()[0])
        self.model.to(self.accelerator.device).eval()
        stage = trainer.stage
        if stage.ema and stage.ema.use == "beside":
            with trainer.stage_state.averaged():
                self._average(stage.name, last=position.stage == len(self.train.stages) - 1)
        trainer.stage_state.finish()
        return position

    def _trainer(self, number: int, resumed: Path | None) -> StageTrainer:
        """The trainer of one stage, restored from the checkpoint `resumed` if there is one."""
        stage, rows = self.train.stages[number], self.rows[number]
        reader = self.reader(stage)
        features = Features.of(self.model, self.spec.encoder, self.train, stage, self.accelerator)
        trainer = StageTrainer(
            self.model,
            self.train,
            number,
            StageData(rows, reader, features),
            self.dir,
            self.strategy,
            self._evaluators(reader, stage.name),
            micro_batch_size,
        )
        if resumed:
            trainer.restore(resumed)
        return trainer

    def _evaluators(self, reader: SampleProcessor, stage: str) -> list[Evaluator]:
        """Evaluators that run while `stage` trains."""
        evaluators: list[Evaluator] = []
        if settings := self.train.validation:
            evaluators.append(ValidationLoss(settings, self.unseen, reader, self.accelerator))
        if (settings := self.train.benchmarks) and stage in (settings.stages or [stage]):
            evaluators.append(
                BenchmarkEvaluator(settings, self.tasks, self.model, self.spec.template, self.accelerator)
            )
        return evaluators

    def _average(self, stage: str, *, last: bool) -> None:
        """Evaluate the averaged weights, and save them if this is the last stage."""
        self.evaluations.ask(f"after {stage}, average", self.model, self.reader)
        if last and self.main:
            save_model(self.dir, self.model, self.spec, AVERAGE)

    def reader(self, stage: Stage | None = None) -> SampleProcessor:
        """The sample processor of `stage`, or of inference."""
        return sample_processor(self.model, self.spec, self.train, stage)

    def _tell_overlap(self) -> None:
        """Print how many evaluation rows are also in the training data."""
        asked = ValidationLoss.chosen(self.train.validation, self.unseen)
        validation = EvalRows("validation", asked, self.train, self.rows, self.accelerator, every=True)
        for eval_rows in (self.evaluations.eval_rows, validation):
            self._say(*(eval_rows.lines() if eval_rows.rows else ()))

    def _finish(self) -> results.Results:
        watchdog.beat("writing model and results", patient=True)
        if self.main:
            save_model(self.dir, self.model, self.spec, MODEL)
        if self.train.held_out_qa:
            self.evaluations.ask(last_name(self.train), self.model, self.reader)
            self.evaluations.controls(self.model, self.reader)
            self._evaluate_average()
        if not self.main:
            return []
        self.evaluations.archive_outdated()
        stages = [stage.name for stage in self.train.stages]
        return results.write_all(self.dir, stages, self.questions)

    def _evaluate_average(self) -> None:
        """Evaluate the averaged weights again if the saved answers are to other questions."""
        name = f"{last_name(self.train)}, average"
        if (self.dir.path / AVERAGE).exists() and not self.evaluations.done(name):
            self.model = self._saved(AVERAGE)
            self.evaluations.ask(name, self.model, self.reader)

    def _say(self, *lines: str) -> None:
        log_on_main(self.accelerator, *lines)


def start(spec: Spec, document: Document) -> tuple[RunDir, results.Results]:
    """Train a spec; raises `UserError` before anything is written if its data or parts don't fit."""
    train = train_section(spec, document)
    refuse_untrained(spec, document)
    accelerator = accelerator_of(train)

    run_dir = RunDir(train.output)
    parts = with_saved_tokenizer(run_dir, spec) if has_trained(run_dir) else spec
    with locate_template_errors(document):
        model = build_on_meta(parts)
        check_templates(spec, train, model.llm.tokenizer)
    log_on_main(accelerator, *summary(spec, train, model, summarize(parts, model), accelerator.device))
    strategy = strategy_of(train, accelerator, model)
    if accelerator.is_main_process:
        world = accelerator.num_processes
        for line in fit_warnings(parts, train, model, world, accelerator.device, sharded=strategy.sharded):
            log.warning("%s", line)
    with watchdog.watching(train.timeout):
        run = Run(spec, train, strategy, model.llm.tokenizer)
        return run.dir, run.go()
