"""MM-Vet's judge: any endpoint that speaks OpenAI's chat protocol. A call that fails leaves an answer ungraded.

Grades are kept in the official script's format, written after each answer, and only what is missing is asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_bench.readers.files import json_object
from vlm_bench.readers.mm_vet import Truth
from vlm_bench.scorers.mm_vet import ATTEMPTS, judge_prompt, parse
from vlm_bench.writing import write
from vlm_core.errors import UserError

OFFICIAL_JUDGE = "gpt-4-0613"
Ask = Callable[[str, float], tuple[str, str]]
"""(prompt, temperature) -> (reply, name of the model that gave it); raises `CallFailed`."""


class CallFailed(Exception):
    """This call failed; another may not."""


@dataclass
class Outcome:
    """What a session of judging did; `failed` says why each answer is without a grade."""

    graded: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def openai_judge(model: str, base_url: str | None) -> Ask:
    """Ask through the `openai` library; its key is OPENAI_API_KEY, which a server of one's own may not need."""
    try:
        import openai
    except ImportError:
        raise UserError("a judge needs the openai library: pip install 'vlm-bench[judge]'") from None
    key = os.environ.get("OPENAI_API_KEY") or ("unused" if base_url else None)
    if key is None:
        raise UserError("set OPENAI_API_KEY, or name a server of your own with --base-url")
    client = openai.OpenAI(api_key=key, base_url=base_url)
    fatal = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)

    def ask(prompt: str, temperature: float) -> tuple[str, str]:
        try:
            reply = client.chat.completions.create(
                model=model,
                max_tokens=3,
                temperature=temperature,
                messages=[{"role": "user", "content": prompt}],
            )
        except fatal as error:
            raise UserError(f"the judge {model!r} refuses: {error}") from None
        except openai.OpenAIError as error:
            raise CallFailed(f"{type(error).__name__}: {error}") from None
        return (reply.choices[0].message.content or "") if reply.choices else "", reply.model

    return ask


def judge(
    truths: Mapping[str, Truth],
    answers: Mapping[str, str],
    ask: Ask,
    path: Path,
    *,
    examples: str,
    runs: int = 1,
) -> Outcome:
    """Bring every answer to `runs` grades, in the file at `path`. `examples` stand before every question."""
    grades = _known(path, answers)
    outcome = Outcome()
    for run in range(runs):
        for key, answer in answers.items():
            if len(grades.get(key, {}).get("score", [])) > run:
                outcome.kept += 1
            elif key not in outcome.failed:
                _one(key, _prompts(examples, truths[key], answer), answer, ask, grades, outcome)
                if grades:
                    write(path, json.dumps(grades, indent=4))
    return outcome


def _prompts(examples: str, truth: Truth, answer: str) -> Callable[[bool], str]:
    """The question to the judge, plain or asked again."""
    return lambda again: judge_prompt(examples, truth.question, truth.answer, answer, again=again)


def _one(
    key: str,
    prompt: Callable[[bool], str],
    answer: str,
    ask: Ask,
    grades: dict[str, Any],
    outcome: Outcome,
) -> None:
    try:
        model, content, score = _grade(prompt, ask)
    except CallFailed as error:
        outcome.failed[key] = str(error)
        return
    entry = grades.setdefault(key, {"model": [], "content": [], "score": [], "answer": _digest(answer)})
    for name, value in (("model", model), ("content", content), ("score", score)):
        entry[name].append(value)
    outcome.graded += 1


def _grade(prompt: Callable[[bool], str], ask: Ask) -> tuple[str, str, float]:
    """Ask until a reply is a grade, as often as the official script reads one."""
    content = ""
    for again, temperature in ATTEMPTS:
        content, model = ask(prompt(again), temperature)
        if (score := parse(content)) is not None:
            return model, content, score
    raise CallFailed(f"no reply was a grade from 0 to 1, the last was {content!r:.40}")


def _digest(answer: str) -> str:
    return hashlib.sha256(answer.encode()).hexdigest()


def _known(path: Path, answers: Mapping[str, str]) -> dict[str, Any]:
    """Grades from before; those of other answers or other questions are refused."""
    if not path.is_file():
        return {}
    grades = {key: row.data for key, row in json_object(path).items()}
    other = [
        k
        for k, g in grades.items()
        if k not in answers or g.get("answer", _digest(answers[k])) != _digest(answers[k])
    ]
    if other:
        raise UserError(
            f"{path}: {len(other)} of {len(grades)} grades are of other answers, first {other[0]}; "
            "name another file for these answers"
        )
    return grades
