"""The evaluations of a run: `train.evaluation`'s questions after each stage, and their controls after the last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from vlm_core.images import image_name
from vlm_core.model import VLM
from vlm_train import controls, evaluate
from vlm_train.answers import Answer, summary
from vlm_train.config import TrainConfig
from vlm_train.examples import Reader
from vlm_train.overlap import Measured
from vlm_train.rundir import RunDir


class Evaluations:
    """Asks, scores and records; a record that is there already is kept. Every process makes the same calls."""

    def __init__(
        self,
        train: TrainConfig,
        rows: Sequence[dict[str, Any]],
        stages: Sequence[Sequence[dict[str, Any]]],
        folder: RunDir,
        accelerator: Accelerator,
    ) -> None:
        self.train, self.rows, self.stages = train, rows, stages
        self.dir, self.accelerator = folder, accelerator
        self.measured = Measured("evaluation", rows, train, stages, accelerator)

    def ask(self, name: str, model: VLM, reader: Reader, *, last: bool = False) -> None:
        """Ask after a stage: all rows if it is the last, else `evaluation.samples` of them."""
        settings = self.train.evaluation
        if settings and not self._done(name):
            rows = evaluate.spread(self.rows, None if last else settings.samples)
            self._ask(name, rows, model, reader, {})

    def controls(self, model: VLM, reader: Reader) -> None:
        """Ask about other images, and count what the question alone tells."""
        if self.train.evaluation and not self._done(controls.SHUFFLED):
            rows, left_out = controls.with_other_images(self.rows, self.measured.contents)
            self._ask(controls.SHUFFLED, rows, model, reader, left_out)
        if self.train.evaluation and not self._done(controls.QUESTION_ALONE):
            facts: dict[str, Any] = {"overlap": self.measured.counts}
            if self.accelerator.is_main_process:
                answers, facts["training_rows"] = controls.question_only(self.stages[-1], self.rows)
                facts["training_rows"]["stage"] = self.train.stages[-1].name
                self._store(controls.QUESTION_ALONE, answers, facts)

    def _ask(
        self,
        name: str,
        rows: Sequence[dict[str, Any]],
        model: VLM,
        reader: Reader,
        left_out: Mapping[str, int],
    ) -> None:
        assert self.train.evaluation
        reasons = "".join(f", {count} left out: {reason}" for reason, count in left_out.items())
        self.accelerator.print(f"evaluating {name}: {len(rows)} questions{reasons}")
        contents, facts = self.measured.contents, {"left_out": left_out, "overlap": self.measured.counts}
        answers = evaluate.ask_together(
            model.eval(), rows, contents, reader, self.train.evaluation, self.accelerator
        )
        if self.accelerator.is_main_process:
            self._store(name, answers, facts)

    def _done(self, name: str) -> bool:
        """Whether an evaluation is there already; the same on every process."""
        there = self.accelerator.is_main_process and self.dir.evaluation(name) is not None
        return broadcast_object_list([there])[0]

    def _store(self, name: str, answers: Sequence[Answer], facts: Mapping[str, Any]) -> None:
        told = [
            {"id": a.row["id"], "images": list(map(image_name, a.row["image"])),
             "said": a.said, "truth": a.truth, "right": a.right}
            for a in answers
        ]  # fmt: skip
        record = {**summary(answers), **facts, "answers": told}
        self.dir.write(f"evaluations/{name}.json", json.dumps(record) + "\n")
