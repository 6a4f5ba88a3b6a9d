"""From a spec to a model, and from a model to a folder and back."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from vlm_core.errors import UserError, one_line
from vlm_core.io.manifest import require_model_folder, write_folder
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder import hf_files
from vlm_core.model_folder.build_limits import bounded_modules
from vlm_core.model_folder.file_list import verify_model
from vlm_core.model_folder.initial_weights import weight_rows
from vlm_core.model_folder.load import load_model
from vlm_core.model_folder.weights import WEIGHTS, save_part, to_dtype
from vlm_core.plugins.registry import installed
from vlm_core.runtime.offline import offline
from vlm_core.spec.spec import SPEC, Spec, load_folder_spec
from vlm_core.text.template import check_template

M = TypeVar("M", bound=nn.Module)


def build(
    spec: Spec,
    *,
    weights: bool = True,
    assets: str | Path | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> VLM:
    """Build the model; parts without published weights are initialised from `seed`.

    `weights=False` builds the architecture alone; `assets` is a model folder to take tokenizer and the like
    from. With `dtype`, each part is converted as soon as it is built. Raises `UserError` if the parts don't fit
    together, and `TemplateError` if the template doesn't go with the tokenizer, which is looked at with weights, or
    where it is at hand.
    """
    model = _parts(spec, weights, None if assets is None else Path(assets), seed, dtype)
    _check_fit(spec, model)
    if weights or "tokenizer" in vars(model.llm):  # else it may be far away
        check_template(spec.template, model.llm.tokenizer)
    return model.eval()


def _parts(
    spec: Spec, weights: bool, assets: Path | None, seed: int = 0, dtype: torch.dtype | None = None
) -> VLM:
    def built(part: M) -> M:
        if dtype is not None:
            to_dtype(part, dtype)
        return part

    with torch.random.fork_rng(), bounded_modules(), nullcontext() if assets is None else offline():
        torch.manual_seed(seed)
        encoder = built(spec.encoder.build(weights=weights, assets=assets and assets / "encoder"))
        llm = built(spec.llm.build(weights=weights, assets=assets and assets / "llm"))
        connector = built(spec.connector.build(encoder.dim, llm.dim))
    return VLM(encoder, connector, llm)


def _check_fit(spec: Spec, model: VLM) -> None:
    """What connector and language model say of themselves, held against one another without computing."""
    h, w = model.encoder.grid(*model.encoder.image_size)
    parameter = next(model.connector.parameters(), torch.empty(0))
    if parameter.device.type != "meta":
        return  # the shapes were checked when the spec was: computing them here would cost a forward pass
    features = torch.empty(1, h, w, model.encoder.dim, device="meta")
    out = tuple(model.connector(features).shape)
    expected = (1, model.connector.num_tokens(h, w), model.llm.dim)
    if out != expected:
        raise UserError(
            f"connector {spec.connector.type_name()!r} gives {out[1:]} (tokens, width) for a {h}×{w} grid; "
            f"expected {expected[1]} tokens, as its num_tokens says, of the language model's width {expected[2]}"
        )


def versions(spec: Spec) -> dict[str, str]:
    """Versions of torch, of vlm-core and of every distribution that a part, or a part of one, comes from."""
    used = {type(component) for part in PARTS for component in getattr(spec, part).components()}
    found = {entry.distribution: entry.version for entry in installed().all() if entry.value in used}
    return {"torch": version("torch"), "vlm-core": version("vlm-core"), **found}


def _for_folder(spec: Spec) -> Spec:
    """The parts alone, so that the folder loads where neither training nor its data are installed."""
    parts = {part: getattr(spec, part).for_folder() for part in PARTS}
    return spec.model_copy(update={**parts, "keep_random": None, "train": None})


def architecture(spec: Spec, folder: str | Path) -> VLM:
    """The model of a folder, without its weights."""
    return _parts(spec, weights=False, assets=Path(folder))


def save(model: VLM, spec: Spec, path: str | Path, facts: dict[str, Any] | None = None) -> None:
    """Write a model folder: `spec.yaml`, a subfolder a part with weights and small files, `manifest.json`.

    The files that transformers and people look for (`exchange`) lie beside them.
    """

    def write(folder: Path) -> None:
        (folder / SPEC).write_text(_for_folder(spec).to_yaml(), encoding="utf-8")
        for part in PARTS:
            (folder / part).mkdir()
            module = getattr(model, part)
            save_part(module, folder / part / WEIGHTS)
            if hasattr(module, "save_assets"):
                module.save_assets(folder / part)
        hf_files.write(folder, model, spec)

    sources = [list(row) for row in weight_rows(spec)]
    found = {"versions": versions(spec), "initial_weights": sources, **(facts or {})}
    write_folder(path, write, found, lambda manifest: hf_files.card(_for_folder(spec), model, manifest))


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> tuple[VLM, Spec]:
    """Read a model folder after checking every hash; raises `UserError` naming what is damaged.

    The weights are read into memory once. `dtype` converts them (by default they stay as they were saved), `device`
    takes them to a GPU. Nothing is asked of the network. Code that lies in the folder runs only with
    `trust_remote_code`; a folder that needs it is else refused with the names and hashes of these files.
    """
    path = Path(path)
    require_model_folder(path)
    _check_device(device)
    verify_model(path)
    spec = load_folder_spec(path, trust_remote_code=trust_remote_code)
    model = load_model(lambda: architecture(spec, path), path, PARTS, dtype, device)
    return model.eval(), spec


def default_device() -> str:
    """Where a model runs if nobody says: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_device(device: torch.device | str) -> None:
    """A name that torch doesn't have here is known before anything is read."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {one_line(error)}") from None
