"""TextVQA and POPE in LLaVA's layout, about the pictures of `conftest`; a model can learn some of the answers."""

import json
import shutil

COLOURS = ["red", "green", "blue", "black", "white", "teal"]
QUESTIONS = {"textvqa": 6, "pope": 36}


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_exams(pictures, home):
    """Six questions of TextVQA, one a picture, and POPE's, two a picture and split."""
    asked, gold = [], []
    for i, colour in enumerate(COLOURS):
        for folder, suffix in (("textvqa/train_images", ".jpg"), ("pope/val2014", ".png")):
            (home / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / f"{colour}.png", home / folder / f"{colour}{suffix}")
        asked.append(
            {
                "question_id": colour,
                "image": f"{colour}.jpg",
                "text": "what color is it?\nAnswer the question using a single word or phrase.",
                "category": "default",
            }
        )
        gold.append(
            {"image_id": colour, "question": "what color is it?", "question_id": i, "answers": [colour] * 10}
        )
    lines(home / "textvqa/llava_textvqa_val_v051_ocr.jsonl", asked)
    (home / "textvqa/TextVQA_0.5.1_val.json").write_text(json.dumps({"data": gold}))
    asked = []
    for split in ("random", "popular", "adversarial"):
        labels = []
        for colour in COLOURS:
            for word, label in ((colour, "yes"), ("cat", "no")):
                row = {"image": f"{colour}.png", "text": f"is there {word} in the image?"}
                asked.append({"question_id": len(asked), "category": split, **row})
                labels.append({"question_id": len(labels), "label": label, **row})
        lines(home / f"pope/coco/coco_pope_{split}.json", labels)
    lines(home / "pope/llava_pope_test.jsonl", asked)
    return home


def evals(pictures, home, **changes):
    """`train.benchmarks` that asks both."""
    data = str(write_exams(pictures, home))
    named = [{"type": name, "data": data} for name in QUESTIONS]
    return {"tasks": named, "samples": 12, "max_new_tokens": 3, **changes}
