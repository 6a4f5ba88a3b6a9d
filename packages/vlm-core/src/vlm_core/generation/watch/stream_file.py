"""The state of a stream as a file: watching continues later, or in another process, with the frames that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.session_file import StateTensors, check_target, load_checked
from vlm_core.generation.watch.kept_states import KEEP, Keep
from vlm_core.generation.watch.watcher import Frame, ReadFrames, Watcher
from vlm_core.markup.printable import printable
from vlm_core.model import VLM
from vlm_core.states import tensor_file
from vlm_core.states.disk_cache import STATE
from vlm_core.states.manifest import ModelFacts, ReadPiece, SavedStream, StateManifest
from vlm_core.text.template import AnyTemplate


def save_stream(watcher: Watcher, path: str | Path) -> None:
    """Write the state after the last frame to a file, atomically; a state file that exists is replaced.

    States that are kept for earlier times are not in it. The watcher must `record` its frames. Raises `UserError`
    before the first frame, if the file can't be written or is no state file, and for a state that can't be saved.
    """
    if not watcher.frames:
        raise UserError("nothing to save: no frame has been read")
    read, state, model = watcher.read, watcher.session.state, watcher.session.model
    assert read is not None, "watch with record=True"
    assert state is not None
    check_target(path)
    manifest = StateManifest(
        written_by=f"vlm-core {version('vlm-core')}",
        device=next(model.llm.parameters()).device.type,
        model=ModelFacts.of(model, watcher.template),
        sequences=1,
        positions=read.positions,
        read=[ReadPiece(kind="frames", start=0, tokens=read.positions, sha256=read.sha256)],
        stream=SavedStream(frames=read.frames, time=read.time, as_video=watcher.as_video),
    )
    tensors = {STATE + name: tensor for name, tensor in state.to_tensors().items()}
    tensor_file.write(path, tensors, manifest.model_dump(mode="json"))


def load_stream(
    path: str | Path,
    model: VLM,
    template: AnyTemplate,
    frames: Iterable[Frame] = (),
    *,
    keep: Keep | None = KEEP,
    max_frames: int | None = None,
    convert: bool = False,
) -> Watcher:
    """A watcher that continues after the frames of a file of `save_stream`, with the same bits as one that goes on.

    `frames` follow those, with times that go on from theirs. `convert` and errors are those of `load_session`.
    """

    def watcher_of(tensors: Mapping[str, Tensor], manifest: StateManifest) -> Watcher | None:
        read = _read(manifest, path)
        if others := [name for name in tensors if not name.startswith(STATE)]:
            raise UserError(f"{path}: damaged: unexpected tensor {printable(others[0], 80)!r}")
        session = Session(model)
        session.restore(StateTensors(tensors, manifest, model, path).state(convert))
        if any(tensor.is_meta for tensor in tensors.values()):
            return None
        assert manifest.stream is not None
        as_video = manifest.stream.as_video
        return Watcher(
            session, frames, template, keep=keep, max_frames=max_frames, as_video=as_video, read=read
        )

    watcher = load_checked(path, ModelFacts.of(model, template), watcher_of, convert=convert)
    assert watcher is not None
    return watcher


def _read(manifest: StateManifest, path: str | Path) -> ReadFrames:
    """What a manifest says of the frames; raises `UserError` for one that is not of a stream, or contradicts itself."""
    stream = manifest.stream
    if stream is None:
        raise UserError(f"{path}: the state of a conversation or session, not of a stream")
    if manifest.sequences != 1 or [piece.kind for piece in manifest.read] != ["frames"]:
        raise UserError(f"{path}: damaged: a stream has one sequence, and has read frames alone")
    if (
        manifest.ends
        or manifest.images
        or manifest.conversation.messages
        or manifest.conversation.pending_tokens
    ):
        raise UserError(f"{path}: damaged: a stream has no messages, no images and no ids that end an answer")
    return ReadFrames(stream.frames, stream.time, manifest.positions, manifest.read[0].sha256)
