"""From a spec to a model, and from a model to a folder and back."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_model

from vlm_core.errors import UserError
from vlm_core.folder import verify_folder, write_folder
from vlm_core.model import PARTS, VLM
from vlm_core.registry import installed
from vlm_core.spec import Spec, load_spec

WEIGHTS = "weights.safetensors"


def build(spec: Spec, *, weights: bool = True, assets: Path | None = None, seed: int = 0) -> VLM:
    """Build the model; parts without published weights are initialised from `seed`.

    `weights=False` builds the architecture alone; `assets` is a model folder to take tokenizer and the like
    from. Raises `UserError` if the parts don't fit together.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = spec.encoder.build(weights=weights, assets=assets and assets / "encoder")
        llm = spec.llm.build(weights=weights, assets=assets and assets / "llm")
        connector = spec.connector.build(encoder.dim, llm.dim)
    model = VLM(encoder, connector, llm)
    _check_fit(spec, model)
    return model.eval()


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
    """Versions of torch, of vlm-core and of every distribution that a part of the spec comes from."""
    used = {(part, getattr(spec, part).type_name()) for part in PARTS}
    found = {
        entry.distribution: entry.version for entry in installed().all() if (entry.kind, entry.name) in used
    }
    return {"torch": version("torch"), "vlm-core": version("vlm-core"), **found}


def _for_folder(spec: Spec) -> Spec:
    """The parts alone, so that the folder loads where neither training nor its data are installed."""
    parts = {part: getattr(spec, part).for_folder() for part in PARTS}
    return spec.model_copy(update={**parts, "train": None})


def save(model: VLM, spec: Spec, path: Path, facts: dict[str, Any] | None = None) -> None:
    """Write a model folder: `spec.yaml`, a subfolder a part with weights and small files, `manifest.json`."""

    def write(folder: Path) -> None:
        (folder / "spec.yaml").write_text(_for_folder(spec).to_yaml(), encoding="utf-8")
        for part in PARTS:
            (folder / part).mkdir()
            module = getattr(model, part)
            save_model(module, str(folder / part / WEIGHTS))
            if hasattr(module, "save_assets"):
                module.save_assets(folder / part)

    write_folder(path, write, {"versions": versions(spec), **(facts or {})})


def load(path: str | Path) -> tuple[VLM, Spec]:
    """Read a model folder after checking every hash; raises `UserError` naming what is damaged."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such model folder; vlm-assemble SPEC --out DIR and vlm-train write them")
    verify_folder(path)
    spec, _ = load_spec(path / "spec.yaml")
    model = build(spec, weights=False, assets=path)
    for part in PARTS:
        load_part(getattr(model, part), path / part / WEIGHTS)
    return model, spec


def load_part(module: torch.nn.Module, file: Path) -> None:
    """Load weights strictly: missing, unexpected and misshapen names are told apart; ties are stored once."""
    stored, own = load_file(file), module.state_dict()
    unexpected = sorted(set(stored) - set(own))
    wrong = [f"{k} {tuple(stored[k].shape)} for {tuple(own[k].shape)}" for k in stored.keys() & own.keys()
             if stored[k].shape != own[k].shape]  # fmt: skip
    if unexpected or wrong:
        detail = (
            f"unexpected {unexpected[:3]}" if unexpected else f"wrong shape: {', '.join(sorted(wrong)[:3])}"
        )
        raise UserError(f"{file}: does not fit the model of this spec: {detail}")
    storages = {own[k].data_ptr() for k in stored}
    missing = [k for k in own if k not in stored and own[k].data_ptr() not in storages]
    if missing:
        raise UserError(f"{file}: {len(missing)} weights are missing, such as {missing[:3]}")
    module.load_state_dict(stored, strict=False)
