"""Grammars that answers must match: JSON schemas, compiled by llguidance for the model's tokenizer."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm_core.errors import UserError, one_line
from vlm_core.interfaces import Tokenizer
from vlm_core.io.files import parse_json, read_text
from vlm_core.markup.printable import printable
from vlm_serve.engine.request import Grammar, Refused

TOKENIZER = "tokenizer.json"
OPTIONS = {"whitespace_pattern": r"[ \n]?", "lenient": False, "json_allowed_escapes": r"nrbtf\""}
"""One white space between two parts at most, so that no answer consists of them; unknown keywords are errors.

No `\\u0061`: llguidance would take a listed name that is spelled so for an unlisted one, of any value.
"""
_DATA = ("const", "enum", "default", "examples")
"""Keywords whose values are no schemas."""
_BITS = torch.tensor([[byte >> bit & 1 for bit in range(8)] for byte in range(256)], dtype=torch.bool)
"""The bits of each byte, the lowest first."""
MAX_SCHEMA = 64 * 1024
"""Characters of a schema."""


class GrammarState:
    """How far an answer has come in its grammar; for one thread."""

    def __init__(self, matcher: Any, vocabulary: int, control_ids: Tensor, ends: Collection[int]) -> None:
        self._matcher, self._vocabulary, self._control_ids = matcher, vocabulary, control_ids
        self._ends = torch.tensor(sorted(ends))

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    def allowed(self) -> Tensor:
        """Which ids (V,) may follow; those that end the answer only where the grammar may end."""
        mask = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        self._check()
        allowed = _BITS[mask.int()].flatten()[: self._vocabulary]
        allowed[self._control_ids] = False
        allowed[self._ends] = self._matcher.is_accepting()
        return allowed

    def add(self, token: int) -> None:
        """Go on by an id that was allowed."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        """Raise `UserError` if llguidance gave up: its limits of work ended."""
        if self._matcher.is_error():
            problem = _problem(self._matcher)
            is_name = " " not in problem  # of the reason, such as NoExtensionBias: the grammar has no way on
            raise _refused("no answer can match it" if is_name else f"it is too complex: {problem}")


class GrammarCompiler:
    """Compiles grammars for a tokenizer, which must be saved as a tokenizer.json; threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self._lock = tokenizer, threading.Lock()
        self._control_ids = torch.tensor(sorted(set(tokenizer.control_tokens.values())), dtype=torch.long)

    def compile(self, grammar: Grammar, ends: Collection[int]) -> GrammarState:
        """The beginning of an answer; `ends` are the ids that end it. Raises `UserError` for a wrong schema."""
        from llguidance import LLMatcher

        if len(grammar.schema) > MAX_SCHEMA:
            raise _refused(f"it has {len(grammar.schema)} characters; at most {MAX_SCHEMA} are read")
        schema = grammar.schema if grammar.kind == "json_schema" else '{"type": "object"}'
        try:
            source = LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            raise _refused(f"it can't be compiled: {_short(one_line(error))}") from None
        matcher = LLMatcher(self.backend, source, log_level=0)
        if matcher.is_error():
            raise _refused(f"it can't be compiled: {_problem(matcher)}")
        _check_counts(parse_json(schema, "the schema"))
        return GrammarState(matcher, len(self.tokenizer), self._control_ids, ends)

    @property
    def backend(self) -> Any:
        """llguidance's tokenizer."""
        with self._lock:
            return self._backend

    @cached_property
    def _backend(self) -> Any:
        from llguidance import LLTokenizer

        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer.save(Path(folder))
            if not (Path(folder) / TOKENIZER).is_file():
                raise UserError(f"the model's tokenizer is not saved as {TOKENIZER}, which grammars need")
            definition = read_text(Path(folder) / TOKENIZER)
        try:
            return LLTokenizer(definition, n_vocab=len(self.tokenizer), eos_token=self.tokenizer.eos_id)
        except ValueError as error:
            raise UserError(f"grammars can't read the model's tokenizer: {_short(one_line(error))}") from None


def _check_counts(schema: Any) -> None:
    """Raise `Refused` where names that an answer repeats would count as several properties."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            least, required = part.get("minProperties"), part.get("required")
            if isinstance(least, int) and least > 1 + (len(required) if isinstance(required, list) else 0):
                raise _refused("with minProperties, all but one of the properties must be required")
            parts += [value for key, value in part.items() if key not in _DATA]
        elif isinstance(part, list):
            parts += part


def _problem(matcher: Any) -> str:
    """llguidance's message, without the state of its parser and the schema that follow it."""
    return _short(matcher.get_error().partition("<state>")[0])


def _short(text: str) -> str:
    return printable(re.sub(r"\s+", " ", text).strip(), 300)


def _refused(why: str) -> Refused:
    return Refused(f"the JSON schema is refused: {why}", "grammar", "invalid_json_schema")
