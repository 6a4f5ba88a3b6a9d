"""`micro_batch_size: auto` in whole runs: it leaves no trace but its number, which is recorded and read again."""

import json

import pytest
import torch
from fake_memory import GB, install
from resume_helpers import drop_out, edit, go, losses, weights

from vlm_connectors.connectors import VSSL2
from vlm_core.errors import UserError
from vlm_train.micro_batch import trial_steps

AUTO = [f"train.stages.{i}.micro_batch_size=auto" for i in (0, 1)]
SHORT = ["train.max_length=64", "train.held_out_qa=null"]


def sizes(folder):
    record = json.loads((folder.path / "micro_batch_sizes.json").read_text())
    return {name: each["micro_batch_size"] for name, each in record["stages"].items()}


@pytest.fixture(autouse=True)
def nothing_to_compile(monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")


def by_hand(number):
    return [f"train.stages.{i}.micro_batch_size={number}" for i in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["train.activation_checkpointing=true"], ["train.precision=bf16"]])
def test_a_run_equals_one_with_the_number_written_by_hand(run_spec, monkeypatch, extra):
    """To the bit, with dropout: the trials change no weight, buffer, moment, gradient or random state."""
    monkeypatch.setattr(VSSL2, "forward", drop_out)
    memory = install(monkeypatch)
    found, _ = go(run_spec("auto"), *AUTO, *SHORT, *extra)
    assert sizes(found) == {"align": 3, "instruct": 3}
    assert max(memory.tried) == 3
    wanted, _ = go(run_spec("hand"), *by_hand(3), *SHORT, *extra)
    assert losses(found) == losses(wanted)
    found, wanted = weights(found), weights(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_saved_model_says_the_number(run_spec, monkeypatch):
    install(monkeypatch)
    folder, _ = go(run_spec(), *AUTO, *SHORT)
    manifest = json.loads((folder.path / "model" / "manifest.json").read_text())
    assert [stage["micro_batch_size"] for stage in manifest["trained"]["stages"]] == [3, 3]


@pytest.mark.slow
def test_a_cpu_follows_its_free_memory(run_spec, monkeypatch, capsys):
    folder, _ = go(run_spec("much"), *AUTO, *SHORT)
    assert sizes(folder) == {"align": 6, "instruct": 6}, "all of the batch"
    assert "on a CPU" in capsys.readouterr().out
    monkeypatch.setattr("vlm_train.micro_batch.device_memory.free_ram", lambda: 1000)
    folder, _ = go(run_spec("little"), *AUTO, *SHORT)
    assert sizes(folder) == {"align": 1, "instruct": 1}


def test_a_resumed_run_reads_the_number(run_spec, monkeypatch, killed_at, capsys):
    whole, _ = go(run_spec("whole"), *by_hand(3), *SHORT)
    install(monkeypatch)
    killed_at(0, 3)
    with pytest.raises(KeyboardInterrupt):
        go(run_spec("part"), *AUTO, *SHORT)
    larger = install(monkeypatch, most=100 * GB, capacity=100 * GB)
    capsys.readouterr()
    part, _ = go(run_spec("part"), *AUTO, *SHORT)
    assert "stage align: micro_batch_size 3, as recorded" in capsys.readouterr().out
    assert sizes(part) == {"align": 3, "instruct": 6}
    assert larger.tried == [1, 4, 6], "of the second stage alone"
    assert losses(part)[:6] == losses(whole)[:6]


def killed_after_align_began(run_spec, killed_at):
    killed_at(0, 3)
    with pytest.raises(KeyboardInterrupt):
        go(run_spec(), *AUTO, *SHORT)


@pytest.mark.slow
def test_another_device_with_enough_memory_keeps_the_number(run_spec, monkeypatch, killed_at):
    install(monkeypatch)
    killed_after_align_began(run_spec, killed_at)
    install(monkeypatch, name="Other GPU", most=100 * GB, capacity=100 * GB)
    folder, _ = go(run_spec(), *AUTO, *SHORT)
    assert sizes(folder) == {"align": 3, "instruct": 6}


def test_another_device_without_enough_memory_says_what_to_do(run_spec, monkeypatch, killed_at):
    install(monkeypatch)
    killed_after_align_began(run_spec, killed_at)
    install(monkeypatch, name="Small GPU", most=5 * GB, capacity=5 * GB)
    with pytest.raises(
        UserError,
        match=r"stage align: .*auto chose 3 on Fake GPU.*Small GPU is enough for 1: set micro_batch_size: 1",
    ):
        go(run_spec(), *AUTO, *SHORT)
    folder, _ = go(run_spec(), *by_hand(1), *SHORT)
    assert len(losses(folder)) == 12


@pytest.mark.slow
def test_recomputation_that_was_switched_on_is_measured_again(run_spec, monkeypatch, killed_at, capsys):
    install(monkeypatch)
    killed_after_align_began(run_spec, killed_at)
    install(monkeypatch, sample=GB)
    capsys.readouterr()
    folder, _ = go(run_spec(), *AUTO, *SHORT, "train.activation_checkpointing=true")
    assert sizes(folder)["align"] == 6
    assert "this run has 1 process, ddp and activation_checkpointing: auto has measured again" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_damaged_record_is_measured_again(run_spec, monkeypatch, killed_at, capsys):
    install(monkeypatch)
    killed_after_align_began(run_spec, killed_at)
    record = run_spec().parent / "run" / "micro_batch_sizes.json"
    record.write_text(record.read_text().replace('"micro_batch_size": 3', '"micro_batch_size": 2'))
    capsys.readouterr()
    folder, _ = go(run_spec(), *AUTO, *SHORT)
    assert sizes(folder) == {"align": 3, "instruct": 3}
    assert "content differs from its checksum; micro_batch_size: auto measures again" in (
        "".join(capsys.readouterr())
    )


@pytest.mark.slow
def test_a_number_of_another_run_is_measured_again(run_spec, monkeypatch, killed_at, capsys):
    """As in a folder whose files but this were removed: it was chosen for another batch and other samples."""
    install(monkeypatch)
    killed_after_align_began(run_spec, killed_at)
    record = run_spec().parent / "run" / "micro_batch_sizes.json"
    edit(record, lambda data: data.update(run="0" * 64))
    capsys.readouterr()
    memory = install(monkeypatch, most=100 * GB, capacity=100 * GB)
    folder, _ = go(run_spec(), *AUTO, *SHORT)
    assert sizes(folder) == {"align": 6, "instruct": 6}
    assert memory.tried
    assert "of another run, whose spec or data differ; micro_batch_size: auto measures again" in (
        "".join(capsys.readouterr())
    )


@pytest.mark.parametrize(
    ("memory", "seen"),
    [
        ({"fixed": 8 * GB}, "takes 10.00 GB"),
        ({"fixed": 20 * GB}, "runs out of memory"),
    ],
)
def test_one_sample_that_does_not_fit_is_one_clear_error(run_spec, monkeypatch, memory, seen):
    install(monkeypatch, **memory)
    message = (
        rf"stage align: micro_batch_size: auto: a step of one sample of 64 positions {seen}, .*"
        r"set activation_checkpointing: true, strategy: fsdp2 with several GPUs, a max_length below 64"
    )
    with pytest.raises(UserError, match=message):
        go(run_spec(), *AUTO, *SHORT)


def test_moments_count_before_they_exist(run_spec, monkeypatch):
    """The first step allocates them, two for each trained number; those of a checkpoint exist already."""
    seen = []

    def missing(state, count=trial_steps.missing_moments):
        seen.append((count(state), sum(p.nbytes for g in state.groups for p in g.parameters.values())))
        return seen[-1][0]

    monkeypatch.setattr(trial_steps, "missing_moments", missing)
    install(monkeypatch)
    go(run_spec(), *AUTO, *SHORT)
    assert [moments for moments, _ in seen] == [2 * weights for _, weights in seen]
    assert seen[0] < seen[1]


@pytest.mark.parametrize("value", ["0", "-1", "automatic", "1.5"])
def test_what_is_no_number_is_refused(run_spec, value):
    with pytest.raises(UserError, match=r"train\.stages\.0\.micro_batch_size"):
        go(run_spec(), f"train.stages.0.micro_batch_size={value}")
