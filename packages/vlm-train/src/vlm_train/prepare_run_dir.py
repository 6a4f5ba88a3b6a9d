"""Prepares a run's folder: a new one, or that of the same run, made from the same inputs, which is then resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

from vlm_core import digests
from vlm_core.errors import UserError
from vlm_core.folder import verify_folder, write_folder
from vlm_core.interfaces import Tokenizer
from vlm_core.model import PARTS, VLM
from vlm_core.spec import Spec
from vlm_train import checkpoint, resume
from vlm_train.resume import Difference
from vlm_train.run_inputs import INPUTS, Inputs
from vlm_train.rundir import CHECKPOINTS, EVALS, MODEL, SPEC, VALIDATION, RunDir

TOKENIZER = "tokenizer"
Say = Callable[[str], None]


def has_trained(run: RunDir) -> bool:
    """Whether the folder holds trained weights: a checkpoint or the model."""
    return bool(checkpoint.complete(run.path / CHECKPOINTS)) or (run.path / MODEL).exists()


def recorded(run: RunDir) -> Inputs | None:
    """The inputs of the run in this folder; None for a run of an earlier version, or without a run."""
    try:
        return Inputs.read(run.path / INPUTS)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run.path / INPUTS}: damaged: {error}; restore it from a copy") from None


def refuse_another(run: RunDir, spec: Spec, now: Inputs) -> list[Difference]:
    """Keys that differ from the run in this folder but may change when it is resumed; none for a new folder.

    Raises `UserError` if the folder holds a different run.
    """
    if not (run.path / SPEC).exists():
        return []
    old, found = recorded(run), resume.differences((run.path / SPEC).read_text(encoding="utf-8"), spec)
    matter = resume.changes_result(found, spec, old, now)
    if old and has_trained(run):
        losses, benchmarks = ((run.path / name).exists() for name in (VALIDATION, EVALS))
        matter += resume.measured_otherwise(old, now, losses, benchmarks)
    elif old:  # nothing was learnt from them yet
        inputs = old.data.keys() | now.data.keys() | now.files.keys()
        matter = [one for one in matter if one.key not in inputs]
    resume.refuse(run.path, matter)
    return found


def claim(run: RunDir, spec: Spec, now: Inputs, say: Say) -> None:
    """Lock the folder and note what the run is made from; raises `UserError` as `RunDir.open` and `refuse_another`."""
    run.open(spec)
    found, old = refuse_another(run, spec, now), recorded(run)
    if changed := [f"{one.key} ({one.old} → {one.new})" for one in found]:
        say(f"resuming with changed values: {', '.join(changed)}")
        run.write(SPEC, spec.to_yaml())
    if old and has_trained(run):
        if told := digests.other_versions(old.versions, now.versions):
            say(told)
        now = replace(now, versions=old.versions, weights=old.weights)
    elif has_trained(run):
        say(
            "this run was started by an earlier version, which recorded no digests: its data are not compared"
        )
    run.write(INPUTS, now.to_json())


def with_kept_tokenizer(run: RunDir, spec: Spec) -> Spec:
    """`spec` with the tokenizer that the run in this folder has trained, if it has.

    Raises `UserError` if that is damaged.
    """
    folder = run.path / TOKENIZER
    if not (spec.llm.learns_tokenizer() and folder.exists()):
        return spec
    try:
        verify_folder(folder)
    except UserError as error:
        raise UserError(f"the tokenizer that this run has trained: {error}") from None
    return spec.model_copy(update={"llm": spec.llm.with_tokenizer(folder)})


def keep_tokenizer(run: RunDir, spec: Spec, tokenizer: Tokenizer) -> None:
    """Keep the tokenizer that was trained for a run in its folder; nothing if the spec names an existing one.

    From the first checkpoint on it is never trained again, so that the weights keep their vocabulary.
    """
    if not spec.llm.learns_tokenizer() or (has_trained(run) and (run.path / TOKENIZER).exists()):
        return
    shutil.rmtree(run.path / TOKENIZER, ignore_errors=True)
    write_folder(run.path / TOKENIZER, tokenizer.save, {})


def check_weights(run: RunDir, model: VLM, in_checkpoint: Sequence[str] | None, say: Say) -> None:
    """Compare the initial weights of each part, and the tokenizer, with those recorded when the run started.

    A run without a checkpoint (None) starts now, and they are recorded. Raises `UserError` for other weights of a part
    that the checkpoint doesn't hold, and for another tokenizer.
    """
    old = recorded(run)
    assert old
    now = {part: digests.of_weights(getattr(model, part)) for part in PARTS}
    now["tokenizer"] = digests.of_tokenizer(model.llm.tokenizer)
    if in_checkpoint is None or not old.weights:
        run.write(INPUTS, replace(old, weights=now).to_json())
        return
    other = [name for name in now if old.weights.get(name) != now[name]]
    if wrong := [name for name in other if name not in in_checkpoint]:
        raise UserError(
            f"{run.path}: changed since this run started, and not in its checkpoints: {', '.join(wrong)}. "
            "Use the same files, revision and package versions, or set train.output to a new folder"
        )
    if other:
        say(
            f"{', '.join(other)}: the spec's weights have changed since this run started; the run goes on with those "
            "of its checkpoint"
        )
