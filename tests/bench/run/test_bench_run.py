"""`vlm-bench run` from a model folder and LLaVA's files to figures, through a kill."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import FAST, Out, Runner, printed, refused, rows, said, scored
from layout import picture

from vlm_bench.cli import run, selection
from vlm_bench.cli.main import main
from vlm_bench.run import answer_log, process_group, runner, tasks
from vlm_core.cli.progress import Progress
from vlm_core.evaluation import inference
from vlm_core.model import VLM
from vlm_core.plugins.registry import installed

pytestmark = pytest.mark.usefixtures("one_thread")
EIGHT = ["gqa", "mm-vet", "mmbench", "mme", "pope", "scienceqa", "textvqa", "vqa-v2"]
QUESTIONS = {
    "gqa": 3,
    "mm-vet": 3,
    "mmbench": 4,
    "mme": 28,
    "pope": 6,
    "scienceqa": 2,
    "textvqa": 2,
    "vqa-v2": 2,
}


@pytest.mark.slow
def test_all_eight_killed_in_the_middle_and_gone_on(
    command: Runner, data: Path, tmp_path: Path, capsys: Out
) -> None:
    """Killed within MME, while a line is being written; what was answered by then is not asked again."""
    script = Path(__file__).parents[1] / "helpers" / "killed_run.py"
    lines = sum(QUESTIONS[name] for name in EIGHT[:3]) + 9
    done = subprocess.run([sys.executable, script, str(lines), *command()], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    out, whole = tmp_path / "out", tmp_path / "whole"
    part = out / "mme.part-0.jsonl"
    assert part.read_text().count("\n") == 9
    assert not part.read_text().endswith("\n")
    before = {json.loads(line)["metadata"]["id"]: line for line in part.read_text().splitlines()[:9]}

    assert main(command()) == 0
    told = capsys.readouterr()
    assert "mme: dropped 1 half-written or damaged line; asked again" in told.err
    assert "mme: 9 of 28 answers exist already" in told.err
    assert main(command(out="whole")) == 0
    for name in EIGHT:
        assert len(said(out, name)) == QUESTIONS[name]
        assert (out / f"{name}.jsonl").read_bytes() == (whole / f"{name}.jsonl").read_bytes()
    kept = {row["metadata"]["id"]: row for row in rows(out / "mme.jsonl")}
    assert all(kept[key] == json.loads(line) for key, line in before.items())
    assert not list(out.glob("*.part*"))
    questions = installed().get("benchmark", "mme")(data=data).build().questions
    assert list(kept) == list(questions)
    scored_here = {path.stem for path in out.glob("*.json") if not path.name.endswith(".run.json")}
    assert scored_here == set(EIGHT) - {"mm-vet", "vqa-v2"}
    assert "vqa-v2: answers in " in told.err
    assert "`vlm-bench submit vqa-v2`" in told.err
    assert "`vlm-bench judge mm-vet`" in told.err


def test_runs_share_the_states_of_images(command: Runner, tmp_path: Path, capsys: Out) -> None:
    """The answers are those without a cache; the second run reads no image."""
    cache = ["--state-cache", str(tmp_path / "states")]
    assert main(command("pope", out="plain")) == 0
    capsys.readouterr()
    lines = []
    for name in ("first", "second"):
        assert main([*command("pope", out=name), *cache]) == 0
        assert said(tmp_path / name, "pope") == said(tmp_path / "plain", "pope")
        lines += [line for line in capsys.readouterr().err.splitlines() if line.startswith("state cache: ")]
    assert "hits 0, misses 1, positions reused 0 of " in lines[0]
    assert "hits 1, misses 0, positions reused " in lines[1]
    assert main([*command("pope", out="third"), *cache, "--no-prefix-reuse"]) == 2
    assert "leave out one of them" in capsys.readouterr().err


def test_lines_that_a_power_cut_left_are_asked_again(command: Runner, tmp_path: Path, capsys: Out) -> None:
    assert main(command("pope")) == 0
    out = tmp_path / "out"
    whole = (out / "pope.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    half = [lines[0], lines[1][:30] + b"}\n", b"\0\0\0\n", b"\xff\n", b"[]\n", lines[2], lines[3][:-1]]
    (out / "pope.part-0.jsonl").write_bytes(b"".join(half))
    (out / "pope.jsonl").unlink()
    capsys.readouterr()
    assert main(command("pope")) == 0
    err = capsys.readouterr().err
    assert "pope: dropped 5 half-written or damaged lines; asked again" in err
    assert "pope: 2 of 6 answers exist already" in err
    assert (out / "pope.jsonl").read_bytes() == whole


def test_answers_that_cannot_be_written(command: Runner, tmp_path: Path, capsys: Out) -> None:
    """A full disk is told; the same command goes on from the answers that it took."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        assert main(command("pope")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "run.json: cannot write: File too large" in capsys.readouterr().err
    part = tmp_path / "out/pope.part-0.jsonl"
    part.mkdir()
    assert main(command("pope")) == 2
    assert "pope.part-0.jsonl" in capsys.readouterr().err
    part.rmdir()
    assert main(command("pope")) == 0


def test_the_account_and_the_report(
    command: Runner, data: Path, tmp_path: Path, tiny_folder: Path, capsys: Out
) -> None:
    """What a figure rests on stands beside the answers, and in the report that scoring them again gives as well."""
    from hashlib import sha256

    assert main(command("pope", "--batch-size", "4")) == 0
    shown = capsys.readouterr().out
    account = json.loads((tmp_path / "out/pope.jsonl.run.json").read_text())
    assert account["model"] == str(tiny_folder)
    assert account["model sha256"] == sha256((tiny_folder / "manifest.json").read_bytes()).hexdigest()
    labels = data / "pope/coco/coco_pope_random.json"
    assert account["files"]["coco_pope_random.json"] == sha256(labels.read_bytes()).hexdigest()
    expected = {
        "benchmark": "pope",
        "batch_size": 4,
        "dtype": "float32",
        "device": "cpu",
        "processes": 1,
        "prefix_reuse": True,
        "decoding": {"max_new_tokens": 3, "temperature": 0.0},
        "expected": 6,
        "asked": 6,
        "answered": 6,
    }
    assert account.items() >= expected.items()
    assert account["versions"].keys() >= {"torch", "vlm-core", "vlm-bench", "vlm-llms"}
    assert "batch_size: 4" in shown
    report = json.loads((tmp_path / "out/pope.json").read_text())
    again = scored(capsys, "score", "pope", "--data", data, "--answers", tmp_path / "out/pope.jsonl")
    assert report["score"] == again["score"]
    assert report["settings"]["model sha256"] == account["model sha256"]
    row = rows(tmp_path / "out/pope.jsonl")[0]
    assert row.keys() == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert row["question_id"] == "1"
    assert row["prompt"].startswith("Is there a dog in the image?\nAnswer the question")


def test_an_image_is_read_once_and_nothing_is_asked_twice(
    command: Runner, tmp_path: Path, monkeypatch
) -> None:
    """The second run has all answers; the third reads each image anew and says the same."""
    seen: list[int] = []
    encode_images = VLM.encode_images
    monkeypatch.setattr(
        VLM, "encode_images", lambda self, pixels: seen.append(len(pixels)) or encode_images(self, pixels)
    )
    assert main(command("pope")) == 0
    assert seen == [1]
    assert main(command("pope")) == 0
    assert seen == [1]
    assert main(command("pope", "--no-prefix-reuse", out="anew")) == 0
    assert seen == [1] * 7
    assert said(tmp_path / "out", "pope") == said(tmp_path / "anew", "pope")


def test_a_template_without_a_common_beginning_is_said(
    command: Runner, tmp_path: Path, monkeypatch, capsys
) -> None:
    class Other(inference.BenchmarkInference):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "reuse": False})
            self.why_no_prefix_reuse = "the template does not put the image before the question"

    monkeypatch.setattr(tasks, "BenchmarkInference", Other)
    assert main(command("pope")) == 0
    err = capsys.readouterr().err
    assert "pope: the template does not put the image before the question, so images are encoded again" in err
    assert json.loads((tmp_path / "out/pope.jsonl.run.json").read_text())["prefix_reuse"] is False


def test_progress_says_how_long_it_will_take(monkeypatch, capsys: Out) -> None:
    """Outside a terminal a line every few seconds, at the pace of this run: earlier answers took no time."""
    times = iter([100.0, 105.0, 111.0, 114.0])
    monkeypatch.setattr("vlm_core.cli.progress.time.monotonic", lambda: next(times))
    with Progress("pope", 500, 400) as asked:
        for _ in range(3):
            asked.advance()
    assert capsys.readouterr().err == "pope 402/500  left 8:59\n"


def test_a_part_first_then_the_rest(command: Runner, data: Path, tmp_path: Path, capsys: Out) -> None:
    """MME's pairs stay whole; a part is said to be one; with the limit lifted, the rest is asked."""
    text = printed(capsys, *command("mme", "--limit", "7"))
    assert len(said(tmp_path / "out", "mme")) == 6
    assert "PARTIAL" in text
    assert "scored 6 of 28, missing 22" in text
    assert "PARTIAL" not in printed(capsys, *command("mme"))
    assert len(said(tmp_path / "out", "mme")) == 28


def test_options_of_a_benchmark(command: Runner, tmp_path: Path, capsys: Out) -> None:
    text = printed(capsys, *command("vqa-v2,pope", "--set", "vqa-v2.split=val", "--strictness", "normalized"))
    assert "vqa-v2-val official@a013f00" in text
    assert "(normalized)" in text
    assert len(said(tmp_path / "out", "vqa-v2")) == 3


def test_a_small_set_of_a_third_party(tiny_folder: Path, tmp_path: Path, capsys: Out) -> None:
    """easy-VQA's package brings its benchmark; its files may stand under --data, as the others' do."""
    folder = tmp_path / "eval/easy-vqa/test"
    picture(folder / "images/0.png")
    asked = [["what color is the shape?", "red", 0], ["is there a circle?", "no", 0]]
    (folder / "questions.json").write_text(json.dumps(asked))
    flags = ["--data", str(tmp_path / "eval"), "--out", str(tmp_path / "out"), *FAST]
    text = printed(capsys, "run", tiny_folder, "--benchmarks", "all", *flags)
    assert "easy-vqa/test exact match" in text
    assert said(tmp_path / "out", "easy-vqa").keys() == {"test-0-0", "test-0-1"}
    shutil.rmtree(folder)
    err = refused(capsys, "run", tiny_folder, "--benchmarks", "easy-vqa", *flags)
    assert "leave --data out to use the package's files" in err


def test_the_runner_knows_no_benchmark() -> None:
    for module in (run, runner, tasks, answer_log, selection, process_group, inference):
        text = Path(str(module.__file__)).read_text()
        assert not [name for name in installed().names("benchmark") if f'"{name}"' in text]


@pytest.mark.slow
def test_two_processes_say_what_one_says(command: Runner, tmp_path: Path) -> None:
    """As `accelerate launch` starts them; then one process goes on from what two have left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    base = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    line = [sys.executable, "-m", "vlm_bench.cli.main", *command("mme,gqa")]
    started = [
        subprocess.Popen(line, env={**base, "RANK": r, "LOCAL_RANK": r}, stderr=subprocess.PIPE, text=True)
        for r in "01"
    ]
    told = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert json.loads((tmp_path / "out/mme.jsonl.run.json").read_text())["processes"] == 2
    assert main(command("mme,gqa", out="one")) == 0
    for name in ("mme", "gqa"):
        assert (tmp_path / f"out/{name}.jsonl").read_bytes() == (tmp_path / f"one/{name}.jsonl").read_bytes()
