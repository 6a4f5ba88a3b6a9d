"""Single tokens as text and bytes, for log probabilities."""

from __future__ import annotations

from functools import cached_property

from vlm_core.errors import UserError
from vlm_core.interfaces import Tokenizer
from vlm_serve.engine.request import TokenLogprob
from vlm_serve.engine.sampling.grammar import GrammarCompiler
from vlm_serve.engine.sampling.row_sampler import Choice


class TokenNames:
    """Names tokens; a token that is part of a character has the bytes of that part."""

    def __init__(self, tokenizer: Tokenizer, grammars: GrammarCompiler) -> None:
        self.tokenizer, self._grammars = tokenizer, grammars

    @cached_property
    def _control(self) -> dict[int, str]:
        return {token: name for name, token in self.tokenizer.control_tokens.items()}

    def logprob(self, choice: Choice) -> TokenLogprob:
        """A choice with its alternatives; a control token has its spelling as name."""
        assert choice.logprob is not None
        top = tuple(self._one(token, logprob) for token, logprob in choice.top)
        return self._one(choice.token, choice.logprob, top)

    def _one(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        if token in self._control:
            return TokenLogprob(self._control[token], b"", logprob, top)
        data = self._bytes(token)
        return TokenLogprob(data.decode(errors="replace"), data, logprob, top)

    def _bytes(self, token: int) -> bytes:
        try:
            data = self._grammars.backend.decode_bytes([token])
        except UserError:  # no tokenizer.json, or one that llguidance can't read
            data = b""
        if data:  # llguidance gives none of a token that begins with the byte 255
            return data
        decode = self.tokenizer.decode  # after itself: a first token may lose its white space
        return decode([token, token])[len(decode([token])) :].encode()
