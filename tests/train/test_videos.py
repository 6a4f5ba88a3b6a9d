"""Training on videos, with images and text: token counts, exact resume, answers in batches, bad videos."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from resume_helpers import go, losses, weights
from videos import video

from vlm_core.errors import UserError
from vlm_core.io.video.sources import Sampling, VideoSource
from vlm_core.model_folder.assemble import build
from vlm_core.rows import Rows
from vlm_core.spec.spec import load_spec
from vlm_core.text.render import TooLong
from vlm_train.cli import main
from vlm_train.config.evaluation import HeldOutQA
from vlm_train.config.section import train_section
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import sample_processor
from vlm_train.data.mixture import joined
from vlm_train.data.order.row_lengths import image_positions, sizes_of, video_frames
from vlm_train.evaluation.held_out import ask
from vlm_train.feature_cache.size import estimate_cache_size

CLIPS = {f"clip{k}.mp4": {"frames": 10 + k, "gop": 5} for k in range(3)}


@pytest.fixture
def video_spec(run_spec, tmp_path):
    """As `run_spec`, with a video in every third row, alone, beside an image, or sampled in its own way."""
    path = run_spec()
    for name, options in CLIPS.items():
        (tmp_path / name).write_bytes(video(**options))
    rows = json.loads((tmp_path / "data.json").read_text())
    shapes = (
        {"video": "clip0.mp4"},
        {"video": {"path": "clip1.mp4", "fps": 4}},
        {"video": "clip2.mp4", "image": "red.png"},
    )
    for k, row in enumerate(rows[::3]):
        row.pop("image", None)
        row.update(shapes[k % 3])
        marks = "<video> <image>" if "image" in row else "<video>"
        row["conversations"][0]["value"] = f"{marks}\nwhich way?"
        row["id"] = f"video {k}"
    (tmp_path / "data.json").write_text(json.dumps(rows))
    text = path.read_text()
    path.write_text(text + "views: {video: {frames: 3}}\n")
    return path


def processor_of(path):
    spec, document = load_spec(path)
    train = train_section(spec, document)
    model = build(spec)
    return model, sample_processor(model, spec, train, train.stages[0]), train.stages[0].data[0].rows()


def test_a_video_is_one_slot_of_all_its_frames(video_spec):
    model, processor, rows = processor_of(video_spec)
    tokens = model.image_tokens_by_default
    for row, frames in ((rows[0], [3]), (rows[3], [5]), (rows[6], [3, None])):
        example = processor.read(row)
        assert [len(image) if image.ndim == 4 else None for image in map(as_pixels, example.images)] == frames
        counts = [model.image_tokens(image) for image in example.images]
        assert counts == [(count or 1) * tokens for count in frames]
        assert sum(example.sample.image_mask) == sum(counts)
        for image, source in zip(example.images, row["image"], strict=True):
            if isinstance(source, VideoSource):
                assert processor.video.layout(source).views == len(image), "known before decoding"


@pytest.mark.parametrize("views", ["views: {video: {frames: 3}}", ""])
def test_grouping_by_length_counts_the_frames(video_spec, views, monkeypatch):
    """Also where the spec says nothing of videos; nothing is decoded, and rows without a video are not read."""
    video_spec.write_text(video_spec.read_text().replace("views: {video: {frames: 3}}", views))
    model, processor, rows = processor_of(video_spec)
    images = [processor.images(rows[r]) for r in range(len(rows))]
    expected = [sum(map(model.image_tokens, those)) for those in images]
    monkeypatch.setattr("vlm_core.views.video_views.sample_video", lambda *_: pytest.fail("was decoded"))
    seen, read = [], type(rows).row
    monkeypatch.setattr(type(rows), "row", lambda self, index: seen.append(index) or read(self, index))
    sizes = sizes_of(rows)
    assert image_positions(rows, model, sizes).tolist() == expected
    assert seen == np.flatnonzero(sizes[:, 2]).tolist() == list(range(0, len(rows), 3))
    frames = [sum(len(i.pixels) for i in those if not isinstance(i, torch.Tensor)) for those in images]
    assert video_frames(rows, model, sizes).tolist() == frames


def test_headers_that_cannot_be_read_are_counted(video_spec, tmp_path, caplog):
    (tmp_path / "clip0.mp4").write_bytes(video()[:200])
    model, _, rows = processor_of(video_spec)
    tokens = model.image_tokens_by_default
    positions = image_positions(rows, model, sizes_of(rows))
    assert [positions[row] for row in (0, 3, 6)] == [0, 5 * tokens, 4 * tokens]
    assert "sizes of videos: the headers of 1 of 3 can't be read; their rows will be bad rows" in caplog.text


def test_an_index_of_another_shape_is_refused():
    class Pairs(Rows):
        def __len__(self):
            return 2

        def row(self, index):
            return {}

        def sizes(self):
            return np.zeros((2, 2), dtype=np.int64)

    with pytest.raises(
        UserError, match=r"Pairs.sizes\(\) returned an array of shape \(2, 2\); expected \(2, 3\)"
    ):
        sizes_of(Pairs())


def as_pixels(image):
    return image if isinstance(image, torch.Tensor) else image.pixels


def test_the_spec_says_how_videos_are_sampled(video_spec):
    assert processor_of(video_spec)[1].video.sampling == Sampling(frames=3)
    for keys, message in (
        ("{frames: 3, fps: 1}", "a video is sampled by frames or by fps"),
        ("{}", "a video is sampled by frames or by fps"),
        ("{max_frames: 3, frames: 2}", "max_frames is for fps"),
        ("{frames: 0}", "greater than or equal to 1"),
    ):
        text = video_spec.read_text().replace("{frames: 3}", keys)
        other = video_spec.with_name("other.yaml")
        other.write_text(text)
        with pytest.raises(UserError, match=message):
            load_spec(other)


def test_a_run_with_videos_goes_on_exactly(video_spec, killed_at):
    whole, _ = go(video_spec)
    assert whole.finished()
    assert not [m for m in whole.metrics() if m.get("dropped")]
    killed_at(0, 3)
    output = f"train.output={video_spec.parent / 'again'}"
    with pytest.raises(KeyboardInterrupt):
        go(video_spec, output)
    again, _ = go(video_spec, output)
    assert losses(again) == losses(whole)
    ours, theirs = weights(again), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_video_is_other_data(video_spec, killed_at, tmp_path):
    killed_at(0, 3)
    with pytest.raises(KeyboardInterrupt):
        go(video_spec)
    (tmp_path / "clip1.mp4").write_bytes(video(frames=11, gop=6))
    with pytest.raises(UserError, match=r"inputs differ in\s+train\.stages\.0\.data\.0"):
        go(video_spec)


def test_check_counts_bad_videos_and_missing_frames(video_spec, tmp_path, monkeypatch, capsys):
    clip = tmp_path / "clip0.mp4"
    webm = video("webm", frames=20, gop=5)
    clip.write_bytes(webm[: len(webm) * 7 // 10])
    (tmp_path / "clip1.mp4").write_bytes((tmp_path / "red.png").read_bytes())
    report = tmp_path / "bad.jsonl"
    monkeypatch.setattr("sys.argv", ["vlm-train", "check", str(video_spec), "--report", str(report)])
    assert main.main() == 1
    out = capsys.readouterr().out
    assert "not-a-video 2" in out
    assert "missing or damaged frames: 2, in 2 videos" in out, out
    faults = [json.loads(line) for line in report.read_text().splitlines()]
    assert {fault["reason"] for fault in faults} == {"not-a-video"}
    assert {fault["name"] for fault in faults} == {"video 1", "video 4"}


def test_answers_do_not_depend_on_the_batch(video_spec):
    model, processor, rows = processor_of(video_spec)
    answers = []
    for size in (1, 2, 3, 8):
        settings = HeldOutQA.model_construct(max_new_tokens=6, batch_size=size)
        answers.append([answer.text for answer in ask(model.eval(), list(rows), processor, settings)])
    assert all(texts == answers[0] for texts in answers)


def test_cached_features_of_frames_are_those_of_the_encoder(video_spec, tmp_path):
    """A stage with a frozen encoder reads frames from the cache; each frame is computed once."""
    plain, _ = go(video_spec)
    spec = yaml.safe_load(video_spec.read_text())
    spec["train"] |= {
        "feature_cache": {"path": str(tmp_path / "features")},
        "output": str(tmp_path / "cached"),
    }
    video_spec.write_text(yaml.safe_dump(spec))
    cached, _ = go(video_spec)
    assert list((tmp_path / "features").rglob("*.data"))
    model, processor, rows = processor_of(video_spec)
    train = TrainConfig.model_validate(spec["train"])
    stage = train.stages[0].model_copy(update={"steps": None})
    views = [1 if i.ndim == 3 else len(i) for r in rows for i in map(as_pixels, processor.images(r))]
    line = estimate_cache_size(model, train, stage, joined(stage.data))
    assert line is not None
    assert f"at most {sum(views)} images and frames of" in line
    for one, other in zip(losses(plain), losses(cached), strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], rel=1e-4)


def test_a_video_that_does_not_fit_is_refused_before_it_is_decoded(video_spec, monkeypatch):
    _, processor, rows = processor_of(video_spec)
    long = dataclasses.replace(
        processor, max_length=20, video=dataclasses.replace(processor.video, sampling=Sampling(9))
    )
    monkeypatch.setattr("vlm_core.views.video_views.sample_video", None)
    with pytest.raises(TooLong, match=r"9 views of 4 and \d+ tokens are \d+; max_length is 20"):
        long.read(rows[0])


def test_videos_beside_tiles(video_spec):
    """A frame has one view where an image has tiles; counts, batches and answers are the same together."""
    tiles = "views: {tiles: dynamic, max_tiles: 3, overview: true, video: {frames: 3}}"
    video_spec.write_text(video_spec.read_text().replace("views: {video: {frames: 3}}", tiles))
    model, processor, rows = processor_of(video_spec)
    example = processor.read(rows[6])
    video_views, image_views = example.images
    assert len(video_views) == 3
    assert len(image_views) > 1
    tokens = model.image_tokens_by_default
    assert sum(example.sample.image_mask) == (len(video_views) + len(image_views)) * tokens
    answers = []
    for size in (1, 2, 3, 8):
        settings = HeldOutQA.model_construct(max_new_tokens=4, batch_size=size)
        answers.append([answer.text for answer in ask(model.eval(), list(rows), processor, settings)])
    assert answers[1:] == answers[:1] * 3
