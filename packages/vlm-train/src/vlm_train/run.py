"""A whole run: stages in order, evaluation after each, results and the model at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from vlm_core import assemble
from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_core.spec import Spec
from vlm_core.validate import validate
from vlm_core.yaml_loader import Document
from vlm_train import checkpoint, evaluate, results
from vlm_train.checkpoint import Position
from vlm_train.config import Stage, TrainConfig
from vlm_train.examples import Reader
from vlm_train.rundir import CHECKPOINTS, MODEL, RunDir
from vlm_train.trainer import StageTrainer, total_steps

Rows = list[dict[str, Any]]


class Run:
    """One spec on its way through its stages."""

    def __init__(self, spec: Spec, train: TrainConfig, accelerator: Accelerator) -> None:
        resolved = train.model_dump(mode="json", exclude_none=True)  # defaults too: they may change some day
        self.spec = spec.model_copy(update={"train": resolved})
        self.train, self.accelerator = train, accelerator
        self.dir = RunDir(train.output)
        self.rows = [_rows(stage.data) for stage in train.stages]
        self.held_out = _rows(train.evaluation.data) if train.evaluation else []

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    def go(self) -> results.Results:
        """Start, or go on where the folder says; returns the rows of the results table."""
        if self.main:
            self.dir.open(self.spec)
        self.accelerator.wait_for_everyone()
        try:
            return self._go()
        finally:
            self.dir.close()

    def _go(self) -> results.Results:
        set_seed(self.train.seed)
        saved = checkpoint.complete(self.dir.path / CHECKPOINTS)
        done = (self.dir.path / MODEL).exists()
        model = (
            assemble.load(self.dir.path / MODEL)[0]
            if done
            else assemble.build(self.spec, seed=self.train.seed)
        )
        model.to(self.accelerator.device)
        if not done:
            self._stages(model, saved)
        return self._finish(model)

    def _stages(self, model: VLM, saved: Sequence[Any]) -> None:
        position, tensors = Position(0, 0), None
        if saved:
            position, tensors = checkpoint.restore(saved[-1], model)
            self._say(f"resuming {self.train.stages[position.stage].name} at step {position.step}")
        if self.main:
            self.dir.forget_after(position.stage, position.step)
        for number in range(position.stage, len(self.train.stages)):
            stage = self.train.stages[number]
            if number > position.stage:
                position, tensors = Position(number, 0, position.tokens, position.dropped), None
            if position.step < total_steps(stage, len(self.rows[number])):
                position = self._train(model, number, position, tensors)
            last = number == len(self.train.stages) - 1
            self._evaluate(model, f"after {stage.name}", last=last)
        if position.dropped:
            self._say(
                f"{position.dropped} rows were too long for max_length {self.train.max_length} and left out"
            )

    def _train(self, model: VLM, number: int, position: Position, tensors: Any) -> Position:
        stage = self.train.stages[number]
        reader = self.reader(model, stage)
        rows = self.rows[number]
        trainer = StageTrainer(model, self.train, number, rows, reader, self.dir, self.accelerator)
        position = trainer.fit(position, tensors)
        model.eval()
        return position

    def reader(self, model: VLM, stage: Stage | None = None) -> Reader:
        """Rows as the model reads them in `stage`, or at inference."""
        return Reader(
            model.encoder.transform,
            model.image_tokens,
            model.llm.tokenizer,
            (stage and stage.template) or self.spec.template,
            stage.loss_on if stage else "answers",
            self.train.max_length,
        )

    def _evaluate(self, model: VLM, name: str, *, last: bool = False, shuffled: bool = False) -> None:
        settings = self.train.evaluation
        if not settings or not self.main or self.dir.evaluation(name):
            return
        rows = evaluate.spread(self.held_out, None if last else settings.samples)
        asked = evaluate.with_other_images(rows) if shuffled else rows
        self._say(f"evaluating {name}: {len(rows)} held-out questions")
        answers = evaluate.ask(model.eval(), asked, self.reader(model), settings)
        self._store(name, answers)

    def _store(self, name: str, answers: Sequence[evaluate.Answer]) -> None:
        told = [{"id": a.row["id"], "said": a.said, "truth": a.truth, "right": a.right} for a in answers]
        record = {**evaluate.summary(answers), "answers": told}
        self.dir.write(f"evaluations/{name}.json", json.dumps(record) + "\n")

    def _finish(self, model: VLM) -> results.Results:
        if not self.main:
            return []
        if not (self.dir.path / MODEL).exists():
            assemble.save(model, self.spec, self.dir.path / MODEL, {"trained": self.spec.train})
        metrics = self.dir.metrics()
        results.plot_curves(metrics, self.dir.path / "curves.png")
        if not self.held_out:
            return []
        self._evaluate(model, "images shuffled", last=True, shuffled=True)
        if not self.dir.evaluation("question alone"):
            self._store("question alone", evaluate.question_only(self.rows[-1], self.held_out))
        names = [f"after {stage.name}" for stage in self.train.stages] + ["images shuffled", "question alone"]
        table = [(name, found) for name in names if (found := self.dir.evaluation(name))]
        self.dir.write("results.md", results.markdown(table))
        final = self.dir.evaluation(f"after {self.train.stages[-1].name}")
        assert final is not None
        told = zip(self.held_out, final["answers"], strict=True)
        answers = [evaluate.Answer(row, a["said"], a["truth"]) for row, a in told]
        results.plot_samples(answers, self.dir.path / "samples.png")
        return table

    def _say(self, text: str) -> None:
        self.accelerator.print(text)


def _rows(data: Sequence[Any]) -> Rows:
    return [row for source in data for row in source.rows()]


def start(spec: Spec, document: Document) -> tuple[RunDir, results.Results]:
    """Train what the spec says; raises `UserError` before anything is written if data or parts don't fit."""
    if spec.train is None:
        raise UserError(f"{document.file}: has no train section; vlm-assemble builds models without training")
    train = validate(TrainConfig, document, ("train",))
    accelerator = Accelerator(mixed_precision="bf16" if train.precision == "bf16" else "no")
    from vlm_core.check import check

    sums = check(spec)
    accelerator.print(
        f"{spec.name}: {sums.total / 1e6:.2f} M parameters, {sums.tokens} tokens an image, "
        f"{torch.get_num_threads()} threads on {accelerator.device}"
    )
    run = Run(spec, train, accelerator)
    return run.dir, run.go()
