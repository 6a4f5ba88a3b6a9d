"""POPE's files: LLaVA's questions (JSON lines) and the label files of each split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlm_bench.files import questions
from vlm_bench.files.json_files import read_jsonl
from vlm_core.errors import UserError, choices

SPLITS = ("random", "popular", "adversarial")

# digest of the labels -> commit of the POPE repository
REVISIONS = {
    "a20aef2b14ab20a26cfcff9234cf0c4cb7e00deac025745113c5f73a0f942214": "e3e39262",
    "2b10ac606a6e824febf9bc0ee644e40abcb837c8e94787c56edc71c52b9ebab6": "3df3ba1b",
}
"""Digests of the labels, not of the bytes: line ends, order and JSON formatting do not change the revision."""

Key = tuple[str, str]
"""(image, question): what joins a question with its label."""


@dataclass(frozen=True)
class Question:
    """One question; `prompt` is the model's input, `key` joins the question with its label."""

    id: str
    split: str
    key: Key
    prompt: str


@dataclass(frozen=True)
class Labels:
    """`truth[split][key]` is whether the image has the object; `revision` is the commit of POPE's repository.

    `other` are label files of splits that LLaVA's figure does not have.
    """

    truth: dict[str, dict[Key, bool]]
    files: dict[str, Path]
    revision: str
    other: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(len(labels) for labels in self.truth.values())


def read_questions(path: Path) -> dict[str, Question]:
    """Questions by id. The prompt's first line is the question; what follows is the answer instruction."""
    by_id: dict[str, Question] = {}
    for asked in questions.read_questions(path):
        if asked.category not in SPLITS:
            raise UserError(
                f"{asked.where}: unknown category {asked.category!r}{choices(asked.category, SPLITS)}"
            )
        by_id[asked.id] = Question(asked.id, asked.category, (asked.image, asked.question), asked.text)
    _no_duplicates(path, by_id)
    return by_id


def official_questions(labels: Labels) -> dict[str, Question]:
    """The label files' own questions, as LLaVA asks them; ids are `split/image/question`."""
    return {
        (name := "/".join((split, *key))): Question(name, split, key, f"{key[1]}\n{questions.SHORT}")
        for split, truth in labels.truth.items()
        for key in truth
    }


def _no_duplicates(path: Path, by_id: dict[str, Question]) -> None:
    counts = Counter((q.split, *q.key) for q in by_id.values())
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{path}: {len(twice)} questions appear twice under different ids, first {twice[0]}")


def read_labels(folder: Path) -> Labels:
    """The three label files `coco_pope_<split>.json`, each plain or with `.gz` appended."""
    paths = {split: _label_file(folder, split) for split in SPLITS}
    truth = {split: _read_split(path) for split, path in paths.items()}
    files = {f"coco_pope_{split}.json": path for split, path in paths.items()}
    names = sorted(path.name for path in folder.glob("coco_pope_*.json*"))
    other = tuple(name for name in names if name.removesuffix(".gz") not in files)
    return Labels(truth, files, REVISIONS.get(digest_of(truth), "unknown"), other)


def digest_of(truth: Mapping[str, Mapping[Key, bool]]) -> str:
    """One hash over all labels, independent of their order."""
    rows = sorted((split, *key, yes) for split, labels in truth.items() for key, yes in labels.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def missing_labels(folder: Path) -> str:
    """Why a label file can't be read; "" if all exist."""
    try:
        for split in SPLITS:
            _label_file(folder, split)
    except UserError as error:
        return str(error)
    return ""


def _label_file(folder: Path, split: str) -> Path:
    name = f"coco_pope_{split}.json"
    paths = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if len(paths) != 1:
        fault = "both exist" if paths else "neither exists"
        raise UserError(f"{folder}: expected {name} or {name}.gz; {fault}")
    return paths[0]


def _read_split(path: Path) -> dict[Key, bool]:
    labels: dict[Key, bool] = {}
    for row in read_jsonl(path):
        key, label = (row.named("image"), row.text("text")), row.text("label")
        if label not in ("yes", "no"):
            raise UserError(f"{row.where}: the label is {label!r}, expected 'yes' or 'no'")
        if key in labels:
            raise UserError(f"{row.where}: a second label for {key[1]!r} on {key[0]}")
        labels[key] = label == "yes"
    return labels
