"""Scores answers of any program: matches them with the questions, applies the rule and returns the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_bench.files.answers import Answer
from vlm_bench.files.baseline_files import BaselineAnswers, refuse_other_baseline
from vlm_bench.files.json_files import sha256
from vlm_bench.join import join
from vlm_bench.report.baselines import Baseline, compared
from vlm_bench.report.examples import choose
from vlm_bench.report.question_digests import QuestionDigests
from vlm_bench.report.report import Report
from vlm_core.benchmark import Benchmark, Headline
from vlm_core.errors import UserError
from vlm_core.evaluation.baselines import CHANCE
from vlm_core.plugins.config import BenchmarkConfig


def evaluate(
    config: BenchmarkConfig,
    answers: Iterable[Answer] | None,
    *,
    files: Mapping[str, Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    benchmark: Benchmark | None = None,
    baselines: Sequence[BaselineAnswers] = (),
) -> Report:
    """Match answers with questions and score them; any mismatch is a `UserError`.

    `answers` is None where grades replace them. `files` are the sources of the answers, `settings` the settings of
    the run. `benchmark` is the result of `config.build()`, if the caller has it. `baselines` are the model's answers
    without the image or with another one.
    """
    answers = None if answers is None else list(answers)
    refuse_other_baseline(answers or ())
    logged = [answer.prompt for answer in answers or () if answer.prompt is not None]
    benchmark = (benchmark or config.build()).as_asked(logged)
    texts = _texts(benchmark, answers, allow_partial)
    warnings = [] if answers is None else [*_not_scored(benchmark, answers), *benchmark.check_answers(texts)]
    score = benchmark.score(texts)
    scored = len(texts) - score.unscored
    if not scored or (score.unscored and not allow_partial):
        raise UserError(
            f"{score.unscored} of {len(texts)} answers can't be scored"
            + ("; --allow-partial scores the others" if scored else "")
        )
    content = QuestionDigests(benchmark, score.headline)
    files = {**benchmark.files, **(files or {}), **{b.path.name: b.path for b in baselines}}
    return Report(
        benchmark=config.type_name(),
        protocol=benchmark.protocol
        + (" (normalized)" if getattr(config, "strictness", "") == "normalized" else ""),
        score=score,
        expected=benchmark.expected,
        scored=scored,
        empty=0 if answers is None else sum(not text.strip() for text in texts.values()),
        files={name: sha256(path) for name, path in files.items()},
        notes=benchmark.notes | ({} if answers is None else _lengths(texts)),
        settings=dict(settings or {}),
        warnings=[*benchmark.warnings, *warnings, *score.warnings],
        examples=[] if answers is None else choose(benchmark, texts),
        content=content,
        baselines=[
            _chance(benchmark, score.headline),
            *(_baseline(config, benchmark, one, score.headline, content) for one in baselines),
        ],
    )


def _chance(benchmark: Benchmark, model: Headline) -> Baseline:
    chance = benchmark.chance(model.question_ids)
    if chance.headline is None:
        return Baseline(CHANCE, chance.rule)
    return compared(CHANCE, chance.rule, model, chance.headline)


def _baseline(
    config: BenchmarkConfig,
    benchmark: Benchmark,
    baseline: BaselineAnswers,
    model: Headline,
    content: Mapping[str, str],
) -> Baseline:
    """The score of a baseline's answers by the same rule; without one where grades are missing."""
    own = config.for_baseline(baseline.name)
    scorer = benchmark if own is config else own.build()
    texts = join(scorer, baseline.answers, allow_partial=True)
    if scorer.scored_by == "judge":
        return Baseline(baseline.name, f"not graded by a judge: grade the answers in {baseline.path.name}")
    if scorer.protocol != benchmark.protocol:
        return Baseline(baseline.name, f"scored by another protocol, {scorer.protocol!r}")
    scorer.check_answers(texts)
    headline = scorer.score(texts).headline
    digests = content, QuestionDigests(scorer, headline)
    return compared(baseline.name, baseline.prompts, model, headline, digests)


def _not_scored(benchmark: Benchmark, answers: Iterable[Answer]) -> list[str]:
    """How many answers are to questions that the benchmark does not ask, by reason."""
    counts = Counter(benchmark.not_asked[a.id] for a in answers if a.id in benchmark.not_asked)
    return [f"{count} answers not scored: {reason}" for reason, count in counts.items()]


def _lengths(texts: Mapping[str, str]) -> dict[str, str]:
    """Answer lengths, which reveal a model that writes too much."""
    counts = [len(text.split()) for text in texts.values()]
    return {"words an answer": f"mean {sum(counts) / len(counts):.1f}, longest {max(counts)}"}


def _texts(benchmark: Benchmark, answers: Iterable[Answer] | None, allow_partial: bool) -> Mapping[str, str]:
    check_asked(benchmark, allow_partial)
    if answers is not None:
        return join(benchmark, answers, allow_partial=allow_partial)
    if not benchmark.graded:
        raise UserError("no answers: name their file with --answers")
    return join(benchmark, [Answer(key, "") for key in benchmark.graded], allow_partial=allow_partial)


def check_asked(benchmark: Benchmark, allow_partial: bool) -> None:
    """Refuse labels without a question."""
    unasked = benchmark.expected - len(benchmark.questions)
    if unasked > 0 and not allow_partial:
        raise UserError(
            f"{unasked} of {benchmark.expected} labels without a question; is the question file cut off? "
            "--allow-partial scores the others"
        )
