"""Matches answers with questions by id. Line order has no effect, and no answer is dropped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from vlm_bench.files.answers import Answer
from vlm_core.benchmark import Benchmark, Question
from vlm_core.errors import UserError


def join(benchmark: Benchmark, answers: Iterable[Answer], *, allow_partial: bool = False) -> dict[str, str]:
    """`{question id: answer}` in the questions' order.

    Answers to `benchmark.not_asked` are left out. Raises `UserError` for an answer without a question, for two answers
    to one question, and for an answer whose logged prompt is another question's; for missing answers unless
    `allow_partial`.
    """
    questions = benchmark.questions
    matched = _match(benchmark, [answer for answer in answers if answer.id not in benchmark.not_asked])
    missing = [key for key in questions if key not in matched]
    if missing and (not allow_partial or not matched):
        raise UserError(
            f"{_count(missing, 'question')} of {len(questions)} without an answer, first id {missing[0]}"
            + ("; --allow-partial scores the others" if matched else "")
        )
    return {key: matched[key].text for key in questions if key in matched}


def _match(benchmark: Benchmark, answers: list[Answer]) -> dict[str, Answer]:
    questions = benchmark.questions
    shared: dict[str, list[Question]] = {}
    for question in questions.values():
        for key in {question.alias, *question.other_ids} - {None, question.id}:
            shared.setdefault(key, []).append(question)
    _refuse_unknown_ids(
        [a for a in answers if a.id not in questions and a.id not in shared], len(answers), benchmark
    )
    matches = [
        (a, _fitting(benchmark, [questions[a.id]] if a.id in questions else shared[a.id], a)) for a in answers
    ]
    _refuse_ambiguous([a for a, candidates in matches if len(candidates) != 1], questions, shared)
    _refuse_duplicates([(candidates[0].id, a) for a, candidates in matches])
    return {candidates[0].id: a for a, candidates in matches}


def _fitting(benchmark: Benchmark, candidates: list[Question], answer: Answer) -> list[Question]:
    """The questions of an answer's id whose prompt is the one it logged."""
    if answer.prompt is None:
        return candidates
    same = [q for q in candidates if q.prompt == answer.prompt or benchmark.same_prompt(q, answer.prompt)]
    exact = [q for q in same if q.prompt == answer.prompt]
    return exact if len(same) > 1 and exact else same


def _refuse_unknown_ids(unknown: list[Answer], count: int, benchmark: Benchmark) -> None:
    if unknown:
        example = f"; an id of this file is {next(iter(benchmark.questions))!r}"
        hint = (
            f"{example}. Are these answers of another benchmark or split?" if 2 * len(unknown) > count else ""
        )
        first = unknown[0]
        raise UserError(
            f"{_count(unknown, 'answer')} to no question of this file, first id {first.id}{_at(first)}{hint}"
        )


def _refuse_ambiguous(
    other: list[Answer], questions: Mapping[str, Question], shared: Mapping[str, list[Question]]
) -> None:
    if other and (first := other[0]).prompt is None:
        raise UserError(
            f"{_count(other, 'answer')} with the id of several questions and no prompt to tell them apart, "
            f"first id {first.id}{_at(first)}"
        )
    if other:
        key = other[0].id
        asked = questions[key] if key in questions else shared[key][0]
        raise UserError(
            f"{_count(other, 'answer')} logged with another prompt than the question of that id, first id "
            f"{key}{_at(other[0])}: {other[0].prompt!r:.120} where {asked.prompt!r:.120} is asked; is this another "
            "benchmark, revision or variant of the questions?"
        )


def _at(answer: Answer) -> str:
    return f" ({answer.where})" if answer.where else ""


def _refuse_duplicates(keyed: list[tuple[str, Answer]]) -> None:
    counts = Counter(key for key, _ in keyed)
    if len(counts) == len(keyed):
        return
    first: dict[str, Answer] = {}
    for key, answer in keyed:
        if key in first:
            raise UserError(
                f"{answer.where}: question_id {answer.id} appears twice (first at {first[key].where}); "
                f"{len(keyed) - len(counts)} such rows"
            )
        first[key] = answer


def _count(items: Collection[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
