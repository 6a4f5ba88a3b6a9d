"""The benchmarks beyond the paper's eight as tiny files in their layout; `layout` has the paper's."""

import json
from pathlib import Path
from typing import Any

from layout import asked, lines, mmbench, picture, write_json

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
VIZWIZ = {
    "VizWiz_val_00000000.jpg": ("What is this?", "other", 1, ["coke"] * 6 + ["coca cola"] * 4),
    "VizWiz_val_00000001.jpg": (
        "What color is it?",
        "unanswerable",
        0,
        ["unanswerable"] * 9 + ["unsuitable"],
    ),
    "VizWiz_val_00000002.jpg": ("Is it on?", "yes/no", 1, ["yes"] * 2 + ["Yes"] * 8),
    "VizWiz_val_00000003.jpg": ("How many?", "number", 1, ["2"] * 3 + ["3"] * 7),
}


def vizwiz(folder: Path) -> None:
    """val: a question of each type; test: two questions, in the official form and in LLaVA's."""
    home = folder / "vizwiz"
    rows = [
        {
            "image": image,
            "question": text,
            "answers": [{"answer": a, "answer_confidence": "yes"} for a in answers],
            "answer_type": kind,
            "answerable": answerable,
        }
        for image, (text, kind, answerable, answers) in VIZWIZ.items()
    ]
    write_json(home / "val.json", rows)
    names = ["VizWiz_test_00000000.jpg", "VizWiz_test_00000001.jpg"]
    write_json(home / "test.json", [{"image": name, "question": "What is it?"} for name in names])
    llava = [asked(n, name, f"What is it?{UNANSWERABLE}") for n, name in enumerate(names)]
    lines(home / "llava_test.jsonl", llava)
    for name in VIZWIZ:
        picture(home / "val" / name)
    for name in names:
        picture(home / "test" / name)


LETTER = "Answer with the option's letter from the given choices directly."
SEED: list[dict[str, Any]] = [
    {
        "answer": right,
        "choice_a": "One",
        "choice_b": "Two",
        "choice_c": "Three",
        "choice_d": "Four",
        "data_id": f"10{key}_7",
        "data_type": "video" if kind == 10 else "image",
        "question": f"How many towels are in image {key}?",
        "question_id": key,
        "question_type_id": kind,
    }
    for key, right, kind in (("101", "A", 5), ("102", "C", 5), ("103", "B", 1), ("201", "D", 10))
]
SEED_TYPES = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}


def seed_image(folder: Path) -> None:
    """Three questions about images, of two types, and one about a video."""
    home = folder / "seed_bench"
    write_json(home / "SEED-Bench.json", {"questions": SEED, "question_type": SEED_TYPES})
    rows = []
    for row in SEED:
        options = [f"{letter}. {row[f'choice_{letter.lower()}']}" for letter in ("A", "B", "C", "D")]
        place = "SEED-Bench-image" if row["data_type"] == "image" else "SEED-Bench-video-image"
        text = "\n".join([row["question"], *options, LETTER])
        rows.append(
            {"question_id": int(row["question_id"]), "image": f"{place}/{row['data_id']}", "text": text}
        )
        picture(home / place / str(row["data_id"]))
    lines(home / "llava-seed-bench.jsonl", rows)


def mmbench_cn(folder: Path) -> None:
    """The questions of `layout.mmbench` in the place of the Chinese ones."""
    mmbench(folder / "cn")
    path = folder / "mmbench_cn/mmbench_dev_cn_20231003.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "cn/mmbench/mmbench_dev_20230712.tsv").rename(path)


REVIEWS = {0: ("conv", [8, 6]), 1: ("detail", [9.0, 9.0]), 2: ("complex", [8, 7.5])}


def llava_bench(folder: Path) -> Path:
    """A question of each category; returns the reviews."""
    home = folder / "llava-bench-in-the-wild"
    rows = [
        {"question_id": key, "image": "001.jpg", "text": f"Question {key}?", "category": category}
        for key, (category, _) in REVIEWS.items()
    ]
    lines(home / "questions.jsonl", rows)
    picture(home / "images/001.jpg")
    reviews = [
        {"id": key + 1, "question_id": key, "category": f"llava_bench_{category}", "tuple": scores}
        for key, (category, scores) in REVIEWS.items()
    ]
    path = home / "reviews/model.jsonl"
    lines(
        path, [{**row, "answer1_id": "a", "answer2_id": "b", "content": "8 6\nBecause."} for row in reviews]
    )
    return path


def vsr(folder: Path) -> None:
    """Four statements, two of them true."""
    statements = [
        ("1.jpg", "The cat is under the bench.", 1, "under"),
        ("1.jpg", "The cat is above the bench.", 0, "above"),
        ("2.jpg", "The car is near the bus.", 1, "near"),
        ("2.jpg", "The car is facing the bus.", 0, "facing"),
    ]
    rows = [
        {"image": image, "caption": caption, "label": label, "relation": relation, "annotator_id": 2}
        for image, caption, label, relation in statements
    ]
    for split in ("zeroshot/test", "zeroshot/dev", "random/test", "random/dev"):
        lines(folder / f"vsr/splits/{split}.jsonl", rows)
    for image in ("1.jpg", "2.jpg"):
        picture(folder / "vsr/images" / image)


IMAGE = "COCO_train2014_000000000007.jpg"
EXPRESSIONS = {11: ("the left dog", [20, 10, 100, 50]), 12: ("the right dog", [120, 10, 200, 100])}
"""Expressions and boxes (x1, y1, x2, y2) in an image of 200 x 100 pixels, by `sent_id`."""


def refcoco(folder: Path) -> None:
    """Two expressions in each split of each dataset, in Qwen-VL's form and in REFER's."""
    home = folder / "refcoco"
    splits = {
        "refcoco": ("val", "testA", "testB"),
        "refcoco+": ("val", "testA", "testB"),
        "refcocog": ("val", "test"),
    }
    qwen = [
        {"image": f"data/coco/train2014/{IMAGE}", "sent": sent, "bbox": box, "width": 200, "height": 100}
        for sent, box in EXPRESSIONS.values()
    ]
    annotations = [
        {"id": key, "image_id": 7, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for key, (_, box) in EXPRESSIONS.items()
    ]
    instances = {
        "images": [{"id": 7, "width": 200, "height": 100, "file_name": IMAGE}],
        "annotations": annotations,
    }
    for name, names in splits.items():
        refs = []
        for place, split in enumerate(("train", *names)):
            if split != "train":
                lines(home / f"{name}_{split}.jsonl", qwen)
            refs += [
                {
                    "ref_id": 10 * place + key,
                    "ann_id": key,
                    "image_id": 7,
                    "split": split,
                    "sentences": [{"sent_id": 100 * place + key, "sent": sent, "raw": sent, "tokens": []}],
                }
                for key, (sent, _) in EXPRESSIONS.items()
            ]
        write_json(home / name / ("refs(umd).json" if name == "refcocog" else "refs(unc).json"), refs)
        write_json(home / name / "instances.json", instances)
    picture(home / "train2014" / IMAGE)


def pope_variants(folder: Path) -> None:
    """Two questions a split; of A-OKVQA's adversarial ones the second twice, as in the published file."""
    images = {"aokvqa": ("a.jpg", folder / "pope/val2014"), "gqa": ("1.jpg", folder / "gqa/data/images")}
    for name, (image, place) in images.items():
        for split in ("random", "popular", "adversarial"):
            words = [("dog", "yes"), ("cat", "no")] + [("cat", "no")] * (
                name == "aokvqa" and split == "adversarial"
            )
            rows = [
                {"question_id": n, "image": image, "text": f"Is there a {word} in the image?", "label": label}
                for n, (word, label) in enumerate(words, 1)
            ]
            path = write_json(folder / f"pope/{name}/{name}_pope_seem_{split}.json", rows)
            path.write_text(json.dumps(rows, indent=4))  # as published: a list over many lines
        picture(place / image)


def more(folder: Path) -> Path:
    """Every benchmark's files."""
    for write in (vizwiz, seed_image, mmbench_cn, llava_bench, vsr, refcoco, pope_variants):
        write(folder)
    return folder
