"""Readers of transformers checkpoints: config.json, preprocessor_config.json and weights, of dual models one half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.hub import cached_file

from vlm_core.errors import UserError, one_line
from vlm_core.model_folder.checkpoint_errors import listed, shape_of
from vlm_core.model_folder.load import check_plan
from vlm_core.model_folder.published_files import INDEX, files_beside, number_formats, shards
from vlm_core.model_folder.safetensors_file import warn_not_finite
from vlm_core.plugins.layer_counts import check_config_file
from vlm_core.plugins.local_code import OPTION
from vlm_core.runtime.verbosity import errors_only, without_progress_bars

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FLOATS = ("F16", "BF16", "F32", "F64")
INDICES = ("I32", "I64", "BOOL")
"""Number formats of the positions and masks that some models store beside their weights."""


def _vision(config: Any) -> Any:
    """The config of the vision half, if the library can build that half by itself."""
    vision = getattr(config, "vision_config", None)
    return vision if type(vision) in MODEL_MAPPING else config


def _vision_half(model: Any) -> PreTrainedModel:
    return getattr(model, "vision_model", model)


def random(source: str, remote: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The architecture alone, from its config.json, and an empty report."""
    check_config_file(source)
    try:
        config = _vision(AutoConfig.from_pretrained(source, **remote))
        model = AutoModel.from_config(config, trust_remote_code=remote["trust_remote_code"])
    except Exception as error:  # hub, network and each model's config raise various errors
        raise UserError(_failure(source, CONFIG, error)) from error
    return _vision_half(model), {}


def pretrained(source: str, remote: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The tower and the library's account of what it names; tensors of the text half are not read."""
    check_config_file(source)
    try:
        config = _vision(AutoConfig.from_pretrained(source, **remote))
    except UserError:
        raise
    except Exception as error:  # hub, network and each model's config raise various errors
        raise UserError(_failure(source, CONFIG, error)) from error
    try:
        if Path(source).is_dir() and not remote["trust_remote_code"]:
            files = files_beside(Path(source))
            check_plan(lambda: AutoModel.from_config(config), files, Path(source) / CONFIG)
        # the library prints a long table of unused tensors; `check` reports the relevant ones
        with errors_only("transformers"), without_progress_bars():
            model, report = AutoModel.from_pretrained(
                source, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **remote
            )
    except Exception as error:  # hub, network and file readers raise various errors
        raise UserError(_failure(source, "weights", error)) from error
    half = _vision_half(model)
    report = {**report, "not_floats": _not_floats(source, remote["revision"])}
    return half, report if half is model else {k: _below(v, "vision_model.") for k, v in report.items()}


def _below(names: Any, prefix: str) -> list[Any]:
    """The names, or tuples that begin with one, under `prefix`; without it."""
    named = [(item, ()) if isinstance(item, str) else (item[0], item[1:]) for item in names]
    kept = [(name.removeprefix(prefix), values) for name, values in named if name.startswith(prefix)]
    return [(name, *values) if values else name for name, values in kept]


def check(model: PreTrainedModel, report: dict[str, Any], blocks: str | None, source: str) -> None:
    """Raise `UserError` for tensors that are missing or don't fit, which the library would fill with random numbers.

    Parts that the tower has dropped may be missing, and heads unused, but no block.
    """
    params = dict(model.named_parameters())
    lost = sorted(set(report.get("missing_keys", ())) & params.keys())
    shapes = [item for item in report.get("mismatched_keys", ()) if item[0] in params]
    extra = [key for key in report.get("unexpected_keys", ()) if _in(blocks, key, model)]
    not_floats = [
        f"{key}: {kind}"
        for key, kind in report.get("not_floats", ())
        if _own_name(key, model) in params or (kind not in INDICES and _in(blocks, key, model))
    ]
    problems = [
        listed(f"of the {len(params)} tensors of the vision tower are missing", lost, noun=""),
        listed(
            "are of another shape",
            [f"{k}: {shape_of(a)} instead of {shape_of(b)}" for k, a, b in shapes],
            noun="",
        ),
        listed(f"belong to blocks that {CONFIG} does not count", sorted(extra), noun=""),
        listed("are in a number format that holds no plain weights", not_floats, noun=""),
    ]
    warn_not_finite(params, source)
    if any(problems):
        raise UserError(
            f"{source}: its weights do not fit {type(model).__name__} as its {CONFIG} describes it: "
            + "; ".join(filter(None, problems))
        )


def _in(blocks: str | None, key: str, model: PreTrainedModel) -> bool:
    """Whether a file's tensor belongs to the tower's blocks."""
    return blocks is not None and _own_name(key, model).startswith(f"{blocks}.")


def _own_name(key: str, model: PreTrainedModel) -> str:
    """A file's name for a tensor without the prefix under which dual or headed models keep the tower."""
    return key.removeprefix("vision_model.").removeprefix(f"{model.base_model_prefix or 'vision_model'}.")


def _not_floats(source: str, revision: str) -> list[tuple[str, str]]:
    """Tensors that hold no floating-point numbers, with their formats; the library would cast them silently."""
    names = (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    )
    options = {"revision": revision, "local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    path = next(filter(None, (cached_file(source, name, **options) for name in names)), None)
    files = [] if path is None else [Path(path)]
    if path and path.endswith(INDEX):
        files = shards(files[0])
    return [(name, kind) for name, kind in number_formats(files).items() if kind not in FLOATS]


def preprocessor(source: str, remote: dict[str, Any], *, needed: bool) -> dict[str, Any] | None:
    """The image preprocessor's settings as data; None where there is no such file and none is `needed`."""
    try:
        return ImageProcessingMixin.get_image_processor_dict(source, revision=remote["revision"])[0]
    except (OSError, ValueError) as error:
        if needed:
            raise UserError(
                f"{_failure(source, PREPROCESSOR, error)}; or give mean and std in the spec"
            ) from error
    return None


def config_file(source: str, remote: dict[str, Any]) -> dict[str, Any]:
    """config.json as it is written, without the defaults of the library."""
    return PreTrainedConfig.get_config_dict(source, revision=remote["revision"])[0]


def _failure(source: str, what: str, error: Exception) -> str:
    text = f"could not read {source} ({what}): {one_line(error)}"
    if "trust_remote_code" in str(error):
        text += " The spec allows that by trust_remote_code: true and a revision that pins the code"
        text += f"; files here also need {OPTION}" if Path(source).is_dir() else ""
    if Path(source).is_dir():
        return text
    return f"{text}; offline, model: can name a local folder with {CONFIG}, {PREPROCESSOR} and the weights"
