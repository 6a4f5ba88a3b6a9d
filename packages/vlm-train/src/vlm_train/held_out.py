"""The evaluations of a run: asked once, kept with what was asked, and asked again if that differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from vlm_core import digests
from vlm_core.model import VLM
from vlm_train import evaluate, results
from vlm_train.config import Evaluation, TrainConfig
from vlm_train.examples import Reader
from vlm_train.inputs import Inputs
from vlm_train.rundir import RESULTS, RunDir

SHUFFLED, ALONE = "images shuffled", "question alone"
Rows = Sequence[dict[str, Any]]


def asked(train: TrainConfig, inputs: Inputs, name: str, count: int) -> dict[str, Any]:
    """What an evaluation must have been about to be used: the rows, how many of them, and how long answers may be."""
    assert train.evaluation
    data = inputs.part("train.evaluation.")
    if name == ALONE:
        data |= inputs.part(f"train.stages.{len(train.stages) - 1}.")
        return {"rows": digests.of(sorted(data.values())), "asked": count}
    length = train.evaluation.max_new_tokens
    return {"rows": digests.of(list(data.values())), "asked": count, "max_new_tokens": length}


def last_name(train: TrainConfig) -> str:
    return f"after {train.stages[-1].name}"


class HeldOut:
    """Held-out questions of a run and their answers; `inputs` are known on the main process alone."""

    def __init__(
        self, train: TrainConfig, rows: Rows, run: RunDir, accelerator: Accelerator, inputs: Inputs | None
    ) -> None:
        self.train, self.rows, self.run = train, rows, run
        self.accelerator, self.inputs = accelerator, inputs

    @property
    def settings(self) -> Evaluation | None:
        return self.train.evaluation

    def _rows(self, name: str) -> Rows:
        """All of them, but for earlier stages."""
        assert self.settings
        earlier = {
            f"after {stage.name}{kind}" for stage in self.train.stages[:-1] for kind in ("", ", average")
        }
        return evaluate.spread(self.rows, self.settings.samples if name in earlier else None)

    def result(self, name: str) -> dict[str, Any] | None:
        """A finished evaluation about just these questions; only the main process may ask."""
        assert self.inputs
        found = self.run.evaluation(name)
        wanted = asked(self.train, self.inputs, name, len(self._rows(name)))
        return found if found and found.get("of") == wanted else None

    def known(self, name: str) -> bool:
        """Whether an evaluation is there already; the same on every process."""
        main = self.accelerator.is_main_process
        return broadcast_object_list([main and self.result(name) is not None])[0]

    def evaluate(self, name: str, model: VLM, reader: Callable[[], Reader]) -> None:
        """Every process asks its share."""
        if not self.settings or self.known(name):
            return
        rows = self._rows(name)
        shown = evaluate.with_other_images(rows) if name == SHUFFLED else rows
        self.accelerator.print(f"evaluating {name}: {len(rows)} held-out questions")
        own = range(self.accelerator.process_index, len(shown), self.accelerator.num_processes)
        answers = evaluate.ask(model.eval(), [shown[i] for i in own], reader(), self.settings)
        all_of_them = sorted(gather_object(list(zip(own, answers, strict=True))), key=lambda one: one[0])
        if self.accelerator.is_main_process:
            self._store(name, [answer for _, answer in all_of_them])

    def _store(self, name: str, answers: Sequence[evaluate.Answer]) -> None:
        assert self.inputs
        told = [{"id": a.row["id"], "said": a.said, "truth": a.truth, "right": a.right} for a in answers]
        of = asked(self.train, self.inputs, name, len(answers))
        record = {**evaluate.summary(answers), "of": of, "answers": told}
        self.run.write(f"evaluations/{name}.json", json.dumps(record) + "\n")

    def results(self, trained_on: Rows) -> results.Results:
        """The table of the whole run, written to its folder with pictures; of the main process alone.

        An evaluation of an earlier stage that was about other questions can't be repeated, and is left out by name.
        """
        if not self.result(ALONE):
            self._store(ALONE, evaluate.question_only(trained_on, self.rows))
        stages = [f"after {stage.name}{kind}" for stage in self.train.stages for kind in ("", ", average")]
        table = [(name, found) for name in (*stages, SHUFFLED, ALONE) if (found := self.result(name))]
        for name in (name for name in stages if self.run.evaluation(name) and not self.result(name)):
            self.accelerator.print(
                f"{name}: evaluated with other questions or settings than the spec's now, and its weights are gone: "
                "left out of the results"
            )
        self.run.write(RESULTS, results.markdown(table))
        final = self.result(last_name(self.train))
        assert final is not None
        told = zip(self.rows, final["answers"], strict=True)
        answers = [evaluate.Answer(row, a["said"], a["truth"]) for row, a in told]
        results.plot_samples(answers, self.run.path / "samples.png")
        return table
