"""Sessions as files: state, next logits and what was read, for the same model on any device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.pending_images import image_tensors, images_of, saved_image
from vlm_core.generation.read_history import ReadHistory
from vlm_core.interfaces import State
from vlm_core.io import digests
from vlm_core.io.atomic import require_writable_folder
from vlm_core.model import VLM
from vlm_core.states import tensor_file
from vlm_core.states.disk_cache import LOGITS, STATE, state_tensors
from vlm_core.states.manifest import (
    FORMAT,
    VERSION,
    ModelFacts,
    SavedConversation,
    StateManifest,
    parse_manifest,
)
from vlm_core.text.template import AnyTemplate
from vlm_core.views.image_views import ImageInput

KIND = "state file"
T = TypeVar("T")


def save_session(
    session: Session,
    path: str | Path,
    template: AnyTemplate,
    history: ReadHistory | None = None,
    conversation: SavedConversation | None = None,
    images: Sequence[ImageInput] = (),
) -> None:
    """Write a session that has read something to a file, atomically; one that exists is replaced.

    Raises `UserError` if the file can't be written or is no state file, and for a state that can't be saved.
    """
    state, history = session.state, history or ReadHistory()
    assert state is not None, "prefill first"
    check_target(path)
    logits = session.known_logits()
    manifest = StateManifest(
        written_by=f"vlm-core {version('vlm-core')}",
        device=logits.device.type,
        model=ModelFacts.of(session.model, template),
        sequences=len(logits),
        positions=history.positions,
        read=list(history.pieces),
        ends=[sorted(ends) for ends in session.ends],
        conversation=conversation or SavedConversation(),
        images=list(map(saved_image, images)),
    )
    tensors = {**state_tensors(state, logits), **image_tensors(images)}
    tensor_file.write(path, tensors, manifest.model_dump(mode="json"))


def check_target(path: str | Path) -> None:
    """Raise `UserError` for a folder, a file that is no state file, and a path that can't be written.

    What exists is probably not meant. The other is told before an answer is generated, not after it.
    """
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder; name a file")
    if os.path.isfile(path) and os.path.getsize(path):
        try:
            with tensor_file.opened_tensors(path, KIND):
                return
        except UserError:
            raise UserError(f"{path} exists and is no {KIND}; name another file") from None
    require_writable_folder(Path(path).absolute().parent)


def read_manifest(path: str | Path) -> StateManifest:
    """The manifest of a state file, for which no model is needed; raises `UserError` for any other file."""
    with tensor_file.opened_tensors(path, KIND) as file:
        return _manifest(file)


def _manifest(file: tensor_file.TensorFile) -> StateManifest:
    tensor_file.require_format(file.manifest, FORMAT, VERSION, file.path)
    return parse_manifest(file.manifest, file.path)


class LoadedSession(NamedTuple):
    """Content of a state file: a session, what it has read, and a conversation with its images not read yet."""

    session: Session
    history: ReadHistory
    conversation: SavedConversation
    images: list[ImageInput]

    @property
    def sequences(self) -> int:
        """Number of sequences of the session."""
        return len(self.session.ends)


def load_session(
    path: str | Path, model: VLM, template: AnyTemplate, *, convert: bool = False
) -> LoadedSession:
    """The session of `save_session`, on the model's device: bit-equal, unless the model's dtypes are others.

    `convert` allows these, and converts the state. Raises `UserError` for a state of another model, tokenizer,
    template, version or dtype, with what differs, and for a damaged file. Nothing in the file is executed.
    """

    def session_of(tensors: Mapping[str, Tensor], manifest: StateManifest) -> LoadedSession:
        if manifest.stream is not None:
            raise UserError(f"{path}: the state of a stream, not of a session; read it with load_stream")
        return _loaded(tensors, manifest, model, path, convert)

    return load_checked(path, ModelFacts.of(model, template), session_of, convert=convert)


def load_checked(
    path: str | Path,
    now: ModelFacts,
    content_of: Callable[[Mapping[str, Tensor], StateManifest], T],
    *,
    convert: bool,
) -> T:
    """What `content_of` makes of a state file of the model `now`; raises `UserError` as `load_session`.

    It is called with the outline of the tensors first, before memory is allocated.
    """
    with tensor_file.opened_tensors(path, KIND) as file:
        manifest = checked_manifest(file, now, convert=convert)
        content_of(file.outline(), manifest)
        tensors = file.tensors()
    return content_of(tensors, manifest)


def checked_manifest(file: tensor_file.TensorFile, now: ModelFacts, *, convert: bool) -> StateManifest:
    """The manifest of a state of the model `now`; raises `UserError` as `load_session`."""
    manifest = _manifest(file)
    if lines := manifest.model.differences(now, convert=convert):
        raise UserError(
            f"{file.path}: the state of another model or template:", *(f"  {x}" for x in lines), _HINT
        )
    return manifest


_HINT = "  load the model and dtype that it was saved with; other dtypes alone can be converted"


def _loaded(
    tensors: Mapping[str, Tensor], manifest: StateManifest, model: VLM, path: str | Path, convert: bool
) -> LoadedSession:
    """The content of a file's tensors, or of their outline; raises `UserError` for any that don't belong there."""
    parts = StateTensors(tensors, manifest, model, path)
    session = Session(model)
    session.restore(parts.state(convert), parts.logits(), parts.ends())
    # a key of the file's content: it can't claim to be what a cache has under another key
    content = digests.of("file", [(n, t.is_meta or digests.of_tensor(t)) for n, t in sorted(tensors.items())])
    history = ReadHistory(content, manifest.positions, tuple(manifest.read))
    others = {name: t for name, t in tensors.items() if name != LOGITS and not name.startswith(STATE)}
    images = images_of(others, manifest.images, model, path)
    return LoadedSession(session, history, manifest.conversation, images)


class StateTensors:
    """The tensors of a file, checked against its manifest and the model."""

    def __init__(
        self, tensors: Mapping[str, Tensor], manifest: StateManifest, model: VLM, path: str | Path
    ) -> None:
        self.tensors, self.manifest, self.model, self.path = tensors, manifest, model, path

    def damaged(self, what: str) -> UserError:
        """The error that names the file."""
        return UserError(f"{self.path}: damaged: {what}")

    def state(self, convert: bool) -> State:
        """The model's state; `convert` allows other dtypes."""
        names = {n.removeprefix(STATE): t for n, t in self.tensors.items() if n.startswith(STATE)}
        try:
            state = self.model.llm.state_from_tensors(names)
        except UserError as error:
            raise UserError(f"{self.path}: {error.lines[0]}", *error.lines[1:]) from None
        for name, tensor in state.to_tensors().items():
            if tensor.dtype != names[name].dtype and not convert:
                raise self.damaged(f"{name!r} is {names[name].dtype}, and the model's are {tensor.dtype}")
        return state

    def logits(self) -> Tensor:
        """The next logits, on the model's device."""
        logits, known = self.tensors.get(LOGITS), len(self.model.llm.tokenizer)
        expected = (self.manifest.sequences, known)
        if logits is None or tuple(logits.shape) != expected or not logits.is_floating_point():
            raise self.damaged(f"{LOGITS!r} is missing, or no numbers of shape {expected}")
        device = next(self.model.llm.parameters()).device
        return logits if logits.is_meta else logits.to(device)

    def ends(self) -> list[set[int]]:
        """The ids that end each sequence's answer."""
        conversation, known = self.manifest.conversation, len(self.model.llm.tokenizer)
        ids = [*conversation.pending_tokens, *(i for ends in self.manifest.ends for i in ends)]
        if len(self.manifest.ends) != self.manifest.sequences or any(i >= known for i in ids):
            raise self.damaged("its ids are not those of the tokenizer, or not of every sequence")
        return [set(ends) for ends in self.manifest.ends]
