"""`vlm-bench score`: scores the answers of any program by a benchmark's rule."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from vlm_bench.cli.options import config_of
from vlm_core.plugins.registry import installed

if TYPE_CHECKING:
    from vlm_bench.files.answers import Answer
    from vlm_bench.report.report import Report


def run(args: argparse.Namespace) -> int:
    """Print one benchmark's report."""
    from vlm_bench.report import report as reports

    with without_collector():
        report = _scored(args)
    if args.save:
        reports.save(report, args.save)
    if args.json or args.markdown:
        text = reports.to_json(report) if args.json else reports.to_markdown(report)
        print(text)
    else:
        reports.show(report)
    return 0


@contextmanager
def without_collector() -> Iterator[None]:
    """Disable the cyclic garbage collector: with millions of rows in memory it takes as long as scoring."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _scored(args: argparse.Namespace) -> Report:
    from vlm_bench.evaluate import evaluate
    from vlm_bench.files.baseline_files import baselines_of
    from vlm_bench.files.run_metadata import changed_files, metadata_of, settings_of

    config = config_of(args, installed().get("benchmark", args.benchmark))
    path = args.answers
    metadata = metadata_of(path, args.benchmark) if path else {}
    baselines, warnings = baselines_of(path, metadata) if path else ([], [])
    report = evaluate(
        config,
        answers_of(args) if path else None,
        files={path.name: path} if path else {},
        settings=settings_of(metadata),
        allow_partial=args.allow_partial,
        baselines=baselines,
    )
    report = replace(report, warnings=[*report.warnings, *warnings])
    if other := changed_files(metadata, report.files):
        text = f"data files have changed since the run: {', '.join(other)}"
        report = replace(report, warnings=[*report.warnings, text])
    return report


def answers_of(args: argparse.Namespace) -> list[Answer]:
    """The answers in the file `--answers`; raises `UserError` for a run's answers to another benchmark."""
    from vlm_bench.files.answers import read_answers
    from vlm_bench.files.run_metadata import metadata_of

    metadata_of(args.answers, args.benchmark)
    return read_answers(args.answers)
