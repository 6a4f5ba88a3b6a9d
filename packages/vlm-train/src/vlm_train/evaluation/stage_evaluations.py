"""The evaluations of a run: the questions of `train.held_out_qa` after each stage, and controls after the last one.

Each result is stored with a digest of its questions. An evaluation is repeated if the spec's questions have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from vlm_core.evaluation.baselines import IMAGES_SHUFFLED, MAJORITY_ANSWER
from vlm_core.io import digests
from vlm_core.io.images import image_name
from vlm_core.model import VLM
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.checkpoint.run_inputs import Inputs
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import SampleProcessor
from vlm_train.evaluation import controls, held_out
from vlm_train.evaluation.held_out_answers import Answer, summary
from vlm_train.evaluation.train_overlap import EvalRows
from vlm_train.monitoring.run_messages import log_on_main

Rows = Sequence[dict[str, Any]]


def asked(train: TrainConfig, inputs: Inputs, name: str, count: int) -> dict[str, Any]:
    """What identifies an evaluation: the run, a digest of the rows, the number of questions, `max_new_tokens`."""
    assert train.held_out_qa
    run = {"run": inputs.run} if inputs.run else {}
    data = inputs.part("train.held_out_qa.")
    if name == MAJORITY_ANSWER:
        data |= inputs.part(f"train.stages.{len(train.stages) - 1}.")
        return {"rows": digests.of(sorted(data.values())), "asked": count, **run}
    length = train.held_out_qa.max_new_tokens
    return {"rows": digests.of(list(data.values())), "asked": count, "max_new_tokens": length, **run}


def last_name(train: TrainConfig) -> str:
    """The name of the evaluation after the last stage."""
    return f"after {train.stages[-1].name}"


class Evaluations:
    """Runs, scores and stores evaluations. All processes make the same calls; only the main one has `inputs`."""

    inputs: Inputs | None = None

    def __init__(
        self, train: TrainConfig, rows: Rows, stages: Sequence[Rows], folder: RunDir, accelerator: Accelerator
    ) -> None:
        self.train, self.rows, self.stages = train, rows, stages
        self.dir, self.accelerator = folder, accelerator
        self.eval_rows = EvalRows("held_out_qa", rows, train, stages, accelerator)

    def ask(self, name: str, model: VLM, processor: Callable[[], SampleProcessor]) -> None:
        """Evaluate after a stage: on all rows after the last stage, else on `held_out_qa.samples` of them."""
        if self.train.held_out_qa and not self.done(name):
            rows = held_out.spread(self.rows, self._samples(name))
            self._ask(name, rows, model, processor(), {})

    def controls(self, model: VLM, processor: Callable[[], SampleProcessor]) -> None:
        """Evaluate with shuffled images, `held_out_qa.baselines`, and the most frequent training answers."""
        assert self.train.held_out_qa
        for name, change in controls.CHANGES.items():
            if name in (IMAGES_SHUFFLED, *self.train.held_out_qa.baselines) and not self.done(name):
                rows, dropped = change(self.rows, self.eval_rows.contents)
                self._ask(name, rows, model, processor(), dropped)
        if not self.done(MAJORITY_ANSWER):
            details: dict[str, Any] = {"overlap": self.eval_rows.counts}
            if self.accelerator.is_main_process:
                answers, details["training_rows"] = controls.majority_answers(self.stages[-1], self.rows)
                details["training_rows"]["stage"] = self.train.stages[-1].name
                self._store(MAJORITY_ANSWER, answers, details)

    def done(self, name: str) -> bool:
        """Whether a stored evaluation has exactly these questions; the same on every process."""
        return broadcast_object_list([self.accelerator.is_main_process and self._is_current(name)])[0]

    def archive_outdated(self) -> None:
        """Move evaluations of earlier stages with other questions to `evaluations/outdated`; main process only.

        They can't be repeated, since the weights of that stage no longer exist.
        """
        for name in self._earlier():
            if self.dir.evaluation(name) and not self._is_current(name):
                path = self.dir.set_aside(name)
                text = (
                    f"{name}: its questions or settings have changed, and it can't be repeated, since the weights "
                    f"of that stage no longer exist: moved to {path} and left out of the results"
                )
                log_on_main(self.accelerator, text)

    def _earlier(self) -> list[str]:
        return [f"after {stage.name}{kind}" for stage in self.train.stages[:-1] for kind in ("", ", average")]

    def _samples(self, name: str) -> int | None:
        """The number of rows to ask: all (None) except for earlier stages."""
        assert self.train.held_out_qa
        return self.train.held_out_qa.samples if name in self._earlier() else None

    def _asked(self, name: str) -> dict[str, Any]:
        assert self.inputs
        count = len(digests.evenly_spaced(len(self.rows), self._samples(name)))
        return asked(self.train, self.inputs, name, count)

    def _is_current(self, name: str) -> bool:
        record = self.dir.evaluation(name)
        return record is not None and record.get("of") == self._asked(name)

    def _ask(
        self, name: str, rows: Rows, model: VLM, processor: SampleProcessor, dropped: Mapping[str, int]
    ) -> None:
        assert self.train.held_out_qa
        reasons = "".join(f", {count} left out: {reason}" for reason, count in dropped.items())
        log_on_main(self.accelerator, f"evaluating {name}: {len(rows)} questions{reasons}")
        contents = self.eval_rows.contents
        details = {"left_out": dropped, "overlap": self.eval_rows.counts}
        answers = held_out.ask_distributed(
            model.eval(), rows, contents, processor, self.train.held_out_qa, self.accelerator
        )
        if self.accelerator.is_main_process:
            self._store(name, answers, details)

    def _store(self, name: str, answers: Sequence[Answer], details: Mapping[str, Any]) -> None:
        answer_records = [
            {
                "id": answer.row["id"],
                "images": list(map(image_name, answer.row["image"])),
                "said": answer.text,
                "truth": answer.truth,
                "right": answer.right,
            }
            for answer in answers
        ]
        record = {**summary(answers), **details, "of": self._asked(name), "answers": answer_records}
        self.dir.keep_evaluation(name, record)
