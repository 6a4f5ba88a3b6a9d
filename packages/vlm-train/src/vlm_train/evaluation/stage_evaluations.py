"""The evaluations of a run: `train.held_out_qa`'s questions after each stage, and their controls after the last.

Each is run once and kept with a digest of its questions. It is run again if the spec's questions differ from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from vlm_core.io import digests
from vlm_core.io.images import image_name
from vlm_core.markup.printable import printable
from vlm_core.model import VLM
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.checkpoint.run_inputs import Inputs
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import SampleProcessor
from vlm_train.evaluation import controls, held_out
from vlm_train.evaluation.controls import QUESTION_ALONE, SHUFFLED
from vlm_train.evaluation.held_out_answers import Answer, summary
from vlm_train.evaluation.train_overlap import Measured

Rows = Sequence[dict[str, Any]]


def asked(train: TrainConfig, inputs: Inputs, name: str, count: int) -> dict[str, Any]:
    """What identifies an evaluation: the run, digest of the rows, how many are asked, and the longest answer."""
    assert train.held_out_qa
    own = {"run": inputs.run} if inputs.run else {}
    data = inputs.part("train.held_out_qa.")
    if name == QUESTION_ALONE:
        data |= inputs.part(f"train.stages.{len(train.stages) - 1}.")
        return {"rows": digests.of(sorted(data.values())), "asked": count, **own}
    length = train.held_out_qa.max_new_tokens
    return {"rows": digests.of(list(data.values())), "asked": count, "max_new_tokens": length, **own}


def last_name(train: TrainConfig) -> str:
    """The name of the evaluation after the last stage."""
    return f"after {train.stages[-1].name}"


class Evaluations:
    """Asks, scores and records. Every process makes the same calls; `inputs` are known on the main process alone."""

    inputs: Inputs | None = None

    def __init__(
        self, train: TrainConfig, rows: Rows, stages: Sequence[Rows], folder: RunDir, accelerator: Accelerator
    ) -> None:
        self.train, self.rows, self.stages = train, rows, stages
        self.dir, self.accelerator = folder, accelerator
        self.measured = Measured("evaluation", rows, train, stages, accelerator)

    def ask(self, name: str, model: VLM, reader: Callable[[], SampleProcessor]) -> None:
        """Ask after a stage: all rows if it is the last, else `held_out_qa.samples` of them."""
        if self.train.held_out_qa and not self.done(name):
            rows = held_out.spread(self.rows, self._samples(name))
            self._ask(name, rows, model, reader(), {})

    def controls(self, model: VLM, reader: Callable[[], SampleProcessor]) -> None:
        """Ask about other images, and count what the question alone tells."""
        if not self.done(SHUFFLED):
            rows, left_out = controls.with_other_images(self.rows, self.measured.contents)
            self._ask(SHUFFLED, rows, model, reader(), left_out)
        if not self.done(QUESTION_ALONE):
            facts: dict[str, Any] = {"overlap": self.measured.counts}
            if self.accelerator.is_main_process:
                answers, facts["training_rows"] = controls.question_only(self.stages[-1], self.rows)
                facts["training_rows"]["stage"] = self.train.stages[-1].name
                self._store(QUESTION_ALONE, answers, facts)

    def done(self, name: str) -> bool:
        """Whether there is an evaluation of exactly these questions; the same on every process."""
        return broadcast_object_list([self.accelerator.is_main_process and self._is_current(name)])[0]

    def set_outdated_aside(self) -> None:
        """Move evaluations of earlier stages with other questions to `evaluations/outdated`; main process only.

        They can't be repeated: the weights are gone.
        """
        for name in self._earlier():
            if self.dir.evaluation(name) and not self._is_current(name):
                path = self.dir.set_aside(name)
                text = (
                    f"{name}: the questions or settings have changed since, and it can't be repeated, as the weights "
                    f"of that stage are gone: left out of the results and kept in {path}"
                )
                self.accelerator.print(printable(text))

    def _earlier(self) -> list[str]:
        return [f"after {stage.name}{kind}" for stage in self.train.stages[:-1] for kind in ("", ", average")]

    def _samples(self, name: str) -> int | None:
        """How many rows are asked: all of them (None), but for earlier stages."""
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
        self, name: str, rows: Rows, model: VLM, reader: SampleProcessor, left_out: Mapping[str, int]
    ) -> None:
        assert self.train.held_out_qa
        reasons = "".join(f", {count} left out: {reason}" for reason, count in left_out.items())
        self.accelerator.print(printable(f"evaluating {name}: {len(rows)} questions{reasons}"))
        contents, facts = self.measured.contents, {"left_out": left_out, "overlap": self.measured.counts}
        answers = held_out.ask_together(
            model.eval(), rows, contents, reader, self.train.held_out_qa, self.accelerator
        )
        if self.accelerator.is_main_process:
            self._store(name, answers, facts)

    def _store(self, name: str, answers: Sequence[Answer], facts: Mapping[str, Any]) -> None:
        told = [
            {"id": a.row["id"], "images": list(map(image_name, a.row["image"])),
             "said": a.said, "truth": a.truth, "right": a.right}
            for a in answers
        ]  # fmt: skip
        record = {**summary(answers), **facts, "of": self._asked(name), "answers": told}
        self.dir.keep_evaluation(name, record)
