"""Preprocessing and activation from the configs beside a weight file, and from its safetensors header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import parse_json, read_json
from vlm_core.model_folder.safetensors_file import opened
from vlm_encoders.weights import checkpoints, preprocessor_config
from vlm_encoders.weights.pretrained_config import SourceValues

CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"
ARCHITECTURE, VISION = "architecture", "vision_cfg"
"""Further keys: the model of the weights according to timm's and open_clip's configs."""
_OPENAI = {"input_resolution", "context_length", "vocab_size"}
"""Scalars that only OpenAI's CLIP files have among their tensors."""
_RESIZE_MODES = {"squash": "resize", "shortest": "crop"}
_CROP_MODES = {"squash": "resize", "border": "pad"}
_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")


def values_beside(weights: str, *, required: bool) -> list[SourceValues]:
    """Values from the configs next to a weight file or in a folder; it may be missing unless `required`."""
    try:
        file = checkpoints.locate(weights)
    except UserError:
        if required:
            raise
        folder = Path(weights)
        return in_folder(folder) if folder.is_dir() else []
    return [*in_folder(file.parent), *_header(file)]


def in_folder(folder: Path) -> list[SourceValues]:
    """Values from each config in a folder."""
    readers = (
        (OPEN_CLIP, of_open_clip),
        (CONFIG, _of_config),
        (preprocessor_config.FILE, preprocessor_config.read_values),
        ("processor_config.json", _of_processor),
    )
    sources = []
    for name, reader in readers:
        if (path := folder / name).is_file():
            sources.append(SourceValues(str(path), reader(read_json(path), str(path))))
    return sources


def part(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """An object inside a config; empty if missing or null."""
    section = content.get(key)
    if not isinstance(section, dict | None):
        raise UserError(f"{where}: {key} is {section!r:.60}; expected a JSON object")
    return section or {}


def of_timm(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A `pretrained_cfg` of timm. `center` with `crop_pct` is the crop of classification tests and is ignored."""
    values = {key: cfg[key] for key in ("mean", "std", "interpolation") if cfg.get(key) is not None}
    mode = cfg.get("crop_mode") or "center"
    if mode not in ("center", *_CROP_MODES):
        raise UserError(f"{where}: crop_mode is {mode!r:.60}; expected center, {', '.join(_CROP_MODES)}")
    if mode in _CROP_MODES:
        values["resize_mode"] = _CROP_MODES[mode]
    if (size := cfg.get("input_size")) is not None:
        if not isinstance(size, list | tuple) or len(size) != 3:
            raise UserError(f"{where}: input_size is {size!r:.60}; expected channels, height and width")
        values["image_size"] = tuple(size[-2:])
    return values


def of_open_clip(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """open_clip_config.json, or a published tag as `preprocess_cfg`, with and without `model_cfg`."""
    cfg, model = part(content, "preprocess_cfg", where), part(content, "model_cfg", where)
    if cfg.get("mode", "RGB") != "RGB":
        raise UserError(f"{where}: mode {cfg['mode']!r}: every image is RGB here")
    values = {key: cfg[key] for key in ("mean", "std", "interpolation") if cfg.get(key) is not None}
    mode = cfg.get("resize_mode")
    if mode in _RESIZE_MODES:
        values["resize_mode"] = _RESIZE_MODES[mode]
    elif mode:
        values[preprocessor_config.REFUSED] = f"{where}: resize_mode {mode}, which pads after resizing"
    if size := cfg.get("size"):
        values["image_size"] = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if vision := part(model, "vision_cfg", where):
        values[VISION] = vision
        stages = isinstance(vision.get("layers"), list | tuple)
        if not stages and not vision.get(
            "timm_model_name"
        ):  # ResNets have no GELU; timm's towers define theirs
            values["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return values


def _of_config(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """config.json of timm or transformers."""
    if isinstance(name := content.get("architecture"), str):
        values = of_timm(part(content, "pretrained_cfg", where) or content, where)
        return values | {ARCHITECTURE: name.partition(".")[0]}
    return of_transformers(content)


def _of_processor(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The image processor inside a `processor_config.json`."""
    inner = content.get("image_processor")
    return preprocessor_config.read_values(inner, where) if isinstance(inner, dict) else {}


def of_transformers(content: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a vision model, or of a dual model, whose vision half counts; no values for other models."""
    vision = content.get("vision_config") or content
    if not isinstance(vision, Mapping) or not {"image_size", "patch_size", "num_channels"} & vision.keys():
        return {}
    values: dict[str, Any] = {}
    if isinstance(size := vision.get("image_size"), int | list):
        values["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    if isinstance(name := vision.get("hidden_act"), str):
        values["activation"] = "gelu_tanh" if name in _TANH else name
    return values


def _header(file: Path) -> Iterator[SourceValues]:
    """Values from a safetensors file: its metadata, and QuickGELU for CLIP in OpenAI's layout."""
    try:
        with opened(file) as content:
            names, metadata = set(content.tensors), content.metadata
    except UserError:  # a pickle, which has no header
        return
    if names >= _OPENAI:
        yield SourceValues(f"{file} (as OpenAI stores CLIP)", {"activation": "quick_gelu"})
    if values := _metadata(metadata, f"{file} (metadata)"):
        yield SourceValues(f"{file} (metadata)", values)


def _metadata(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Values from metadata: timm's `pretrained_cfg` or open_clip's `preprocess_cfg` as JSON, or keys of the spec."""
    raw = {}
    for key, text in metadata.items():
        try:
            raw[key] = parse_json(text, key)
        except UserError:
            raw[key] = text
    values = {
        key: raw[key] for key in ("mean", "std", "interpolation", "resize_mode", "activation") if key in raw
    }
    if isinstance(cfg := raw.get("pretrained_cfg"), dict):
        values |= of_timm(cfg, where)
    if isinstance(cfg := raw.get("preprocess_cfg"), dict):
        values |= of_open_clip({"preprocess_cfg": cfg}, where)
    if isinstance(raw.get("architecture"), str):
        values[ARCHITECTURE] = raw["architecture"].partition(".")[0]
    return values
