"""Prepares a run folder: a new one, or that of the same run with the same inputs, which is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vlm_core.errors import UserError
from vlm_core.interfaces import Tokenizer
from vlm_core.io import digests
from vlm_core.io.files import read_text
from vlm_core.io.manifest import read_manifest, verify_folder, write_folder
from vlm_core.io.yaml_loader import parse
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder import assemble
from vlm_core.plugins.hub import runs_own_code
from vlm_core.spec.spec import Spec
from vlm_train.checkpoint import checkpoint, resume
from vlm_train.checkpoint.micro_batch_record import with_sizes
from vlm_train.checkpoint.resume import Difference
from vlm_train.checkpoint.run_dir import (
    CHECKPOINTS,
    EVALS,
    INPUTS,
    MODEL,
    SPEC,
    TOKENIZER,
    VALIDATION,
    RunDir,
)
from vlm_train.checkpoint.run_inputs import Inputs
from vlm_train.config.train import TrainConfig

Say = Callable[[str], None]


def has_trained(run: RunDir) -> bool:
    """Whether the folder holds trained weights: a checkpoint, even a damaged one, or the model."""
    return bool(checkpoint.checkpoints_in(run.path / CHECKPOINTS)) or (run.path / MODEL).exists()


def recorded_inputs(run: RunDir) -> Inputs | None:
    """The inputs of the run in this folder; None if it has no such file and no trained weights.

    If the file is missing or damaged, the copy in the newest undamaged checkpoint is read. Raises `UserError` if there
    are trained weights and no copy.
    """
    try:
        return Inputs.read(run.path / INPUTS)
    except UserError as error:
        if not has_trained(run):
            return None
        for path in reversed(checkpoint.checkpoints_in(run.path / CHECKPOINTS)):
            try:
                checkpoint.verify(path)
                inputs = Inputs.read(path / INPUTS)
            except UserError:
                continue
            run.warn(f"{error}; the copy in {CHECKPOINTS}/{path.name} is used")
            return inputs
        raise UserError(_inputs_lost(run, error)) from None


def _inputs_lost(run: RunDir, error: UserError) -> str:
    return (
        f"{error}; no copy records what the weights in {run.path} were trained from: restore this file, "
        "set train.output to a new folder, or remove this one"
    )


def stored_spec(run: RunDir, old: Inputs | None) -> str | None:
    """The spec of the run in this folder as YAML, from `old` if the file is lost; None for a new folder."""
    try:
        return _spec_file(run, old)
    except UserError as error:
        if not has_trained(run):
            return None
        if not (old and old.spec):
            raise UserError(_inputs_lost(run, error)) from None
        run.warn(f"{error}; the copy in {INPUTS} is used")
        return old.spec


def _spec_file(run: RunDir, old: Inputs | None) -> str:
    """The text of spec.yaml; raises `UserError` if it is missing or damaged."""
    file = run.path / SPEC
    text = read_text(file)
    if not isinstance(parse(text, str(file)).data, dict):
        raise UserError(f"{file}: damaged: no spec")
    if old and old.spec not in ("", text):
        raise UserError(f"{file}: damaged: differs from the copy in {INPUTS}")
    return text


def _has_spec(run: RunDir, old: Inputs | None) -> bool:
    try:
        _spec_file(run, old)
    except UserError:
        return False
    return True


def refuse_other_run(run: RunDir, spec: Spec, now: Inputs) -> list[Difference]:
    """Raise `UserError` if the folder holds another run than the one of `spec` and the inputs `now`.

    Returns the differences of keys that may change when a run is resumed; none for a new folder.
    """
    old = recorded_inputs(run)
    if (text := stored_spec(run, old)) is None:
        return []
    changed = resume.differences(text, spec)
    refused = resume.changes_result(changed, spec, old, now)
    if old and has_trained(run):
        losses, benchmarks = ((run.path / name).exists() for name in (VALIDATION, EVALS))
        refused += resume.measured_differently(old, now, losses, benchmarks)
    elif old:  # no weights were trained from the inputs yet
        inputs = old.data.keys() | now.data.keys() | now.files.keys()
        refused = [each for each in refused if each.key not in inputs]
    resume.refuse(run.path, refused)
    return changed


def claim(run: RunDir, spec: Spec, now: Inputs, say: Say) -> Inputs:
    """Lock the folder and write the run's inputs; raises `UserError` as `RunDir.open` and `refuse_other_run` do.

    Returns the inputs; versions and weights are those with which the run started.
    """
    run.open()
    now = replace(now, run=resume.identity(spec, now))
    changed, old = refuse_other_run(run, spec, now), recorded_inputs(run)
    if changed:
        values = ", ".join(f"{each.key} ({each.old} → {each.new})" for each in changed)
        say(f"resuming with changed values: {values}")
    if old and has_trained(run):
        if warning := digests.version_changes(old.versions, now.versions):
            say(warning)
        now = replace(now, versions=old.versions, weights=old.weights, run=old.run)
    run.write(INPUTS, replace(now, spec=spec.to_yaml()).to_json())
    if changed or not _has_spec(run, old):
        run.write(SPEC, spec.to_yaml())
    return now


def _refuse_identity(run: RunDir, path: Path, other: str) -> None:
    """Raise `UserError` if `other`, the identity of the run that wrote `path`, is not that of this run."""
    old = recorded_inputs(run)
    if old and old.run and other not in ("", old.run):
        raise UserError(f"{path}: of another run, whose spec or data differ from those of {run.path}")


def newest_checkpoint(run: RunDir, train: TrainConfig, say: Say) -> Path | None:
    """`checkpoint.newest` of this run; a checkpoint of another run counts as damaged."""

    def belongs(path: Path) -> None:
        if (path / INPUTS).exists():
            _refuse_identity(run, path, Inputs.read(path / INPUTS).run)

    return checkpoint.newest(run.path / CHECKPOINTS, len(train.stages), say, belongs)


def save_model(run: RunDir, model: VLM, spec: Spec, name: str) -> None:
    """Save the model under this name, unless that exists."""
    if not (run.path / name).exists():
        old = recorded_inputs(run)
        identity = {"run": old.run} if old and old.run else {}
        trained = with_sizes(spec.train, run) if spec.train else None
        assemble.save(model, spec, run.path / name, {"trained": trained, **identity})


def saved_model(run: RunDir, spec: Spec, name: str) -> VLM:
    """Load the model that the run has saved under this name; raises `UserError` if it is damaged or of another run.

    Code in the folder may run if the spec allows code of the repositories that it names.
    """
    path = run.path / name
    try:
        trust = runs_own_code(getattr(spec, part) for part in PARTS)
        _refuse_identity(run, path, str(read_manifest(path).get("run", "")))
        return assemble.load(path, trust_remote_code=trust)[0]
    except UserError as error:
        repeatable = name == MODEL and checkpoint.checkpoints_in(run.path / CHECKPOINTS)
        alternative = (
            ", or remove this folder: the run writes it again from its last checkpoint" if repeatable else ""
        )
        raise UserError(*error.lines, f"restore {path} from a copy{alternative}") from None


def with_saved_tokenizer(run: RunDir, spec: Spec) -> Spec:
    """`spec` with the tokenizer that the run in this folder has trained, if any; `UserError` for a damaged one."""
    folder = run.path / TOKENIZER
    if not (spec.llm.learns_tokenizer() and os.path.lexists(folder)):
        return spec
    try:
        verify_folder(folder, alone=True)
    except UserError as error:
        raise UserError(f"the tokenizer that this run has trained: {error}") from None
    return spec.model_copy(update={"llm": spec.llm.with_tokenizer(folder)})


def save_tokenizer(run: RunDir, spec: Spec, tokenizer: Tokenizer) -> None:
    """Save the tokenizer that was trained for a run into its folder, unless the spec names an existing one.

    After the first checkpoint it is never replaced: the weights belong to its vocabulary.
    """
    if not spec.llm.learns_tokenizer() or (has_trained(run) and (run.path / TOKENIZER).exists()):
        return
    if os.path.lexists(run.path / TOKENIZER):
        run.remove(TOKENIZER)
    write_folder(run.path / TOKENIZER, tokenizer.save, {})


def check_weights(run: RunDir, model: VLM, in_checkpoint: Sequence[str] | None, say: Say) -> None:
    """Compare the initial weights of each part, and the tokenizer, with those recorded when the run started.

    `in_checkpoint` are the parts in the checkpoint; for None the run starts now, and digests are recorded. Raises
    `UserError` for changed weights of a part that the checkpoint lacks, and for a changed tokenizer.
    """
    old = recorded_inputs(run)
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
            f"{', '.join(other)}: the spec's weights have changed since this run started; the run resumes with those "
            "of its checkpoint"
        )
