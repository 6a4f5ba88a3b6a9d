"""Videos of a row in every format: named, inline, members of a sample; with images, and with their own sampling."""

import base64
import pickle

import numpy as np
import pytest
from row_writers import NAMED, RED, WRITERS, columns, llava, messages, shard
from shards import colour, text, turns, user
from videos import video

from vlm_core.errors import BadSample, UserError
from vlm_core.io import digests
from vlm_core.io.images import image_bytes, image_name
from vlm_core.io.video.decode import sample_video
from vlm_core.io.video.sources import Sampling, VideoSource

CLIP, OTHER = video(frames=12), video("webm", "libvpx", frames=6)
INLINE = "data:video/mp4;base64," + base64.b64encode(CLIP).decode()


@pytest.fixture
def folder(folder):
    (folder / "clip.mp4").write_bytes(CLIP)
    (folder / "other.webm").write_bytes(OTHER)
    return folder


def described(source):
    """What an image or video of a row is, by its content."""
    if not isinstance(source, VideoSource):
        return "image"
    content = {CLIP: "clip", OTHER: "other"}[image_bytes(source)]
    return content if source.sampling is None else (content, str(source.sampling))


def read(row):
    return [described(image) for image in row["image"]], [turn["value"] for turn in row["conversations"]]


ROWS = {
    "LLaVA-Video's rows": (
        {"conversations": turns("<image>\nwhat?", "x"), "video": "clip.mp4"},
        (["clip"], ["<image>\nwhat?", "x"]),
    ),
    "Video-LLaVA's rows": (
        {"conversations": turns("<video>\nwhat?", "x"), "video": "clip.mp4"},
        (["clip"], ["<image>\nwhat?", "x"]),
    ),
    "several": (
        {"conversations": turns("<video> then <video>", "x"), "videos": ["other.webm", "clip.mp4"]},
        (["other", "clip"], ["<image> then <image>", "x"]),
    ),
    "with an image": (
        {
            "conversations": turns("<video> or <image>?", "x", "and <video>?", "y"),
            "videos": ["clip.mp4", "other.webm"],
            "image": "red.png",
        },
        (["clip", "image", "other"], ["<image> or <image>?", "x", "and <image>?", "y"]),
    ),
    "a sampling": (
        {"conversations": turns("<video>", "x"), "video": {"path": "clip.mp4", "fps": 2, "max_frames": 3}},
        ([("clip", "fps 2, at most 3 frames")], ["<image>", "x"]),
    ),
    "OpenAI's part": (
        messages({"type": "video_url", "video_url": {"url": INLINE}}, text("what?")),
        (["clip"], ["<image>\nwhat?", "a cat"]),
    ),
    "input_video": (
        messages({"type": "input_video", "video_url": INLINE}, text("what?")),
        (["clip"], ["<image>\nwhat?", "a cat"]),
    ),
    "Qwen's part": (
        messages(text("what?"), {"type": "video", "video": "clip.mp4", "nframes": 4}),
        ([("clip", "frames 4")], ["what?\n<image>", "a cat"]),
    ),
    "parts with and without names": (
        messages(
            {"type": "video"}, NAMED, {"type": "image"}, text("a"), images=["blue.png"], videos=["clip.mp4"]
        ),
        (["clip", "image", "image"], ["<image>\n<image>\n<image>\na", "a cat"]),
    ),
    "a question and its answer": (
        {"question": "what?", "answer": "a cat", "video": "clip.mp4"},
        (["clip"], ["<image>\nwhat?", "a cat"]),
    ),
    "a tag in a text": (
        {"conversations": turns("what does a <video> tag do?", "It shows <video>.")},
        ([], ["what does a <video> tag do?", "It shows <video>."]),
    ),
}


@pytest.mark.parametrize(
    ("name", "write"),
    [(n, w) for n in ROWS for w in WRITERS if (n, w) != ("parts with and without names", shard)],
)  # in a sample every member is an image of the row
def test_rows_with_videos(folder, write, name):
    row, expected = ROWS[name]
    rows = write(folder, row)
    assert read(rows[0]) == expected
    assert read(pickle.loads(pickle.dumps(rows))[0]) == expected, "workers get a copy"
    videos = sum(isinstance(source, VideoSource) for source in rows[0]["image"])
    assert rows.sizes()[0, 1:].tolist() == [len(expected[0]), videos]


def test_both_kinds_are_counted_apart(folder):
    row = {"conversations": turns("<video> <image>", "x"), "image": "red.png", "video": "clip.mp4"}
    for write in WRITERS:
        first, second = write(folder, row)[0]["image"]
        assert described(first) == "clip"
        assert colour({"image": [second]}) == RED


BAD = {
    "fps and frames": (
        {"conversations": turns("<video>", "x"), "video": {"path": "clip.mp4", "fps": 1, "frames": 2}},
        "a video is sampled by frames or by fps: give one of them",
    ),
    "frames": (
        {"conversations": turns("<video>", "x"), "video": {"path": "clip.mp4", "frames": 0}},
        "frames 0: expected a whole number from 1 to 4096",
    ),
    "fps": (
        {"conversations": turns("<video>", "x"), "video": {"path": "clip.mp4", "fps": "fast"}},
        "fps 'fast': expected a number above 0",
    ),
    "an unknown key": (
        {"conversations": turns("<video>", "x"), "video": {"path": "clip.mp4", "start": 3}},
        "unknown key 'start' of a video; possible: bytes, base64, data, video",
    ),
    "an image as a video": (
        messages({"type": "video_url", "video_url": {"url": "data:image/png;base64,AA"}}),
        "holds image/png, not a video; give it as a part of type 'image'",
    ),
    "a video as an image": (
        messages({"type": "image_url", "image_url": {"url": INLINE}}),
        "holds video/mp4, not an image; give it as a part of type 'video'",
    ),
    "a list of frames": (
        messages({"type": "video", "video": ["red.png", "blue.png"]}),
        "a video as a list of frames is not read; give the frames as images",
    ),
    "sampling of no video": (
        messages({"type": "video", "fps": 1}, videos=["clip.mp4"]),
        "fps of a video that the row names; give it there",
    ),
    "no place": (
        {"conversations": turns("what?", "x"), "video": "clip.mp4"},
        "0 <image> or <video> in the human turns, but 0 images and 1 videos",
    ),
    "no video": (
        {"conversations": turns("<video>\nwhat?", "x"), "image": "red.png"},
        "'<video>' is not read; the placeholder of an image is '<image>'",
    ),
    "an image's place": (
        {"conversations": turns("<image> <image>", "x"), "image": "red.png", "video": "clip.mp4"},
        "2 <image> or <video> in the human turns, but 1 images and 1 videos",
    ),
    "both spellings": (
        {"conversations": turns("<video>", "x"), "video": "clip.mp4", "videos": ["clip.mp4"]},
        "videos under both 'video' and 'videos'",
    ),
    "an answer's": (
        {
            "messages": [
                user(text("a")),
                {"role": "assistant", "content": [{"type": "video", "video": "clip.mp4"}]},
            ]
        },
        "in a turn of 'assistant'; only the user's turns may have",
    ),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_video_of_a_row(folder, write, name):
    row, message = BAD[name]
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        write(folder, row)[0]


@pytest.mark.parametrize("write", [llava, columns])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("http://127.0.0.1:9/a.mp4", "training downloads no images"),
        ("file:///etc/passwd", "must be a name inside"),
        ("../clip.mp4", "must be a name inside"),
        ("pipe:0", "must be a name inside"),
        ("concat:clip.mp4|clip.mp4", "is missing"),
        ("none.mp4", "is missing"),
    ],
)
def test_names_of_videos_are_files_inside_the_folder(folder, write, path, message):
    row = {"conversations": turns("<video>", "x"), "video": path}
    with pytest.raises(BadSample, match=message):
        write(folder, row, images=str(folder))[0]


def test_an_image_named_as_a_video_and_back(folder):
    """The name's extension says nothing: what a file is shows when it is read."""
    (folder / "red.mp4").write_bytes((folder / "red.png").read_bytes())
    row = llava(folder, {"conversations": turns("<video>", "x"), "video": "red.mp4"})[0]
    with pytest.raises(BadSample, match=r"red.mp4: an image \(PNG\), not a video; give it as an image"):
        sample_video(row["image"][0].file, Sampling(frames=2), np.asarray)


def test_a_digest_covers_content_and_sampling(folder):
    def digest(sampling=None, data=CLIP):
        (folder / "clip.mp4").write_bytes(data)
        source = VideoSource(str(folder / "clip.mp4"), sampling)
        return digests.of_images([source])

    plain = digest()
    assert digest() == plain
    assert digest(Sampling(frames=3)) not in (plain, digest(Sampling(frames=4)))
    assert digest(data=CLIP[:-1] + b"x") != plain
    row = {"conversations": turns("<video>", "x"), "video": "clip.mp4"}
    before = llava(folder, row).digest()
    (folder / "clip.mp4").write_bytes(CLIP + b"x")
    assert llava(folder, row).digest() != before


def test_names_tell_samplings_apart(folder):
    row = messages(
        {"type": "video", "video": "clip.mp4", "fps": 1}, {"type": "video", "video": "clip.mp4", "fps": 2}
    )
    names = [image_name(image) for image in llava(folder, row)[0]["image"]]
    assert len(set(names)) == 2
    assert all(name.startswith(str(folder / "clip.mp4")) for name in names)
