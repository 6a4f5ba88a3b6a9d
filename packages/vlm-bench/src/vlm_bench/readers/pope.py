"""POPE's files: LLaVA's questions (JSON lines) and the label files of each split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vlm_bench.readers import questions
from vlm_bench.readers.files import read_jsonl, sha256
from vlm_core.errors import UserError, choices

SPLITS = ("random", "popular", "adversarial")

# sha256 of the random, popular and adversarial label file -> commit of the POPE repository
REVISIONS: dict[tuple[str, ...], str] = {
    (
        "c16b65d2df6d70bb0814c8a4375833d39cdb09928fd936d3fc546491efa37f35",
        "5b16653023bf4f64d57eb0d168259de6627f5cde7538b85ebed3cc33034aa6cc",
        "1d8f0906a9b50c05640f6f23abfac97523be2a1bed28f7eadc63b811699b2d26",
    ): "e3e39262",
    (
        "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994",
        "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753",
        "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8",
    ): "3df3ba1b",
}

Key = tuple[str, str]
"""(image, question): what joins a question with its label."""


@dataclass(frozen=True)
class Question:
    """One question as the model got it; `key` joins it with its label."""

    id: str
    split: str
    key: Key
    prompt: str


@dataclass(frozen=True)
class Labels:
    """`truth[split][key]` is whether the object is there; `revision` the commit they come from."""

    truth: dict[str, dict[Key, bool]]
    files: dict[str, Path]
    revision: str

    def __len__(self) -> int:
        return sum(len(labels) for labels in self.truth.values())


def read_questions(path: Path) -> dict[str, Question]:
    """Questions by id. The prompt's first line is the question; what follows is the answer instruction."""
    found: dict[str, Question] = {}
    for asked in questions.read_questions(path):
        if asked.category not in SPLITS:
            raise UserError(
                f"{asked.where}: unknown category {asked.category!r}{choices(asked.category, SPLITS)}"
            )
        found[asked.id] = Question(asked.id, asked.category, (asked.image, asked.question), asked.text)
    _no_duplicates(path, found)
    return found


def official_questions(labels: Labels) -> dict[str, Question]:
    """The label files' own questions, as LLaVA asks them; ids are `split/image/question`."""
    return {
        (name := "/".join((split, *key))): Question(name, split, key, f"{key[1]}\n{questions.SHORT}")
        for split, truth in labels.truth.items()
        for key in truth
    }


def _no_duplicates(path: Path, found: dict[str, Question]) -> None:
    counts = Counter((q.split, *q.key) for q in found.values())
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{path}: {len(twice)} questions stand twice under different ids, first {twice[0]}")


def read_labels(folder: Path) -> Labels:
    """The three label files `coco_pope_<split>.json`, each plain or with `.gz` appended."""
    paths = {split: _label_file(folder, split) for split in SPLITS}
    hashes = {split: sha256(path) for split, path in paths.items()}
    revision = REVISIONS.get(tuple(hashes[split] for split in SPLITS), "unknown")
    truth = {split: _read_split(path) for split, path in paths.items()}
    return Labels(truth, {f"coco_pope_{split}.json": path for split, path in paths.items()}, revision)


def _label_file(folder: Path, split: str) -> Path:
    name = f"coco_pope_{split}.json"
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if len(found) != 1:
        seen = "both are there" if found else "neither is there"
        raise UserError(f"{folder}: expected {name} or {name}.gz; {seen}")
    return found[0]


def _read_split(path: Path) -> dict[Key, bool]:
    labels: dict[Key, bool] = {}
    for row in read_jsonl(path):
        key, label = (row.text("image"), row.text("text")), row.text("label")
        if label not in ("yes", "no"):
            raise UserError(f"{row.where}: the label is {label!r}, expected 'yes' or 'no'")
        if key in labels:
            raise UserError(f"{row.where}: a second label for {key[1]!r} on {key[0]}")
        labels[key] = label == "yes"
    return labels
