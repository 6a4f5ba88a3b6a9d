"""Small hand-written files in the benchmarks' formats."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SUFFIX = "\nAnswer the question using a single word or phrase."
OBJECTS = {"dog": "yes", "cat": "no", "car": "yes", "cup": "no"}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Pope:
    """Twelve questions, four a split; the rows can be changed before `write`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.questions: list[dict[str, Any]] = []
        self.labels: dict[str, list[dict[str, Any]]] = {}
        for split in ("adversarial", "popular", "random"):
            self.labels[split] = []
            for word, label in OBJECTS.items():
                number, text = len(self.questions) + 1, f"Is there a {word} in the image?"
                row = {"question_id": number, "image": "a.jpg", "text": text + SUFFIX, "category": split}
                self.questions.append(row)
                self.labels[split].append({"question_id": 0, "image": "a.jpg", "text": text, "label": label})
        self.answers = [
            {"question_id": q["question_id"], "prompt": q["text"], "text": "Yes" if i % 4 != 1 else "No"}
            for i, q in enumerate(self.questions)
        ]

    def write(self) -> list[str]:
        """Write all files; returns the command line that scores them."""
        for split, rows in self.labels.items():
            write_jsonl(self.folder / f"coco_pope_{split}.json", rows)
        questions = write_jsonl(self.folder / "questions.jsonl", self.questions)
        answers = write_jsonl(self.folder / "answers.jsonl", self.answers)
        files = ["--questions", str(questions), "--answers", str(answers), "--labels", str(self.folder)]
        return ["score", "pope", *files]
