"""LLaVA's folders in small: the real layout, the kinds of bad rows of its files, and the shipped specs at tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SPECS = Path(__file__).parents[2] / "specs"
PRETRAIN = "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
INSTRUCT = "LLaVA-Instruct/llava_v1_5_mix665k.json"
COLORS = ("red", "green", "blue", "white")
SHRUNK = {
    "vl-mamba-2.8b.yaml": [
        (
            "  model: vit_so400m_patch14_siglip_384\n  pretrained: true\n",
            "  model: test_vit\n  image_size: 32\n",
        ),
        (
            "llm: {type: mamba, weights: state-spaces/mamba-2.8b-slimpj}\n",
            "llm:\n  type: mamba\n  d_model: 16\n  n_layer: 2\n  d_state: 4\n  tokenizer:\n    vocab_size: 384\n"
            f"    dataset: {{type: llava, path: data/{PRETRAIN}, images: data/LLaVA-Pretrain/images}}\n"
            "keep_random: [encoder]\n",
        ),
        ("  precision: bf16\n", "  precision: fp32\n"),
        ("  num_workers: 8\n", "  num_workers: 0\n"),
        (
            "      batch_size: 256\n      micro_batch_size: auto ",
            "      batch_size: 8\n      #",
        ),
        ("      batch_size: 128\n      micro_batch_size: auto\n", "      batch_size: 8\n"),
    ],
    "ablations/tables.yaml": [("    samples: all\n", "    samples: all\n    max_new_tokens: 2\n")],
    "ablations/llm-mamba-2.8b-slimpj.yaml": [("vit_large_patch14_clip_quickgelu_336.openai", "test_vit2")],
    "ablations/llm-mamba-2.8b.yaml": [("{weights: state-spaces/mamba-2.8b}", "{d_state: 8}")],
    "ablations/llm-mamba-1.4b.yaml": [("{weights: state-spaces/mamba-1.4b}", "{n_layer: 1}")],
}
"""What is replaced in the shipped specs; all else is as shipped."""


def write_specs(folder: Path) -> None:
    """The spec of the paper and those of its tables, with tiny random parts."""
    (folder / "ablations").mkdir(parents=True)
    for path in [SPECS / "vl-mamba-2.8b.yaml", *(SPECS / "ablations").glob("*.yaml")]:
        name = path.relative_to(SPECS).as_posix()
        text = path.read_text(encoding="utf-8")
        for old, new in SHRUNK.get(name, []):
            assert text.count(old) == 1, f"{name}: {old!r} is not there once"
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")


def picture(path: Path, color: str, form: str | None = None) -> None:
    """An image file; `form` is its format if the name does not say it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), color).save(path, form)


def turns(*texts: str) -> list[dict[str, str]]:
    """Alternating turns, human first."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def write_pretrain(data: Path) -> None:
    """Eight captions in two of the folders `00000` to `00659`; `<image>` stands before or after the instruction."""
    rows = []
    for i in range(8):
        name, color = f"{453 + i % 2:05d}/{i:09d}.jpg", COLORS[i % 4]
        picture(data / "LLaVA-Pretrain/images" / name, color)
        asked = "Describe the image concisely.\n<image>" if i % 2 else "<image>\nGive a brief description."
        rows.append(
            {"id": name.split("/")[1][:-4], "image": name, "conversations": turns(asked, f"a {color} card")}
        )
    (data / PRETRAIN).write_text(json.dumps(rows))


def visual(image: str, color: str) -> dict[str, Any]:
    """A row as those about COCO: several questions about an image."""
    asked = turns("<image>\nWhat color is it?", color, "Is it a card?", "Yes")
    return {"id": Path(image).stem, "image": image, "conversations": asked}


def write_instruct(data: Path) -> None:
    """Rows of every source, and one of each kind of row and file that is not as it should be."""
    home = data / "LLaVA-Instruct"
    rows = []
    for folder in ("coco/train2017", "gqa/images", "textvqa/train_images", "vg/VG_100K", "vg/VG_100K_2"):
        for i in range(3):
            name = f"{folder}/{i:012d}.jpg"
            picture(home / name, COLORS[i])
            rows.append(visual(name, COLORS[i]))
    (home / "vg/VG_100K_2/000000000001.jpg").write_bytes(b"")
    cut = home / "vg/VG_100K_2/000000000002.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    ocr = home / "ocr_vqa/images"
    picture(ocr / "0001.gif", "red")  # the row says .jpg, as do those of the next three
    picture(ocr / "0002.png", "green")
    picture(ocr / "0003.jpg", "blue", "GIF")
    rows += [visual(f"ocr_vqa/images/000{i}.jpg", COLORS[i - 1]) for i in (1, 2, 3, 4)]
    rows += [
        {"id": "share0", "model": "", "conversations": turns("Name a color.", "Red.")},
        {"id": "share1", "conversations": [{"from": "gpt", "value": "Hello."}, *turns("Name one.", "Blue.")]},
        {"id": "share2", "conversations": turns("Name one.", "Green.", "", "White.")},
        {"id": "twice", "conversations": [*turns("Name one."), *turns("Another.", "Green.")]},
        {"id": "open", "conversations": turns("Name one.", "Green.", "And another?")},
    ]
    (data / INSTRUCT).write_text(json.dumps(rows))


def write_data(data: Path) -> None:
    """`LLaVA-Pretrain` and `LLaVA-Instruct`."""
    write_pretrain(data)
    write_instruct(data)


def write_tree(folder: Path) -> None:
    """`data`, with the benchmarks in `data/eval`, and `specs`."""
    from layout import everything

    write_data(folder / "data")
    everything(folder / "data/eval")
    write_specs(folder / "specs")
