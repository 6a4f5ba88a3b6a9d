"""Seconds of `vlm-bench score` for POPE and for 100,000 VQA-v2 questions, beside parsing the same files.

    uv run python -m perf.bench.scoring [--rounds 5]

The command is a process of its own: imports, reading, joining, scoring, 2,000 draws for intervals. The floor is a
process that starts Python and parses the same files with `json`. Seconds are CPU time (user and system), which other
processes lengthen less than wall time, and wall time. Files are made as the benchmarks publish them.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from perf.lib.common import parser, start
from perf.lib.tables import ratio, table

WORDS = [
    f"{a}{b}"
    for a in "bcdfghjklm"
    for b in ("at", "og", "ird", "oat", "ed", "ue", "orn", "ook", "ill", "and")
]
SPLITS = ("random", "popular", "adversarial")
PARSE = """
import json, sys
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        lines = path.endswith("l") or "pope" in path
        rows = [json.loads(line) for line in file] if lines else json.load(file)
"""


class Case(NamedTuple):
    """Its name, the arguments that choose the benchmark, the folder of its files, and the answers."""

    name: str
    arguments: tuple[str, ...]
    home: Path
    answers: Path


class Times(NamedTuple):
    """Of a process, in seconds."""

    cpu: float
    wall: float


def write_lines(path: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pope(folder: Path, images: int) -> Case:
    """Six questions about each image in each split, half of them to be answered yes."""
    draw, questions, home = random.Random(0), [], folder / "pope"
    (home / "coco").mkdir(parents=True)
    for split in SPLITS:
        labels = []
        for number in range(images):
            image = f"COCO_val2014_{number:012d}.jpg"
            for n, word in enumerate(draw.sample(WORDS, 6)):
                text = f"Is there a {word} in the image?"
                labels.append({"image": image, "text": text, "label": ("yes", "no")[n % 2]})
                questions.append(
                    {"question_id": len(questions), "image": image, "text": text, "category": split}
                )
        write_lines(home / "coco" / f"coco_pope_{split}.json", labels)
    suffix = "\nAnswer the question using a single word or phrase."
    write_lines(home / "llava_pope_test.jsonl", [{**row, "text": row["text"] + suffix} for row in questions])
    answers = folder / "pope.jsonl"
    write_lines(
        answers, [{"question_id": q["question_id"], "text": draw.choice(("Yes", "No"))} for q in questions]
    )
    return Case(f"POPE, {len(questions):,} questions", ("pope",), home, answers)


def vqa_v2(folder: Path, count: int) -> Case:
    """Five questions about each image and ten reference answers each, as the validation split."""
    draw, home = random.Random(0), folder / "vqav2"
    home.mkdir()
    questions, annotations, answers = [], [], []
    for number in range(count):
        place = {"question_id": number, "image_id": number // 5}
        said = draw.choices((draw.choice(WORDS), draw.choice(WORDS), "yes"), (6, 3, 1), k=10)
        kind = draw.choice(("yes/no", "number", "other"))
        questions.append({**place, "question": f"What is behind the {draw.choice(WORDS)} on the left?"})
        references = [
            {"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(said, 1)
        ]
        annotations.append(
            {
                **place,
                "answers": references,
                "answer_type": kind,
                "multiple_choice_answer": max(said, key=said.count),
            }
        )
        answers.append({"question_id": number, "text": draw.choice(said).capitalize()})
    questions_name, annotations_name = (
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
    )
    (home / questions_name).write_text(json.dumps({"questions": questions}))
    (home / annotations_name).write_text(json.dumps({"annotations": annotations}))
    write_lines(folder / "vqa_v2.jsonl", answers)
    return Case(f"VQA-v2, {count:,} questions", ("vqa-v2", "--split", "val"), home, folder / "vqa_v2.jsonl")


def cpu_of_children() -> float:
    """User and system seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(words: list[str]) -> Times:
    """Times of a process with one thread."""
    before, began = cpu_of_children(), time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    return Times(cpu_of_children() - before, time.perf_counter() - began)


def compared(case: Case, rounds: int) -> list[str]:
    """A row of the table: medians over the rounds, each of which runs both once."""
    files = [str(path) for path in sorted(case.home.rglob("*.json*"))] + [str(case.answers)]
    command = [str(Path(sys.executable).with_name("vlm-bench")), "score", *case.arguments]
    command += ["--data", str(case.home.parent), "--answers", str(case.answers)]
    both = [(timed(command), timed([sys.executable, "-c", PARSE, *files])) for _ in range(rounds)]
    score, floor = (
        Times(*(median(times[n] for times in side) for n in (0, 1))) for side in zip(*both, strict=True)
    )
    return [
        case.name,
        f"{score.cpu:.2f}",
        f"{score.wall:.2f}",
        f"{floor.cpu:.2f}",
        ratio(score.cpu / floor.cpu),
    ]


def main() -> None:
    options = start(parser(__doc__, 5))
    columns = ["data", "score, CPU s", "score, wall s", "parsing alone, CPU s", "ratio"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases = [
            pope(folder, 20 if options.smoke else 500),
            vqa_v2(folder, 500 if options.smoke else 100_000),
        ]
        table("vlm-bench score", columns, (compared(case, options.rounds) for case in cases))


if __name__ == "__main__":
    main()
