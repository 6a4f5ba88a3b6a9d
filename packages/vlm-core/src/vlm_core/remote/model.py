"""A model of a server that is asked many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vlm_core.errors import BadSample, UserError
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
    _fingerprints: set[str | None] = field(default_factory=set)
    """Of answers that are known to be of this model."""

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

        Raises `BadSample` for a conversation that the server refuses or whose answer it withholds,
        `RequestFailed` if it can't be asked any more, and `UserError` if its model has changed.
        """
        try:
            completion = self.retries(lambda: self.client.complete(self.name, messages, decoding))
        except RequestFailed as error:
            if error.of_request:
                raise BadSample("refused by the server", str(error)) from None
            raise
        if completion.finish_reason == "content_filter":
            raise BadSample("withheld by the server", f"{self.url}: the server withheld its answer")
        if completion.fingerprint not in self._fingerprints:
            if change := self.change():
                raise UserError(change)
            self._fingerprints.add(completion.fingerprint)
        return completion._replace(text=completion.text.strip())

    def change(self) -> str | None:
        """What says that the server has another model under this name by now; None if not, or without a digest."""
        before = self.digest
        if before is None or (now := self.retries(self.listed).digest) == before:
            return None
        return (
            f"{self.url}: the model {self.name} has changed while it was asked: digest {before:.12} before, "
            f"{now or 'none':.12} now"
        )
