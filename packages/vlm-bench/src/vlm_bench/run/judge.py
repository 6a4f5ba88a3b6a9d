"""MM-Vet's judge: any endpoint with OpenAI's chat protocol. After a failed call an answer stays ungraded.

The grade file has the official script's format and is written after each answer; only missing grades are asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vlm_bench.benchmarks.mm_vet.files import Truth, answer_digest, read_grades
from vlm_bench.benchmarks.mm_vet.scoring import ATTEMPTS, judge_prompt, parse
from vlm_bench.files.json_files import json_object
from vlm_core.errors import UserError
from vlm_core.io.atomic import write_file
from vlm_core.markup.printable import printable

OFFICIAL_JUDGE = "gpt-4-0613"
SECONDS_A_CALL = 60.0
_SECONDS_PER_LINE = 2.0
_OTHER_REPLY = "the reply is no chat completion; is --base-url right?"
OUTAGES = 3
"""Number of consecutive answers without a reply from the judge that ends a session."""
Ask = Callable[[str, float], tuple[str, str]]
"""(prompt, temperature) -> (reply, name of the model that gave it); raises `CallFailed`."""
Prompt = Callable[..., str]
"""The judge's prompt; `again=True` gives the one after an unusable reply."""


class CallFailed(Exception):
    """One call failed; others may succeed. `outage`: the judge was unreachable or overloaded."""

    def __init__(self, text: str, *, outage: bool = False) -> None:
        super().__init__(text)
        self.outage = outage


@dataclass
class Outcome:
    """Counts of new and reused grades; `failed` has the reason for each answer without a grade."""

    graded: int = 0
    reused: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    outages: int = 0
    """Number of consecutive calls without a reply, up to the last one."""


def openai_judge(model: str, base_url: str | None) -> Ask:
    """A judge through the `openai` library. The key is OPENAI_API_KEY; with `base_url` it is optional."""
    try:
        import openai
    except ImportError:
        raise UserError("a judge needs the openai library: pip install 'vlm-bench[judge]'") from None
    key = os.environ.get("OPENAI_API_KEY") or ("unused" if base_url else None)
    if key is None:
        raise UserError("OPENAI_API_KEY is not set: set it, or name another server with --base-url")
    client = openai.OpenAI(api_key=key, base_url=base_url, timeout=SECONDS_A_CALL)
    outage = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)
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
            text = f"{type(error).__name__}: {error}"
            if isinstance(error, outage):
                raise CallFailed(f"{client.base_url}: {text}", outage=True) from None
            raise CallFailed(text) from None
        except (ValueError, RecursionError) as error:  # the reply is not valid JSON
            raise CallFailed(f"{client.base_url}: {_OTHER_REPLY}: {error!s:.200}", outage=True) from None
        if (completion := _text_and_model(reply)) is None:
            text = f"{client.base_url}: {_OTHER_REPLY}: {reply!s:.200}"
            raise CallFailed(printable(text), outage=True)
        return completion

    return ask


def _text_and_model(reply: Any) -> tuple[str, str] | None:
    """(text, model) of a chat completion, whose types the library does not check; None for anything else."""
    choices, model = getattr(reply, "choices", None), getattr(reply, "model", None)
    if not isinstance(choices, list) or not isinstance(model, str):
        return None
    content = getattr(getattr(choices[0], "message", None), "content", 0) if choices else None
    return (content or "", model) if isinstance(content, str | None) else None


def judge(
    truths: Mapping[str, Truth],
    answers: Mapping[str, str],
    ask: Ask,
    path: Path,
    *,
    examples: str,
    runs: int = 1,
    name: str = OFFICIAL_JUDGE,
) -> Outcome:
    """Grade each answer `runs` times by the judge `name` and write the grades to `path`; earlier grades are reused.

    `examples` precede each question. Raises `UserError` after `OUTAGES` answers in a row without a reply; grades that
    were made before are in the file.
    """
    inputs = {
        key: {"answer": answer_digest(text), "asked": _asked(examples, truths[key]), "judge": name}
        for key, text in answers.items()
    }
    grades = _earlier_grades(path, inputs)
    outcome = Outcome()
    earlier = sum(min(runs, len(grade["score"])) for grade in grades.values())
    from vlm_core.cli.progress import Progress  # rich: every command's --help imports this module

    with Progress("mm-vet", runs * len(answers), earlier, every=_SECONDS_PER_LINE) as progress:
        for run in range(runs):
            for key, answer in answers.items():
                if len(grades.get(key, {}).get("score", [])) > run:
                    outcome.reused += 1
                elif key not in outcome.failed:
                    entry = {"model": [], "content": [], "score": [], **inputs[key]}
                    prompt = partial(judge_prompt, examples, truths[key].question, truths[key].answer, answer)
                    if _add_grade(key, prompt, ask, entry := grades.get(key, entry), outcome):
                        grades[key] = entry
                    _stop_after_outages(outcome, earlier, path)
                    if grades:
                        write_file(path, json.dumps(grades, indent=4))
                    progress.advance()
    return outcome


def _stop_after_outages(outcome: Outcome, earlier: int, path: Path) -> None:
    if outcome.outages == OUTAGES:
        last = list(outcome.failed.values())[-1]
        where = f" in {path}" if earlier + outcome.graded else ""
        raise UserError(
            f"the judge did not reply to {OUTAGES} answers in a row: {last}",
            f"{outcome.graded} graded now, {earlier} graded earlier{where}; rerun the same command to resume",
        )


def _add_grade(key: str, prompt: Prompt, ask: Ask, entry: dict[str, Any], outcome: Outcome) -> bool:
    """Add a grade to a question's entry; returns whether there is one."""
    try:
        model, content, score = _grade(prompt, ask)
    except CallFailed as error:
        outcome.failed[key] = str(error)
        outcome.outages = outcome.outages + 1 if error.outage else 0
        return False
    for name, value in (("model", model), ("content", content), ("score", score)):
        entry[name].append(value)
    outcome.graded += 1
    outcome.outages = 0
    return True


def _grade(prompt: Prompt, ask: Ask) -> tuple[str, str, float]:
    """Ask until a reply is a grade, at most as often as the official script."""
    content = ""
    for again, temperature in ATTEMPTS:
        content, model = ask(prompt(again=again), temperature)
        if (score := parse(content)) is not None:
            return model, content, score
    raise CallFailed(f"no reply was a grade from 0 to 1, the last was {content!r:.40}")


def _asked(examples: str, truth: Truth) -> str:
    """Digest of the inputs of a grade besides the answer and the judge."""
    return hashlib.sha256(judge_prompt(examples, truth.question, truth.answer, "").encode()).hexdigest()


_MISMATCH = {
    "answer": "are of other answers",
    "asked": "were made with other examples, questions or right answers",
    "judge": "are by another judge",
}


def _earlier_grades(path: Path, inputs: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Earlier grades; grades of other inputs are refused. The official script records no inputs."""
    if path.is_dir():
        raise UserError(f"{path}: a folder; name the file of the grades")
    if not path.is_file() or not path.stat().st_size:
        return {}
    try:
        read_grades(path)
        rows = json_object(path)
        for row in rows.values():
            row.items("content", what="a list, one entry a run")
    except UserError as error:
        raise UserError(
            *error.lines, "restore it from a copy, or remove it to have all answers graded again"
        ) from None
    grades = {key: row.data for key, row in rows.items()}
    for name, what in _MISMATCH.items():
        other = [
            key
            for key, grade in grades.items()
            if key not in inputs or grade.get(name, inputs[key][name]) != inputs[key][name]
        ]
        if other:
            raise UserError(
                f"{path}: {len(other)} of {len(grades)} grades {what}, first {other[0]}; "
                "name another file for these answers"
            )
    return grades
