"""What a run shows: speed, validation, trackers, the page about it. None of it changes what is trained."""

import base64
import re
import time
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.io.images import decode_image
from vlm_core.model_folder.assemble import load
from vlm_core.spec.spec import load_spec
from vlm_core.text.batch import collate
from vlm_train.checkpoint.run_dir import VALIDATION
from vlm_train.evaluation.held_out_answers import normalized
from vlm_train.evaluation.validation import _image_record
from vlm_train.loss import SummedLoss, target_count
from vlm_train.monitoring import throughput
from vlm_train.monitoring.throughput import ThroughputMeter, peak_rate, step_texts
from vlm_train.monitoring.trackers import Trackers, numbers
from vlm_train.report import html, plots
from vlm_train.run import Run, start


def test_the_page_about_a_run_holds_small_images(tmp_path):
    Image.new("RGB", (300, 200), "red").save(file := tmp_path / "x.png")
    record = _image_record([file, file])
    assert record["images"] == [str(file)] * 2
    assert decode_image(base64.b64decode(record["thumbnail"]), "small").size == (96, 64)


def test_rates_are_those_of_the_steps_and_waiting_is_counted_apart():
    def slow():
        for i in range(3):
            time.sleep(0.03)
            yield i

    clock = ThroughputMeter(torch.device("cpu"), world=2)
    told = []
    for _ in clock.waiting(slow()):
        time.sleep(0.01)
        told.append(clock.after_step(4, 100))
        time.sleep(0.05)
        clock.pause()
    last = told[-1]
    assert 0.4 < last["data_wait"] < 0.95
    assert last["tokens_per_second"] / last["samples_per_second"] == pytest.approx(25, rel=1e-2)
    assert last["samples_per_second"] <= 2 * 4 / 0.04
    assert last["peak_memory"] > 2**26
    assert "mfu" not in last


def test_the_first_step_is_no_part_of_the_rates():
    clock = ThroughputMeter(torch.device("cpu"))
    time.sleep(0.5)
    assert clock.after_step(1, 1)["samples_per_second"] <= 2
    time.sleep(0.01)
    assert clock.after_step(1, 1)["samples_per_second"] > 2.5


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("Tesla V100-SXM2", None),
    ],
)
def test_peaks_are_known_for_what_the_table_holds(monkeypatch, device, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: device)
    assert peak_rate(torch.device("cuda"), bf16=True) == peak
    assert peak_rate(torch.device("cuda"), bf16=False) is None
    assert peak_rate(torch.device("cpu"), bf16=True) is None


def test_mfu_is_what_was_computed_over_what_could_be(monkeypatch):
    """A product of (8, 64) and (64, 32) is 2·8·64·32 FLOPs; 8 tokens in the steps' time."""
    monkeypatch.setattr(throughput, "peak_rate", lambda *a, **k: 1e3)
    clock = ThroughputMeter(torch.device("cpu"))
    a, b = torch.ones(8, 64), torch.ones(64, 32)
    assert clock.count_flops(lambda: a @ b, 8).shape == (8, 32)
    assert clock.flops_per_token == 2 * 64 * 32
    clock.pause()  # a second of imports would leave a rate of few digits
    metrics = clock.after_step(1, 8)
    assert metrics["mfu"] == pytest.approx(2 * 64 * 32 * metrics["tokens_per_second"] / 1e3, rel=0.01)
    assert "MFU" in step_texts(1.0, 1e-3, metrics)["mfu"]


@pytest.fixture
def watched(run_spec):
    """`watched(output, every=…)` is a spec whose stages are validated."""

    def make(output, **changes):
        path = run_spec(output, held_out_qa=None)
        spec, _ = load_spec(path)
        wanted = {"every": 4, "rows": 7, "batch_size": 3, "samples": 2, "max_new_tokens": 3, **changes}
        data = spec.train["stages"][0]["data"]
        return run_spec(output, held_out_qa=None, validation={"data": data, **wanted})

    return make


def stored(folder):
    names = ("encoder", "connector", "llm")
    return [(folder.path / "model" / name / "weights.safetensors").read_bytes() for name in names]


def test_validation_is_the_loss_of_its_rows_and_training_does_not_notice(watched, run_spec, monkeypatch):
    seen, _ = start(*load_spec(watched("seen")))
    plain, _ = start(*load_spec(run_spec("plain", held_out_qa=None)))
    assert stored(seen) == stored(plain)
    records = seen.records(VALIDATION)
    assert [(m["stage"], m["step"]) for m in records] == [(0, 4), (0, 6), (1, 4), (1, 6)]
    assert [len(m["samples"]) for m in records] == [2] * 4

    made = []
    monkeypatch.setattr(Run, "go", lambda self: made.append(self))
    start(*load_spec(watched("other")))
    (run,) = made
    model, _ = load(seen.path / "model")
    run.model = model
    reader = run.reader(run.train.stages[1])
    examples = [reader.read(run.unseen[i * 18 // 7]) for i in range(7)]
    batch = collate([e.sample for e in examples], [p for e in examples for p in e.images])
    with torch.no_grad():
        wanted = float(SummedLoss(model)(batch)) / target_count(batch)
    assert records[-1]["loss"] == pytest.approx(wanted, rel=1e-5)


def test_accuracy_along_the_training_is_that_of_the_answers(watched):
    """The last measurement's equals what its samples say; without the key nothing is scored."""
    run, _ = start(*load_spec(watched("scored", samples=5, accuracy_rows=5)))
    for record in run.records(VALIDATION):
        right = [normalized(sample["said"]) == normalized(sample["truth"]) for sample in record["samples"]]
        assert record["questions"] == len(right) == 5
        assert record["accuracy"]["all"] == pytest.approx(20 * sum(right))
    run, _ = start(*load_spec(watched("not scored")))
    assert all("accuracy" not in record for record in run.records(VALIDATION))


@pytest.mark.slow
def test_resuming_notes_each_validation_once(watched, killed_at):
    whole, _ = start(*load_spec(watched("whole", every=3, rows=3, samples=1)))
    killed_at(1, 3, after="_measure")
    path = watched("part", every=3, rows=3, samples=1)
    with pytest.raises(KeyboardInterrupt):
        start(*load_spec(path))
    part, _ = start(*load_spec(path))
    assert part.records(VALIDATION) == whole.records(VALIDATION)


def test_numbers_of_a_record():
    record = {"stage": 1, "step": 2, "name": "x", "loss": 0.5, "grad_norm": None, "lr": {"llm": 1e-3}}
    assert numbers(record) == {"loss": 0.5, "lr/llm": 1e-3}


def test_tensorboard_holds_every_step_once_also_after_resuming(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        trackers = Trackers(["tensorboard"], tmp_path, {}, starts=[0, 10], done=done)
        for step in steps:
            trackers("metrics.jsonl", {"stage": 0, "step": step, "loss": float(step)})
        trackers("validation.jsonl", {"stage": 1, "step": 1, "loss": 7.0})
        trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(i, float(i)) for i in range(1, 5)]
    assert events.Scalars("validation/loss")[-1].step == 11


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch, name):
    import sys

    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(name, name), None)
    with pytest.raises(UserError, match=rf"pip install 'vlm-train\[{name}\]'"):
        Trackers([name], tmp_path, {}, [0], 0)


class Page(HTMLParser):
    """Every tag that is opened is closed, and every address that the page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.text = [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_data(self, data):
        self.text += data + " "


def test_the_page_about_a_run_needs_nothing_else_and_tells_what_happened(watched):
    folder, _ = start(*load_spec(watched("seen")))
    folder.log(
        {
            "stage": 0,
            "stage_name": "align",
            "step": 2,
            "row": 3,
            "name": "r3",
            "reason": "unreadable",
            "message": "row r3: <x>.png",
        },
        name="left_out.jsonl",
    )
    text = html.write(folder.path).read_text()
    page = Page(text)
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in page.fetched)
    assert not re.search(r"@import|url\((?!#)|<script", text)
    for wanted in (
        "finished: 2 stages, 12 steps",
        "align",
        "instruct",
        "row r3: <x>.png",
        "unreadable",
        "what color is it?",
        "trainable:",
        "torch",
        "vlm-train",
        "validation",
    ):
        assert wanted in page.text, wanted
    assert text.count("<svg") == 5
    first = folder.metrics()[0]["loss"]
    assert f"{first:.3f}" in page.text
    (folder.path / "model" / "manifest.json").rename(folder.path / "x")
    (folder.path / "model").rename(folder.path / "y")
    assert "not finished: stage instruct, step 6" in html.page(folder)


def test_other_folders_are_no_runs(tmp_path):
    with pytest.raises(UserError, match=r"not a run folder: it has no spec\.yaml"):
        html.write(tmp_path)


def test_thinning_keeps_the_mean_and_the_end():
    line = [(float(i), float(i % 7)) for i in range(1, 5001)]
    thin = plots.thinned(line)
    assert len(thin) <= 800
    assert thin[-1][0] == 5000
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(3, abs=0.02)
    assert plots.thinned([]) == []
    metrics = [{"stage": s, "step": i, "loss": None if i == 2 else 1.0} for s in (0, 1) for i in (1, 2, 3)]
    assert plots.points(metrics, "loss", plots.offsets(metrics)) == [(1, 1), (3, 1), (4, 1), (6, 1)]
