"""A model behind an OpenAI-compatible server, asked by `vlm-bench run --url`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from vlm_bench.run.tasks import Settings
from vlm_core.benchmark import Question
from vlm_core.errors import BadSample, UserError
from vlm_core.evaluation.inference import AnsweredQuestion, Group
from vlm_core.io import digests
from vlm_core.remote import Decoding, RemoteModel, content_of, image_part, in_parallel

CONCURRENCY = 4
"""Questions that are asked at the same time, unless --concurrency says otherwise."""
_UNKNOWN = "the weights are not known: the server gives no digest of them"


class ServerInference:
    """Greedy answers of a server; questions are asked in the run's order, those about one image in a row."""

    why_no_prefix_reuse = None
    """What a server shares between prompts is its own matter."""

    def __init__(self, ask: Callable[[Question], str], concurrency: int) -> None:
        self._ask, self._concurrency = ask, concurrency

    def ask(
        self, questions: Iterable[Question], skip: Callable[[Group, BadSample], None] | None = None
    ) -> Iterator[AnsweredQuestion]:
        """Yield each question with its answer, in the order in which they come.

        A question that the server refuses, or whose image can't be read, is passed to `skip`; without `skip`, that
        `BadSample` is raised. A server that can't be reached, also after retries, is a `UserError`.
        """
        for question, result in in_parallel(questions, self._ask, self._concurrency):
            if isinstance(result, str):
                yield question, result
            elif not isinstance(result, BadSample):
                raise UserError(
                    *result.lines, "rerun the same command to resume: all answers so far are kept"
                )
            elif skip is None:
                raise result
            else:
                skip([question], result)


@dataclass(frozen=True)
class ServedModel:
    """`AskedModel` of a server."""

    model: RemoteModel
    concurrency: int = CONCURRENCY

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def digest(self) -> str:
        """What tells this model from others, as far as that is known."""
        return self.model.digest or digests.of("served", self.model.url, self.name)

    @property
    def warnings(self) -> list[str]:
        """What a report says about this model."""
        return [] if self.model.digest else [_UNKNOWN]

    def metadata(self, settings: Settings) -> Mapping[str, Any]:
        """What is known of the model. Without a digest its address is part of what must be equal in a resumed run."""
        return {
            "model": self.name,
            "model name": self.name,
            "model sha256": self.model.digest,
            "served model": self.name if self.model.digest else f"{self.name} at {self.model.url}",
            "server": self.model.url,
            "versions": {name: version(name) for name in ("vlm-core", "vlm-bench")},
            "concurrency": self.concurrency,
        }

    def inference(self, settings: Settings, max_new_tokens: int) -> ServerInference:
        decoding = Decoding(max_new_tokens)
        return ServerInference(lambda question: self._answer(question, decoding), self.concurrency)

    def _answer(self, question: Question, decoding: Decoding) -> str:
        images = [image_part(image, f"question {question.id}") for image in question.images]
        messages = [{"role": "user", "content": content_of(images, question.prompt)}]
        try:
            return self.model.complete(messages, decoding).text
        except BadSample as error:
            raise BadSample(error.reason, f"question {question.id}: {error}") from None

    def check_unchanged(self) -> None:
        """Raise `UserError` if the server has another model under this name by now."""
        if change := self.model.change():
            raise UserError(f"{change}; the answers may be of both: remove them")
