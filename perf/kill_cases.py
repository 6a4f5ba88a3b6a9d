"""The commands that `kills.py` kills: tiny data, arguments, and what of their results must be equal."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

COLOURS = ["red", "green", "blue", "black", "white", "teal"]
TIMELESS = ("stage", "step", "loss", "grad_norm", "targets", "lr", "skipped", "padding")
"""Keys of metrics that don't tell of time."""


class Case(NamedTuple):
    """One command: its name, the function of its command line, its arguments and result, both of an output folder.

    `ends_with` is what it writes in one step as its last; it refuses to do so again.
    """

    name: str
    main: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    ends_with: str | None = None


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def rows() -> list[dict[str, Any]]:
    """Questions about uniform pictures, every third one without a picture."""
    found = []
    for i in range(18):
        colour = COLOURS[i % 6]
        image = {} if i % 3 == 2 else {"image": f"{colour}.png"}
        question = "<image>\nwhat color is it?" if image else f"is {colour} a color?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": colour if image else "yes"}]
        found.append({"id": str(i), "conversations": turns, **image})
    return found


def spec(root: Path) -> Path:
    """A model of a few thousand weights, two stages with checkpoints every second step, validation, evaluation."""
    for colour in COLOURS:
        Image.new("RGB", (20, 30), colour).save(root / f"{colour}.png")
    data = [{"type": "llava", "path": str(write_json(root / "data.json", rows()))}]
    tower = {"depth": 2, "embed_dim": 16, "num_heads": 2}
    stage = {"data": data, "batch_size": 6, "micro_batch_size": 4, "lr": 3e-3, "steps": 6}
    content = {
        "name": "tiny",
        "encoder": {"type": "timm", "model": "vit_tiny_patch16_224", "model_args": tower, "image_size": 32},
        "connector": {"type": "vss-l2", "d_state": 4},
        "llm": {
            "type": "mamba",
            "d_model": 16,
            "n_layer": 2,
            "d_state": 4,
            "tokenizer": {"vocab_size": 300, "dataset": data[0]},
        },
        "template": "short",
        "keep_random": ["encoder"],
        "train": {
            "output": str(root / "run"),
            "checkpoint_every": 2,
            "stages": [
                {"name": "align", "trainable": ["connector"], **stage},
                {"name": "instruct", "trainable": ["connector", "llm"], **stage},
            ],
            "validation": {"data": data, "every": 3, "batch_size": 7},
            "held_out_qa": {"data": data, "samples": 9, "batch_size": 7, "max_new_tokens": 3},
        },
    }
    path = root / "spec.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def pope(folder: Path) -> None:
    """Twenty questions a split about two images."""
    asked = []
    for split in ("random", "popular", "adversarial"):
        labels = []
        for i in range(20):
            text, image = f"Is there a thing{i // 2} in the image?", f"{COLOURS[i % 2]}.png"
            prompt = f"{text}\nAnswer the question using a single word or phrase."
            asked.append({"question_id": len(asked) + 1, "image": image, "text": prompt, "category": split})
            labels.append({"question_id": i, "image": image, "text": text, "label": "yes" if i % 3 else "no"})
        lines(folder / f"pope/coco/coco_pope_{split}.json", labels)
    lines(folder / "pope/llava_pope_test.jsonl", asked)
    for colour in COLOURS[:2]:
        (folder / "pope/val2014").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), colour).save(folder / f"pope/val2014/{colour}.png")


def mm_vet(folder: Path) -> None:
    """Twenty questions with right answers, and the answers of a model."""
    truths = {
        f"v1_{i}": {"question": f"What is {i}?", "answer": "a dog", "capability": ["rec"]} for i in range(20)
    }
    write_json(folder / "mm-vet/mm-vet.json", truths)
    asked = [
        {"question_id": i, "image": f"v1_{i}.png", "text": f"What is {i}?", "category": "conv"}
        for i in range(20)
    ]
    lines(folder / "mm-vet/llava-mm-vet.jsonl", asked)
    lines(folder / "said.jsonl", [{"question_id": i, "text": f"a dog {i}"} for i in range(20)])
    (folder / "prompt.txt").write_text("grade", encoding="utf-8")


def lines(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")


class Judge(BaseHTTPRequestHandler):
    """An endpoint that speaks as much of OpenAI's protocol as a judge needs; the grade depends on the prompt."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        grade = f"0.{hashlib.sha256(body).digest()[0] % 10}"
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": grade}}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "judge-1",
            "choices": [message],
        }
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(ConnectionError):  # of a command that was killed
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def judge() -> str:
    """Start the endpoint -> its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def weights(folder: Path) -> list[str]:
    return [hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*.safetensors"))]


def trained(run: Path) -> Any:
    """Weights, metrics, validation losses, answers and the table of a run."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [json.loads(line)["loss"] for line in (run / "validation.jsonl").read_text().splitlines()]
    answers = [json.loads(f.read_text())["answers"] for f in sorted((run / "evaluations").glob("*.json"))]
    kept = [[line[key] for key in TIMELESS] for line in metrics]
    return weights(run / "model"), kept, losses, answers, (run / "results.md").read_text()


def answered(folder: Path) -> Any:
    report = json.loads((folder / "pope.json").read_text())
    return (folder / "pope.jsonl").read_text(), report["score"], report["units"]


def files(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())["files"]


def _judge_words(root: Path) -> list[str]:
    """The command of a judge, but for its last word: the file of grades."""
    options = {
        "--data": root,
        "--answers": root / "said.jsonl",
        "--base-url": judge(),
        "--prompt": root / "prompt.txt",
        "--judge-model": "judge",
        "--runs": 3,
    }
    return ["judge", "mm-vet", *(str(word) for pair in options.items() for word in pair), "--grades"]


def _bench_words(root: Path) -> list[str]:
    """The command of a benchmark run, but for its last word: the folder of answers."""
    options = {"--benchmarks": "pope", "--data": root, "--max-new-tokens": 3}
    return ["run", str(root / "model"), *(str(word) for pair in options.items() for word in pair), "--out"]


def _predict_words(root: Path) -> list[str]:
    """The command that answers rows, but for its last word: the file of answers. The judge answers anything."""
    asked = [
        {"id": i, "question": f"What is {i}?", **({"image": f"{COLOURS[i % 6]}.png"} if i % 2 else {})}
        for i in range(60)
    ]
    lines(root / "asked.jsonl", asked)
    return ["--url", judge(), "--model", "judge", str(root / "asked.jsonl"), "--out"]


def cases(root: Path) -> list[Case]:
    """Every command that writes; their data are made in `root`, which holds a model folder `model`."""
    pope(root)
    mm_vet(root)
    path, train = str(spec(root)), "vlm_train.__main__"
    sweep = {"base": path, "seeds": [0], "rows": {"a": {}, "b": {"connector": {"type": "mlp"}}}}
    judged, bench, predict = _judge_words(root), _bench_words(root), _predict_words(root)

    def swept(out: Path) -> list[str]:
        file = write_json(out.with_name(f"{out.name}-sweep.yaml"), {**sweep, "output": str(out)})
        return ["sweep", str(file)]

    def cached(out: Path) -> list[str]:
        features = f"train.feature_cache={{path: {out / 'features'}}}"
        return ["run", path, "--set", f"train.output={out / 'run'}", "--set", features]

    def tables(out: Path) -> Any:
        return [(out / "table.md").read_text(), *(trained(out / row / "seed-0") for row in "ab")]

    core, bench_cli = "vlm_core.cli.assemble", "vlm_bench.cli.main"
    return [
        Case("train", train, lambda out: ["run", path, "--set", f"train.output={out}"], trained),
        Case("features", train, cached, lambda out: trained(out / "run")),
        Case("bench", bench_cli, lambda out: [*bench, str(out)], answered),
        Case(
            "judge",
            bench_cli,
            lambda out: [*judged, str(out / "g.json")],
            lambda out: (out / "g.json").read_text(),
        ),
        Case(
            "predict",
            "vlm_serve.cli.predict",
            lambda out: [*predict, str(out / "a.jsonl")],
            lambda out: (out / "a.jsonl").read_text(),
        ),
        Case(
            "assemble", core, lambda out: [path, "--out", str(out / "m")], lambda out: files(out / "m"), "m"
        ),
        Case(
            "export",
            core,
            lambda out: [str(root / "model"), "--export-hf", str(out / "m")],
            lambda out: files(out / "m"),
            "m",
        ),
        Case("sweep", train, swept, tables),
    ]
