"""What lmms-eval's tasks show, images and paths of videos, as a model takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import open_regular
from vlm_core.io.image_formats.video_signatures import HEAD, container_of
from vlm_core.io.images import load_image, to_rgb
from vlm_core.io.video.sources import MAX_FPS, MAX_FRAMES, Sampling, VideoSource
from vlm_core.model import VLM
from vlm_core.views.image_views import ImageInput


def visual_input(model: VLM, visual: Any, task: str, sampling: Sampling | None = None) -> ImageInput:
    """A Pillow image, or the path of an image or video; videos are sampled as the spec says, or by `sampling`.

    An image is turned upright as EXIF says, which Pillow leaves to its user.

    Raises `UserError` that names the task for anything else, and for a file that can't be read.
    """
    if isinstance(visual, Image.Image):
        return model.image_processor(to_rgb(ImageOps.exif_transpose(visual)))
    if not isinstance(visual, str | Path):
        raise UserError(f"task {task}: this model takes images and videos, not {type(visual).__name__}")
    try:
        with open_regular(visual) as file:
            is_video = container_of(file.read(HEAD)) is not None
        if is_video:
            return model.video_processor(VideoSource(visual, sampling))
        return model.image_processor(load_image(visual))
    except BadSample as error:
        raise UserError(f"task {task}: {error}") from None


def sampling_of(arguments: dict[str, Any]) -> Sampling | None:
    """The sampling of `--model_args` frames, fps and max_frames; None without them. Raises `UserError`."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if not given:
        return None
    for name, most in (("frames", MAX_FRAMES), ("max_frames", MAX_FRAMES), ("fps", MAX_FPS)):
        if name in given and (isinstance(given[name], bool) or not isinstance(given[name], int | float)):
            raise UserError(f"--model_args {name}={given[name]}: expected a number up to {most:g}")
    try:
        return Sampling(**given)
    except UserError as error:
        raise UserError(f"--model_args: {error}") from None
