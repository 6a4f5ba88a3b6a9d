"""What transformers reads before it builds the model; the model itself is described by the folder's own files."""

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
COUNTS = ("hidden_size", "vocab_size", "token_count", "image_tokens")
MAX_LABELS = 1000
"""Of `num_labels`, for each of which transformers makes a name; this model has none."""


class VLMConfig(PreTrainedConfig):
    """The numbers in a model folder's config.json."""

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
        """As transformers does; `UserError` for an argument that nothing takes."""
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
        """As transformers does; `UserError` for values of a stranger's config.json that it stumbles over."""
        counts = {name: config_dict.get(name, 0) for name in COUNTS}
        ends, labels = config_dict.get("eos_token_id"), config_dict.get("num_labels", 0)
        ids = {"eos_token_id": ends, "bos_token_id": config_dict.get("bos_token_id")}
        odd = [name for name, count in counts.items() if not _is_count(count)]
        odd += [name for name, id_ in ids.items() if not _is_id(id_)]
        odd += [] if _is_count(labels) and labels <= MAX_LABELS else ["num_labels"]
        if odd:
            raise UserError(f"config.json: {odd[0]}: {config_dict[odd[0]]!r:.80} is not possible")
        with transformers_errors("config.json"):
            return super().from_dict(config_dict, **kwargs)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_id(value: Any) -> bool:
    """None, a token's id, or several of them."""
    return value is None or all(map(_is_count, value if isinstance(value, list) else [value]))


@contextmanager
def transformers_errors(what: object) -> Iterator[None]:
    """Tell as a `UserError` what transformers raises about a file: nearly anything."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {printable(error, 200)}"
        raise UserError(f"{what}: transformers can't read it: {reason}") from None


def read_config(read: Callable[[Path], T], folder: Path, name: str) -> T:
    """What transformers' `read` makes of the file `name`; `UserError` for a file that it stumbles over."""
    read_json(folder / name)
    with transformers_errors(folder / name):
        return read(folder)
