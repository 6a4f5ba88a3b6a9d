"""Images and paths of videos, as lmms-eval's tasks show them."""

import pytest
import torch
from PIL import ExifTags, Image
from videos import video

from vlm_bench.lmms.visuals import sampling_of, visual_input
from vlm_core.errors import UserError
from vlm_core.io.video.sources import Sampling


def test_a_path_is_what_its_file_is(tiny_model, tmp_path):
    red = Image.new("RGB", (20, 30), "red")
    red.save(tmp_path / "red.mp4", "PNG")
    (tmp_path / "clip.jpg").write_bytes(video())
    one = visual_input(tiny_model, red, "t")
    assert torch.equal(visual_input(tiny_model, str(tmp_path / "red.mp4"), "t"), one)
    assert len(visual_input(tiny_model, str(tmp_path / "clip.jpg"), "t")) == 8, "as the spec says"
    assert len(visual_input(tiny_model, str(tmp_path / "clip.jpg"), "t", Sampling(3))) == 3


def test_what_is_no_visual_names_the_task(tiny_model, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(video()[:200])
    for visual, message in (
        ({"array": [0.0]}, "task t: this model takes images and videos, not dict"),
        (str(tmp_path / "none.mp4"), "none.mp4: cannot read this file: no such file"),
        (str(tmp_path / "cut.mp4"), "task t: .*cut.mp4: cannot read this video"),
    ):
        with pytest.raises(UserError, match=message):
            visual_input(tiny_model, visual, "t")


def test_model_args_say_which_frames_are_read():
    none = {"frames": None, "fps": None, "max_frames": None}
    assert sampling_of(none) is None
    assert sampling_of({**none, "frames": 32}) == Sampling(32)
    assert sampling_of({**none, "fps": 1, "max_frames": 64}) == Sampling(fps=1, max_frames=64)
    for given, message in (
        ({"frames": "x"}, "--model_args frames=x: expected a number"),
        ({"frames": 8, "fps": 1}, "--model_args: a video is sampled by frames or by fps"),
        ({"max_frames": 8}, "--model_args: a video is sampled by frames or by fps"),
    ):
        with pytest.raises(UserError, match=message):
            sampling_of({**none, **given})


def test_a_pillow_image_is_turned_upright_as_its_file_is(tiny_model, tmp_path):
    image = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "x.png", exif=exif)
    of_file = visual_input(tiny_model, str(tmp_path / "x.png"), "t")
    assert torch.equal(visual_input(tiny_model, Image.open(tmp_path / "x.png"), "t"), of_file)
    assert not torch.equal(visual_input(tiny_model, image, "t"), of_file)
