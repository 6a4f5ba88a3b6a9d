"""A tiny model that reads rows as training does, and what becomes of a dataset's rows."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.plugins.config import DatasetConfig
from vlm_core.spec.spec import Spec, load_spec
from vlm_train.config.section import train_section
from vlm_train.data.collate import to_micro_batch
from vlm_train.data.dataset import Examples, SampleProcessor, sample_processor

TEXTS = ["what color is the shape? red", "is there a circle? yes no", "a blue triangle on a white ground"]


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(file, "PNG")
    return file.getvalue()


PNG = _png()
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def tiny_spec(work: Path) -> dict[str, Any]:
    """A complete spec whose tokenizer is learnt from a few texts written into `work`."""
    turns = [[{"from": "human", "value": text}, {"from": "gpt", "value": text}] for text in TEXTS]
    (work / "texts.json").write_text(json.dumps([{"conversations": turn} for turn in turns]))
    dataset = {"type": "llava", "path": str(work / "texts.json")}
    return {
        "name": "tiny",
        "encoder": {"type": "timm", "model": "test_vit", "image_size": 32},
        "connector": {"type": "vss-l2", "d_state": 4},
        "llm": {
            "type": "mamba",
            "d_model": 16,
            "n_layer": 2,
            "d_state": 4,
            "tokenizer": {"vocab_size": 300, "dataset": dataset},
        },
        "template": "short",
        "keep_random": ["encoder"],
        "train": {
            "output": str(work / "run"),
            "max_length": 256,
            "stages": [
                {
                    "name": "s",
                    "trainable": ["connector", "llm"],
                    "data": [dataset],
                    "lr": 1e-3,
                    "batch_size": 2,
                }
            ],
        },
    }


def spec_of(work: Path) -> Spec:
    (work / "tiny.yaml").write_text(yaml.safe_dump(tiny_spec(work)))
    return load_spec(work / "tiny.yaml")[0]


def reader(work: Path) -> SampleProcessor:
    """The reader of the tiny spec's stage."""
    torch.set_num_threads(1)
    (work / "tiny.yaml").write_text(yaml.safe_dump(tiny_spec(work)))
    spec, document = load_spec(work / "tiny.yaml")
    return sample_processor(build_on_meta(spec), spec, train_section(spec, document))


def outcome_of(config: DatasetConfig, read: SampleProcessor) -> str:
    """Reads all rows as training does, faults counted; `UserError` where the dataset as a whole is refused."""
    examples = Examples(config.rows(), read.read)
    items = [examples[i] for i in range(min(len(examples), 8))]
    dropped = to_micro_batch(items).dropped if items else []
    return "all rows read" if not dropped else f"rows dropped: {dropped[0].reason}"
