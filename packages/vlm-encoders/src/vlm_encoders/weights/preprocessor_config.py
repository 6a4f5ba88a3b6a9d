"""Reader of transformers' preprocessor_config.json: each setting is applied, or an error names it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from vlm_core.errors import UserError

FILE = "preprocessor_config.json"
REFUSED = "refused"
CROPPED_BELOW = 384
HARMLESS = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_center_crop",
    "do_pad",
    "do_convert_rgb",
    "do_reduce_labels",
)
"""Steps that are read below or have no effect here: every image is RGB, and there are no label maps."""
_REFUSED = {
    "rescale_offset": "an offset after rescaling",
    "do_flip_channel_order": "channels in the order B, G, R",
    "include_top": "a second normalisation",
}


def read_values(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`mean`, `std`, `interpolation`, `resize_mode`, `crop_pct` and `image_size`, those that the file has.

    If no `resize_mode` expresses the file's resizing, `REFUSED` holds the reason; the spec may set another one. Pixels
    are in [0, 1] here, so a `rescale_factor` other than 1/255 is folded into mean and std. Raises `UserError` for a
    step that no encoder supports.
    """
    steps = {key: "an unknown step" for key in content if key.startswith("do_")}
    for key, what in (steps | _REFUSED).items():
        if key not in HARMLESS and content.get(key):
            raise UserError(
                f"{where}: {key}: {json.dumps(content[key])} asks for {what}, which is not supported"
            )
    return {**_constants(content, where), **_filter(content, where), **_shape(content, where)}


def _constants(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    mean, std = content.get("image_mean"), content.get("image_std")
    if content.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    for key, value in (("image_mean", mean), ("image_std", std)):
        if value is not None and not _three(value):
            raise UserError(f"{where}: {key} is {value!r}; expected three numbers, for R, G and B")
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    if not isinstance(factor, float | int) or not factor > 0:
        raise UserError(f"{where}: rescale_factor {factor!r}: expected a number above 0")
    if std is not None and not min(std) > 0:
        raise UserError(f"{where}: image_std is {std!r}; expected numbers above 0")
    scale = 255 * factor
    constants = {"mean": mean, "std": std}
    if math.isclose(scale, 1, rel_tol=1e-6):
        return {key: list(value) for key, value in constants.items() if value is not None}
    return {key: [x / scale for x in value] for key, value in constants.items() if value is not None}


def _three(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(x, int | float) for x in value)
    )


def _filter(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    number = content.get("resample")
    if number is None:
        return {}
    try:
        resampling = Image.Resampling[number.upper()] if isinstance(number, str) else Image.Resampling(number)
    except (KeyError, ValueError):
        raise UserError(f"{where}: resample {number!r} is none of Pillow's filters") from None
    return {"interpolation": resampling.name.lower()}


def _shape(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`resize_mode`, or why none applies, and `image_size`."""
    size, crop = content.get("size"), content.get("crop_size")
    if content.get("do_resize") is False:
        return {REFUSED: f"{where}: do_resize is false, and images of different sizes can't form a batch"}
    if content.get("do_center_crop"):
        return _cropped(size, crop, where)
    if content.get("do_pad"):
        return {REFUSED: f"{where}: do_pad is true, which pads after resizing"}
    if size is None:
        return {} if crop is None else {"image_size": _pair(crop, "crop_size", where)}
    if isinstance(size, Mapping) and "height" not in size:
        return _free(size, content, where)
    return {"resize_mode": "resize", "image_size": _pair(size, "size", where)}


def _cropped(size: Any, crop: Any, where: str) -> dict[str, Any]:
    """Resize by the shorter side, or to a fixed size, then crop the centre."""
    if size is None and crop is None:
        return {"resize_mode": "crop"}
    target = _pair(size if crop is None else crop, "size" if crop is None else "crop_size", where)
    before = target if size is None else _pair(size, "size", where)
    squashed = isinstance(size, Mapping) and "height" in size
    if squashed and before == target:
        return {"resize_mode": "resize", "image_size": target}
    if squashed or target[0] != target[1] or target[0] > before[0]:
        text = (
            f"do_center_crop of {_by(target)} out of size {json.dumps(size)} is none of resize, pad and crop"
        )
        return {REFUSED: f"{where}: {text}", "image_size": target}
    return {"resize_mode": "crop", "crop_pct": target[0] / before[0], "image_size": target}


def _free(size: Mapping[str, Any], content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Sizes that keep the aspect ratio; ConvNeXt applies `crop_pct` below 384 pixels."""
    edge = size.get("shortest_edge")
    if isinstance(edge, int) and content.get("crop_pct"):
        uncropped = edge >= CROPPED_BELOW
        crop = {} if uncropped else {"crop_pct": float(content["crop_pct"])}
        return {"resize_mode": "resize" if uncropped else "crop", "image_size": (edge, edge), **crop}
    return {
        REFUSED: f"{where}: size {json.dumps(size)} keeps the aspect ratio, and images of different sizes can't form "
        "a batch"
    }


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _pair(size: Any, key: str, where: str) -> tuple[int, int]:
    """(height, width)."""
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        size = (size.get("height", edge), size.get("width", edge))
    pair = (size, size) if isinstance(size, int) else size
    if not (
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(x, int) and x > 0 for x in pair)
    ):
        raise UserError(f"{where}: {key} {size!r}: expected a number of pixels, or height and width")
    return pair[0], pair[1]
