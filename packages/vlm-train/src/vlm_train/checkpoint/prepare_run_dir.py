"""Prepares a run's folder: a new one, or that of the same run, made from the same inputs, which is then resumed."""

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
    """Whether the folder holds trained weights: a checkpoint, whole or damaged, or the model."""
    return bool(checkpoint.found(run.path / CHECKPOINTS)) or (run.path / MODEL).exists()


def recorded(run: RunDir) -> Inputs | None:
    """The inputs of the run in this folder; None if there is none, or none that was trained from them.

    If the file is missing or damaged, those of the newest whole checkpoint. Raises `UserError` if there are trained
    weights and nothing tells from what.
    """
    try:
        return Inputs.read(run.path / INPUTS)
    except UserError as error:
        if not has_trained(run):
            return None
        for path in reversed(checkpoint.found(run.path / CHECKPOINTS)):
            try:
                checkpoint.verify(path)
                inputs = Inputs.read(path / INPUTS)
            except UserError:
                continue
            run.warn(f"{error}; the copy in {CHECKPOINTS}/{path.name} is taken")
            return inputs
        raise UserError(_lost(run, error)) from None


def _lost(run: RunDir, error: UserError) -> str:
    return (
        f"{error}; nothing else tells what the weights in {run.path} were trained from: restore this file from a copy, "
        "set train.output to a new folder, or remove this one"
    )


def stored_spec(run: RunDir, old: Inputs | None) -> str | None:
    """The spec of the run in this folder as YAML; None for a new folder. If the file is lost, that of its inputs."""
    try:
        return _spec_file(run, old)
    except UserError as error:
        if not has_trained(run):
            return None
        if not (old and old.spec):
            raise UserError(_lost(run, error)) from None
        run.warn(f"{error}; the copy in {INPUTS} is taken")
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


def refuse_another(run: RunDir, spec: Spec, now: Inputs) -> list[Difference]:
    """Keys that differ from the run in this folder but may change when it is resumed; none for a new folder.

    Raises `UserError` if the folder holds a different run.
    """
    old = recorded(run)
    if (text := stored_spec(run, old)) is None:
        return []
    found = resume.differences(text, spec)
    matter = resume.changes_result(found, spec, old, now)
    if old and has_trained(run):
        losses, benchmarks = ((run.path / name).exists() for name in (VALIDATION, EVALS))
        matter += resume.measured_otherwise(old, now, losses, benchmarks)
    elif old:  # nothing was learnt from them yet
        inputs = old.data.keys() | now.data.keys() | now.files.keys()
        matter = [one for one in matter if one.key not in inputs]
    resume.refuse(run.path, matter)
    return found


def claim(run: RunDir, spec: Spec, now: Inputs, say: Say) -> Inputs:
    """Lock the folder and note what the run is made from; raises `UserError` as `RunDir.open` and `refuse_another`."""
    run.open()
    now = replace(now, run=resume.identity(spec, now))
    found, old = refuse_another(run, spec, now), recorded(run)
    if changed := [f"{one.key} ({one.old} → {one.new})" for one in found]:
        say(f"resuming with changed values: {', '.join(changed)}")
    if old and has_trained(run):
        if told := digests.version_changes(old.versions, now.versions):
            say(told)
        now = replace(now, versions=old.versions, weights=old.weights, run=old.run)
    run.write(INPUTS, replace(now, spec=spec.to_yaml()).to_json())
    if found or not _has_spec(run, old):
        run.write(SPEC, spec.to_yaml())
    return now


def _refuse_another(run: RunDir, path: Path, other: str) -> None:
    """Raise `UserError` if what is at `path` was trained by a run of the identity `other`, not by this one."""
    old = recorded(run)
    if old and old.run and other not in ("", old.run):
        raise UserError(f"{path}: of another run, whose spec or data differ from those of {run.path}")


def newest_checkpoint(run: RunDir, train: TrainConfig, say: Say) -> Path | None:
    """`checkpoint.newest` of this run; one of another run is treated like a damaged one."""

    def belongs(path: Path) -> None:
        if (path / INPUTS).exists():
            _refuse_another(run, path, Inputs.read(path / INPUTS).run)

    return checkpoint.newest(run.path / CHECKPOINTS, len(train.stages), say, belongs)


def save_model(run: RunDir, model: VLM, spec: Spec, name: str) -> None:
    """Save the model under this name, unless it is there."""
    if not (run.path / name).exists():
        old = recorded(run)
        own = {"run": old.run} if old and old.run else {}
        assemble.save(model, spec, run.path / name, {"trained": spec.train, **own})


def saved_model(run: RunDir, spec: Spec, name: str) -> VLM:
    """The model that the run has saved under this name; raises `UserError` if it is damaged or of another run.

    Its code is that of the repositories that the spec names.
    """
    path = run.path / name
    try:
        trust = runs_own_code(getattr(spec, part) for part in PARTS)
        _refuse_another(run, path, str(read_manifest(path).get("run", "")))
        return assemble.load(path, trust_remote_code=trust)[0]
    except UserError as error:
        again = name == MODEL and checkpoint.found(run.path / CHECKPOINTS)
        way = ", or remove this folder: the run writes it again from its last checkpoint" if again else ""
        raise UserError(*error.lines, f"restore {path} from a copy{way}") from None


def with_kept_tokenizer(run: RunDir, spec: Spec) -> Spec:
    """`spec` with the tokenizer that the run in this folder has trained, if it has.

    Raises `UserError` if that is damaged.
    """
    folder = run.path / TOKENIZER
    if not (spec.llm.learns_tokenizer() and os.path.lexists(folder)):
        return spec
    try:
        verify_folder(folder, alone=True)
    except UserError as error:
        raise UserError(f"the tokenizer that this run has trained: {error}") from None
    return spec.model_copy(update={"llm": spec.llm.with_tokenizer(folder)})


def keep_tokenizer(run: RunDir, spec: Spec, tokenizer: Tokenizer) -> None:
    """Keep the tokenizer that was trained for a run in its folder; nothing if the spec names an existing one.

    From the first checkpoint on it is never trained again, so that the weights keep their vocabulary.
    """
    if not spec.llm.learns_tokenizer() or (has_trained(run) and (run.path / TOKENIZER).exists()):
        return
    if os.path.lexists(run.path / TOKENIZER):
        run.remove(TOKENIZER)
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
