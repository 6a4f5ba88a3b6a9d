"""Asks the rows that have no answer yet, and writes the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from vlm_core.cli.progress import Progress
from vlm_core.errors import BadSample, UserError, shown
from vlm_core.remote import Decoding, in_parallel
from vlm_serve.predict.answer_file import AnswerFile, Line, answer_line, line_text
from vlm_serve.predict.models import RowModel
from vlm_serve.predict.rows import Fault, Row, RowId

Say = Callable[[str], None]
_SHOWN = 20
"""Faults that are printed one by one."""


class Outcome(NamedTuple):
    """Numbers of rows: answered now, answered before, and without an answer."""

    answered: int
    earlier: int
    failed: int


class _Faults:
    """Prints faults as they come, and counts them."""

    def __init__(self, say: Say) -> None:
        self.say, self.count = say, 0

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            self.say(text)
        elif self.count == _SHOWN + 1:
            self.say(f"further faults are only counted, after these {_SHOWN}")


class _Sorted(NamedTuple):
    """Rows to ask, the number of those with an answer already, and all lines that are kept."""

    waiting: list[Row]
    answered: int
    kept: dict[RowId, Line]


def predict(
    rows: Sequence[Row],
    faulty: Sequence[Fault],
    model: RowModel,
    file: AnswerFile,
    decoding: Decoding,
    concurrency: int,
    say: Say,
) -> Outcome:
    """Ask `rows`, `concurrency` at a time. An interruption loses at most the answers that are being made.

    Raises `UserError` for answers in the file that belong to no row, and if the model can't be asked any more.
    """
    run = {**model.facts, "decoding": decoding.fields()}
    file.check(run)
    faults = _Faults(say)
    for fault in faulty:
        faults.add(fault.text)
    if dropped := file.drop_partial_lines():
        say(f"{file.path}: dropped {dropped} half-written or damaged lines; their rows are asked again")
    file.write_run(run)  # before the first answer: a kill between them leaves no answers of an unknown run
    with file.appending() as append:
        waiting, earlier, lines = _sort(rows, faulty, file, faults, say)
        asked = 0
        work = partial(_ask, model=model, decoding=decoding)
        with Progress("predict", len(rows), len(rows) - len(waiting), unit="rows") as progress:
            for row, line in in_parallel(waiting, work, concurrency):
                if isinstance(line, BadSample):
                    faults.add(f"{row.where}: {line}")
                elif isinstance(line, UserError):
                    raise UserError(
                        *line.lines, f"{earlier + asked} answers are kept; rerun the same command to resume"
                    )
                else:
                    append(line_text(line))
                    lines[row.id] = line
                    asked += 1
                progress.advance()
        file.finish([row.id for row in rows], lines)
    return Outcome(asked, earlier, faults.count)


def _ask(row: Row, model: RowModel, decoding: Decoding) -> Line:
    images = row.read_images()
    return answer_line(row.id, model.ask(row.with_images(images), decoding), row.digest(images))


def _sort(
    rows: Sequence[Row], faulty: Sequence[Fault], file: AnswerFile, faults: _Faults, say: Say
) -> _Sorted:
    """Rows whose answer is to another content than they have now are asked again.

    Lines of faulty rows are kept: what they belong to can't be told now.
    """
    earlier = file.earlier()
    known = {row.id for row in rows} | {fault.id for fault in faulty}
    if (unknown := [key for key in earlier if key not in known]) and None not in known:
        raise UserError(
            f"{file.path}: holds {len(unknown)} answers to no row, the first has the id {shown(unknown[0])}; "
            "name another --out"
        )
    kept, waiting, changed, answered = {key: lines[-1] for key, lines in earlier.items()}, [], 0, 0
    for row in rows:
        if row.id not in earlier:
            waiting.append(row)
            continue
        try:
            digest = row.digest(row.read_images())
        except BadSample as error:
            faults.add(f"{row.where}: {error}")
            continue
        if line := next((line for line in reversed(earlier[row.id]) if line["row"] == digest), None):
            kept[row.id] = line
            answered += 1
        else:
            del kept[row.id]
            waiting.append(row)
            changed += 1
    if earlier:
        say(f"{file.path}: {answered} of {len(rows)} rows have an answer already")
    if changed:
        say(f"{file.path}: {changed} rows have changed since they were asked; asked again")
    return _Sorted(waiting, answered, kept)
