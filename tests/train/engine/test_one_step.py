"""A number that is not finite, on whichever process, reaches no weight; what is left out is counted."""

import logging

import pytest
from ranks import run_ranks
from resume_helpers import run_folder

from vlm_core.errors import UserError
from vlm_train.engine.trainer import StageTrainer
from vlm_train.loss import SummedLoss


@pytest.mark.slow
def test_one_process_is_enough_to_leave_a_step_out_on_all():
    """Only the second process sees a bad number, in its loss or in its gradient alone."""
    first, second = (lines[-5:] for lines in run_ranks("ranks_script.py"))
    assert first == second
    assert [line.split() for line in first[:4]] == [
        ["0", "True", "False", "4"],
        ["1", "False", "True", "4"],
        ["2", "False", "True", "4"],
        ["3", "True", "False", "4"],
    ]
    assert first[4].startswith("True ")


def bad_at(monkeypatch, steps):
    """The loss is infinite in these steps of the second stage (one micro-batch of two)."""
    seen = StageTrainer._seed_step
    now = [-1, -1]

    def note(self, step):
        now[:] = self.number, step
        seen(self, step)

    def forward(self, batch, own=SummedLoss.forward):
        loss = own(self, batch)
        return loss * float("inf") if now[0] == 1 and now[1] in steps else loss

    monkeypatch.setattr(StageTrainer, "_seed_step", note)
    monkeypatch.setattr(SummedLoss, "forward", forward)


def told(folder):
    return [(m["stage"], m["step"], m["loss"], m["skipped"]) for m in folder.metrics()]


def test_skipped_steps_are_counted_and_survive_resuming(run_spec, monkeypatch, killed_at):
    bad_at(monkeypatch, {1, 4})
    whole = run_folder(run_spec("whole", on_non_finite="skip"))
    assert [m["skipped"] for m in whole.metrics()] == [0] * 7 + [1] * 3 + [2] * 2
    assert [m["step"] for m in whole.metrics() if m["loss"] is None] == [2, 5]
    killed_at(1, 3)
    path = run_spec("part", on_non_finite="skip")
    with pytest.raises(KeyboardInterrupt):
        run_folder(path)
    part = run_folder(path)
    assert told(part) == told(whole)
    for name in ("connector", "llm"):
        a, b = (f.path / "model" / name / "weights.safetensors" for f in (part, whole))
        assert a.read_bytes() == b.read_bytes()


def test_a_spent_budget_ends_the_run_with_the_count(run_spec, monkeypatch, caplog):
    bad_at(monkeypatch, {0, 2, 3})
    path = run_spec(on_non_finite="skip", non_finite_budget=2)
    with pytest.raises(UserError, match=r"step 4: loss inf .*one more than train.non_finite_budget: 2"):
        run_folder(path)
    assert [r.message.rsplit("(")[-1] for r in caplog.records if r.levelno > logging.INFO] == [
        "1 of 2)",
        "2 of 2)",
    ]


def test_the_weights_are_those_of_the_steps_that_counted(run_spec, monkeypatch):
    """A skipped last step leaves exactly the weights of the steps before it."""
    bad_at(monkeypatch, {5})
    path = run_spec(on_non_finite="skip", checkpoint_every=5)
    folder = run_folder(path)
    held = sorted((folder.path / "checkpoints").iterdir())
    assert [p.name[-2:] for p in held] == ["05", "06"]
    for name in ("llm.safetensors", "connector.safetensors", "optimizer.safetensors"):
        assert (held[0] / name).read_bytes() == (held[1] / name).read_bytes()


def test_text_alone_teaches_a_connector_nothing_and_breaks_nothing(run_spec):
    """Micro-batches of one row: every third has no image, so that its loss depends on nothing that is trained."""
    stages = ["train.stages.0.micro_batch_size=1", "train.stages.0.batch_size=3", "train.stages.0.steps=6"]
    folder = run_folder(run_spec(held_out_qa=None), *stages, "train.stages.1.steps=1")
    assert all(m["loss"] > 0 for m in folder.metrics())
