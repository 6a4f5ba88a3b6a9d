"""Tokenizer on the `tokenizers` library: text is always literal, control tokens are added by id only.

A *control id* is the id of an added token other than white space, whether it is marked special or not. The unknown
token is no control token, since some tokenizers return it for text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from vlm_core.errors import UserError
from vlm_core.interfaces import ChatTemplate, Tokenizer
from vlm_llms.tokenizer.tokenizer_checks import MAX_IDS, failures, read_definition
from vlm_llms.tokenizer.tokenizer_files import CHAT_TEMPLATE, TOKENIZER, TokenizerFiles, read_files

END = "<|endoftext|>"
SMALLEST_VOCABULARY = 257
"""256 bytes and the end of text."""


def _literal(definition: dict[str, Any]) -> tuple[Backend, dict[str, int]]:
    """A tokenizer that encodes control tokens as plain text, and the ids of the control tokens."""
    unknown, model = set(), definition["model"]
    if isinstance(model.get("unk_token"), str):
        unknown.add(model["unk_token"])
    if isinstance(model.get("unk_id"), int):
        unknown.add(model["vocab"][model["unk_id"]][0])
    added = [dict(token) for token in definition.get("added_tokens") or []]
    control = [token for token in added if token["content"].strip()]
    for token in control:
        token["special"] = True  # the library can encode only special tokens as text
    backend = Backend.from_str(json.dumps({**definition, "added_tokens": added}))
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend, {token["content"]: token["id"] for token in control if token["content"] not in unknown}


class FastTokenizer(Tokenizer):
    """A tokenizer.json with its end-of-text id, a BOS id if texts begin with one, and a chat template."""

    def __init__(
        self,
        definition: str,
        eos_id: int,
        bos_id: int | None = None,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        """`definition` is the text of a tokenizer.json. Raises `UserError` for any other text."""
        content = read_definition(definition)
        with failures("not a tokenizer.json", "expected the file that `tokenizers` saves"):
            self._backend, control = _literal(content)
        self._definition, self.eos_id, self.bos_id = definition, eos_id, bos_id
        self.chat_template = chat_template
        ends = [id_ for id_ in (eos_id, bos_id) if id_ is not None]
        if odd := [id_ for id_ in ends if not 0 <= id_ < MAX_IDS]:
            raise UserError(f"end-of-text or BOS id {odd[0]}: no token's; expected 0 to {MAX_IDS - 1}")
        named = {name: id_ for id_ in ends if (name := self._backend.id_to_token(id_)) is not None}
        self.control_tokens = control | named
        self.control_ids = frozenset((*self.control_tokens.values(), *ends))
        self._length = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> FastTokenizer:
        """From a tokenizer.json, a folder that holds one, or a hub id; raises `UserError` for missing files."""
        return cls.from_files(read_files(source, revision))

    @classmethod
    def from_files(cls, files: TokenizerFiles) -> FastTokenizer:
        """EOS, BOS and chat template come from the files next to tokenizer.json; see `TokenizerFiles`."""
        return cls(files.definition, files.eos_id(), files.bos_id(), files.chat_template())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS; never a control id. Raises `UserError` for an unpaired surrogate."""
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise UserError(f"text {text!r:.60} has an unpaired surrogate, which is no character; repair it")
        with failures(f"the tokenizer can't encode {text!r:.60}", "its tokenizer.json is damaged"):
            encoding = self._backend.encode(text, add_special_tokens=False)
        if self.control_ids.isdisjoint(encoding.ids):
            return encoding.ids
        return self._spelled(text, encoding.ids, encoding.offsets)

    def _spelled(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> list[int]:
        """Encode control tokens character by character: some vocabularies also have them as ordinary tokens."""
        written: list[int] = []
        for id_, (start, end) in zip(ids, offsets, strict=True):
            pieces = text[start:end] if id_ in self.control_ids else ""
            spelled = [i for c in pieces for i in self._backend.encode(c, add_special_tokens=False).ids]
            written += [i for i in spelled if i not in self.control_ids] if pieces else [id_]
        return written

    @cached_property
    def _author(self) -> Backend:
        """The unmodified tokenizer, for text in which control tokens are spelled out."""
        backend = Backend.from_str(self._definition)
        backend.no_truncation()
        backend.no_padding()
        return backend

    def split(self, text: str) -> list[str | int]:
        """See `Tokenizer.split`; a control token includes adjacent white space if its definition says so."""
        with failures(f"the tokenizer can't encode {text!r:.60}", "its tokenizer.json is damaged"):
            encoding = self._author.encode(text, add_special_tokens=False)
        parts, position = [], 0
        for id_, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if id_ in self.control_ids:
                parts += [text[position:start], id_]
                position = end
        return [part for part in (*parts, text[position:]) if part != ""]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without control ids; invalid UTF-8 becomes U+FFFD."""
        plain = [i for i in ids if i not in self.control_ids]
        try:
            return self._backend.decode(plain, skip_special_tokens=True)
        except BaseException:  # preparing the message takes as long as decoding a token
            with failures(
                f"the tokenizer can't decode the ids {plain!r:.60}", "its tokenizer.json is damaged"
            ):
                raise

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact name, control tokens included."""
        return self._backend.token_to_id(token)

    def __len__(self) -> int:
        """One more than the highest id: the rows that an embedding table needs."""
        return self._length

    def save(self, folder: Path) -> None:
        """Write tokenizer.json as it was read, a tokenizer_config.json that names EOS and BOS, and a chat template."""
        name, chat = self._backend.id_to_token, self.chat_template
        config = {
            **(chat.tokens if chat else {}),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": name(self.eos_id),
            "add_bos_token": self.bos_id is not None,
            "clean_up_tokenization_spaces": False,
        }
        if self.bos_id is not None or "bos_token" not in config:
            config["bos_token"] = None if self.bos_id is None else name(self.bos_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER).write_text(self._definition, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if chat:
            (folder / CHAT_TEMPLATE).write_bytes(chat.source.encode("utf-8"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FastTokenizer) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self._definition, self.eos_id, self.bos_id))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its definition: the library's pickle loses `encode_special_tokens`."""
        return FastTokenizer, (self._definition, self.eos_id, self.bos_id, self.chat_template)


def train_bpe(texts: Iterable[str], vocab_size: int) -> FastTokenizer:
    """Train a byte-level BPE on `texts`, deterministically. `<|endoftext|>` is id 0.

    It has fewer than `vocab_size` ids if the texts have nothing left to merge. Raises `UserError` below 257.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"vocab_size {vocab_size} is too small: 256 bytes and the end of text take {SMALLEST_VOCABULARY}"
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return FastTokenizer(backend.to_str(), eos_id=0)
