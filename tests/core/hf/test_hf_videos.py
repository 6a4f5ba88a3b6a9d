"""Videos through transformers' processor: files and frames, in every form that callers use."""

import numpy as np
import pytest
import torch
from PIL import Image
from videos import picture, video

import vlm_core.hf  # noqa: F401  transformers' Auto classes know it from here on
from vlm_core.errors import BadSample, UserError
from vlm_core.generation.answer import answer
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.video.sources import VideoSource
from vlm_core.model_folder.assemble import load
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.views.image_views import ImageViews

QUESTION = "is there a circle?"
FRAMES = np.stack([picture(number, (40, 30)) for number in range(3)])
PICTURES = [Image.fromarray(frame) for frame in FRAMES]


@pytest.fixture(scope="module", autouse=True)
def calm(one_thread):
    pass


@pytest.fixture(scope="module")
def ours(tiny_folder):
    return load(tiny_folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    path.write_bytes(video(frames=12, gop=4))
    return path


def frames_of(ours, pictures=PICTURES):
    return ImageViews(torch.stack([ours[0].encoder.transform(image) for image in pictures]))


def written(ours, *media):
    """The prompt of these media, a line each, and the question."""
    model, spec = ours
    parts = (*[part for _ in media for part in (IMAGE, "\n")], QUESTION)
    counts = [model.image_tokens(medium) for medium in media]
    return render(spec.template, [Message("user", parts)], model.llm.tokenizer, counts)


FORMS = {
    "images": PICTURES,
    "several videos": [PICTURES],
    "rows": [[PICTURES]],
    "array": FRAMES,
    "channels first": FRAMES.transpose(0, 3, 1, 2),
    "tensor": torch.from_numpy(FRAMES),
    "arrays": list(FRAMES),
    "several arrays": [FRAMES],
}


@pytest.mark.parametrize("form", FORMS)
def test_frames_in_every_form_are_one_video(ours, processor, form):
    inputs = processor(videos=FORMS[form], text=QUESTION)
    prompt, views = written(ours, frames_of(ours)), frames_of(ours)
    assert inputs["input_ids"][0].tolist() == prompt.input_ids
    assert inputs["image_mask"][0].tolist() == prompt.image_mask
    assert torch.equal(inputs["pixel_values"], views.values)


def test_a_file_is_sampled_as_the_spec_says(ours, processor, clip):
    source = ours[0].video_processor(VideoSource(clip))
    for given in (clip, str(clip), [clip], [[str(clip)]]):
        inputs = processor(videos=given, text=QUESTION)
        assert torch.equal(inputs["pixel_values"], source.values)
    assert len(source.values) == 8


def test_generate_answers_as_we_do(ours, model, processor, clip):
    """Images, videos and text alone in one batch."""
    inputs = processor(
        images=[[PICTURES[0]], None, None], videos=[[PICTURES], [str(clip)], None], text=[QUESTION] * 3
    )
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    mine = ours[0]
    media = [
        [mine.image_processor(PICTURES[0]), frames_of(ours)],
        [mine.video_processor(VideoSource(clip))],
        [],
    ]
    prompts = [written(ours, *row) for row in media]
    expected = answer(mine, prompts, [one for row in media for one in row], decoding=GenerationConfig(6))
    texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :])
    assert [text.strip() for text in texts] == expected


def test_messages_have_videos(processor, clip):
    content = [
        {"type": "video", "video": PICTURES},
        {"type": "image", "image": PICTURES[0]},
        {"type": "text", "text": QUESTION},
    ]
    options = {"tokenize": True, "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    assert len(inputs["pixel_values"]) == 4
    for key in ("video", "path", "url"):
        item = {"type": "video", key: str(clip)}
        turns = [{"role": "user", "content": [item, {"type": "text", "text": QUESTION}]}]
        inputs = processor.apply_chat_template(turns, **options)
        assert torch.equal(inputs["input_ids"], processor(videos=clip, text=QUESTION)["input_ids"])


def turns(mark):
    return [{"from": "human", "value": f"{mark}\n{QUESTION}"}, {"from": "gpt", "value": "no"}]


@pytest.mark.parametrize("column", ["video", "videos"])
def test_the_collator_reads_videos_of_rows(processor, clip, column):
    collate = processor.data_collator()
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "no"}]
    for value in (clip, [clip], PICTURES):
        rows = [
            {column: value, "conversations": turns("<video>")},
            {column: value, "conversations": turns("<image>")},
            {column: value, "messages": messages},
            {column: value, "prompt": QUESTION, "completion": "no"},
        ]
        one, *others = [collate([row]) for row in rows]
        assert len(one["pixel_values"]) == (3 if value is PICTURES else 8)
        for other in others:
            assert torch.equal(one["input_ids"], other["input_ids"])
            assert torch.equal(one["labels"], other["labels"])


def test_images_and_videos_of_a_row_stand_at_their_marks(processor):
    row = {"image": PICTURES[0], "video": PICTURES, "conversations": turns("<video><image>")}
    other = {**row, "conversations": turns("<image><video>")}
    collate = processor.data_collator()
    first, second = (collate([r])["pixel_values"] for r in (row, other))
    assert torch.equal(first[3], second[0])
    assert torch.equal(first[:3], second[1:])
    literal = collate([{"conversations": turns("<video>")}])
    assert "pixel_values" not in literal, "without videos <video> is text, as in vlm-train"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1], "a video must be a path, a list of images or an array of frames, not int"),
        ("https://host/a.mp4", "videos are not downloaded"),
        (FRAMES.astype(np.float32), "torch.float32 of shape"),
        (FRAMES[..., :2], "expected bytes"),
        (FRAMES[:0], "torch.uint8 of shape"),
        ([PICTURES, PICTURES, [PICTURES]], "1 texts but videos for 3"),
    ],
)
def test_other_videos_are_refused(processor, given, message):
    with pytest.raises(UserError, match=message):
        processor(videos=given, text=QUESTION)


def test_a_file_that_is_no_video_is_named(processor, tmp_path):
    (tmp_path / "photo.mp4").write_text("no video")
    for name in ("photo.mp4", "none.mp4"):
        with pytest.raises(BadSample, match=name):
            processor(videos=tmp_path / name, text=QUESTION)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"video": "a.mp4", "videos": ["a.mp4"], "conversations": turns("<video>")},
            "it has video and videos",
        ),
        ({"video": PICTURES, "conversations": turns("which way?")}, "0 places of videos but 1 videos"),
        ({"video": PICTURES, "conversations": turns("<video><video>")}, "2 places of videos but 1 videos"),
    ],
)
def test_rows_whose_videos_have_no_place(processor, row, message):
    with pytest.raises(UserError, match=message):
        processor.data_collator()([row])
