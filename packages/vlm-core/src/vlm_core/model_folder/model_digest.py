"""Digests of a model by the content of its weights and configuration, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from torch import nn

from vlm_core.io import digests
from vlm_core.model import PARTS, VLM, ContentDigests
from vlm_core.spec.spec import Spec


def content_digests(model: VLM) -> Mapping[str, str]:
    """The digest of each part of a model, and of the `tokenizer`.

    A model that was loaded from a folder has those of its verified files; otherwise, or if its weights were replaced or
    changed since, they are computed from the weights, which takes a few seconds per gigabyte, and kept.
    """
    known = model.content_digests
    if known is None or known.tensors != _tensors(model):
        known = model.content_digests = ContentDigests(_tensors(model), _of_weights(model))
    if "tokenizer" not in known.digests:
        known.digests["tokenizer"] = digests.of_tokenizer(model.llm.tokenizer)
    return known.digests


def keep_digests_of_files(model: VLM, spec: Spec, files: Mapping[str, Any]) -> None:
    """Keep the digests of a model that was just loaded from a folder with these files of its verified manifest."""
    parts = {
        part: digests.of(getattr(spec, part).model_dump(mode="json"), _hashes(files, part)) for part in PARTS
    }
    model.content_digests = ContentDigests(_tensors(model), parts)


def _hashes(files: Mapping[str, Any], part: str) -> list[tuple[str, str]]:
    inside = {name: fact for name, fact in files.items() if PurePosixPath(name).parts[0] == part}
    return sorted((name, fact["sha256"]) for name, fact in inside.items())


def _of_weights(model: VLM) -> dict[str, str]:
    return {part: _of_part(getattr(model, part)) for part in PARTS}


def _of_part(module: nn.Module) -> str:
    """Weights, small files, and what `repr` shows of the layers."""
    save = getattr(module, "save_assets", None)
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return digests.of(name, repr(module), digests.of_weights(module), save and digests.of_saved(save))


def _tensors(model: nn.Module) -> list[tuple[int, int]]:
    """Address and number of changes in place of every parameter and buffer."""
    tensors = (*model.parameters(), *model.buffers())
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def dtypes(model: VLM) -> dict[str, str]:
    """The dtypes of each part's floating-point parameters, such as `bfloat16+float32`."""
    kinds = {
        part: {p.dtype for p in getattr(model, part).parameters() if p.is_floating_point()} for part in PARTS
    }
    return {
        part: "+".join(sorted(str(d).removeprefix("torch.") for d in found)) for part, found in kinds.items()
    }
