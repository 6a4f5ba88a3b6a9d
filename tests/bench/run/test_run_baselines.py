"""`vlm-bench run --baselines`: the model without its image and about another one, beside its own answers."""

import json
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from bench_files import write_jsonl
from commands import Out, Runner, printed, refused, rows, scored
from layout import write_json
from pope_images import own_answers, write_pope

from vlm_bench.cli.main import main
from vlm_core.model import VLM

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = {
    "": "pope.jsonl",
    "question alone": "pope.question-alone.jsonl",
    "images shuffled": "pope.images-shuffled.jsonl",
}
MODEL = {"question alone", "images shuffled"}


@pytest.fixture
def pope_home(data: Path) -> Path:
    return write_pope(data)


def scores(report: dict) -> dict[str, float | None]:
    return {b["name"]: b["difference"] and b["difference"]["first"] for b in report["baselines"]}


def test_the_three_baselines(
    command: Runner, pope_home: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a file of its own, marked in each line; the image is another one by content, or none at all."""
    seen: list[int] = []
    encode_images = VLM.encode_images
    monkeypatch.setattr(
        VLM, "encode_images", lambda self, pixels: seen.append(len(pixels)) or encode_images(self, pixels)
    )
    text = printed(capsys, *command("pope", "--baselines", "--batch-size", "6"))
    assert sum(seen) == 8, "four images for the model, four others, none for the question alone"
    out = tmp_path / "out"
    report = json.loads((out / "pope.json").read_text())
    assert set(scores(report)) == {"chance"} | MODEL
    assert scores(report)["chance"] == pytest.approx(2 / 3)
    for name in ("chance", *MODEL):
        assert f"baseline {name}  " in text
    lines = {name: {r["metadata"]["id"]: r for r in rows(out / file)} for name, file in FILES.items()}
    digests = {sha256(path.read_bytes()).hexdigest() for path in (pope_home / "val2014").iterdir()}
    for key, own in lines[""].items():
        alone, other = lines["question alone"][key], lines["images shuffled"][key]
        assert own["prompt"] == alone["prompt"] == other["prompt"]
        assert "image" not in alone["metadata"]
        assert other["metadata"]["image"] in digests - {own["metadata"]["image"]}
        marks = [row["metadata"].get("baseline") for row in (own, alone, other)]
        assert marks == [None, "question alone", "images shuffled"]
        assert len({row["answer_id"] for row in (own, alone, other)}) == 3
        assert other["model_id"].endswith("(images shuffled)")
    again = scored(capsys, "score", "pope", "--data", pope_home.parent, "--answers", out / "pope.jsonl")
    assert again["baselines"] == report["baselines"]


def test_answers_without_the_image_are_those_of_the_prompt_alone(
    command: Runner, pope_home: Path, tmp_path: Path
) -> None:
    """The naive way: the questions in a file without images."""
    from vlm_core.benchmark import Question
    from vlm_core.evaluation.inference import BenchmarkInference
    from vlm_core.model_folder.assemble import load

    line = command("pope", "--baselines", "question-alone")
    assert main(line) == 0
    said = {r["metadata"]["id"]: r for r in rows(tmp_path / "out" / FILES["question alone"])}
    model, spec = load(line[1])
    inference = BenchmarkInference(model, spec.template, max_new_tokens=3)
    for key, row in list(said.items())[:3]:
        assert [text for _, text in inference.ask([Question(key, row["prompt"])])] == [row["text"]]
    assert not (tmp_path / "out" / FILES["images shuffled"]).exists()


@pytest.mark.slow
def test_killed_during_the_baselines(command: Runner, pope_home: Path, tmp_path: Path, capsys: Out) -> None:
    """The model's score is there already; the rest is asked, and nothing twice."""
    script = Path(__file__).parents[1] / "helpers" / "killed_run.py"
    line = command("pope", "--baselines")
    done = subprocess.run([sys.executable, script, "29", *line], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    out = tmp_path / "out"
    assert scores(json.loads((out / "pope.json").read_text())) == {"chance": pytest.approx(2 / 3)}
    capsys.readouterr()
    report = scored(capsys, "score", "pope", "--data", pope_home.parent, "--answers", out / "pope.jsonl")
    assert "question alone: not finished; run the same command again" in report["warnings"]
    part = out / "pope.question-alone.part-0.jsonl"
    before = part.read_text().splitlines()[:5]
    assert main(line) == 0
    err = capsys.readouterr().err
    assert "pope: 24 of 24 answers exist already" in err
    assert "pope, question alone: dropped 1 half-written or damaged line; asked again" in err
    assert "pope, question alone: 5 of 24 answers exist already" in err
    assert (out / FILES["question alone"]).read_text().splitlines()[:5] == before
    assert set(scores(json.loads((out / "pope.json").read_text()))) == {"chance"} | MODEL
    assert main(command("pope", "--baselines", out="whole")) == 0
    for file in FILES.values():
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_sample_first_then_the_rest(command: Runner, pope_home: Path, tmp_path: Path, capsys: Out) -> None:
    """A question has the same other image in a sample, even in a sample of one image."""
    text = printed(capsys, *command("pope", "--baselines", "--limit", "6"))
    assert "baseline images shuffled" in text
    file = tmp_path / "out" / FILES["images shuffled"]
    first = rows(file)
    assert len(first) == 6
    printed(capsys, *command("pope", "--baselines"))
    assert [row for row in rows(file) if row in first] == first
    assert len(rows(file)) == 24


def test_a_baseline_is_never_taken_for_the_model(
    command: Runner, pope_home: Path, tmp_path: Path, capsys: Out
) -> None:
    """Neither by name, nor renamed, nor without its metadata."""
    assert main(command("pope", "--baselines")) == 0
    out = tmp_path / "out"
    capsys.readouterr()
    table = printed(capsys, "report", out).split("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()[1:6]] == [
        "model0/tiny",
        "±",
        "chance",
        "question",
        "images",
    ]
    flags = ["score", "pope", "--data", pope_home.parent, "--answers"]
    assert "24 answers are of the baseline 'question alone'" in refused(
        capsys, *flags, out / FILES["question alone"]
    )
    renamed = tmp_path / "mine.jsonl"
    shutil.copy(out / FILES["images shuffled"], renamed)
    assert "24 answers are of the baseline 'images shuffled'" in refused(capsys, *flags, renamed)
    shutil.copy(out / FILES["question alone"], out / "pope.jsonl")
    assert main(command("pope")) == 2
    assert "an answer of question alone, where those of the model itself belong" in capsys.readouterr().err


def test_a_baseline_of_another_run_is_left_out(
    command: Runner, pope_home: Path, tmp_path: Path, capsys: Out
) -> None:
    assert main(command("pope", "--baselines")) == 0
    path = tmp_path / "out" / f"{FILES['question alone']}.run.json"
    path.write_text(path.read_text().replace('"float32"', '"bfloat16"'))
    capsys.readouterr()
    flags = ["score", "pope", "--data", pope_home.parent, "--answers", tmp_path / "out/pope.jsonl"]
    report = scored(capsys, *flags)
    assert set(scores(report)) == {"chance", "images shuffled"}
    assert (
        "question alone: left out: pope.question-alone.jsonl is of another run, dtype differ"
        in report["warnings"]
    )


def test_refusals(command: Runner, data: Path, pope_home: Path, capsys: Out, tmp_path: Path) -> None:
    err = refused(capsys, *command("pope", "--baselines", "blind"))
    assert "unknown 'blind'; there are question-alone, images-shuffled, and all" in err
    err = refused(capsys, *command("pope", "--shuffle-seed", "1"))
    assert "--shuffle-seed 1: needs --baselines images-shuffled" in err
    assert main(command("pope", "--baselines")) == 0
    capsys.readouterr()
    err = refused(capsys, *command("pope", "--baselines", "--shuffle-seed", "1"))
    assert "holds answers of a different run" in err
    assert "shuffle_seed: 0 before, 1 now" in err
    (pope_home / "val2014/0.png").write_bytes((pope_home / "val2014/1.png").read_bytes())
    assert "about images that have changed since" in refused(capsys, *command("pope", "--baselines"))


def test_too_few_images(command: Runner, data: Path, capsys: Out, tmp_path: Path) -> None:
    """Refused before the first question, for all benchmarks at once; the other baseline can still be made."""
    write_pope(data, ("red", "red"))
    err = refused(capsys, *command("pope,gqa", "--baselines"))
    assert "pope, images shuffled: needs two different images; its 12 questions are about 2 images" in err
    assert "gqa, images shuffled: needs two different images; its 3 questions are about 1 image" in err
    assert not (tmp_path / "out").exists()
    assert main(command("pope,gqa", "--baselines", "question-alone")) == 0
    capsys.readouterr()
    shutil.rmtree(data / "gqa/data/images")
    err = refused(capsys, *command("gqa", "--baselines", "--allow-partial"))
    assert "gqa, images shuffled: needs two different images" in err
    assert "none of them can be read" in err


def test_questions_without_an_image_are_left_out(
    command: Runner, data: Path, tmp_path: Path, capsys: Out
) -> None:
    """ScienceQA's text questions would be the same; IMG accuracy doesn't have them anyway."""
    text = printed(capsys, *command("scienceqa", "--baselines", "question-alone"))
    assert "baseline question alone" in text
    metadata = json.loads((tmp_path / "out/scienceqa.question-alone.jsonl.run.json").read_text())
    assert metadata["left out"] == {"no image, so a baseline's question would be the same": 1}
    assert metadata["asked"] == 1


def test_a_judge_grades_the_baselines(command: Runner, tmp_path: Path, data: Path, capsys: Out) -> None:
    """MM-Vet: the baseline's grades are in a file of their own, which names the baseline."""
    assert main(command("mm-vet", "--baselines", "question-alone")) == 0
    capsys.readouterr()

    def graded(path: Path, grade: float) -> Path:
        keys = (f"v1_{n}" for n in range(3))
        return write_json(path, {k: {"model": ["m"], "content": [""], "score": [grade]} for k in keys})

    answers = tmp_path / "out/mm-vet.jsonl"
    flags = ["score", "mm-vet", "--data", data, "--answers", answers, "--grades"]
    report = scored(capsys, *flags, graded(tmp_path / "g.json", 1))
    reasons = {b["name"]: b["how"] for b in report["baselines"]}
    assert reasons == {
        "chance": "undefined: a judge grades free text",
        "question alone": "not graded by a judge: grade the answers in mm-vet.question-alone.jsonl",
    }
    graded(tmp_path / "g.question-alone.json", 0.25)
    assert scores(scored(capsys, *flags, tmp_path / "g.json"))["question alone"] == 0.25


def test_a_model_that_is_not_above_its_baselines(
    command: Runner, pope_home: Path, tmp_path: Path, capsys: Out
) -> None:
    """Said in report, table, page and Markdown; `diff` tests against the baselines."""
    assert main(command("pope", "--baselines")) == 0
    out, said = tmp_path / "out", "NOT ABOVE chance, question alone, images shuffled"
    capsys.readouterr()
    save = [
        "score",
        "pope",
        "--data",
        pope_home.parent,
        "--answers",
        out / "pope.jsonl",
        "--save",
        out / "pope.json",
    ]
    own_answers(out, {"dog": "yes", "cat": "yes"})
    assert said in printed(capsys, *save)
    page, markdown = tmp_path / "r.html", tmp_path / "r.md"
    table = printed(capsys, "report", out, "--html", page, "--markdown", markdown)
    for text in (table, page.read_text(), markdown.read_text()):
        assert said in text
        assert "†" in text
        assert "images shuffled" in text
    own_answers(out, {"dog": "yes", "cat": "no"})
    assert "NOT ABOVE" not in printed(capsys, *save)
    assert "†" not in printed(capsys, "report", out)
    text = printed(capsys, "diff", out / "pope.json")
    assert "chance\n  mean F1  66.67 -> 100.00\n" in text
    assert text.count("the interval excludes 0") == 3
    assert json.loads(printed(capsys, "diff", out, "--json"))[
        json.loads((out / "pope.json").read_text())["protocol"]
    ]
    assert printed(capsys, "diff", out, out).count("baseline chance") == 2


def test_a_report_without_baselines(pope_home: Path, tmp_path: Path, capsys: Out) -> None:
    """Of an earlier version, or where chance is undefined and nothing was asked."""
    answers = write_jsonl(
        tmp_path / "a.jsonl", [{"question_id": str(n + 1), "text": "yes"} for n in range(24)]
    )
    path = tmp_path / "a.json"
    printed(capsys, "score", "pope", "--data", pope_home.parent, "--answers", answers, "--save", path)
    old = json.loads(path.read_text())
    del old["baselines"], old["interval"]
    path.write_text(json.dumps(old))
    assert "no baseline has a score" in refused(capsys, "diff", path)
    assert "± 95 %" not in printed(capsys, "report", tmp_path)
