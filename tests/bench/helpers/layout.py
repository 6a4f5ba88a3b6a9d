"""All eight benchmarks as tiny files in LLaVA's layout, so small that every figure can be checked by hand."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_files import SUFFIX, write_jsonl
from PIL import Image

from vlm_bench.benchmarks.mme.scoring import COGNITION, PERCEPTION

LETTERS = "ABCD"


def png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png())


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_jsonl(path, rows)


def asked(key: Any, image: str, text: str) -> dict[str, Any]:
    return {"question_id": key, "image": image, "text": text + SUFFIX, "category": "default"}


def gqa(folder: Path) -> None:
    """Two open questions, one binary, one that is not balanced and not asked."""
    texts = {"10": "What is it?", "2": "Which color is it?", "31": "Is it red?", "4": "Is it blue?"}
    answers = {"10": "dog", "2": "red", "31": "yes", "4": "no"}
    kinds = {
        "10": ("query", "cat"),
        "2": ("query", "attr"),
        "31": ("verify", "attr"),
        "4": ("verify", "attr"),
    }
    program = [{"operation": "select", "argument": "it (1)"}, {"operation": "query", "argument": "name"}]
    gold = {
        key: {
            "question": texts[key],
            "answer": answers[key],
            "isBalanced": key != "4",
            "imageId": "n1",
            "types": dict(zip(("structural", "semantic"), kinds[key], strict=True)),
            "semantic": program,
        }
        for key in texts
    }
    write_json(folder / "gqa/data/testdev_balanced_questions.json", gold)
    rows = [asked(key, "n1.jpg", texts[key]) for key in ("31", "10", "2")]
    lines(folder / "gqa/llava_gqa_testdev_balanced.jsonl", rows)
    picture(folder / "gqa/data/images/n1.jpg")


def textvqa(folder: Path) -> None:
    """Two questions about one image, which LLaVA's file names by the image."""
    rows, gold = [], []
    for text, answers in (("What brand?", ["dakota"] * 10), ("What color?", ["red"] * 2 + ["blue"] * 8)):
        tokens = "\nReference OCR token: DAKOTA, DIGITAL"
        rows.append(asked("0a1b", "0a1b.jpg", text + tokens))
        gold.append({"image_id": "0a1b", "question": text, "question_id": len(gold), "answers": answers})
    lines(folder / "textvqa/llava_textvqa_val_v051_ocr.jsonl", rows)
    write_json(folder / "textvqa/TextVQA_0.5.1_val.json", {"dataset_version": "0.5.1", "data": gold})
    picture(folder / "textvqa/train_images/0a1b.jpg")


def vqa_v2(folder: Path) -> None:
    """val: three questions, one a kind; test-dev: two of test2015's three."""
    home, truths = (
        folder / "vqav2",
        {1: ["yes"] * 10, 2: ["2"] * 5 + ["two"] * 5, 3: ["red"] * 3 + ["blue"] * 7},
    )
    kinds = {1: "yes/no", 2: "number", 3: "other"}
    questions = [{"question_id": n, "image_id": 9, "question": f"Question {n}?"} for n in truths]
    annotations = [
        {
            "question_id": n,
            "image_id": 9,
            "answer_type": kinds[n],
            "question_type": "is",
            "answers": [{"answer": text, "answer_id": i} for i, text in enumerate(truths[n], 1)],
        }
        for n in reversed(truths)
    ]
    write_json(home / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write_json(home / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    picture(home / "val2014/COCO_val2014_000000000009.jpg")
    whole = [asked(key, "COCO_test2015_000000000007.jpg", f"Question {key}?") for key in (71, 72, 73)]
    lines(home / "llava_vqav2_mscoco_test2015.jsonl", whole)
    lines(home / "llava_vqav2_mscoco_test-dev2015.jsonl", whole[1:])
    picture(home / "test2015/COCO_test2015_000000000007.jpg")


INNER = PERCEPTION[4:9]
"""The tasks whose images have a folder of their own."""


def mme_image(task: str) -> str:
    """An image as LLaVA's file names it and its question."""
    return f"{task}/images/0001.png" if task in INNER else f"{task}/0001.png"


def mme(folder: Path) -> None:
    """One image a task, its two questions answered Yes and No; some tasks have inner folders."""
    home, rows = folder / "MME", []
    for task in (*PERCEPTION, *COGNITION):
        inner, image = task in INNER, mme_image(task)
        texts = [f"Is this {task}?", "Is this another?"]
        for text in reversed(texts):  # not in the labels' order
            rows.append(asked(image, image, text))
        labels = home / "MME_Benchmark_release_version" / task / ("questions_answers_YN" if inner else "")
        picture(labels.parent / "images/0001.png" if inner else labels / "0001.png")
        labels.mkdir(parents=True, exist_ok=True)
        gap = "  " if task == "OCR" else " "  # the doubled space is in the published files
        said = [f"{t}{gap}Please answer yes or no.\t{a}\n" for t, a in zip(texts, ("Yes", "No"), strict=True)]
        (labels / "0001.txt").write_text("".join(said))
    lines(home / "llava_mme.jsonl", rows)


MMBENCH = [
    "index",
    "question",
    "hint",
    *LETTERS,
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
]


def mmbench(folder: Path, *, split: str = "dev") -> None:
    """Question 7 with two options in two rotations, question 8 with four in one row, question 9 cut by "None"."""
    picture_ = base64.b64encode(png()).decode()
    options = {
        7: ["red", "blue"],
        1_000_007: ["blue", "red"],
        8: ["a cat", "a dog", "a cow", "a pig"],
        9: ["one", "None", "two"],
    }
    answers = {7: "A", 1_000_007: "B", 8: "B", 9: "A"}
    table = ["\t".join(MMBENCH)]
    for index, texts in options.items():
        cells = [
            str(index),
            '"What ""is"" it?"',
            "look" if index == 8 else "",
            *texts,
            *[""] * (4 - len(texts)),
        ]
        answer = answers[index] if split == "dev" else ""
        image = "7" if index == 1_000_007 else picture_
        table.append("\t".join([*cells, answer, "color", image, "web", "perception", "", split]))
    path = folder / f"mmbench/mmbench_{split}_20230712.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(table) + "\n", encoding="utf-8")


def mm_vet(folder: Path, *, truths: bool = True) -> None:
    """Three questions; the two halves of the first right answer are both needed."""
    texts = ["What is x?", "What is it?", "Where is it?"]
    rows = [
        {"question_id": n, "image": f"v1_{n}.png", "text": t, "category": "conv"} for n, t in enumerate(texts)
    ]
    lines(folder / "mm-vet/llava-mm-vet.jsonl", rows)
    for n in range(len(texts)):
        picture(folder / f"mm-vet/images/v1_{n}.png")
    known = {
        "v1_0": {"question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
        "v1_1": {"question": "What is it?", "answer": "a dog<OR>a puppy", "capability": ["rec"]},
        "v1_2": {"question": "Where is it?", "answer": "left", "capability": ["rec", "spat"]},
    }
    if truths:
        write_json(folder / "mm-vet/mm-vet.json", known)


def scienceqa(folder: Path) -> None:
    """Two questions, one with an image."""
    rows: list[dict[str, Any]] = []
    for key, right in (("4", "B"), ("5", "A")):
        mark = "<image>\n" if key == "5" else ""
        turns = [{"from": "human", "value": f"{mark}Which?\nA. x\nB. y"}, {"from": "gpt", "value": right}]
        rows.append({"id": key, "conversations": turns} | ({"image": "5/image.png"} if mark else {}))
    write_json(folder / "scienceqa/llava_test_CQM-A.json", rows)
    picture(folder / "scienceqa/images/test/5/image.png")


def pope(folder: Path) -> None:
    """Two questions a split about one image."""
    rows: list[dict[str, Any]] = []
    for split in ("random", "popular", "adversarial"):
        labels = []
        for word, label in (("dog", "yes"), ("cat", "no")):
            text = f"Is there a {word} in the image?"
            rows.append(asked(len(rows) + 1, "a.jpg", text) | {"category": split})
            labels.append({"question_id": len(labels), "image": "a.jpg", "text": text, "label": label})
        lines(folder / f"pope/coco/coco_pope_{split}.json", labels)
    lines(folder / "pope/llava_pope_test.jsonl", rows)
    picture(folder / "pope/val2014/a.jpg")


def everything(folder: Path) -> Path:
    """Every benchmark's files."""
    for write in (gqa, textvqa, vqa_v2, mme, mmbench, mm_vet, scienceqa, pope):
        write(folder)
    return folder


GQA = {"10": "dog", "2": "red", "31": "yes"}


GOLD = "gqa/data/testdev_balanced_questions.json"


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text())
    changed = change(value)
    write_json(path, value if changed is None else changed)
