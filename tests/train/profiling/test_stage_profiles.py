"""`--measure`: a few real steps of each stage, timed with a clock of the test's own, that leave nothing behind."""

from types import SimpleNamespace

import pytest
import yaml

from vlm_core.cli import assemble
from vlm_core.diagnose.costs.measured_steps import MeasureOptions
from vlm_core.errors import UserError
from vlm_core.spec.spec import load_spec
from vlm_train.cli import main as train_cli
from vlm_train.config.section import train_section
from vlm_train.engine import train_step
from vlm_train.monitoring import throughput
from vlm_train.profiling import stage_profiles
from vlm_train.profiling.stage_profiles import LEAST_STEPS, profile_stages

STEP = 0.25


@pytest.fixture(autouse=True)
def nothing_to_compile(monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each optimizer step takes `STEP` seconds, its data nothing; a stage is timed for the fewest steps."""
    now = SimpleNamespace(seconds=0.0, steps=0)

    def backward(*args, step=train_step._backward):
        now.seconds, now.steps = now.seconds + STEP, now.steps + 1
        return step(*args)

    monkeypatch.setattr(train_step, "_backward", backward)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(stage_profiles, "SECONDS", 0.0)
    return now


def profiles(path, *changes, gpus=1, text=20):
    spec, document = load_spec(path, list(changes))
    return profile_stages(spec, train_section(spec, document), MeasureOptions(gpus, text))


def test_steps_of_the_specs_data_are_timed(run_spec, clock):
    align, instruct = profiles(run_spec())
    assert clock.steps == 2 * (throughput.WARMUP_STEPS + LEAST_STEPS)
    assert (align.stage, instruct.stage) == ("align", "instruct")
    for costs in (align, instruct):
        assert (costs.timed, costs.seconds, costs.steps) == (LEAST_STEPS, STEP, 6)
        assert (costs.samples, costs.micro_batch_size, costs.synthetic) == (6, 4, "")
        assert costs.samples_per_second == 6 / STEP
        assert costs.hours(costs.steps) == 6 * STEP / 3600
        assert costs.cpu_seconds is not None
        assert costs.cpu_seconds > 0
        assert costs.growth is not None
        assert costs.peak_memory > costs.growth
        assert (costs.reserved, costs.mfu) == (None, None)


def test_nothing_is_written(run_spec, tmp_path):
    path = run_spec()
    before = sorted(tmp_path.rglob("*"))
    profiles(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_each_of_several_gpus_has_its_share(run_spec):
    align, _ = profiles(run_spec(), gpus=3)
    assert (align.gpus, align.samples, align.micro_batch_size) == (3, 2, 2)
    assert align.samples_per_second == 3 * 2 / STEP
    assert align.steps == 6, "the batch is the same, so are the steps"
    with pytest.raises(UserError, match="stage align: batch_size 6 is not divisible by 4 devices"):
        profiles(run_spec(), gpus=4)


def test_made_up_samples_where_the_data_are_not_here(run_spec):
    path = run_spec()
    spec = yaml.safe_load(path.read_text())
    for stage in spec["train"]["stages"]:
        stage |= {"data": [{"type": "llava", "path": "none.json"}]}
        del stage["steps"]
    path.write_text(yaml.safe_dump(spec))
    align, _ = profiles(path, text=20)
    assert align.synthetic.startswith("synthetic samples of 24 positions: ")
    assert "none.json" in align.synthetic
    assert (align.tokens, align.steps) == (6 * 24, None), "micro-batches of 4 and 2"


def test_pictures_that_are_missing_are_made_up(run_spec, tmp_path):
    path = run_spec()
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    (tmp_path / "data.json").write_text(
        '[{"id": "0", "image": "red.png", "conversations": [{"from": "human", "value": "<image>"},'
        ' {"from": "gpt", "value": "red"}]}]'
    )
    align, _ = profiles(path)
    assert "the rows of the first step can't be used" in align.synthetic


def test_auto_is_measured_as_in_a_run(run_spec):
    auto = [f"train.stages.{i}.micro_batch_size=auto" for i in (0, 1)]
    align, _ = profiles(run_spec(), *auto, "train.max_length=64")
    assert align.micro_batch_size == 6


def test_a_launcher_is_refused(run_spec, monkeypatch):
    here = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--measure runs in one process on one device"):
        profiles(run_spec())


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (train_cli.main, ["plan", "--nproc", "2", "--measure"]),
        (assemble.main, ["--check", "--gpus", "2", "--measure"]),
    ],
)
def test_both_commands_print_the_same_table(run_spec, monkeypatch, capsys, main, words):
    monkeypatch.setattr("sys.argv", ["prog", *words, str(run_spec())])
    assert main() == 0
    out = capsys.readouterr().out
    table = out[out.index("measured on cpu with ") :]
    assert "scaled to 2 devices" in table
    (row,) = [line.split() for line in table.splitlines() if line.split()[:1] == ["align"]]
    assert row[1:4] == ["3", "×", "1"]
    assert (row[4], row[6]) == ("0.25", "24"), "seconds and samples/s"
    assert "communication and sharding are left out" in table
    assert max(map(len, table.splitlines())) <= 120
