"""Asks a model the questions of a benchmark, greedily.

An image with several questions is encoded once and, with all that the template writes before and around it, read
once: each question goes on from a copy of the model's state. Of a state-space model that state is small whatever
the image's length. The answers are those of each question asked alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from vlm_core.benchmark import Benchmark, Question, Score
from vlm_core.errors import BadSample
from vlm_core.evaluation.questions import by_image, check_images, sample
from vlm_core.generation.generate import Decoding, Session, answer
from vlm_core.model import VLM
from vlm_core.text.render import IMAGE, Message, Sample, refuse_unsaid, write
from vlm_core.text.template import AnyTemplate

Group = list[Question]
"""The questions about one image."""
Said = tuple[Question, str]
Loaded = tuple[Group, Tensor | BadSample | None]


def batches(groups: Iterable[Group], size: int) -> Iterator[list[Group]]:
    """Groups of equally many questions, `size` questions at most; a larger group comes alone."""
    waiting: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        together = waiting[len(group)]
        together.append(group)
        if (len(together) + 1) * len(group) > size:
            yield waiting.pop(len(group))
    yield from waiting.values()


def divided(prompt: Sample) -> tuple[Sample, Sample]:
    """A prompt up to the end of its last image, and the rest."""
    cut = len(prompt) - prompt.is_image[::-1].index(True)
    return prompt.part(0, cut), prompt.part(cut)


class Asker:
    """Asks in batches of `batch_size`; `reuse=False` reads each question's image anew.

    `obstacle` says why images can't be read once for all of their questions, None if they can. Raises `UserError`
    if the template never says a question.
    """

    def __init__(
        self,
        model: VLM,
        template: AnyTemplate,
        *,
        batch_size: int = 1,
        max_new_tokens: int = 128,
        reuse: bool = True,
    ) -> None:
        self.model, self.template = model, template
        refuse_unsaid(template)
        self.size, self.decoding = batch_size, Decoding(max_new_tokens)
        one, other = (self._written(text, [1]) for text in ("a", "b"))
        same = divided(one)[0] == divided(other)[0]
        self.obstacle = None if same else "the template does not put the image before the question"
        self.reuse = reuse and same

    def ask(
        self, questions: Iterable[Question], skip: Callable[[Group, BadSample], None] | None = None
    ) -> Iterator[Said]:
        """Every question with its answer, those about one image one after the other, as soon as they are known.

        Images are read one batch ahead. Of an image that can't be read the questions go to `skip`; without it,
        `BadSample` is raised.
        """
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[list[Loaded]] | None = None
            for step in batches(by_image(questions), self.size):
                ahead, loaded = reader.submit(self._load, step), ahead
                if loaded is not None:
                    yield from self._answers(_readable(loaded.result(), skip))
            if ahead is not None:
                yield from self._answers(_readable(ahead.result(), skip))

    def _load(self, groups: Sequence[Group]) -> list[Loaded]:
        return [(group, self._pixels(group[0])) for group in groups]

    def _pixels(self, question: Question) -> Tensor | BadSample | None:
        try:
            image = question.open()
        except BadSample as error:
            return error
        return None if image is None else self.model.encoder.transform(image)

    def _answers(self, loaded: Sequence[tuple[Group, Tensor | None]]) -> Iterator[Said]:
        if not loaded:
            return
        if not self.reuse or len(loaded[0][0]) == 1:
            yield from self._apart([(question, pixels) for group, pixels in loaded for question in group])
        elif self.model.llm.pads_between:
            yield from self._shared(loaded)
        else:
            for one in loaded:
                yield from self._shared([one])

    def _apart(self, asked: Sequence[tuple[Question, Tensor | None]]) -> Iterator[Said]:
        """Each question with its image; an image that several show is encoded once a batch."""
        for start in range(0, len(asked), self.size):
            chunk = asked[start : start + self.size]
            shown = [pixels for _, pixels in chunk if pixels is not None]
            different = list({id(pixels): pixels for pixels in shown}.values())
            places = {id(pixels): place for place, pixels in enumerate(different)}
            prompts = [self._prompt(question, pixels) for question, pixels in chunk]
            views = [places[id(pixels)] for pixels in shown]
            said = answer(self.model, prompts, different, views, self.decoding)
            yield from zip((question for question, _ in chunk), said, strict=True)

    def _shared(self, loaded: Sequence[tuple[Group, Tensor | None]]) -> Iterator[Said]:
        """Images of equally many questions: each read once, its state continued by each of its questions."""
        prompts = [[divided(self._prompt(q, pixels)) for q in group] for group, pixels in loaded]
        assert all(head == group[0][0] for group in prompts for head, _ in group)
        seen = Session(self.model)
        seen.feed([group[0][0] for group in prompts], [p for _, p in loaded if p is not None])
        asked = [question for group, _ in loaded for question in group]
        rest = [tail for group in prompts for _, tail in group]
        for chunk in self._chunks(rest) if len(loaded) == 1 else [range(len(rest))]:
            session = seen.fork(len(chunk) // len(loaded))
            session.feed([rest[i] for i in chunk])
            yield from zip((asked[i] for i in chunk), session.say(self.decoding), strict=True)

    def _chunks(self, rest: Sequence[Sample]) -> Iterator[Sequence[int]]:
        """Places of what goes on from one state together: equally long ones if nothing may be padded there."""
        alike: dict[int, list[int]] = defaultdict(list)
        for place, tail in enumerate(rest):
            alike[0 if self.model.llm.pads_between else len(tail)].append(place)
        for places in alike.values():
            yield from (places[start : start + self.size] for start in range(0, len(places), self.size))

    def _prompt(self, question: Question, pixels: Tensor | None) -> Sample:
        counts = [] if pixels is None else [self.model.image_tokens(pixels)]
        return self._written(question.prompt, counts)

    def _written(self, text: str, counts: Sequence[int]) -> Sample:
        parts = (IMAGE, "\n", text) if counts else (text,)
        return write(self.template, [Message("user", parts)], self.model.llm.tokenizer, counts)


def _readable(
    loaded: Sequence[Loaded], skip: Callable[[Group, BadSample], None] | None
) -> list[tuple[Group, Tensor | None]]:
    good: list[tuple[Group, Tensor | None]] = []
    for group, pixels in loaded:
        if not isinstance(pixels, BadSample):
            good.append((group, pixels))
        elif skip is None:
            raise pixels
        else:
            skip(group, pixels)
    return good


@dataclass(frozen=True)
class Measured:
    """What a model in memory scores on a benchmark, or on `len(answers)` of its `expected` questions."""

    score: Score
    answers: Mapping[str, str]
    expected: int


def measure(
    model: VLM,
    template: AnyTemplate,
    benchmark: Benchmark,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
) -> Measured:
    """Ask about `limit` questions, whole images at even distances, or all, and score what is said.

    `max_new_tokens` is the benchmark's own unless given. The model should be in evaluation mode. Raises `UserError`
    if images are missing, and as `benchmark.score` does.
    """
    questions = sample(list(benchmark.questions.values()), limit)
    check_images(questions)
    length = benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens
    asker = Asker(model, template, batch_size=batch_size, max_new_tokens=length)
    answers = {question.id: text for question, text in asker.ask(questions)}
    return Measured(benchmark.score(answers), answers, benchmark.expected)
