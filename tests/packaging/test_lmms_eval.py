"""`lmms_eval --model vlm` in an environment of its own: a local task, no network, the answers of vlm-core."""

import io
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lmms_data import image, write_data_sets
from PIL import Image
from processes import run, succeed
from torch import Tensor
from uv import find_uv_bin
from videos import video

from vlm_bench.lmms.recipes import RECIPES
from vlm_core.generation.answer import answer
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.video.sources import Sampling, VideoSource
from vlm_core.model import VLM
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.spec.spec import Spec
from vlm_core.text.render import IMAGE, Message, TokenizedConversation, render

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
DRAWN = """
include: colours.yaml
task: drawn
repeats: 3
generation_kwargs:
  {max_new_tokens: 6, temperature: 1.0, do_sample: true, seed: 7, stop_sequences: ["~"], image_aspect_ratio: pad}
"""
STOCK_VIDEO_TASK = """
include: {tasks}/{stock}.yaml
task: {name}
dataset_path: parquet
dataset_name: null
dataset_kwargs: {{data_files: {{{split}: {rows}}}}}
"""
"""lmms-eval's own task file; its `dataset_kwargs` would download the videos."""
COLOURS = ("red", "green", "blue", "white")
SCORES = {
    "mmmu_val": "mmmu_acc,none",
    "chartqa": "relaxed_overall,none",
    "docvqa_val": "anls,none",
    "ocrbench": "ocrbench_accuracy,none",
    "realworldqa": "exact_match,none",
}
"""Recipes whose right answers are free texts, and the score of each."""
LENGTHS = {"mmmu_val": 128, "chartqa": 16, "docvqa_val": 32, "ocrbench": 128, "realworldqa": 16}
"""`max_new_tokens` of lmms-eval's task files."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lmms-eval and this workspace's packages, with the torch that is here."""
    folder = tmp_path_factory.mktemp("lmms") / "env"
    uv, python = find_uv_bin(), folder / "bin" / "python"
    succeed(uv, "venv", "--quiet", "--python", sys.executable, folder)
    wanted = ["vlm-core[video]", "vlm-bench[lmms-eval]", "vlm-encoders[timm]", "vlm-connectors", "vlm-llms"]
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


def _prompt(model: VLM, spec: Spec, question: str, pixels: list[Tensor]) -> TokenizedConversation:
    parts = [part for _ in pixels for part in (IMAGE, "\n")]
    counts = [model.image_tokens(one) for one in pixels]
    return render(spec.template, [Message("user", (*parts, question))], model.llm.tokenizer, counts)


def _expected(folder: Path, rows: list[dict[str, Any]], decoding: GenerationConfig) -> list[str]:
    """One question at a time."""
    model, spec = load(folder)
    answers = []
    for row in rows:
        pixels = [model.encoder.transform(Image.open(path)) for path in row["images"]]
        prompt = _prompt(model, spec, row["question"], pixels)
        answers.append(answer(model, [prompt], pixels, decoding=decoding)[0].partition("~")[0].strip())
    return answers


def _evaluate(
    environment: Path, model: Path, tasks: str, include: Path, home: Path, arguments: str = ""
) -> str:
    """Run lmms-eval without network, with results in `home/out` -> what it writes to standard error."""
    chosen = f"pretrained={model}{arguments}"
    flags = ["--model", "vlm", "--model_args", chosen, "--device", "cpu", "--batch_size", "2"]
    where = ["--include_path", include, "--tasks", tasks, "--output_path", home / "out", "--log_samples"]
    done = run(
        environment, "-m", "lmms_eval", *flags, *where, env={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def _logged(out: Path, task: str) -> list[dict[str, Any]]:
    (log,) = out.rglob(f"*samples_{task}.jsonl")
    return sorted(map(json.loads, log.read_text().splitlines()), key=lambda row: row["doc_id"])


def test_a_local_task(
    environment: Path, lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    rows, task = _rows(tmp_path), tmp_path / "task"
    task.mkdir()
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task / "colours.yaml").write_text(TASK.format(rows=data))
    (task / "drawn.yaml").write_text(DRAWN)
    (task / "colours.py").write_text(VISUAL)
    home = tmp_path / "home"
    warnings, out = _evaluate(environment, lively, "colours,drawn", task, home), home / "out"
    assert warnings.count("image_aspect_ratio pad is LLaVA's; this model's encoder prepares images") == 1
    expected = _expected(lively, rows, GenerationConfig(6))
    assert [row["filtered_resps"] for row in _logged(out, "colours")] == expected
    assert len(set(expected)) > 2, "the model says the same to everything"
    drawn = _expected(lively, rows, GenerationConfig(6, 1.0, 1.0, 7))
    assert len(set(drawn)) > 2, "the model says the same to everything"
    assert [row["filtered_resps"] for row in _logged(out, "drawn")] == drawn  # of three repetitions the first


def test_the_recipes(
    environment: Path, lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two right answers is what the model says: each free-text score is a half."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    names, data = [recipe.name for recipe in RECIPES], tmp_path / "data"
    prompts = write_data_sets(data, {name: ["", ""] for name in names})
    model, spec = load(lively)
    right = {name: ["zzz", "zzz"] for name in names}
    for name, length in LENGTHS.items():
        pixels = [model.encoder.transform(Image.open(io.BytesIO(image(0)["bytes"])))]
        prompt = _prompt(model, spec, prompts[name][0], pixels)
        text = answer(model, [prompt], pixels, decoding=GenerationConfig(length))[0]
        right[name][0] = text.partition("\n\n")[0].strip()
        assert right[name][0].rstrip(".").lower(), "an empty answer would be right for any question"
    right["mmmu_val"][0] = (
        right["mmmu_val"][0].strip(".").rpartition("=")[2].strip()
    )  # what MMMU's rule reads
    write_data_sets(data, right)
    succeed(environment, "-m", "vlm_bench.cli.main", "lmms-tasks", data, "--allow-partial")
    _evaluate(environment, lively, "vlm_local", data / "lmms-tasks", tmp_path)
    out = tmp_path / "out"
    (file,) = out.rglob("*_results.json")
    results = json.loads(file.read_text())["results"]
    assert {name.removesuffix("_local") for name in results} >= set(names)
    assert {
        name: results[f"{name}_local"][score] for name, score in SCORES.items() if name != "ocrbench"
    } == {name: 0.5 for name in SCORES if name != "ocrbench"}
    assert results["ocrbench_local"][SCORES["ocrbench"]] == 1 / 1000  # of the thousand questions that it has
    for name in names:
        logged = _logged(out, f"{name}_local")
        assert [row["input"] for row in logged] == prompts[name]


def _write_video_tasks(folder: Path, home: Path, tasks: Path) -> None:
    """Videos where two stock tasks look for them, with parquet files of the columns that they read."""
    places = home / "mvbench_video" / "ssv2_video_mp4", home / "videomme" / "data"
    questions, options = ["which way does it move?", "what colour?", "how many?"], ["left", "right", "up"]
    for place in places:
        place.mkdir(parents=True)
        for n in range(len(questions)):
            (place / f"v{n}.mp4").write_bytes(video(frames=12 + 5 * n, rate=4 + n))
    mvbench = [
        {"video": f"v{n}.mp4", "question": text, "candidates": options, "answer": options[n]}
        for n, text in enumerate(questions)
    ]
    lettered = [f"{letter}. {text}" for letter, text in zip("ABC", options, strict=True)]
    kinds = {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "task_type": "Counting Problem",
    }
    videomme = [
        {
            "videoID": f"v{n}",
            "question_id": str(n),
            "question": text,
            "options": lettered,
            "answer": "A",
            **kinds,
        }
        for n, text in enumerate(questions)
    ]
    for name, stock, split, rows in (
        ("antonyms", "mvbench/mvbench_action_antonym", "train", mvbench),
        ("clips", "videomme/videomme", "test", videomme),
    ):
        pq.write_table(pa.Table.from_pylist(rows), file := folder / f"{name}.parquet")
        text = STOCK_VIDEO_TASK.format(tasks=tasks, stock=stock, name=name, split=split, rows=file)
        (folder / f"{name}.yaml").write_text(text)


def test_stock_video_tasks(
    environment: Path, lively: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MVBench and Video-MME: `doc_to_visual` returns a path; prompts and scores are lmms-eval's."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    (tasks,) = (environment.parents[1] / "lib").glob("python*/site-packages/lmms_eval/tasks")
    home = tmp_path / "home"
    _write_video_tasks(tmp_path, home, tasks)
    _evaluate(environment, lively, "antonyms,clips", tmp_path, home, ",frames=3")
    model, spec = load(lively)
    for name, place in (("antonyms", "mvbench_video/ssv2_video_mp4"), ("clips", "videomme/data")):
        expected, rows = [], _logged(home / "out", name)
        for n, row in enumerate(rows):
            views = model.video_processor(VideoSource(home / place / f"v{n}.mp4", Sampling(frames=3)))
            counts = [model.image_tokens(views)]
            prompt = render(
                spec.template, [Message("user", (IMAGE, "\n", row["input"]))], model.llm.tokenizer, counts
            )
            expected.append(answer(model, [prompt], [views], decoding=GenerationConfig(16))[0].strip())
        assert "which way does it move?" in rows[0]["input"]
        assert [row["filtered_resps"] for row in rows] == expected
        assert len(set(expected)) == 3, "the model says the same to everything"
    (file,) = (home / "out").rglob("*_results.json")
    results = json.loads(file.read_text())["results"]
    assert 0 <= results["antonyms"]["mvbench_accuracy,none"] <= 100
    assert 0 <= results["clips"]["videomme_perception_score,none"] <= 100
