"""Builds the model of a spec, saves it as a model folder, and loads it."""

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
from vlm_core.model_folder.model_digest import keep_digests_of_files
from vlm_core.model_folder.weights import WEIGHTS, save_part, to_dtype
from vlm_core.plugins.registry import installed
from vlm_core.runtime.offline import offline
from vlm_core.spec.spec import SPEC, Spec, load_folder_spec
from vlm_core.text.template import check_template
from vlm_core.views.config import ViewsConfig
from vlm_core.views.image_processor import check_tiles

M = TypeVar("M", bound=nn.Module)


def build(
    spec: Spec,
    *,
    weights: bool = True,
    assets: str | Path | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> VLM:
    """Build the model of a spec in evaluation mode; parts without published weights are initialised from `seed`.

    `weights=False` builds the architecture only. `assets` is a model folder with the small files, such as the
    tokenizer. With `dtype`, each part is converted as soon as it is built. Raises `UserError` if the parts don't fit
    together, and `TemplateError` if the template doesn't fit the tokenizer; without weights this is checked only if the
    tokenizer is already loaded.
    """
    model = _parts(spec, weights, None if assets is None else Path(assets), seed, dtype)
    _check_fit(spec, model)
    if weights or "tokenizer" in vars(model.llm):  # otherwise loading it may need the network
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
        views = spec.views or ViewsConfig()
        return VLM(encoder, connector, llm, views.rule(), views.sampling())


def _check_fit(spec: Spec, model: VLM) -> None:
    """Check that the parts support the spec's views and, on the meta device, the shape of the connector's output."""
    if model.image_processor.rule is not None:
        with torch.device("cpu"):
            check_tiles(model.encoder)
    h, w = model.encoder.grid(*model.encoder.image_size)
    parameter = next(model.connector.parameters(), torch.empty(0))
    if parameter.device.type != "meta":
        return  # shapes are checked when the model is built on the meta device; here it would cost a forward pass
    features = torch.empty(1, h, w, model.encoder.dim, device="meta")
    out = tuple(model.connector(features).shape)
    expected = (1, model.connector.num_tokens(h, w), model.llm.dim)
    if out != expected:
        raise UserError(
            f"connector {spec.connector.type_name()!r} gives {out[1:]} (tokens, width) for a {h}×{w} grid; "
            f"expected {expected[1]} tokens, as its num_tokens says, of the language model's width {expected[2]}"
        )


def versions(spec: Spec) -> dict[str, str]:
    """Versions of torch, vlm-core and the distributions of all components of the spec."""
    used = {type(component) for part in PARTS for component in getattr(spec, part).components()}
    plugins = {entry.distribution: entry.version for entry in installed().all() if entry.value in used}
    return {"torch": version("torch"), "vlm-core": version("vlm-core"), **plugins}


def _for_folder(spec: Spec) -> Spec:
    """The spec without its training, so that the folder loads without vlm-train and without the data."""
    parts = {part: getattr(spec, part).for_folder() for part in PARTS}
    return spec.model_copy(update={**parts, "keep_random": None, "train": None})


def architecture(spec: Spec, folder: str | Path) -> VLM:
    """The model of a folder's spec and assets, without weights."""
    return _parts(spec, weights=False, assets=Path(folder))


def save(model: VLM, spec: Spec, path: str | Path, facts: dict[str, Any] | None = None) -> None:
    """Write a model folder: `spec.yaml`, a subfolder per part with weights and small files, `manifest.json`.

    It also has the files of `hf_files`: config.json, processor_config.json and the model card. `facts` are added to the
    manifest. Raises `UserError` if `path` exists or can't be written.
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
    all_facts = {"versions": versions(spec), "initial_weights": sources, **(facts or {})}
    write_folder(path, write, all_facts, lambda manifest: hf_files.card(_for_folder(spec), model, manifest))


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> tuple[VLM, Spec]:
    """Load a model folder -> (model in evaluation mode, spec), after verifying every hash, without network.

    Weights are read into memory once, converted to `dtype` (default: as saved) and moved to `device`. Raises
    `UserError` naming a damaged file, or, without `trust_remote_code`, listing the code files that the model needs.
    """
    path = Path(path)
    require_model_folder(path)
    _check_device(device)
    manifest = verify_model(path)
    spec = load_folder_spec(path, trust_remote_code=trust_remote_code)
    model = load_model(lambda: architecture(spec, path), path, PARTS, dtype, device)
    keep_digests_of_files(model, spec, manifest["files"])
    return model.eval(), spec


def default_device() -> str:
    """ "cuda" if available, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_current(device: torch.device | str) -> None:
    """Let a program's kernels be launched on this CUDA device, which those of Triton need; nothing for others."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _check_device(device: torch.device | str) -> None:
    """Raise `UserError` for a device that can't be used, before any file is read."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {one_line(error)}") from None
