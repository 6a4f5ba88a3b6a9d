"""`vlm-train check`: reads the data as training would, ahead of time, and says what it will leave out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from torch.utils.data import DataLoader

from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.io import digests
from vlm_core.io.atomic import write_file
from vlm_core.rows import Row
from vlm_core.spec.spec import Spec
from vlm_train.config.template_checks import check_templates
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data import data_workers
from vlm_train.data.dataset import TOO_LONG, DroppedSample, Examples, SampleProcessor, sample_processor
from vlm_train.data.mixture import joined
from vlm_train.engine.bad_samples import allowance

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Measure:
    """One usable row: tokens before cutting, those that are kept, targets among them, images."""

    tokens: int
    kept: int
    targets: int
    images: int


def measure(reader: SampleProcessor, row: Row) -> Measure:
    """Read a row and keep only its measures: worker processes send no pixels."""
    example = reader.whole(row)
    kept = example.sample.truncated(reader.max_length)
    return Measure(len(example.sample), len(kept), sum(kept.loss_mask), len(example.images))


@dataclass
class Findings:
    """What a scan of one stage's data, or of the evaluation's, found."""

    name: str
    rows: int
    allowed: int
    too_long_is_error: bool
    good: list[Measure] = field(default_factory=list)
    left_out: list[DroppedSample] = field(default_factory=list)

    @property
    def reasons(self) -> Counter[str]:
        return Counter(item.reason for item in self.left_out)

    @property
    def passes(self) -> bool:
        """Whether training with these rows would end."""
        too_long = self.reasons[TOO_LONG]
        bad = len(self.left_out) - too_long
        return bad <= self.allowed and not (too_long and self.too_long_is_error) and bool(self.good)

    def lines(self) -> list[str]:
        """The findings in a few lines of text."""
        looked = len(self.good) + len(self.left_out)
        out = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
        found = [
            f"{self.name}: {looked} of {self.rows} rows looked at, {len(self.good)} usable",
            f"  left out: {out or 'none'}; {self.allowed} bad rows are allowed",
        ]
        return found + (self._measured() if self.good else [])

    def _measured(self) -> list[str]:
        good, tokens = self.good, [m.tokens for m in self.good]
        share = 100 * sum(m.targets for m in good) / sum(m.kept for m in good)
        cut = sum(m.kept < m.tokens for m in good)
        none, several = sum(m.images == 0 for m in good), sum(m.images > 1 for m in good)
        return [
            f"  images: {sum(m.images for m in good)}; rows without: {none}, with several: {several}",
            f"  tokens a row: {min(tokens)} to {max(tokens)}, median {median(tokens):.0f}; cut to max_length: {cut}",
            f"  targets: {share:.0f} % of tokens; rows without any: {sum(m.targets == 0 for m in good)}",
        ]


def scan(found: Findings, rows: Sequence[Row], reader: SampleProcessor, workers: int, limit: int | None,
         advance: Advance) -> Findings:  # fmt: skip
    """Read `limit` rows at even distances (None: all) with `num_workers` processes, reporting progress."""
    chosen = digests.evenly_spaced(len(rows), limit)
    loader = DataLoader(
        Examples(rows, partial(measure, reader)),
        batch_size=16,
        sampler=chosen,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=data_workers.start_worker,
    )
    done = 0
    for items in data_workers.read(loader):
        found.good += [item for item in items if isinstance(item, Measure)]
        found.left_out += [item for item in items if isinstance(item, DroppedSample)]
        done += len(items)
        advance(done, len(chosen))
    return found


def sources(train: TrainConfig) -> list[tuple[str, Sequence[Any], Stage | None]]:
    """(name, datasets, stage) of each stage and, without a stage, of the evaluation."""
    found: list[tuple[str, Sequence[Any], Stage | None]] = [(s.name, s.data, s) for s in train.stages]
    return [*found, ("evaluation", train.held_out_qa.data, None)] if train.held_out_qa else found


def check_data(spec: Spec, train: TrainConfig, workers: int, limit: int | None,
               advance: Callable[[str], Advance]) -> list[Findings]:  # fmt: skip
    """Scan the data of every stage and of the evaluation, each as its template and limits say."""
    model, result = build_on_meta(spec), []
    check_templates(spec, train, model.llm.tokenizer)
    for name, data, stage in sources(train):
        rows = joined(data)
        allowed = allowance(train, len(rows)) if stage else 0
        found = Findings(name, len(rows), allowed, train.on_too_long == "error" and stage is not None)
        reader = sample_processor(model, spec, train, stage)
        result.append(scan(found, rows, reader, workers, limit, advance(name)))
    return result


def write_report(findings: Sequence[Findings], path: Path) -> None:
    """A JSON line for each row that would be left out."""
    lines = [json.dumps({"stage_name": f.name, **asdict(item)}) for f in findings for item in f.left_out]
    write_file(path, "".join(line + "\n" for line in lines))
