"""POPE in LLaVA's layout with several images."""

import json
import shutil
from pathlib import Path
from typing import Any

from bench_files import SUFFIX, write_jsonl
from PIL import Image

COLORS = ("red", "green", "blue", "teal")


def write_pope(data: Path, colors: tuple[str, ...] = COLORS) -> Path:
    """An image per colour and two questions about it in each split, one to be answered yes; the folder."""
    home = data / "pope"
    shutil.rmtree(home, ignore_errors=True)
    (home / "coco").mkdir(parents=True)
    (home / "val2014").mkdir()
    for n, color in enumerate(colors):
        Image.new("RGB", (8, 8), color).save(home / f"val2014/{n}.png")
    questions: list[dict[str, Any]] = []
    for split in ("random", "popular", "adversarial"):
        labels = []
        for n in range(len(colors)):
            for word, label in (("dog", "yes"), ("cat", "no")):
                text, image = f"Is there a {word} in the image?", f"{n}.png"
                labels.append({"image": image, "text": text, "label": label})
                number = str(len(questions) + 1)
                questions.append(
                    {"question_id": number, "image": image, "text": text + SUFFIX, "category": split}
                )
        write_jsonl(home / f"coco/coco_pope_{split}.json", labels)
    write_jsonl(home / "llava_pope_test.jsonl", questions)
    return home


def own_answers(out: Path, say: dict[str, str]) -> None:
    """Replace a run's own answers: `say` has the text by object."""
    path = out / "pope.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["text"] = next(text for word, text in say.items() if word in row["prompt"])
        row["metadata"].pop("sha256", None)
    write_jsonl(path, rows)
