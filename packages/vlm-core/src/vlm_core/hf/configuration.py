"""The transformers config of a model folder. It only repeats facts: the model is built from the folder's spec.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from transformers import PreTrainedConfig

from vlm_core.errors import UserError, choices
from vlm_core.io.files import read_json
from vlm_core.markup.printable import printable

T = TypeVar("T")
CONFIG = "config.json"
COUNTS = ("hidden_size", "vocab_size", "token_count", "image_tokens")
MAX_LABELS = 1000
"""Limit of `num_labels`: transformers makes a name for each; this model has none."""


MAY_DIFFER = (
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "dtype",
    "name_or_path",
    "use_cache",
    "return_dict",
)
"""Keys in which a user's config may differ from the folder's: they are honoured, or don't change the outputs."""


class VLMConfig(PreTrainedConfig):
    """Sizes and token ids of a model folder's config.json."""

    model_type = "vlm-core"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache"]

    hidden_size: int = 0
    vocab_size: int = 0
    token_count: int = 0
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    image_size: Any = None
    image_tokens: int = 0

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; `UserError` for an unknown argument."""
        config, unused = super().from_pretrained(
            pretrained_model_name_or_path, *args, **{**kwargs, "return_unused_kwargs": True}
        )
        if kwargs.get("return_unused_kwargs"):
            return config, unused
        if unknown := [name for name in unused if not name.startswith("_")]:
            raise UserError(f"VLMConfig does not know {unknown[0]}{choices(unknown[0], cls.__annotations__)}")
        return config

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; `UserError` for values that make transformers fail or allocate without bound."""
        counts = {name: config_dict.get(name, 0) for name in COUNTS}
        ends, labels = config_dict.get("eos_token_id"), config_dict.get("num_labels", 0)
        ids = {"eos_token_id": ends, "bos_token_id": config_dict.get("bos_token_id")}
        invalid = [name for name, count in counts.items() if not _is_count(count)]
        invalid += [name for name, id_ in ids.items() if not _is_id(id_)]
        invalid += [] if _is_count(labels) and labels <= MAX_LABELS else ["num_labels"]
        if invalid:
            raise UserError(f"config.json: {invalid[0]}: {config_dict[invalid[0]]!r:.80} is not possible")
        with transformers_errors("config.json"):
            return super().from_dict(config_dict, **kwargs)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_id(value: Any) -> bool:
    """None, a token id, or a list of token ids."""
    return value is None or all(map(_is_count, value if isinstance(value, list) else [value]))


@contextmanager
def transformers_errors(what: object) -> Iterator[None]:
    """Turn any exception of transformers about a file into a `UserError`; damaged files raise nearly every type."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {printable(error, 200)}"
        raise UserError(f"{what}: transformers can't read it: {reason}") from None


def read_config(read: Callable[[Path], T], folder: Path, name: str) -> T:
    """The result of transformers' `read(folder)`, which reads the file `name`; `UserError` if the file is damaged."""
    read_json(folder / name)
    with transformers_errors(folder / name):
        return read(folder)


def matching_config(folder: Path, config: Any) -> VLMConfig:
    """`config` (a config, a path, or None) if it describes the folder's model; None gives the folder's own.

    Raises `UserError` naming the first key in which they differ.
    """
    saved = read_config(VLMConfig.from_pretrained, folder, CONFIG)
    if config is None:
        return saved
    config = VLMConfig.from_pretrained(config) if isinstance(config, str | Path) else config
    if (attention := getattr(config, "_attn_implementation", None)) not in (None, "sdpa"):
        raise UserError(
            f"from_pretrained: attn_implementation={attention!r} is not possible with this model, only 'sdpa'"
        )
    expected, actual = saved.to_dict(), config.to_dict()
    for name in sorted(expected.keys() | actual.keys()):
        if name not in MAY_DIFFER and not name.startswith("_") and expected.get(name) != actual.get(name):
            raise UserError(
                f"from_pretrained: {name}={actual.get(name)!r:.60} would be another model; this folder's is "
                f"{expected.get(name)!r:.60}. To build another model, change the spec (spec.yaml)"
            )
    return config
