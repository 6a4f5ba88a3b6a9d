"""Samples of benchmarks while a stage trains: told as partial, refused early, and without a trace in the weights."""

import pytest
import yaml
from exam_files import COLOURS, evals

from vlm_core.errors import SpecError, UserError
from vlm_core.evaluation.inference import BenchmarkInference, evaluate
from vlm_core.model_folder.assemble import load
from vlm_core.spec.spec import load_spec
from vlm_train.checkpoint.run_dir import EVALS
from vlm_train.cli.console import show
from vlm_train.cli.main import main
from vlm_train.config.section import train_section
from vlm_train.evaluation.benchmarks import benchmark_tasks
from vlm_train.monitoring.trackers import numbers
from vlm_train.report import html
from vlm_train.report.benchmark_table import table
from vlm_train.run import start

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def examined(run_spec, tmp_path):
    """`examined(output, train={…}, …)` is a spec whose stages are asked benchmarks."""

    def make(output="run", train=(), **changes):
        wanted = evals(tmp_path, tmp_path / "eval", **changes)
        return run_spec(output, held_out_qa=None, benchmarks=wanted, **dict(train))

    return make


def stored(folder):
    names = ("encoder", "connector", "llm")
    return [(folder.path / "model" / name / "weights.safetensors").read_bytes() for name in names]


def test_figures_are_those_of_the_model_and_training_does_not_notice(examined, run_spec, capsys):
    path = examined("seen", every=4)
    spec, document = load_spec(path)
    seen, _ = start(spec, document)
    records = seen.records(EVALS)
    assert [(m["stage"], m["name"], m["step"]) for m in records] == [
        (0, "align", 4), (0, "align", 6), (1, "instruct", 4), (1, "instruct", 6)
    ]  # fmt: skip
    last = records[-1]["benchmarks"]
    counts = {n: (f["scored"], f["asked"], f["expected"], f["partial"]) for n, f in last.items()}
    assert counts == {"textvqa": (6, 6, 6, False), "pope": (12, 12, 36, True)}

    model, _ = load(seen.path / "model")
    for exam in benchmark_tasks(train_section(spec, document).benchmarks):
        wanted = evaluate(model, spec.template, exam.benchmark, limit=12, max_new_tokens=3).score
        assert last[exam.name]["score"] == pytest.approx(wanted.headline.value)
        assert last[exam.name]["rows"] == {name: dict(row) for name, row in wanted.rows.items()}
        assert last[exam.name]["protocol"] == exam.benchmark.protocol

    show(spec, seen, [])
    told, page = capsys.readouterr().out, html.page(seen)
    share = f"{100 * last['pope']['score']:.1f} (partial, 12 of 36)"
    for text in (told, page):
        assert "measures the official scores" in text
        assert share in text
        assert "(6 of 6)" in text
    assert page.count("<svg") == 5 + 2
    scores = numbers(records[-1])
    assert scores["benchmarks/pope/score"] == last["pope"]["score"]
    assert scores["benchmarks/pope/expected"] == 36
    assert scores["benchmarks/pope/partial"] == 1

    plain, _ = start(*load_spec(run_spec("plain", held_out_qa=None)))
    assert stored(seen) == stored(plain)


@pytest.mark.slow
def test_resuming_notes_each_figure_once(examined, killed_at):
    whole, _ = start(*load_spec(examined("whole", every=3)))
    killed_at(1, 3, after="_measure")
    path = examined("part", every=3)
    with pytest.raises(KeyboardInterrupt):
        start(*load_spec(path))
    part, _ = start(*load_spec(path))
    assert part.records(EVALS) == whole.records(EVALS)
    assert len(part.records(EVALS)) == 4


def test_by_default_the_end_of_each_stage_is_asked_with_the_weights_that_it_leaves(examined):
    """Here in bf16, and the last stage leaves an average."""
    path = examined(train={"precision": "bf16"})
    spec = yaml.safe_load(path.read_text())
    spec["train"]["stages"][1]["ema"] = {"decay": 0.9, "use": "result"}
    path.write_text(yaml.safe_dump(spec))
    folder, _ = start(*load_spec(path))
    records = folder.records(EVALS)
    assert [(m["stage"], m["step"], m["weights"]) for m in records] == [(0, 6, "own"), (1, 6, "average")]
    assert [row[0] for row in table(records)[1]] == ["align 6", "instruct 6, average"]


def test_a_picture_that_breaks_while_it_trains_is_left_out_and_counted(examined, tmp_path, caplog):
    path = examined(train={"on_bad_sample": "skip", "bad_sample_budget": 0.99}, samples="all")
    (tmp_path / "eval/textvqa/train_images/teal.jpg").write_bytes(b"no image")
    folder, _ = start(*load_spec(path))
    found = folder.records(EVALS)[-1]["benchmarks"]["textvqa"]
    assert (found["scored"], found["asked"], found["expected"], found["partial"]) == (5, 6, 6, True)
    assert "textvqa: 1 questions are skipped" in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        (
            "tasks",
            [{"type": "poppe"}],
            r"spec\.yaml:\d+: train\.benchmarks\.tasks\.0\.type: unknown benchmark 'poppe'"
            r"; possible: .*mme, .*did you mean 'pope'",
        ),
        (
            "tasks",
            [{"type": "pope", "dta": "."}],
            r"benchmarks\.tasks\.0\.dta: unknown key.*did you mean 'data'",
        ),
        ("tasks", ["pope"], r"benchmarks\.tasks\.0: expected a mapping with a type"),
        ("tasks", [{"type": "pope"}] * 2, "pope is listed twice"),
        ("tasks", [], "benchmarks.tasks"),
        ("samples", "most", r"benchmarks\.samples: "),
    ],
)
def test_faults_of_the_spec_have_a_line(examined, key, value, wanted):
    with pytest.raises(SpecError, match=wanted):
        load_spec(examined(**{key: value}))


def test_what_can_not_be_asked_is_refused_before_anything_is_written(examined, tmp_path, monkeypatch, capsys):
    path = examined("never", samples="all")
    for colour in COLOURS[:2]:
        (tmp_path / f"eval/pope/val2014/{colour}.png").unlink()
    (tmp_path / "eval/textvqa/TextVQA_0.5.1_val.json").unlink()
    with pytest.raises(UserError) as told:
        start(*load_spec(path))
    text = str(told.value)
    assert "train.benchmarks, pope: 2 of 6 images are not there, 12 of 36 questions are about them" in text
    assert "train.benchmarks, textvqa: " in text
    assert "TextVQA_0.5.1_val.json" in text
    assert not (tmp_path / "never").exists()
    monkeypatch.setattr("sys.argv", ["vlm-train", "check", str(path)])
    assert main() == 2
    assert text in capsys.readouterr().err


def test_benchmarks_that_others_score_are_refused(examined, tmp_path):
    home = tmp_path / "eval/vqav2"
    home.mkdir(parents=True)
    for name in ("test-dev2015", "test2015"):
        (home / f"llava_vqav2_mscoco_{name}.jsonl").write_text(
            '{"question_id": 1, "image": "a.jpg", "text": "what?", "category": "default"}\n'
        )
    path = examined(tasks=[{"type": "vqa-v2", "data": str(tmp_path / "eval")}])
    with pytest.raises(UserError, match="vqa-v2: its answers are scored on a server, not here"):
        start(*load_spec(path))


def test_baselines_during_training(examined):
    """Chance beside every score; with `baselines`, the model without the image and about another one."""
    seen, _ = start(*load_spec(examined("plain")))
    for score in seen.records(EVALS)[-1]["benchmarks"].values():
        assert score["baselines"].keys() == {"chance"}
    path = examined("all", baselines=True)
    spec, document = load_spec(path)
    run, _ = start(spec, document)
    last = run.records(EVALS)[-1]["benchmarks"]
    assert last["pope"]["score"] == seen.records(EVALS)[-1]["benchmarks"]["pope"]["score"]
    model, _ = load(run.path / "model")
    for task in benchmark_tasks(train_section(spec, document).benchmarks):
        scores = last[task.name]["baselines"]
        assert list(scores) == ["chance", "question alone", "images shuffled"]
        for name, questions in task.asked.items():
            inference = BenchmarkInference(model, spec.template, batch_size=8, max_new_tokens=3)
            texts = {question.id: text for question, text in inference.ask(questions)}
            wanted = last[task.name]["score"] if name == "" else scores[name]
            assert task.benchmark.score(texts).headline.value == pytest.approx(wanted)
    assert "; chance 66.7; question alone " in table(run.records(EVALS))[1][-1][2]


def test_baselines_need_two_images(examined, tmp_path):
    path = examined("one", baselines=True)
    first, *others = (tmp_path / "eval/pope/val2014").iterdir()
    for other in others:
        other.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="pope: images shuffled: needs two different images"):
        start(*load_spec(path))
