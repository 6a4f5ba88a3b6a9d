"""The file of answers. Each answer is appended to `NAME.part` at once; `NAME` is written whole, in the rows' order.

A line is kept with the digest of its row, so that a changed row is asked again. `NAME.run.json` has the model and the
settings; answers of others are never mixed with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError, shown
from vlm_core.io.atomic import append_lines, drop_lines, require_writable_folder, write_errors, write_file
from vlm_core.io.files import json_object, read_bytes, read_json
from vlm_serve.predict.models import RowAnswer
from vlm_serve.predict.rows import RowId

MAX_BYTES = 2**30
"""Most bytes of a file of answers."""
Line = dict[str, Any]


class AnswerFile:
    """The answers at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self.run_path = path.with_name(f"{path.name}.run.json")

    def check_target(self) -> None:
        """Raise `UserError` if the file can't be written, or is that of another program."""
        for path in (self.path, self.part, self.run_path):
            if path.exists() and not path.is_file():
                raise UserError(f"{path}: no regular file; name another --out")
        existing = [path for path in (self.path, self.part) if path.exists()]
        if existing and not self.run_path.exists():
            raise UserError(
                f"{existing[0]}: exists already, and not as answers of vlm-predict: there is no {self.run_path.name}; "
                "name another --out"
            )
        require_writable_folder(self.path.parent)

    def check(self, run: Mapping[str, Any]) -> None:
        """Raise `UserError` for answers of another model or other settings; `run` is what all have in common."""
        earlier = read_json(self.run_path) if self.run_path.exists() else run
        if other := [key for key in {**run, **earlier} if earlier.get(key) != run.get(key)]:
            raise UserError(
                f"{self.path}: holds answers of another model, or with other settings:",
                *(f"  {key}: {shown(earlier.get(key))} before, {shown(run.get(key))} now" for key in other),
                f"name another --out, or remove it and {self.run_path.name}",
            )

    def drop_partial_lines(self) -> int:
        """Drop half-written and damaged lines; returns their number. Not inside `appending`."""
        return sum(drop_lines(path, partial(_lines, path), _is_whole) for path in (self.path, self.part))

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Write what all answers have in common."""
        write_file(self.run_path, json.dumps(run, indent=1, ensure_ascii=False) + "\n")

    def earlier(self) -> dict[RowId, list[Line]]:
        """The lines of each row, those written last at the end."""
        lines: dict[RowId, list[Line]] = {}
        for path in (self.path, self.part):
            for text in _lines(path):
                line = json_object(text.decode(), path)
                lines.setdefault(line["id"], []).append(line)
        return lines

    def appending(self) -> AbstractContextManager[Callable[[str], None]]:
        """A function that appends a line; raises `UserError` if another process writes these answers."""
        with write_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        return append_lines(self.part)

    def finish(self, order: Sequence[RowId], lines: Mapping[RowId, Line]) -> None:
        """Write all answers into one file, in the order of the rows, others last. Inside `appending`."""
        ordered = dict.fromkeys([*(key for key in order if key in lines), *lines])
        write_file(self.path, "".join(line_text(lines[key]) for key in ordered))
        with write_errors(self.part):
            self.part.unlink(missing_ok=True)


def answer_line(key: RowId, answer: RowAnswer, row_digest: str) -> Line:
    usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return {
        "id": key,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        **{name: count for name, count in usage.items() if count is not None},
        "row": row_digest,
    }


def line_text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _lines(path: Path) -> Iterable[bytes]:
    """The lines of a file with their line ends; a missing file has none."""
    return BytesIO(read_bytes(path, MAX_BYTES)) if path.exists() else ()


def _is_whole(text: bytes) -> bool:
    """Whether a line is one that `answer_line` makes."""
    try:
        line = json_object(text.decode(), "")
    except (UserError, UnicodeDecodeError):
        return False
    key = line.get("id")
    kinds = isinstance(key, str) or type(key) is int
    return (
        kinds and text.endswith(b"\n") and all(isinstance(line.get(name), str) for name in ("answer", "row"))
    )
