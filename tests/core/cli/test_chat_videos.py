"""`vlm-chat --video` and `/video`."""

import io
import sys

import pytest
import torch
from PIL import Image
from videos import video

from vlm_core.cli import chat
from vlm_core.generation.conversation import Conversation
from vlm_core.io.sources import Sampling, VideoSource
from vlm_core.text.template import TEMPLATES


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(video())
    (tmp_path / "two words.webm").write_bytes(video("webm"))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")


def call(monkeypatch, capsys, *args, typed=""):
    monkeypatch.setattr(sys, "argv", ["vlm-chat", *map(str, args), "--max-new-tokens", "2"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    code = chat.main()
    return code, *capsys.readouterr()


def test_videos_follow_the_images_of_the_command_line(clips, tiny_folder, monkeypatch, capsys):
    shown = []
    ask = Conversation.ask
    monkeypatch.setattr(Conversation, "ask", lambda self, *a: shown.extend(self.images) or ask(self, *a))
    options = "--video", "clip.mp4", "--image", "red.png", "--video", "two words.webm"
    code, _, err = call(monkeypatch, capsys, tiny_folder, *options, "--ask", "which way?")
    assert (code, err) == (0, "")
    assert [image.ndim if isinstance(image, torch.Tensor) else len(image) for image in shown] == [3, 8, 8]


def test_a_video_in_a_conversation(clips, tiny_folder, monkeypatch, capsys):
    typed = "/video clip.mp4\n/video 'two words.webm'\nwhich way?\n/video none.mp4\n/video red.png\n/video\n"
    code, out, err = call(monkeypatch, capsys, tiny_folder, typed=typed)
    assert code == 0
    assert "none.mp4: no such video file" in err
    assert "red.png: an image (PNG), not a video; give it under 'image'" in err
    assert "/video: unknown command or wrong arguments" in out


def test_a_video_as_an_image_is_told(clips, tiny_folder, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--image", "clip.mp4", "--ask", "what?")
    assert code == 2
    assert "clip.mp4: a video (MP4), not an image; give it under 'video'" in err
    code, _, err = call(monkeypatch, capsys, tiny_folder, "--video", "https://x/a.mp4", "--ask", "what?")
    assert code == 2
    assert "URLs are not supported; save the video and give its path" in err


def test_answers_are_those_of_the_frames_as_one_slot(clips, tiny_model):
    """A video's positions are its frames one after the other: reading them in pieces gives the same state."""
    conversation = Conversation(tiny_model, TEMPLATES["llava-v1"])
    conversation.show_video("clip.mp4")
    (views,) = conversation.images
    assert torch.equal(views.values, tiny_model.video_processor(VideoSource("clip.mp4", Sampling(8))).values)
    embeds = tiny_model.encode_images(views.values)
    assert torch.allclose(embeds[:1], tiny_model.encode_images(views.values[:1]), atol=1e-5)
    "".join(conversation.ask("which way?"))
    tokens = tiny_model.image_tokens(views)
    assert tokens == 8 * tiny_model.image_tokens_by_default
    assert conversation.history.positions > tokens
