"""POPE's files: LLaVA's questions (JSON lines) and the label files of each split, for each source of images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vlm_bench.files import questions
from vlm_bench.files.json_files import json_rows, opened, read_jsonl
from vlm_bench.files.json_object import Row
from vlm_core.errors import UserError, choices

SPLITS = ("random", "popular", "adversarial")

Key = tuple[str, str]
"""(image, question): what joins a question with its label."""


@dataclass(frozen=True)
class Variant:
    """A source of POPE's images: the name of its label files, and the revision that published figures use.

    `revisions` are commits of POPE's repository by digest of the labels, not of the bytes: line ends, order and JSON
    formatting do not change the revision. Where `repeats`, a question may occur twice with the same label; it is then
    asked once and counts as often as it occurs, as in the official script.
    """

    name: str
    file: str
    revisions: Mapping[str, str]
    published: str
    repeats: bool = False

    def file_of(self, split: str) -> str:
        """The name of a split's label file."""
        return self.file.format(split)


COCO = Variant(
    "llava-1.5/pope",
    "coco_pope_{}.json",
    {
        "a20aef2b14ab20a26cfcff9234cf0c4cb7e00deac025745113c5f73a0f942214": "e3e39262",
        "2b10ac606a6e824febf9bc0ee644e40abcb837c8e94787c56edc71c52b9ebab6": "3df3ba1b",
    },
    "e3e39262",
)
A_OKVQA = Variant(
    "pope-aokvqa",
    "aokvqa_pope_seem_{}.json",
    {"cf48c223fa78e9e5944ea53be7057729e78005660151ed30365069c6f7aae7c3": "9b541065"},
    "9b541065",
    repeats=True,
)
GQA = Variant(
    "pope-gqa",
    "gqa_pope_seem_{}.json",
    {"d1d894486c6189fb6b1292b2546b01837339fe97d3a916c6e7596f7f114dcdcf": "9b541065"},
    "9b541065",
    repeats=True,
)
"""POPE's annotations by SEEM of A-OKVQA's and GQA's images: 3,000 questions a split about 500 images."""


class Question(NamedTuple):
    """One question; `prompt` is the model's input, `key` joins the question with its label."""

    id: str
    split: str
    key: Key
    prompt: str


@dataclass(frozen=True)
class Labels:
    """`truth[split][key]` is whether the image has the object; `revision` is the commit of POPE's repository.

    `other` are label files of splits that LLaVA's figure does not have. `repeated[split]` has the number of labels of
    each question with several.
    """

    truth: dict[str, dict[Key, bool]]
    files: dict[str, Path]
    revision: str
    other: tuple[str, ...] = ()
    repeated: dict[str, dict[Key, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(labels) for labels in self.truth.values())

    def weight(self, split: str, key: Key) -> int:
        """How often a question counts."""
        return self.repeated[split].get(key, 1)


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


def read_labels(folder: Path, variant: Variant = COCO) -> Labels:
    """The three label files of a variant, such as `coco_pope_<split>.json`, each plain or with `.gz` appended."""
    names = {split: variant.file_of(split) for split in SPLITS}
    files = {name: _label_file(folder, name) for name in names.values()}
    rows = {split: _read_split(files[name], variant.repeats) for split, name in names.items()}
    truth = {split: {key: yes for key, (yes, _) in labels.items()} for split, labels in rows.items()}
    repeated = {split: {key: n for key, (_, n) in labels.items() if n > 1} for split, labels in rows.items()}
    present = sorted(path.name for path in folder.glob(f"{variant.file_of('*')}*"))
    other = tuple(name for name in present if name.removesuffix(".gz") not in files)
    revision = variant.revisions.get(digest_of(truth), "unknown")
    return Labels(truth, files, revision, other, repeated)


def digest_of(truth: Mapping[str, Mapping[Key, bool]]) -> str:
    """One hash over all labels, independent of their order."""
    rows = sorted((split, *key, yes) for split, labels in truth.items() for key, yes in labels.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def missing_labels(folder: Path, variant: Variant = COCO) -> str:
    """Why a label file can't be read; "" if all exist."""
    try:
        for split in SPLITS:
            _label_file(folder, variant.file_of(split))
    except UserError as error:
        return str(error)
    return ""


def _label_file(folder: Path, name: str) -> Path:
    paths = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if len(paths) != 1:
        fault = "both exist" if paths else "neither exists"
        raise UserError(f"{folder}: expected {name} or {name}.gz; {fault}")
    return paths[0]


def _read_split(path: Path, repeats: bool) -> dict[Key, tuple[bool, int]]:
    """Each question's label and the number of its rows."""
    labels: dict[Key, tuple[bool, int]] = {}
    for row in _label_rows(path):
        key, label = (row.named("image"), row.text("text")), row.text("label")
        if label not in ("yes", "no"):
            raise UserError(f"{row.where}: the label is {label!r}, expected 'yes' or 'no'")
        earlier, count = labels.get(key, (label == "yes", 0))
        if count and not (repeats and earlier == (label == "yes")):
            raise UserError(f"{row.where}: a second label for {key[1]!r} on {key[0]}")
        labels[key] = earlier, count + 1
    return labels


def _label_rows(path: Path) -> Iterator[Row]:
    """The rows of a label file: JSON lines for COCO, a JSON list for the others."""
    with opened(path) as file:
        listed = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    yield from json_rows(path) if listed else read_jsonl(path)
