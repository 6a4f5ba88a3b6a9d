"""An engine that answers one request after the other with `Session`: what the interface is tested with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing

import torch
from torch import Generator, Tensor

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.generation.sampling import scaled
from vlm_core.generation.stop_strings import StopMatcher, cut
from vlm_core.interfaces import Tokenizer
from vlm_core.io import digests
from vlm_core.io.images import decode_image
from vlm_core.model import VLM
from vlm_core.model_folder.model_digest import content_digests
from vlm_core.states.cache import StateCache
from vlm_core.text.render import IMAGE, ImageSlot, Message, TokenizedConversation, render
from vlm_core.text.template import AnyTemplate
from vlm_serve.engine.request import (
    ChatPrompt,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    ImageFile,
    ModelFacts,
    Part,
    Piece,
    SamplingParams,
    Started,
    TokenLogprob,
)

MAX_POSITIONS = 400
MAX_TOKENS = 12
"""Tokens of an answer without a limit of its own: a model with random weights rarely ends one."""


class SimpleEngine:
    """`vlm_serve.engine.request.Engine` in the event loop's own thread; `requests` are those submitted."""

    def __init__(self, model: VLM, template: AnyTemplate, name: str = "tiny") -> None:
        self.model, self.template, self.name = model, template, name
        self.requests: list[GenerationRequest] = []
        self.active = self.cancelled = 0
        self.closed = False
        self._caches: dict[str, StateCache] = {}
        self._turn = asyncio.Lock()

    def facts(self) -> ModelFacts:
        digest = digests.of(content_digests(self.model), self.template.model_dump(mode="json"))
        has_system = "{text}" in getattr(self.template, "system", "")
        return ModelFacts(self.name, digest, MAX_POSITIONS, images=True, videos=False, system=has_system)

    def stats(self) -> Mapping[str, float]:
        hits = sum(cache.stats.hits for cache in self._caches.values())
        return {"slots_used": self.active, "slots_total": 1, "cache_hits_total": hits}

    def failure(self) -> None:
        return None

    async def close(self, grace: float = 30.0) -> None:
        self.closed = True

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        async with self._turn:
            self.active += 1
            finished = False
            try:
                async with aclosing(self._answer(request)) as events:
                    async for event in events:
                        finished = isinstance(event, Finished | Failed)
                        yield event
                        await asyncio.sleep(0)
            finally:
                self.active -= 1
                self.cancelled += not finished

    async def _answer(self, request: GenerationRequest) -> AsyncIterator[Event]:
        try:
            session, started = self._read(request)
        except UserError as error:
            yield Failed("refused", str(error))
            return
        yield started
        limit = min(request.sampling.max_tokens or MAX_TOKENS, MAX_POSITIONS - started.prompt_tokens)
        for event in generate(session, request.sampling, limit):
            yield event

    def _read(self, request: GenerationRequest) -> tuple[Session, Started]:
        if request.sampling.grammar is not None:
            raise UserError("this engine has no grammars")
        prompt, images = self._prompt(request)
        if len(prompt) >= MAX_POSITIONS:
            raise UserError(f"the prompt has {len(prompt)} positions; at most {MAX_POSITIONS} are read")
        cache = self._caches.setdefault(request.owner, StateCache())
        before = cache.stats.reused_positions
        session = Session(self.model)
        PrefixReader(self.model, self.template, cache).read(session, prompt, images)
        return session, Started(len(prompt), cache.stats.reused_positions - before)

    def _prompt(self, request: GenerationRequest) -> tuple[TokenizedConversation, list[Tensor]]:
        prompt, tokenizer = request.prompt, self.model.llm.tokenizer
        if not isinstance(prompt, ChatPrompt):
            ids = prompt.content
            text = TokenizedConversation()
            text.append_text(tokenizer.encode(ids) if isinstance(ids, str) else list(ids), False)
            return text, []
        files = [p for m in prompt.messages for p in m.parts if isinstance(p, ImageFile)]
        images = [self.model.image_processor(decode_image(file.data, file.name)) for file in files]
        counts = [self.model.image_tokens(image) for image in images]
        turns = [m for m in prompt.messages if m.role != "system"]
        system = next(("\n".join(map(str, m.parts)) for m in prompt.messages if m.role == "system"), None)
        messages = [Message(m.role, _on_lines(m.parts)) for m in turns]
        return render(self.template, messages, tokenizer, counts, system=system), images


def _on_lines(parts: Sequence[Part]) -> tuple[str | ImageSlot, ...]:
    """The parts of a message, each on a line of its own."""
    spans = [span for part in parts for span in ("\n", part if isinstance(part, str) else IMAGE)]
    return tuple(spans[1:])


def generate(session: Session, params: SamplingParams, limit: int) -> Iterator[Event]:
    """The events of an answer after its prompt was read."""
    tokenizer = session.model.llm.tokenizer
    stops, generator = StopMatcher(tokenizer, params.stop), Generator().manual_seed(params.seed)
    ids: list[int] = []
    shown, reason = "", "length"
    while len(ids) < limit:
        token, logprobs = choose(session.known_logits()[0], params, ids, generator, tokenizer)
        ids.append(token)
        ended = token in session.ends[0]
        stopped = stops.add(token)
        text = (
            cut(tokenizer.decode(ids), params.stop) if stopped or ended else settled(tokenizer, ids, params)
        )
        piece = text[len(shown) :] if text.startswith(shown) else ""
        shown += piece
        yield Piece(piece, 1, logprobs)
        if ended or stopped:
            reason = "stop"
            break
        session._decode_token(torch.tensor([token]))
    whole = cut(tokenizer.decode(ids), params.stop) if params.stop else tokenizer.decode(ids).lstrip()
    if len(whole) > len(shown):
        yield Piece(whole[len(shown) :], 0)
    yield Finished(reason, len(ids))


def settled(tokenizer: Tokenizer, ids: Sequence[int], params: SamplingParams) -> str:
    """The text whose end can't become part of a stop string or of another character."""
    text = tokenizer.decode(ids).lstrip().rstrip("\ufffd")
    if not params.stop:
        return text
    text = text[: len(text) - max(map(len, params.stop))]
    return text.rstrip()


@torch.inference_mode()
def choose(
    logits: Tensor, params: SamplingParams, ids: Sequence[int], generator: Generator, tokenizer: Tokenizer
) -> tuple[int, tuple[TokenLogprob, ...]]:
    """The next token, by the definition in `SamplingParams`."""
    logits = logits.float().clone()
    for token, bias in params.logit_bias.items():
        logits[token] += bias
    for token in set(ids):
        score = logits[token]
        logits[token] = score / params.repetition_penalty if score > 0 else score * params.repetition_penalty
        logits[token] -= params.frequency_penalty * ids.count(token) + params.presence_penalty
    distribution = (logits if params.temperature == 0 else scaled(logits, params.temperature)).log_softmax(-1)
    if params.temperature == 0:
        chosen = int(logits.argmax())
    else:
        chosen = int(_kept(distribution.exp(), params).multinomial(1, generator=generator))
    if params.logprobs is None:
        return chosen, ()
    best = distribution.topk(params.logprobs).indices.tolist()
    top = tuple(_logprob(token, distribution, tokenizer) for token in best)
    own = _logprob(chosen, distribution, tokenizer)
    return chosen, (TokenLogprob(own.token, own.data, own.logprob, top),)


def _kept(p: Tensor, params: SamplingParams) -> Tensor:
    """The probabilities (V) that top_k, top_p and min_p leave."""
    p, order = p.sort(descending=True)
    if params.top_k:
        p[params.top_k :] = 0
    p = p.masked_fill(p.cumsum(-1) - p >= params.top_p, 0)
    p[0] = max(float(p[0]), 1e-9)
    p = p.masked_fill(p < params.min_p * p[0], 0)
    return torch.zeros_like(p).scatter(0, order, p)


def _logprob(token: int, distribution: Tensor, tokenizer: Tokenizer) -> TokenLogprob:
    text = tokenizer.decode([token])
    return TokenLogprob(text, text.encode(), float(distribution[token]))
