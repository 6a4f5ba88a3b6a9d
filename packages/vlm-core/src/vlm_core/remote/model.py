"""A model of a server that is asked many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vlm_core.errors import BadSample
from vlm_core.remote.client import ChatClient, Completion, Decoding, ListedModel, Message, choose_model
from vlm_core.remote.retries import Retries
from vlm_core.remote.transport import RequestFailed


@dataclass(frozen=True)
class RemoteModel:
    """`name` is the server's; `digest` that of the weights if the server tells one. Threads may share a model."""

    client: ChatClient
    name: str
    digest: str | None = None
    retries: Retries = field(default_factory=Retries)

    @classmethod
    def at(cls, client: ChatClient, name: str | None) -> RemoteModel:
        """The model `name` of a server, or its only one; raises `UserError` as `choose_model`."""
        model = choose_model(client, name)
        return cls(client, model.name, model.digest)

    @property
    def url(self) -> str:
        return self.client.server.url

    def listed(self) -> ListedModel:
        """What the server says of this model now."""
        return choose_model(self.client, self.name)

    def complete(self, messages: Sequence[Message], decoding: Decoding) -> Completion:
        """The answer, without white space around it; a busy server is asked again.

        Raises `BadSample` for a conversation that the server refuses or whose answer it withholds, and
        `RequestFailed` if it can't be asked any more.
        """
        try:
            completion = self.retries(lambda: self.client.complete(self.name, messages, decoding))
        except RequestFailed as error:
            if error.of_request:
                raise BadSample("refused by the server", str(error)) from None
            raise
        if completion.finish_reason == "content_filter":
            raise BadSample("withheld by the server", f"{self.url}: the server withheld its answer")
        return completion._replace(text=completion.text.strip())
