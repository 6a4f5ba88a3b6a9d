"""`lmms_eval --model vlm` in an environment of its own: a local task, no network, the answers of vlm-core."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from processes import run, succeed
from uv import find_uv_bin

from vlm_core.generation.generate import answer
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.spec.spec import Spec
from vlm_core.text.render import IMAGE, Message, render

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TASK = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function colours.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: 6, temperature: 0, until: ["~"]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
VISUAL = """
from PIL import Image

def visual(doc):
    return [Image.open(path) for path in doc["images"]]
"""
COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lmms-eval and this workspace's packages, with the torch that is here."""
    folder = tmp_path_factory.mktemp("lmms") / "env"
    uv, python = find_uv_bin(), folder / "bin" / "python"
    succeed(uv, "venv", "--quiet", "--python", sys.executable, folder)
    wanted = ["vlm-core", "vlm-bench[lmms-eval]", "vlm-encoders[timm]", "vlm-connectors", "vlm-llms"]
    ours = [part for name in wanted for part in ("-e", f"{ROOT / 'packages'}/{name}")]
    pinned = f"torch=={version('torch').split('+')[0]}"
    succeed(uv, "pip", "install", "--quiet", "--python", python, pinned, *ours)
    return python


@pytest.fixture(scope="module")
def lively(tiny_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose answers depend on what it sees."""
    spec = Spec.model_validate(tiny_spec)
    model = build(spec, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    save(model, spec, folder := tmp_path_factory.mktemp("lively") / "model")
    return folder


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for n, colour in enumerate(COLOURS):
        Image.new("RGB", (40 + n, 30), colour).save(folder / f"{colour}.png")
        question = f"what color is {'it and ' * n}this?"
        rows.append({"question": question, "answer": colour, "images": [str(folder / f"{colour}.png")]})
    return [*rows, {"question": "what color is this?", "answer": "none", "images": []}]


def _expected(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """One question at a time."""
    model, spec = load(folder)
    said = []
    for row in rows:
        pixels = [model.encoder.transform(Image.open(path)) for path in row["images"]]
        parts = [part for _ in pixels for part in (IMAGE, "\n")]
        counts = [model.image_tokens(one) for one in pixels]
        message = Message("user", (*parts, row["question"]))
        sample = render(spec.template, [message], model.llm.tokenizer, counts)
        said.append(
            answer(model, [sample], pixels, decoding=GenerationConfig(6))[0].partition("~")[0].strip()
        )
    return said


def test_a_local_task(
    environment: Path, lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    rows, task = _rows(tmp_path), tmp_path / "task"
    task.mkdir()
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task / "colours.yaml").write_text(TASK.format(rows=data))
    (task / "colours.py").write_text(VISUAL)
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    flags = ["--model", "vlm", "--model_args", f"pretrained={lively}", "--device", "cpu", "--batch_size", "2"]
    where = ["--include_path", task, "--tasks", "colours", "--output_path", tmp_path / "out", "--log_samples"]
    done = run(environment, "-m", "lmms_eval", *flags, *where, env=home)
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "out").rglob("*samples_colours.jsonl")
    logged = sorted(map(json.loads, log.read_text().splitlines()), key=lambda row: row["doc_id"])
    expected = _expected(lively, rows)
    assert [row["filtered_resps"] for row in logged] == expected
    assert len(set(expected)) > 2, "the model says the same to everything: nothing was tested"
