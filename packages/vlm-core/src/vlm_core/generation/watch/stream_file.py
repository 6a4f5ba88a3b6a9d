"""The state of a stream and its kept states as a file: watching continues later, or in another process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.session_file import KIND, StateTensors, check_target, checked_manifest
from vlm_core.generation.watch.kept_states import KEEP, Keep
from vlm_core.generation.watch.watcher import Frame, KeptMoment, ReadFrames, Watcher
from vlm_core.io.frames.times import clock
from vlm_core.markup.printable import printable
from vlm_core.model import VLM
from vlm_core.states import tensor_file
from vlm_core.states.disk_cache import STATE
from vlm_core.states.manifest import ModelFacts, ReadPiece, SavedMoment, SavedStream, StateManifest
from vlm_core.text.template import AnyTemplate


def _prefix(number: int) -> str:
    """What the names of a kept state's tensors begin with."""
    return f"kept.{number}."


def save_stream(watcher: Watcher, path: str | Path) -> None:
    """Write the state after the last frame and the kept states to a file, atomically; one that exists is replaced.

    The watcher must `record` its frames. Raises `UserError` before the first frame, if the file can't be written or is
    no state file, and for a state that can't be saved.
    """
    if not watcher.frames:
        raise UserError("nothing to save: no frame has been read")
    read, state, model = watcher.read, watcher.session.state, watcher.session.model
    assert read is not None, "watch with record=True"
    assert state is not None
    check_target(path)
    tensors = {STATE + name: tensor for name, tensor in state.to_tensors().items()}
    kept = []
    for number, fork in enumerate(watcher.kept.forks):
        assert fork.state is not None
        assert fork.time is not None
        kept.append(SavedMoment(frames=fork.frames, time=fork.time))
        tensors |= {_prefix(number) + name: tensor for name, tensor in fork.state.to_tensors().items()}
    manifest = StateManifest(
        written_by=f"vlm-core {version('vlm-core')}",
        device=next(model.llm.parameters()).device.type,
        model=ModelFacts.of(model, watcher.template),
        sequences=1,
        positions=read.positions,
        read=[ReadPiece(kind="frames", start=0, tokens=read.positions, sha256=read.sha256)],
        stream=SavedStream(frames=read.frames, time=read.time, as_video=watcher.as_video, kept=kept),
    )
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

    `frames` follow those, with times that go on from theirs. Kept states of the file that are beyond the limits of
    `keep` are not read into memory. `convert` and errors are those of `load_session`.
    """
    with tensor_file.opened_tensors(path, KIND) as file:
        manifest = checked_manifest(file, ModelFacts.of(model, template), convert=convert)
        saved = _SavedTensors(manifest, model, path, convert)

        def watcher_of(tensors: Mapping[str, Tensor], kept: Collection[int]) -> Watcher:
            return Watcher(
                saved.session(tensors),
                frames,
                template,
                keep=keep,
                max_frames=max_frames,
                as_video=saved.stream.as_video,
                read=saved.read,
                kept=saved.kept(tensors, kept),
            )

        outline = file.outline()
        saved.refuse_others(outline)
        outlined = watcher_of(
            outline, saved.all_kept
        )  # drops those beyond the limits before memory is allocated
        kept = {fork.frames for fork in outlined.kept.forks} & saved.all_kept
        wanted = saved.prefixes(kept)
        return watcher_of(file.tensors(lambda name: name.startswith(wanted)), kept)


class _SavedTensors:
    """The sessions of a stream's file; `UserError` for a manifest that is not of a stream, or contradicts itself."""

    def __init__(self, manifest: StateManifest, model: VLM, path: str | Path, convert: bool) -> None:
        self._manifest, self._model, self._path, self._convert = manifest, model, path, convert
        if manifest.stream is None:
            raise UserError(f"{path}: the state of a conversation or session, not of a stream")
        self.stream = manifest.stream
        self._check()
        sha256 = manifest.read[0].sha256
        self.all_kept = {moment.frames for moment in self.stream.kept}
        self.read = ReadFrames(self.stream.frames, self.stream.time, manifest.positions, sha256)

    def _check(self) -> None:
        manifest, stream = self._manifest, self.stream
        if manifest.sequences != 1 or [piece.kind for piece in manifest.read] != ["frames"]:
            raise self._damaged("a stream has one sequence, and has read frames alone")
        talk = manifest.conversation
        if manifest.ends or manifest.images or talk.messages or talk.pending_tokens:
            raise self._damaged("a stream has no messages, no images and no ids that end an answer")
        for before, after in pairwise([*stream.kept, stream]):
            last = after is stream  # the last frame's state may be kept, too
            if before.frames >= after.frames + last or before.time > after.time:
                raise self._damaged("its kept states are not in the order of their frames and times")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self._path}: damaged: {what}")

    def refuse_others(self, names: Iterable[str]) -> None:
        """Raise `UserError` for a tensor that is of no state of the stream."""
        known = self.prefixes(self.all_kept)
        for name in names:
            if not name.startswith(known):
                raise self._damaged(f"unexpected tensor {printable(name, 80)!r}")

    def prefixes(self, frames: Collection[int]) -> tuple[str, ...]:
        """How the names begin of the last state's tensors, and of those kept after so many frames."""
        kept = (_prefix(i) for i, moment in enumerate(self.stream.kept) if moment.frames in frames)
        return STATE, *kept

    def session(self, tensors: Mapping[str, Tensor]) -> Session:
        """The session after the last frame, on the meta device where the tensors are."""
        return self._session(tensors, STATE, self._path)

    def kept(self, tensors: Mapping[str, Tensor], frames: Collection[int]) -> Iterator[KeptMoment]:
        """Those kept after so many `frames`, in order of time."""
        for number, moment in enumerate(self.stream.kept):
            if moment.frames in frames:
                where = f"{self._path}: kept state at {clock(moment.time)}"
                session = self._session(tensors, _prefix(number), where)
                yield KeptMoment(session, moment.frames, moment.time)

    def _session(self, tensors: Mapping[str, Tensor], prefix: str, where: str | Path) -> Session:
        own = {STATE + n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        session = Session(self._model)
        session.restore(StateTensors(own, self._manifest, self._model, where).state(self._convert))
        return session
