"""Batched greedy inference over the questions of a benchmark.

Questions about one image share a prefix: the image and the template's text before it. The prefix is encoded and
prefilled once; each question continues from a copy of the model's state, which is small for a state-space model.
The answers equal those of each question pairs alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from vlm_core.benchmark import Benchmark, Question, Score
from vlm_core.errors import BadSample
from vlm_core.evaluation.questions import by_image, check_images, sample
from vlm_core.generation.answer import answer
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.model import VLM
from vlm_core.states.cache import StateCache
from vlm_core.text.render import IMAGE, Message, TokenizedConversation, render, require_question
from vlm_core.text.template import AnyTemplate
from vlm_core.views.image_views import ImageInput

Group = list[Question]
"""The questions about one image, or about the same images."""
AnsweredQuestion = tuple[Question, str]
Images = list[ImageInput]
"""The images of a group's questions, in order; empty for questions without one."""
Loaded = tuple[Group, Images | BadSample]


def batches(groups: Iterable[Group], size: int) -> Iterator[list[Group]]:
    """Batches of groups with equal numbers of questions, at most `size` questions; a larger group is a batch alone."""
    pending: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        batch = pending[len(group)]
        batch.append(group)
        if (len(batch) + 1) * len(group) > size:
            yield pending.pop(len(group))
    yield from pending.values()


def split_at_prefix(prompt: TokenizedConversation) -> tuple[TokenizedConversation, TokenizedConversation]:
    """The prompt up to the end of its last image (the shared prefix), and the suffix after it."""
    cut = len(prompt) - prompt.image_mask[::-1].index(True)
    return prompt.part(0, cut), prompt.part(cut)


class BenchmarkInference:
    """Answers questions in batches of `batch_size`; `reuse=False` prefills the image again for each question.

    With a `cache`, prefixes are read one by one, from the longest state in it, also if only one question shares them.
    `why_no_prefix_reuse` is the reason why questions about one image can't share a prefix, None if they can. Raises
    `UserError` if the template leaves out the question.
    """

    def __init__(
        self,
        model: VLM,
        template: AnyTemplate,
        *,
        batch_size: int = 1,
        max_new_tokens: int = 128,
        reuse: bool = True,
        cache: StateCache | None = None,
    ) -> None:
        self.model, self.template = model, template
        self.reader = PrefixReader(model, template, cache)
        require_question(template)
        self.size, self.decoding = batch_size, GenerationConfig(max_new_tokens)
        one, other = (self._render(text, [1]) for text in ("a", "b"))
        same = split_at_prefix(one)[0] == split_at_prefix(other)[0]
        self.why_no_prefix_reuse = None if same else "the template does not put the image before the question"
        self.reuse = reuse and same

    def ask(
        self, questions: Iterable[Question], skip: Callable[[Group, BadSample], None] | None = None
    ) -> Iterator[AnsweredQuestion]:
        """Yield each question with its answer as soon as it is generated; questions about one image come together.

        Images are loaded one batch ahead. If an image can't be read, its questions are passed to `skip`; without
        `skip`, `BadSample` is raised.
        """
        with ThreadPoolExecutor(1) as reader:
            next_batch: Future[list[Loaded]] | None = None
            for step in batches(by_image(questions), self.size):
                next_batch, loaded = reader.submit(self._load, step), next_batch
                if loaded is not None:
                    yield from self._answers(_readable(loaded.result(), skip))
            if next_batch is not None:
                yield from self._answers(_readable(next_batch.result(), skip))

    def _load(self, groups: Sequence[Group]) -> list[Loaded]:
        return [(group, self._images(group[0])) for group in groups]

    def _images(self, question: Question) -> Images | BadSample:
        try:
            return [self.model.image_processor(image) for image in question.open_images()]
        except BadSample as error:
            return error

    def _answers(self, loaded: Sequence[tuple[Group, Images]]) -> Iterator[AnsweredQuestion]:
        alone = [x for x in loaded if not self._reuses(*x)]
        if alone:
            yield from self._without_reuse(
                [(question, images) for group, images in alone for question in group]
            )
        shared = [x for x in loaded if self._reuses(*x)]
        together = self.model.llm.pads_between and (self.reader.cache is None or self.model.llm.joins_states)
        for part in [shared] if together and shared else [[one] for one in shared]:
            yield from self._with_shared_prefix(part)

    def _reuses(self, group: Group, images: Images) -> bool:
        """Whether the questions of a group continue the state after their prefix."""
        cached = self.reader.cache is not None and bool(images)
        return self.reuse and (len(group) > 1 or cached)

    def _without_reuse(self, pairs: Sequence[tuple[Question, Images]]) -> Iterator[AnsweredQuestion]:
        """Prefill each question with its images; an image that several questions share is encoded once per batch."""
        for start in range(0, len(pairs), self.size):
            chunk = pairs[start : start + self.size]
            shown = [image for _, images in chunk for image in images]
            unique = list({id(image): image for image in shown}.values())
            index = {id(image): i for i, image in enumerate(unique)}
            prompts = [self._prompt(question, images) for question, images in chunk]
            slots = [index[id(image)] for image in shown]
            texts = answer(self.model, prompts, unique, slots, self.decoding)
            yield from zip((question for question, _ in chunk), texts, strict=True)

    def _with_shared_prefix(self, loaded: Sequence[tuple[Group, Images]]) -> Iterator[AnsweredQuestion]:
        """Prefill each image once and continue its state with each of its questions (equally many per image)."""
        prompts = [[split_at_prefix(self._prompt(q, images)) for q in group] for group, images in loaded]
        assert all(head == group[0][0] for group in prompts for head, _ in group)
        prefix = self._prefix([group[0][0] for group in prompts], [images for _, images in loaded])
        questions = [question for group, _ in loaded for question in group]
        suffixes = [tail for group in prompts for _, tail in group]
        for chunk in self._chunks(suffixes) if len(loaded) == 1 else [range(len(suffixes))]:
            session = prefix.expand(len(chunk) // len(loaded))
            session.prefill([suffixes[i] for i in chunk])
            yield from zip((questions[i] for i in chunk), session.generate(self.decoding), strict=True)

    def _prefix(self, heads: Sequence[TokenizedConversation], images: Sequence[Images]) -> Session:
        """A session that has read the prefix of the images of each group."""
        session = Session(self.model)
        if self.reader.cache is None:
            session.prefill(heads, [image for inputs in images for image in inputs])
            return session
        sessions = [session.fork() for _ in heads]
        for each, head, inputs in zip(sessions, heads, images, strict=True):
            self.reader.read(each, head, inputs)
        return Session.join(sessions)

    def _chunks(self, suffixes: Sequence[TokenizedConversation]) -> Iterator[Sequence[int]]:
        """Indices of the suffixes of each batch; of equal length unless the model supports padding between chunks."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, suffix in enumerate(suffixes):
            by_length[0 if self.model.llm.pads_between else len(suffix)].append(index)
        for indices in by_length.values():
            yield from (indices[start : start + self.size] for start in range(0, len(indices), self.size))

    def _prompt(self, question: Question, images: Images) -> TokenizedConversation:
        return self._render(question.prompt, [self.model.image_tokens(image) for image in images])

    def _render(self, text: str, counts: Sequence[int]) -> TokenizedConversation:
        parts = (*(part for _ in counts for part in (IMAGE, "\n")), text)
        return render(self.template, [Message("user", parts)], self.model.llm.tokenizer, counts)


def _readable(
    loaded: Sequence[Loaded], skip: Callable[[Group, BadSample], None] | None
) -> list[tuple[Group, Images]]:
    readable: list[tuple[Group, Images]] = []
    for group, images in loaded:
        if not isinstance(images, BadSample):
            readable.append((group, images))
        elif skip is None:
            raise images
        else:
            skip(group, images)
    return readable


@dataclass(frozen=True)
class EvalResult:
    """The score of a model on a benchmark, or on `len(answers)` of its `expected` questions."""

    score: Score
    answers: Mapping[str, str]
    expected: int


def evaluate(
    model: VLM,
    template: AnyTemplate,
    benchmark: Benchmark,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
) -> EvalResult:
    """Generate answers to all questions, or to about `limit` (evenly spaced images), and score them.

    `max_new_tokens` defaults to the benchmark's. The model should be in evaluation mode. Raises `UserError` for missing
    images, and as `benchmark.score` does.
    """
    questions = sample(list(benchmark.questions.values()), limit)
    check_images(questions)
    length = benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens
    inference = BenchmarkInference(model, template, batch_size=batch_size, max_new_tokens=length)
    answers = {question.id: text for question, text in inference.ask(questions)}
    return EvalResult(benchmark.score(answers), answers, benchmark.expected)
