"""Matches answers with questions by id. Line order has no effect, and no answer is dropped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from vlm_bench.files.answers import Answer
from vlm_core.benchmark import Benchmark, Question
from vlm_core.errors import UserError


def join(benchmark: Benchmark, answers: Iterable[Answer], *, allow_partial: bool = False) -> dict[str, str]:
    """`{question id: answer}` in the questions' order.

    Refuses answers without a question, two answers to one question, and answers whose logged prompt is another
    question's, whatever `allow_partial` says; refuses missing answers unless it is set.
    """
    questions = benchmark.questions
    matched = _match(benchmark, list(answers))
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
    _no_aliens([a for a in answers if a.id not in questions and a.id not in shared], len(answers), benchmark)
    fits = [
        (a, _fitting(benchmark, [questions[a.id]] if a.id in questions else shared[a.id], a)) for a in answers
    ]
    _no_strangers([a for a, found in fits if len(found) != 1], questions, shared)
    _no_doubles([(found[0].id, a) for a, found in fits])
    return {found[0].id: a for a, found in fits}


def _fitting(benchmark: Benchmark, candidates: list[Question], answer: Answer) -> list[Question]:
    """The questions of an answer's id whose prompt is the one it logged."""
    if answer.prompt is None:
        return candidates
    same = [q for q in candidates if q.prompt == answer.prompt or benchmark.same_prompt(q, answer.prompt)]
    exact = [q for q in same if q.prompt == answer.prompt]
    return exact if len(same) > 1 and exact else same


def _no_aliens(alien: list[Answer], count: int, benchmark: Benchmark) -> None:
    if alien:
        like = f"; an id of this file is such as {next(iter(benchmark.questions))!r}"
        other = like + ". Are these answers of another benchmark or split?" if 2 * len(alien) > count else ""
        raise UserError(
            f"{_count(alien, 'answer')} to no question of this file, first id {alien[0].id}{_at(alien[0])}{other}"
        )


def _no_strangers(
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


def _no_doubles(keyed: list[tuple[str, Answer]]) -> None:
    counts = Counter(key for key, _ in keyed)
    if len(counts) == len(keyed):
        return
    seen: dict[str, Answer] = {}
    for key, answer in keyed:
        if key in seen:
            raise UserError(
                f"{answer.where}: question_id {answer.id} appears twice (first at {seen[key].where}); "
                f"{len(keyed) - len(counts)} such rows"
            )
        seen[key] = answer


def _count(items: Collection[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
