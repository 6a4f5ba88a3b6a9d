"""Prompts read in pieces, each from the longest state that a cache has of what came before.

A prompt is cut after what the template writes before every question (the system prompt), after each image, before and
after each answer that it quotes, and at its end. It is cut there with and without a cache: a state that was cached is,
bit by bit, the one that would be computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from itertools import pairwise, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.prompts import answer_ends, refuse_empty
from vlm_core.generation.read_history import ReadHistory
from vlm_core.io import digests
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.model_digest import content_digests, dtypes
from vlm_core.numerics.cuda_graphs import settings
from vlm_core.runtime.cpu_name import cpu_name
from vlm_core.states.cache import CachedState, StateCache
from vlm_core.states.disk_cache import LOGITS, STATE
from vlm_core.text.render import Message, TokenizedConversation, has_question, render
from vlm_core.text.template import AnyTemplate
from vlm_core.views.image_views import ImageInput

LEAST_PREFIX = 16
"""Positions below which a system prompt is no piece of its own: a pass over all weights would take longer."""
_LIBRARIES = ("torch", "numba", "triton", "transformers", "vlm-core", "vlm-ssm")


class ReadPlan(NamedTuple):
    """The pieces that a prompt is read in, each with the image at its end, and the histories before and after each."""

    pieces: list[tuple[TokenizedConversation, ImageInput | None]]
    histories: list[ReadHistory]
    end: int | None

    @property
    def positions(self) -> int:
        """Positions of the prompt."""
        return self.histories[-1].positions - self.histories[0].positions


class PrefixReader:
    """Reads prompts into sessions of one sequence; `cache` is None, or shared with other readers and models.

    The model's weights must not change while a reader is used.
    """

    def __init__(self, model: VLM, template: AnyTemplate, cache: StateCache | None = None) -> None:
        self.model, self.template, self.cache = model, template, cache
        self._system = lru_cache(maxsize=64)(lambda text: system_prefix(template, model, text))

    @cached_property
    def _computation(self) -> str:
        return digests.of(computation(self.model))

    def prepare(self) -> None:
        """Compute what every key of the cache needs, which takes a second or more at the first prompt otherwise."""
        if self.cache is not None:
            _ = self._computation

    def read(
        self,
        session: Session,
        prompt: TokenizedConversation,
        images: Sequence[ImageInput] = (),
        history: ReadHistory | None = None,
    ) -> ReadHistory:
        """As `session.prefill([prompt], images)`, in pieces -> what was read; `history` is what was read before.

        After an error the session is as before.
        """
        plan, before = self.plan(prompt, images, history), session.fork()
        try:
            for _ in self.steps(session, plan):
                pass
        except BaseException:
            session.resume(before)
            raise
        return plan.histories[-1]

    def plan(
        self,
        prompt: TokenizedConversation,
        images: Sequence[ImageInput] = (),
        history: ReadHistory | None = None,
        system: str | None = None,
    ) -> ReadPlan:
        """How a prompt is read; `system` is its own system prompt, if it has one. Nothing is computed."""
        refuse_empty([prompt])
        history = history or ReadHistory()
        pieces = self._pieces(prompt, images, history, system)
        histories = [history]
        for piece, image in pieces:
            histories.append(histories[-1].then(piece, image))
        return ReadPlan(pieces, histories, prompt.end)

    def steps(self, session: Session, plan: ReadPlan, owner: str = "") -> Iterator[int]:
        """Read a plan step by step: yields first the positions that were cached, then those read so far.

        States are found and kept for one `owner`. An error leaves the session after the last complete piece.
        """
        first, start = plan.histories[0], plan.histories[0].positions
        assert (session.state is None) == (first == ReadHistory()), "the history is not that of the session"
        done = self._restore(session, plan, owner)
        yield plan.histories[done].positions - start
        for (piece, image), before, after in list(
            zip(plan.pieces, plan.histories, plan.histories[1:], strict=False)
        )[done:]:
            for read in session.prefill_parts([piece], [] if image is None else [image]):
                if read == len(piece):
                    self._keep(session, after, owner)
                yield before.positions - start + read

    def _pieces(
        self,
        prompt: TokenizedConversation,
        images: Sequence[ImageInput],
        history: ReadHistory,
        system: str | None,
    ) -> list[tuple[TokenizedConversation, ImageInput | None]]:
        """The pieces of a prompt in order, each with the image at its end."""
        counts = [self.model.image_tokens(image) for image in images]
        ends = _image_ends(prompt, counts)
        of_end = dict(zip(ends, images, strict=True))
        beginning = 0 if history.positions else self._system_end(prompt, system)
        cuts = sorted({0, beginning, *ends, *_answer_edges(prompt), len(prompt)})
        return [(prompt.part(start, end), of_end.get(end)) for start, end in pairwise(cuts)]

    def _system_end(self, prompt: TokenizedConversation, system: str | None) -> int:
        """Length of the prompt's beginning that is the same for all questions; 0 if it is short or has an image."""
        same = zip(self._system(system), prompt.input_ids, prompt.image_mask, strict=False)
        count = sum(1 for _ in takewhile(lambda x: x[0] == x[1] and not x[2], same))
        return count if LEAST_PREFIX <= count < len(prompt) else 0

    def _restore(self, session: Session, plan: ReadPlan, owner: str) -> int:
        """Continue the session from the longest cached state -> the number of pieces that it has read."""
        if self.cache is None:
            return 0
        histories, end = plan.histories, plan.end
        start, last = histories[0].positions, histories[-1].positions
        keys = [self._key(session, history, owner) for history in histories[1:]]
        entry = self.cache.longest(keys, self._load, owner)
        reused = 0 if entry is None else histories[entry[0] + 1].positions - start
        self.cache.count(hit=entry is not None, reused=reused, read=last - start - reused)
        if entry is None:
            return 0
        index, (state, next_logits) = entry
        session.restore(state, next_logits, [answer_ends(self.model.llm.tokenizer.eos_id, end)])
        return index + 1

    def _keep(self, session: Session, history: ReadHistory, owner: str) -> None:
        if self.cache is not None and session.state is not None:
            entry = CachedState(session.state, session.known_logits())
            self.cache.put(self._key(session, history, owner), entry, owner)

    def _load(self, tensors: Mapping[str, Tensor]) -> CachedState:
        """From the tensors of a file; raises `UserError` if they are no state of this model."""
        names = {name.removeprefix(STATE): t for name, t in tensors.items() if name.startswith(STATE)}
        state, logits = self.model.llm.state_from_tensors(names), tensors.get(LOGITS)
        if logits is None or logits.shape != (1, len(self.model.llm.tokenizer)):
            raise UserError(f"{LOGITS!r} is missing, or not of the tokenizer's size")
        return CachedState(state, logits.to(next(self.model.llm.parameters()).device))

    def _key(self, session: Session, history: ReadHistory, owner: str) -> str:
        others: list[object] = [owner] if owner else []
        if session.image_chunk is not None:
            others.append({"image_chunk": session.image_chunk})
        return digests.of(self._computation, session.prefill_chunk, history.key, *others)


def _answer_edges(prompt: TokenizedConversation) -> list[int]:
    """Where the answers that a prompt quotes begin and end: where the prompts of these answers ended."""
    mask = prompt.loss_mask
    return [i for i in range(1, len(mask)) if mask[i] != mask[i - 1]]


def _image_ends(prompt: TokenizedConversation, counts: Sequence[int]) -> list[int]:
    """The position after each image of a prompt, whose images have `counts` positions."""
    places = [i for i, is_image in enumerate(prompt.image_mask) if is_image]
    assert len(places) == sum(counts), "images and image positions of a prompt"
    ends, read = [], 0
    for count in counts:
        read += count
        ends.append(places[read - 1] + 1)
    return ends


def system_prefix(template: AnyTemplate, model: VLM, system: str | None = None) -> list[int]:
    """The ids that a prompt begins with whatever is asked; none if the template leaves out questions.

    `system` replaces the template's system prompt.
    """
    if not has_question(template):
        return []
    one, other = (
        render(template, [Message("user", (text,))], model.llm.tokenizer, system=system).input_ids
        for text in ("a", "b")
    )
    return [i for i, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def computation(model: VLM) -> list[object]:
    """What decides the bits of a state besides what was read: weights, dtypes, the device, threads, and the code."""
    device = next(model.llm.parameters()).device
    if device.type == "cuda":
        hardware = [torch.cuda.get_device_name(device)]
    else:
        hardware = [cpu_name(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    return [content_digests(model), dtypes(model), device.type, hardware, settings(), _versions(model)]


def _versions(model: VLM) -> dict[str, str]:
    """Versions of the libraries that compute, and of those that the model's parts come from."""
    return versions_of(frozenset(type(getattr(model, part)).__module__.split(".")[0] for part in PARTS))


@cache
def versions_of(modules: frozenset[str]) -> dict[str, str]:
    """Versions of `_LIBRARIES` and of the distributions of these modules, as far as they are installed."""
    homes = packages_distributions()  # reads the metadata of everything installed
    names = {*_LIBRARIES, *(name for module in modules for name in homes.get(module, ()))}
    versions = {}
    for name in sorted(names):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
