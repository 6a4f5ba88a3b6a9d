"""Preprocessing and activation from the configs beside a weight file, and from its safetensors header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import parse_json, read_json
from vlm_core.model_folder.safetensors_file import opened
from vlm_encoders.weights import checkpoints, preprocessor_config
from vlm_encoders.weights.pretrained_config import Told

CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"
ARCHITECTURE, VISION = "architecture", "vision_cfg"
"""Beside the facts: what timm's and open_clip's configs say the weights belong to."""
_OPENAI = {"input_resolution", "context_length", "vocab_size"}
"""Numbers that OpenAI stores among the tensors of its CLIP models, and nobody else."""
_RESIZE_MODES = {"squash": "resize", "shortest": "crop"}
_CROP_MODES = {"squash": "resize", "border": "pad"}
_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")


def beside(weights: str, *, there: bool) -> list[Told]:
    """What the configs say of a weight file or folder that a spec names; it may be missing unless `there`."""
    try:
        file = checkpoints.locate(weights)
    except UserError:
        if there:
            raise
        folder = Path(weights)
        return in_folder(folder) if folder.is_dir() else []
    return [*in_folder(file.parent), *_header(file)]


def in_folder(folder: Path) -> list[Told]:
    """What the configs of a folder say of the weights in it."""
    readers = (
        (OPEN_CLIP, of_open_clip),
        (CONFIG, _of_config),
        (preprocessor_config.FILE, preprocessor_config.facts_of),
        ("processor_config.json", _of_processor),
    )
    found = []
    for name, reader in readers:
        if (path := folder / name).is_file():
            found.append(Told(str(path), reader(read_json(path), str(path))))
    return found


def part(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """A mapping inside a config, empty if it is not there or null."""
    found = content.get(key)
    if not isinstance(found, dict | None):
        raise UserError(f"{where}: {key} is {found!r:.60}; expected a JSON object")
    return found or {}


def of_timm(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A `pretrained_cfg` of timm. Its `center` with `crop_pct` is the crop of a classification test and is ignored."""
    facts = {key: cfg[key] for key in ("mean", "std", "interpolation") if cfg.get(key) is not None}
    mode = cfg.get("crop_mode") or "center"
    if mode not in ("center", *_CROP_MODES):
        raise UserError(f"{where}: crop_mode is {mode!r:.60}; expected center, {', '.join(_CROP_MODES)}")
    if mode in _CROP_MODES:
        facts["resize_mode"] = _CROP_MODES[mode]
    if (size := cfg.get("input_size")) is not None:
        if not isinstance(size, list | tuple) or len(size) != 3:
            raise UserError(f"{where}: input_size is {size!r:.60}; expected channels, height and width")
        facts["image_size"] = tuple(size[-2:])
    return facts


def of_open_clip(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """open_clip_config.json, or a published tag as `preprocess_cfg`, with and without `model_cfg`."""
    cfg, model = part(content, "preprocess_cfg", where), part(content, "model_cfg", where)
    if cfg.get("mode", "RGB") != "RGB":
        raise UserError(f"{where}: mode {cfg['mode']!r}: every image is RGB here")
    facts = {key: cfg[key] for key in ("mean", "std", "interpolation") if cfg.get(key) is not None}
    mode = cfg.get("resize_mode")
    if mode in _RESIZE_MODES:
        facts["resize_mode"] = _RESIZE_MODES[mode]
    elif mode:
        facts[preprocessor_config.REFUSED] = f"{where}: resize_mode {mode}, which pads after resizing"
    if size := cfg.get("size"):
        facts["image_size"] = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if vision := part(model, "vision_cfg", where):
        facts[VISION] = vision
        stages = isinstance(vision.get("layers"), list | tuple)
        if not stages and not vision.get(
            "timm_model_name"
        ):  # its ResNets have no GELU, and timm's towers their own
            facts["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return facts


def _of_config(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """config.json of timm or of transformers."""
    if isinstance(name := content.get("architecture"), str):
        facts = of_timm(part(content, "pretrained_cfg", where) or content, where)
        return facts | {ARCHITECTURE: name.partition(".")[0]}
    return of_transformers(content)


def _of_processor(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The image processor inside a `processor_config.json`."""
    inner = content.get("image_processor")
    return preprocessor_config.facts_of(inner, where) if isinstance(inner, dict) else {}


def of_transformers(content: Mapping[str, Any]) -> dict[str, Any]:
    """The vision half of a dual model, or a vision model; nothing of any other."""
    vision = content.get("vision_config") or content
    if not isinstance(vision, Mapping) or not {"image_size", "patch_size", "num_channels"} & vision.keys():
        return {}
    facts: dict[str, Any] = {}
    if isinstance(size := vision.get("image_size"), int | list):
        facts["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    if isinstance(name := vision.get("hidden_act"), str):
        facts["activation"] = "gelu_tanh" if name in _TANH else name
    return facts


def _header(file: Path) -> Iterator[Told]:
    """The header of a safetensors file: its metadata, and whether it holds a model as OpenAI published CLIP."""
    try:
        with opened(file) as content:
            names, metadata = set(content.tensors), content.metadata
    except UserError:  # no safetensors file: pickles have no header
        return
    if names >= _OPENAI:
        yield Told(f"{file} (as OpenAI stores CLIP)", {"activation": "quick_gelu"})
    if facts := _metadata(metadata, f"{file} (metadata)"):
        yield Told(f"{file} (metadata)", facts)


def _metadata(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """`pretrained_cfg` of timm or `preprocess_cfg` of open_clip as JSON, or the values under their own names."""
    values = {}
    for key, text in metadata.items():
        try:
            values[key] = parse_json(text, key)
        except UserError:
            values[key] = text
    facts = {
        key: values[key]
        for key in ("mean", "std", "interpolation", "resize_mode", "activation")
        if key in values
    }
    if isinstance(cfg := values.get("pretrained_cfg"), dict):
        facts |= of_timm(cfg, where)
    if isinstance(cfg := values.get("preprocess_cfg"), dict):
        facts |= of_open_clip({"preprocess_cfg": cfg}, where)
    if isinstance(values.get("architecture"), str):
        facts[ARCHITECTURE] = values["architecture"].partition(".")[0]
    return facts
