"""Bad rows: skipped ones change nothing for the others, every one is listed, and too many stop the run."""

import json

import pytest
from resume_helpers import run_folder

from vlm_core.errors import SpecError, UserError
from vlm_core.spec.spec import load_spec
from vlm_train.data.order.sampler import StepSampler
from vlm_train.engine import trainer

SKIP = ("train.on_bad_sample=skip", "train.bad_sample_budget=6")


def losses(folder):
    return [(m["stage"], m["step"], m["loss"], m["targets"]) for m in folder.metrics()]


@pytest.fixture
def bad_spec(run_spec):
    """Of 18 rows, 0, 6, 12 have a picture that is damaged, 1 one that is missing, 2 no answer."""
    path = run_spec(held_out_qa=None)
    (path.parent / "red.png").write_text("not an image")
    data = path.parent / "data.json"
    rows = json.loads(data.read_text())
    rows[1]["image"] = "none.png"
    rows[2]["conversations"].pop()
    data.write_text(json.dumps(rows))
    return path


REASONS = {0: "not-an-image", 1: "missing", 2: "schema", 6: "not-an-image", 12: "not-an-image"}


def test_by_default_a_known_fault_ends_the_run_before_anything_is_written(bad_spec):
    with pytest.raises(
        UserError, match=r"stage align: .*row \d+: .*\n2 of 18 rows are bad.*on_bad_sample: skip"
    ):
        run_folder(bad_spec)
    assert not (bad_spec.parent / "run").exists()


def test_skipped_rows_are_listed_once_and_the_rest_is_trained(bad_spec):
    folder = run_folder(bad_spec, *SKIP)
    for stage, name in enumerate(("align", "instruct")):
        listed = [m for m in folder.records("left_out.jsonl") if m["stage"] == stage]
        assert {m["row"]: m["reason"] for m in listed} == REASONS
        assert len(listed) == len(REASONS)
        assert {m["stage_name"] for m in listed} == {name}
        assert all(1 <= m["step"] <= 3 for m in listed), "the first of two epochs"
    assert [m["step"] for m in folder.metrics()] == [1, 2, 3, 4, 5, 6] * 2


def test_a_skipped_row_changes_nothing_for_the_others(bad_spec, run_spec, monkeypatch):
    """Step by step the same rows in the same order, less the bad ones, and the same tensors for them."""
    seen = []
    fit = trainer.StageTrainer.fit

    def spy(self, *args):
        for micros in self.batches.from_step(0):
            seen.append([m.batch and m.batch.input_ids for m in micros])
        return fit(self, *args)

    monkeypatch.setattr(trainer.StageTrainer, "fit", spy)
    run_folder(bad_spec, *SKIP)
    order = StepSampler(18, 6, 6, seed=0, micro=4)
    lengths = [0 if ids is None else len(ids) for micros in seen[:6] for ids in micros]
    assert lengths == [sum(i not in REASONS for i in micro) for micro in order]
    assert sum(lengths) == 2 * (18 - len(REASONS))


def test_resume_is_exact_when_skipping(bad_spec, monkeypatch):
    """Killed after a step of each stage, steps that left rows out are done again, with worker processes or without."""
    whole = run_folder(bad_spec, *SKIP, f"train.output={bad_spec.parent / 'whole'}")
    step = trainer.StageTrainer._record

    def record(self, position, *args):
        step(self, position, *args)
        if (position.stage, position.step) == kill_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.StageTrainer, "_record", record)
    for kill_at, workers in (((0, 3), 2), ((1, 1), 0)):  # noqa: B007, read by record
        with pytest.raises(KeyboardInterrupt):
            run_folder(bad_spec, *SKIP, f"train.num_workers={workers}")
    kill_at = None
    part = run_folder(bad_spec, *SKIP)
    assert losses(part) == losses(whole)
    assert part.records("left_out.jsonl") == whole.records("left_out.jsonl")


@pytest.mark.slow
def test_the_budget_stops_the_run_and_a_higher_one_resumes_it(bad_spec):
    with pytest.raises(
        UserError, match=r"step \d: 5 of 18 rows are bad, and .*budget allows 4.*left_out\.jsonl"
    ):
        run_folder(bad_spec, SKIP[0], "train.bad_sample_budget=4")
    listed = (bad_spec.parent / "run" / "left_out.jsonl").read_text().splitlines()
    assert len(listed) == 5
    resumed = run_folder(bad_spec, SKIP[0], "train.bad_sample_budget=0.3")
    whole = run_folder(bad_spec, *SKIP, f"train.output={bad_spec.parent / 'whole'}")
    assert losses(resumed) == losses(whole)


def test_known_faults_beyond_the_budget_stop_it_before_it_starts(bad_spec):
    with pytest.raises(UserError, match=r"stage align: 2 of 18 rows are bad, and .*budget allows 1"):
        run_folder(bad_spec, SKIP[0], "train.bad_sample_budget=1")
    assert not (bad_spec.parent / "run").exists()


@pytest.mark.parametrize("budget", ["-1", "1.0", "-0.1", ".nan", "many"])
def test_a_budget_is_a_count_or_a_share(run_spec, budget):
    with pytest.raises(SpecError, match="bad_sample_budget"):
        load_spec(run_spec(), [f"train.bad_sample_budget={budget}"])


def test_a_failing_storage_is_not_skipped(run_spec, monkeypatch):
    from vlm_core.io import files

    monkeypatch.setattr(files, "RETRY_DELAYS", ())
    read = files._read

    def failing(path, *limit):
        if str(path).endswith(".yaml"):
            return read(path, *limit)
        raise OSError(5, "stumbled")

    monkeypatch.setattr(files, "_read", failing)
    with pytest.raises(UserError, match="the storage fails: stumbled"):
        run_folder(run_spec(held_out_qa=None), *SKIP)


def test_held_out_rows_are_never_skipped(bad_spec, run_spec):
    path = run_spec()
    with pytest.raises(UserError, match=r"held_out_qa: .*\n2 of 18 rows are bad"):
        run_folder(path, *SKIP)
