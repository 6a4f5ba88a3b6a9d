"""Two stages of 20 steps that are spread over processes in various ways, and what comes of them."""

import json

import pytest
import torch
import yaml
from exam_files import evals
from safetensors.torch import load_file

STEPS = 20


def losses(folder):
    return torch.tensor(
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    )


def weights(folder, model="model"):
    return {
        f"{part}.{name}": tensor
        for part in ("encoder", "connector", "llm")
        for name, tensor in load_file(folder / model / part / "weights.safetensors").items()
    }


@pytest.fixture
def long_spec(run_spec, tmp_path):
    """Two stages of 20 steps: texts of unequal length, some rows without a picture, a micro-batch of text alone."""
    path = run_spec(checkpoint_every=STEPS)
    spec = yaml.safe_load(path.read_text())
    rows = json.loads((tmp_path / "data.json").read_text())
    for i, row in enumerate(rows):
        row["conversations"][1]["value"] += " and so on" * (i % 4)
    (tmp_path / "data.json").write_text(json.dumps(rows))
    for stage in spec["train"]["stages"]:
        stage.update(steps=STEPS, micro_batch_size=2)
    spec["train"]["validation"] = {
        "data": spec["train"]["held_out_qa"]["data"],
        "every": 10,
        "rows": 7,
        "batch_size": 2,
        "samples": 2,
    }
    spec["train"]["benchmarks"] = evals(tmp_path, tmp_path / "eval")
    path.write_text(yaml.safe_dump(spec))
    return path
