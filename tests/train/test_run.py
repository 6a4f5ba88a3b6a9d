"""Whole runs: what they leave, that resuming equals never having stopped, and what is refused."""

import json
import re
import shutil

import pytest
import torch
from resume_helpers import Killed, drop_out, go, losses, weights

from vlm_connectors.connectors import VSSL2
from vlm_core.errors import SpecError, UserError
from vlm_core.io.manifest import verify_folder
from vlm_core.spec.spec import load_spec
from vlm_train.engine import trainer


def test_a_run_leaves_everything(run_spec):
    folder, table = go(run_spec())
    for name in (
        "spec.yaml",
        "metrics.jsonl",
        "results.md",
        "curves.png",
        "samples.png",
        "model/manifest.json",
    ):
        assert (folder.path / name).stat().st_size > 0, name
    assert [name for name, _ in table] == [
        "after align",
        "after instruct",
        "images shuffled",
        "majority answer",
    ]
    assert [r["questions"] for _, r in table] == [9, 18, 12, 18]
    assert table[2][1]["left_out"] == {"no image": 6}
    assert "- images shuffled: 6 rows are left out: no image" in (folder.path / "results.md").read_text()
    assert (folder.path / "results.md").read_text().startswith("| | questions | all | picture | text |")
    assert [(m["stage"], m["step"]) for m in folder.metrics()] == [
        (s, i) for s in (0, 1) for i in range(1, 7)
    ]
    assert {"loss", "grad_norm", "lr", "tokens_per_second"} <= set(folder.metrics()[0])
    verify_folder(folder.path / "model")
    assert len(list((folder.path / "checkpoints").iterdir())) == 2


def test_only_the_named_parts_change(run_spec, tiny_spec):
    from vlm_core.model_folder.assemble import build
    from vlm_core.spec.spec import Spec

    fresh = build(Spec.model_validate(tiny_spec)).state_dict()
    folder, _ = go(run_spec())
    after = weights(folder)
    frozen = [k for k in fresh if k.startswith("encoder") and "tokenizer" not in k]
    assert frozen
    assert all(torch.equal(fresh[k], after[k]) for k in frozen)
    assert not torch.equal(fresh["connector.project.weight"], after["connector.project.weight"])
    name = "llm.backbone.layers.0.mixer.in_proj.weight"
    assert not torch.equal(fresh[name], after[name])


@pytest.mark.parametrize(
    "kill_at", [pytest.param(1, marks=pytest.mark.slow), 5, 6, pytest.param(9, marks=pytest.mark.slow)]
)
def test_resumed_equals_uninterrupted(run_spec, monkeypatch, kill_at):
    """Killed after any step of either stage and started again: bit-equal weights, the same losses."""
    monkeypatch.setattr(VSSL2, "forward", drop_out)
    whole, _ = go(run_spec("whole"))
    step, count = trainer.StageTrainer._record, 0

    def record(self, *args):
        nonlocal count
        step(self, *args)
        count += 1
        if count == kill_at:
            raise Killed

    monkeypatch.setattr(trainer.StageTrainer, "_record", record)
    with pytest.raises(Killed):
        go(run_spec("part"))
    monkeypatch.setattr(trainer.StageTrainer, "_record", step)
    part, table = go(run_spec("part"))
    assert losses(part) == losses(whole)
    assert len(table) == 4
    found, wanted = weights(part), weights(whole)
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_finished_runs_are_shown_again_and_not_trained_again(run_spec, monkeypatch):
    path = run_spec()
    _, table = go(path)
    monkeypatch.setattr(trainer.StageTrainer, "fit", lambda *a: pytest.fail("trained again"))
    assert go(path)[1] == table


@pytest.mark.slow
def test_workers_change_nothing(run_spec):
    alone, _ = go(run_spec("alone"))
    helped, _ = go(run_spec("helped", num_workers=2))
    assert losses(alone) == losses(helped)


@pytest.mark.slow
def test_micro_batches_change_nothing(run_spec):
    """The loss weighs tokens, not micro-batches, so how a batch is cut only moves rounding."""
    cut, _ = go(run_spec("cut"))
    whole, _ = go(run_spec("whole"), "train.stages.0.micro_batch_size=6", "train.stages.1.micro_batch_size=6")
    for (_, _, a), (_, _, b) in zip(losses(cut), losses(whole), strict=True):
        assert a == pytest.approx(b, rel=2e-4)


def test_bf16_runs_and_keeps_fp32_weights(run_spec):
    folder, _ = go(run_spec(precision="bf16"))
    assert all(w.dtype == torch.float32 for k, w in weights(folder).items() if k.startswith("llm"))
    assert losses(folder)[-1][2] < losses(folder)[0][2] * 1.5


def test_what_the_strategy_can_not_do_is_refused(run_spec):
    """Before anything is built: a strategy for several processes in one, and whole moments among shards."""
    with pytest.raises(UserError, match=r"train\.strategy: fsdp2 needs several processes.*--nproc N"):
        go(run_spec(), "train.strategy=fsdp2")
    with pytest.raises(SpecError, match=r"stage align: adamw-8bit can't be sharded"):
        go(run_spec(), "train.strategy=fsdp2", "train.stages.0.optimizer=adamw-8bit")


def test_another_spec_in_the_same_folder_is_refused(run_spec):
    path = run_spec()
    go(path)
    with pytest.raises(UserError, match=r"holds a different run; its spec differs in train\.seed"):
        go(path, "train.seed=3")


def test_a_folder_with_other_files_is_refused(run_spec, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        go(run_spec())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_two_processes_in_one_folder_are_refused(run_spec):
    spec, _ = load_spec(run_spec())
    from vlm_train.checkpoint.run_dir import RunDir

    first = RunDir(spec.train["output"])
    first.open()
    with pytest.raises(UserError, match="another process is running"):
        RunDir(spec.train["output"]).open()


def interrupted(run_spec, monkeypatch):
    """A run stopped in its second stage; returns its newest checkpoint."""

    def stop(self, *args):
        if self.number == 1:
            raise Killed
        return fit(self, *args)

    fit = trainer.StageTrainer.fit
    monkeypatch.setattr(trainer.StageTrainer, "fit", stop)
    path = run_spec()
    with pytest.raises(Killed):
        go(path)
    monkeypatch.setattr(trainer.StageTrainer, "fit", fit)
    return path, max((path.parent / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("name", ["optimizer.safetensors", "position.json"])
def test_a_flipped_byte_is_found_and_the_checkpoint_before_used(run_spec, monkeypatch, capsys, name):
    whole, _ = go(run_spec("whole"))
    path, newest = interrupted(run_spec, monkeypatch)
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / name).write_bytes(data)
    capsys.readouterr()
    folder, _ = go(path)
    assert re.search(
        rf"{name}: its sha256 differs.*\nkept as damaged-00-align-00000006; ", capsys.readouterr().out
    )
    assert (newest.parent / f"damaged-{newest.name}").is_dir()
    assert losses(folder) == losses(whole)
    assert all(torch.equal(a, weights(folder)[k]) for k, a in weights(whole).items())


def test_a_half_written_checkpoint_is_ignored(run_spec, monkeypatch):
    path, newest = interrupted(run_spec, monkeypatch)
    shutil.copytree(newest, newest.with_name(".00-align-00000009.tmp"))
    (newest.with_name("00-align-00000009")).mkdir()
    folder, _ = go(path)
    assert [(line["stage"], line["step"]) for line in folder.metrics()] == [
        (stage, step) for stage in (0, 1) for step in range(1, 7)
    ]


def test_an_unreadable_image_ends_the_run_by_name(run_spec):
    path = run_spec(held_out_qa=None)
    (path.parent / "red.png").write_text("not an image")
    with pytest.raises(UserError, match=r"stage align: row \d+: .*red\.png: not an image"):
        go(path)
    assert not (path.parent / "run" / "model").exists()


def test_an_unreadable_image_of_the_evaluation_is_found_before_the_first_step(run_spec):
    path = run_spec(on_bad_sample="skip", bad_sample_budget=18)
    (path.parent / "red.png").write_text("not an image")
    with pytest.raises(UserError, match=r"held_out_qa: row \d+: .*red\.png: not an image .*; fix or remove"):
        go(path)
    assert not (path.parent / "run" / "metrics.jsonl").exists()


def test_missing_data_is_found_before_anything_is_written(run_spec):
    path = run_spec()
    (path.parent / "red.png").unlink()
    with pytest.raises(UserError, match="image is missing"):
        go(path)
    assert not (path.parent / "run").exists()


def test_rows_that_do_not_fit_are_dropped_and_counted_or_refused(run_spec, capsys):
    long = run_spec("long", max_length=12)
    folder, _ = go(long)
    assert re.search(r"left out: too-long \d+ rows; see .*left_out.jsonl", capsys.readouterr().out)
    assert all(m["targets"] >= 0 for m in folder.metrics())
    with pytest.raises(UserError, match=r"at most 12: .* raise train.max_length"):
        go(run_spec("strict", max_length=12, on_too_long="error"))


def test_a_loss_that_is_not_finite_never_reaches_the_weights(run_spec, monkeypatch):
    from vlm_train.loss import SummedLoss

    forward = SummedLoss.forward
    monkeypatch.setattr(SummedLoss, "forward", lambda self, batch: forward(self, batch) * float("nan"))
    with pytest.raises(UserError, match="loss nan with gradient norm nan; this step changed nothing"):
        go(run_spec())


def test_a_spec_without_train_is_refused(tmp_path, tiny_spec):
    import yaml

    (tmp_path / "s.yaml").write_text(yaml.safe_dump(tiny_spec))
    with pytest.raises(UserError, match="has no train section"):
        go(tmp_path / "s.yaml")


def test_stage_mistakes_have_lines(run_spec):
    with pytest.raises(SpecError, match=r"two stages are named 'instruct'"):
        go(run_spec(), "train.stages.0.name=instruct")


def test_evaluations_hold_every_answer(run_spec):
    folder, _ = go(run_spec())
    stored = json.loads((folder.path / "evaluations" / "after instruct.json").read_text())
    assert len(stored["answers"]) == 18
    right = [a["said"].casefold() == a["truth"] for a in stored["answers"]]
    assert stored["accuracy"]["all"] == pytest.approx(100 * sum(right) / 18)
