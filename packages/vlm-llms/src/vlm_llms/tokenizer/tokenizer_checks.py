"""Limits of a tokenizer.json, checked before the `tokenizers` library reads it, since that can't be interrupted.

The file is untrusted. Sizes and the growth of texts by replacements are bounded, and regular expressions that are slow
on plain text are refused.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import json_object
from vlm_core.markup.printable import printable
from vlm_llms.tokenizer.tokenizer_trial import try_patterns

MAX_VALUES = 3_000_000
MAX_IDS = 1 << 22
MAX_ADDED = 1 << 15
MAX_VOCABULARY = 1 << 19
"""Twice the size of the largest known vocabularies."""
MAX_UNIGRAM_TEXT, MAX_UNIGRAM_NODES = 1 << 23, 1 << 21
"""Bytes of all tokens of a Unigram vocabulary, and nodes of their prefix tree, each of which takes the library some 350
bytes."""
MAX_ADDED_TEXT = 1 << 20
"""Characters of all added tokens; the library's automaton takes some 60 bytes for each."""
MAX_TOKEN = 4096
"""Characters of a token and of any other text in the file."""
MAX_AFFIX = 64
MAX_CHARSMAP = 4 * 2**20
MAX_PIECES = 256
MAX_GROWTH = 64
"""Characters that one character may become."""
_STEPS: tuple[str, ...] = ("normalizer", "pre_tokenizer", "decoder")


@contextmanager
def failures(what: str, expected: str) -> Iterator[None]:
    """Raise the library's errors as `UserError`: bare `Exception`, and panics, which are only `BaseException`."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what}: {printable(error, 200)}; {expected}") from None


def read_definition(text: str, where: str = "tokenizer.json") -> dict[str, Any]:
    """The content of a tokenizer.json; raises `UserError` for a definition beyond the limits above."""
    definition = json_object(text, where, MAX_VALUES)
    try:
        _check_added(definition.get("added_tokens") or [])
        _check_model(definition.get("model"))
        _check_steps(definition)
        try_patterns(definition)
    except UserError as error:
        raise UserError(f"{where}: not a tokenizer.json that can be used: {error}") from None
    return definition


def _check_added(tokens: Any) -> None:
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise UserError("added_tokens is no list of objects")
    if len(tokens) > MAX_ADDED:
        raise UserError(f"{len(tokens)} added tokens; at most {MAX_ADDED} are possible")
    for token in tokens:
        content = token.get("content")
        if not isinstance(content, str):
            raise UserError(f"an added token has no content: {token!r:.80}")
        _check_token(content, token.get("id"))
    if (size := sum(len(token["content"]) for token in tokens)) > MAX_ADDED_TEXT:
        raise UserError(f"added tokens of {size} characters; at most {MAX_ADDED_TEXT} are possible")


def _check_token(content: str, id_: Any) -> None:
    if len(content) > MAX_TOKEN:
        raise UserError(f"a token of {len(content)} characters; at most {MAX_TOKEN} are possible")
    if not isinstance(id_, int) or isinstance(id_, bool) or not 0 <= id_ < MAX_IDS:
        raise UserError(
            f"token {printable(content, 40)!r} has the id {id_!r:.40}; expected 0 to {MAX_IDS - 1}"
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        raise UserError("no tokenizer model in it; expected the tokenizer.json of `tokenizers`")
    vocab = model.get("vocab")
    if isinstance(vocab, dict | list) and len(vocab) > MAX_VOCABULARY:
        raise UserError(f"a vocabulary of {len(vocab)} tokens; at most {MAX_VOCABULARY} are possible")
    if isinstance(vocab, dict):
        for content, id_ in vocab.items():
            _check_token(content, id_)
    elif isinstance(vocab, list):
        for id_, piece in enumerate(vocab):
            _check_piece(piece, id_)
        _check_tree(sorted(piece[0].encode("utf-8", "replace") for piece in vocab))
    else:
        raise UserError("its model has no vocab")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(affix := model.get(key) or "") > MAX_AFFIX:
            raise UserError(f"{key} of {len(affix)} characters; at most {MAX_AFFIX} are possible")
    _check_merges(model.get("merges"), model.get("continuing_subword_prefix") or "")
    unknown = model.get("unk_id")
    if unknown is not None and not (isinstance(unknown, int) and 0 <= unknown < len(vocab)):
        raise UserError(f"unk_id {unknown!r:.40} is no token's; expected 0 to {len(vocab) - 1}")


def _check_piece(piece: Any, id_: int) -> None:
    """An entry of a Unigram vocabulary: a token and its log probability."""
    if not isinstance(piece, list) or len(piece) != 2 or not isinstance(piece[0], str):
        raise UserError(f"token {id_} is {piece!r:.60}; expected its text and its score")
    _check_token(piece[0], id_)
    if not isinstance(piece[1], int | float) or not math.isfinite(piece[1]):
        raise UserError(
            f"token {printable(piece[0], 40)!r} has the score {piece[1]!r:.40}; expected a number"
        )


def _check_tree(pieces: Sequence[bytes]) -> None:
    """Bound the nodes of the library's prefix tree, from the sorted tokens of a Unigram vocabulary."""
    size = nodes = sum(map(len, pieces))
    if size <= MAX_UNIGRAM_TEXT:
        for one, other in pairwise(pieces):
            nodes -= next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    if nodes > MAX_UNIGRAM_NODES:
        raise UserError(f"a vocabulary of {size} bytes; at most {MAX_UNIGRAM_NODES} are possible")


def _check_merges(merges: Any, prefix: str) -> None:
    """The library removes `prefix` from the right part of every merge without checking that it is there."""
    if not prefix or not isinstance(merges, list):
        return
    for merge in merges:
        right = merge.rpartition(" ")[2] if isinstance(merge, str) else (merge or [""])[-1]
        if not str(right).startswith(prefix):
            raise UserError(
                f"merge {merge!r:.60} doesn't begin with {prefix!r}, the continuing_subword_prefix"
            )


def _check_steps(definition: Mapping[str, Any]) -> None:
    """Bound the texts in normalizer, pre-tokenizer and decoder, and the growth of a text in them."""
    growth = dict.fromkeys(_STEPS, 1.0)
    for name in _STEPS:
        pieces = list(_pieces(definition.get(name)))
        if len(pieces) > MAX_PIECES:
            raise UserError(f"its {name} has {len(pieces)} pieces; at most {MAX_PIECES} are possible")
        if sum(piece.get("type") == "Precompiled" for piece in pieces) > 1:
            raise UserError(f"its {name} has more than one Precompiled; one is possible")
        for piece in pieces:
            _check_texts(name, piece)
            growth[name] *= max(1.0, _growth(piece))
    for named in (_STEPS[:2], _STEPS[2:]):
        if (factor := math.prod(growth[name] for name in named)) > MAX_GROWTH:
            raise UserError(
                f"its {' and '.join(named)} can make {factor:.3g} characters of one; at most {MAX_GROWTH} are possible"
            )


def _pieces(value: Any) -> Iterator[dict[str, Any]]:
    """All nested objects, the outermost first."""
    stack = [value]
    while stack:
        inner = stack.pop()
        if isinstance(inner, dict):
            yield inner
            stack += list(inner.values())
        elif isinstance(inner, list):
            stack += inner


def _check_texts(name: str, piece: Mapping[str, Any]) -> None:
    for key, value in piece.items():
        if key == "precompiled_charsmap":
            _check_charsmap(value)
        elif isinstance(value, str) and len(value) > MAX_TOKEN:
            raise UserError(
                f"its {name} has a {key} of {len(value)} characters; at most {MAX_TOKEN} are possible"
            )
    if piece.get("type") == "Prepend" and len(str(piece.get("prepend"))) > MAX_AFFIX:
        raise UserError(f"its {name} prepends more than {MAX_AFFIX} characters")
    if piece.get("type") == "FixedLength" and not piece.get("length"):
        raise UserError(
            f"its {name} cuts text into pieces of length {piece.get('length')!r}; expected at least 1"
        )


def _growth(piece: Mapping[str, Any]) -> float:
    """The number of characters that one character may become."""
    if piece.get("type") == "ByteLevel":
        return 4.0  # up to four bytes a character
    if piece.get("type") != "Replace" or not isinstance(content := piece.get("content"), str):
        return 1.0
    pattern = piece.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(text, str) and text:
        return len(content) / len(text)
    return 1.0 + len(content)  # a regular expression or an empty text may match between any two characters


def _check_charsmap(value: Any) -> None:
    """sentencepiece's table: size of the index, index, and NUL-terminated replacements."""
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        size = int.from_bytes(data[:4], "little")
        longest = max(map(len, data[4 + size :].split(b"\0")))
        data[4 + size :].decode("utf-8")
        valid = len(data) >= 8 and 0 < size <= len(data) - 4 and size % 4 == 0
    except ValueError:
        valid, longest, data = False, 0, b""
    if not valid or longest > MAX_AFFIX * 4 or len(data) > MAX_CHARSMAP:
        raise UserError("its precompiled_charsmap is damaged, or none")
