"""The answer log of a run, from which a killed run resumes.

Each process appends to `NAME.part-RANK.jsonl`, one line per answer. At the end these are merged into `NAME.jsonl`,
in the questions' order. `NAME.jsonl.run.json` holds the run's metadata; answers of another model, other
data or other settings are never mixed with them.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from vlm_bench.files.baseline_files import file_stem
from vlm_bench.files.json_files import MAX_BYTES, read_jsonl
from vlm_bench.files.json_object import Row, as_row
from vlm_bench.files.run_metadata import SAME_RUN, read_metadata
from vlm_core.benchmark import Question
from vlm_core.errors import UserError
from vlm_core.evaluation.inference import AnsweredQuestion
from vlm_core.io.atomic import append_lines, drop_lines, write_errors, write_file
from vlm_core.io.digests import of_image
from vlm_core.io.files import read_bytes
from vlm_core.io.manifest import refuse_links

MUST_MATCH = (*SAME_RUN, "baseline", "shuffle_seed")
"""Keys of the metadata that must be equal for all answers in one file."""
Metadata = dict[str, Any]


class AnswerLog:
    """The answers to `questions` of benchmark `name` in `folder`: the model's own, or those of a baseline."""

    def __init__(
        self, folder: Path, name: str, questions: Mapping[str, Question], baseline: str = ""
    ) -> None:
        self.folder, self.name, self.questions = folder, file_stem(name, baseline), questions
        self.baseline = baseline
        self.path = folder / f"{self.name}.jsonl"
        self.metadata_path = self.path.with_name(f"{self.path.name}.run.json")

    @property
    def parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}.part-*.jsonl"))

    def check(self, metadata: Metadata) -> Metadata:
        """The metadata of an earlier run; empty if there was none. Nothing is written.

        Raises `UserError` for answers without metadata, for answers of another run, with the differences, and for
        a file that is a link out of the folder.
        """
        refuse_links(self.folder, f"{glob.escape(self.name)}.*")
        if not self.metadata_path.exists():
            if existing := [path for path in (self.path, *self.parts) if path.exists()]:
                raise UserError(
                    f"{existing[0]}: answers of an unknown run, without {self.metadata_path.name}; name another --out"
                )
            return {}
        try:
            earlier = read_metadata(self.metadata_path)
        except UserError as error:
            raise UserError(
                *error.lines,
                "it belongs to the answers in this folder: name another --out, or remove these files",
            ) from None
        if other := [key for key in MUST_MATCH if earlier.get(key) != metadata.get(key)]:
            raise UserError(
                f"{self.metadata_path}: holds answers of a different run:",
                *(
                    f"  {key}: {_short(earlier.get(key))} before, {_short(metadata.get(key))} now"
                    for key in other
                ),
                "name another --out, or remove it",
            )
        return earlier

    def drop_partial_lines(self) -> int:
        """Drop half-written and damaged lines, whose questions are asked again; returns their number."""
        paths = (self.path, *self.parts)
        return sum(drop_lines(path, partial(_lines, path), _is_row) for path in paths)

    def lines(self) -> dict[str, Row]:
        """The line of each answer, by question id.

        Raises `UserError` for an answer to no question or to another one of that id, and for two to one question.
        """
        rows: dict[str, Row] = {}
        for path in (self.path, *self.parts):
            for row in read_jsonl(path) if path.exists() and path.stat().st_size else ():
                key = self._key(row)
                if key in rows and rows[key].data != row.data:  # the same line twice: killed while merging
                    raise UserError(f"{row.where}: a second answer to question {key}; name another --out")
                rows[key] = row
        return rows

    def refuse_other_images(self) -> None:
        """Raise `UserError` if an image file has changed since the model was asked about it."""
        asked = self._asked_images()
        now = image_digests(path for path in dict.fromkeys(path for path, _ in asked) if path.is_file())
        if other := list(dict.fromkeys(path for path, digest in asked if now.get(path, digest) != digest)):
            more = f" and {len(other) - 3} more" if len(other) > 3 else ""
            raise UserError(
                f"{self.metadata_path}: holds answers about images that have changed since: "
                f"{', '.join(map(str, other[:3]))}{more}; name another --out, or remove it"
            )

    def _asked_images(self) -> list[tuple[Path, str]]:
        """Image files and their digests, from every valid line; `lines` reports invalid ones."""
        images = []
        for path in (self.path, *self.parts):
            for line in _lines(path):
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    metadata = json.loads(line)["metadata"]
                    paths = [i for i in self.questions[metadata["id"]].images if isinstance(i, Path)]
                    digests = str(metadata["image"]).split()
                    known = digests if len(digests) == len(paths) else [""] * len(paths)
                    images += zip(paths, known, strict=True)
        return images

    def _key(self, row: Row) -> str:
        key = as_row(row.data.get("metadata"), f"{row.where}: metadata").id("id")
        row.text("text")
        if (baseline := row.data["metadata"].get("baseline", "")) != self.baseline:
            raise UserError(
                f"{row.where}: an answer of {baseline or 'the model itself'}, where those of "
                f"{self.baseline or 'the model itself'} belong; name another --out"
            )
        if key not in self.questions:
            raise UserError(
                f"{row.where}: an answer to no question of {self.name}, id {key}; name another --out"
            )
        if row.text("prompt") != self.questions[key].prompt:
            raise UserError(f"{row.where}: question {key} was asked with another prompt; name another --out")
        return key

    def part(self, rank: int) -> AbstractContextManager[Callable[[str], None]]:
        """A function that appends a line to this process's file; raises `UserError` if another process writes it."""
        return append_lines(self.folder / f"{self.name}.part-{rank}.jsonl")

    def write_metadata(self, metadata: Metadata) -> None:
        """Write the run's metadata."""
        write_file(self.metadata_path, json.dumps(metadata, indent=1, ensure_ascii=False) + "\n")

    def merge(self) -> None:
        """Merge all answers into one file, in the questions' order."""
        rows = self.lines()
        ordered = (json.dumps(rows[key].data, ensure_ascii=False) for key in self.questions if key in rows)
        write_file(self.path, "".join(f"{line}\n" for line in ordered))
        for path in self.parts:
            with write_errors(path):
                path.unlink()


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their line ends; a missing file has none."""
    return iter(BytesIO(read_bytes(path, MAX_BYTES)) if path.exists() else ())


def _is_row(line: bytes) -> bool:
    """Whether a line is empty, or a complete JSON object whose checksum, if it has one, is right."""
    try:
        row = json.loads(line.decode("utf-8")) if line.strip() else {}
    except (ValueError, RecursionError):
        return False
    if not line.endswith(b"\n") or not isinstance(row, dict):
        return False
    metadata = row.get("metadata")
    if not isinstance(metadata, dict) or "sha256" not in metadata:
        return True
    return metadata["sha256"] == _checksum(metadata.get("id"), row.get("prompt"), row.get("text"))


def _checksum(*fields: object) -> str:
    """Checksum of an answer's id, prompt and text, for its line's metadata; lines of earlier versions have none."""
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


def image_digests(images: Iterable[Path]) -> dict[Path, str]:
    """Digests of image files."""
    paths = list(images)
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(paths, pool.map(of_image, paths), strict=True))


def answer_line(
    answer: AnsweredQuestion, model: str, digest: str, image: str | None = None, baseline: str = ""
) -> str:
    """One line in LLaVA's format: `question_id` is the official id, `metadata` has the id that is unique here.

    `image` is the digest of the question's image file. The digest of a data file with images is in the run's metadata.
    `baseline` marks the answer as one of a baseline, not the model's own.
    """
    question, text = answer
    source = f"{digest}/{baseline}" if baseline else digest
    row = {
        "question_id": question.alias or question.id,
        "prompt": question.prompt,
        "text": text,
        "answer_id": hashlib.sha256(f"{source}/{question.id}".encode()).hexdigest()[:22],
        "model_id": f"{model} ({baseline})" if baseline else model,
        "metadata": {
            "id": question.id,
            **({"image": image} if image else {}),
            **({"baseline": baseline} if baseline else {}),
            "sha256": _checksum(question.id, question.prompt, text),
        },
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def digest_of(questions: Iterable[Question]) -> str:
    """One hash over ids, prompts, choices and image names of all questions."""
    total = hashlib.sha256()
    for q in questions:
        first, *others = [i.name if isinstance(i, Path) else i.text for i in q.images] or [None]
        facts = [q.id, q.prompt, q.choices, first]
        total.update(json.dumps([*facts, others] if others else facts).encode())
    return total.hexdigest()


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items()) or "none"
    return str(value)
