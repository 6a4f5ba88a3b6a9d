"""Files of a published tokenizer: their location, and their EOS, BOS and chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.interfaces import ChatTemplate
from vlm_core.io.files import JSON_BYTES, TOKENIZER_BYTES, read_json, read_text
from vlm_core.text.jinja_sandbox import MAX_SOURCE
from vlm_llms.tokenizer.tokenizer_checks import read_definition

TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json")
"""Files that may name EOS and BOS, in order of precedence."""
KNOWN_ENDS = ("<|endoftext|>", "</s>")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass
class TokenizerFiles:
    """The text of a tokenizer.json and the files next to it: parsed JSON by name, and the chat template."""

    source: str
    definition: str
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    chat_file: str | None = None

    @cached_property
    def parsed(self) -> dict[str, Any]:
        return read_definition(self.definition, f"{self.source} ({TOKENIZER})")

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Ids by token; a Unigram vocabulary is a list of pairs, every other a mapping."""
        vocab = self.parsed["model"].get("vocab") or {}
        ids = dict(vocab) if isinstance(vocab, dict) else {piece[0]: i for i, piece in enumerate(vocab)}
        return ids | {token["content"]: token["id"] for token in self.parsed.get("added_tokens") or []}

    def _named_ids(self, role: str) -> Iterator[int]:
        """Ids that the files name for `role` ("eos" or "bos"), in order of precedence."""
        for name in CONFIGS:
            content = self.configs.get(name, {})
            token, id_ = content.get(f"{role}_token"), content.get(f"{role}_token_id")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token in self._ids:
                yield self._ids[token]
            yield from [i for i in (id_ if isinstance(id_, list) else [id_]) if type(i) is int]

    def eos_id(self) -> int:
        """The end-of-text id; raises `UserError` if no file names it."""
        known = [self._ids[token] for token in KNOWN_ENDS if token in self._ids]
        for id_ in (*self._named_ids("eos"), *known):
            return id_
        raise UserError(
            f"{self.source}: no end-of-text token; expected eos_token in tokenizer_config.json beside "
            f"{TOKENIZER}, or one of {', '.join(KNOWN_ENDS)} in it. Add a tokenizer_config.json that names it"
        )

    def chat_template(self) -> ChatTemplate | None:
        """The chat template, of several the one called `default`, and the tokens that it may use; None without one."""
        source = self.chat_file or self.configs.get("tokenizer_config.json", {}).get("chat_template")
        if isinstance(source, list):
            named = {str(item.get("name")): item.get("template") for item in source if isinstance(item, dict)}
            source = named.get("default") if len(named) != 1 else next(iter(named.values()))
        if not isinstance(source, str) or not source:
            return None
        if len(source) > MAX_SOURCE:
            raise UserError(
                f"{self.source}: a chat template of {len(source)} characters; expected at most {MAX_SOURCE}"
            )
        tokens: dict[str, str] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            for key, token in self.configs.get(name, {}).items():
                token = token.get("content") if isinstance(token, dict) else token
                if key.endswith("_token") and isinstance(token, str):
                    tokens[key] = token
        return ChatTemplate(source, tokens)

    def bos_id(self) -> int | None:
        """The id that precedes every text, or None."""
        add_bos = self.configs.get("tokenizer_config.json", {}).get("add_bos_token")
        if add_bos is False:
            return None
        try:
            template = _first_id(self.parsed.get("post_processor"))
        except (AttributeError, IndexError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.source}: the post_processor of {TOKENIZER} is damaged: {error!r:.80}"
            ) from None
        if template is not None or not add_bos:
            return template
        for id_ in self._named_ids("bos"):
            return id_
        raise UserError(
            f"{self.source}: add_bos_token is true but no bos_token is named; name it or set false"
        )


def _first_id(processor: Any) -> int | None:
    """The id that a post-processor puts before a text."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        return next((i for i in map(_first_id, processor["processors"]) if i is not None), None)
    if processor.get("type") != "TemplateProcessing" or not processor.get("single"):
        return None
    name = processor["single"][0].get("SpecialToken", {}).get("id")
    id_ = processor["special_tokens"][name]["ids"][0] if name is not None else None
    if id_ is not None and type(id_) is not int:
        raise TypeError(f"the id {id_!r:.40}")
    return id_


def _collect(source: str, find: Callable[[str], Path | None], main: Path) -> TokenizerFiles:
    paths = {name: path for name in CONFIGS if (path := find(name)) is not None}
    configs = {name: read_json(path) for name, path in paths.items()}
    chat = find(CHAT_TEMPLATE)
    return TokenizerFiles(
        source, read_text(main, TOKENIZER_BYTES), configs, chat and read_text(chat, JSON_BYTES)
    )


def read_files(source: str | Path, revision: str | None = None) -> TokenizerFiles:
    """Read a tokenizer.json, a folder with one, or a hub id (at `revision`), and the files next to it."""
    path = Path(source)
    if path.exists():
        main = path / TOKENIZER if path.is_dir() else path
        if not main.is_file():
            raise UserError(_no_file(path))
        return _collect(str(source), lambda name: p if (p := main.parent / name).is_file() else None, main)
    if isinstance(source, Path) or path.suffix == ".json" or not _HUB_ID.fullmatch(source):
        raise UserError(
            f"tokenizer {str(source)!r}: no such file or folder; expected a {TOKENIZER}, a folder that "
            "holds one, or a hub id such as EleutherAI/gpt-neox-20b"
        )
    main = _download(source, TOKENIZER, revision)
    return _collect(source, lambda name: _download_if_there(source, name, revision), main)


def _no_file(folder: Path) -> str:
    names = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    return (
        f"{folder}: expected {TOKENIZER}, found {names}. Older formats: load them with transformers once and "
        "save_pretrained() into this folder"
    )


def _download(repo: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except (OSError, ValueError, HfHubHTTPError) as error:  # no network, no such repository, no such file
        raise UserError(
            f"tokenizer {repo!r}: could not get {name} from the hub ({type(error).__name__}). Point to a "
            f"local copy instead: `tokenizer: path/to/{TOKENIZER}`"
        ) from error


def _download_if_there(repo: str, name: str, revision: str | None) -> Path | None:
    """A file of a repository; None if it has none, and, offline, if it is not cached."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return _download(repo, name, revision)
    except UserError as error:
        cause = error.__cause__
        missing = isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError)
        if missing or constants.HF_HUB_OFFLINE:
            return None
        raise
