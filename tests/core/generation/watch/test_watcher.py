"""Watching: frames read as they come equal the frames read at once, and forks leave the watcher alone."""

import logging

import pytest
import torch
from PIL import Image
from watch_cases import LLAVA, QUESTION, QUESTIONS, at_once, frames, on_transformers, watched

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.watch.kept_states import Keep
from vlm_core.generation.watch.prompt import WatchPrompt, question_about
from vlm_core.generation.watch.watcher import FrameLimit
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES, Template
from vlm_core.views.image_views import ImageViews

SHORT_ANSWER = GenerationConfig(max_new_tokens=8)


def known(model, logits):
    """Without the ids that only pad the vocabulary."""
    return logits[:, : len(model.llm.tokenizer)]


@pytest.mark.parametrize(
    "template", [LLAVA, TEMPLATES["short"], TEMPLATES["vicuna"]], ids=["llava", "short", "vicuna"]
)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_frames_as_they_come_equal_frames_at_once(tiny_model, template, count):
    """Products of other shapes round otherwise: logits are within 1e-5, answers equal."""
    seen = frames(count)
    whole = at_once(tiny_model, seen, QUESTION, template)
    fork = watched(tiny_model, seen, template).fork()
    logits = known(tiny_model, fork._asked([QUESTION]).next_logits)
    torch.testing.assert_close(logits, known(tiny_model, whole.next_logits), rtol=0, atol=1e-5)
    assert fork.answers([QUESTION], SHORT_ANSWER) == whole.generate(SHORT_ANSWER)
    assert (fork.frames, fork.time) == (count, count - 1)


def test_the_same_pieces_give_the_same_bits(tiny_model):
    """A prompt read with `prefill` in the pieces of a watcher: nothing but the pieces makes a difference."""
    seen = frames(4)
    whole = WatchPrompt(LLAVA, tiny_model.llm.tokenizer).whole(
        QUESTION, [tiny_model.image_tokens(p) for _, p in seen]
    )
    ends = [i + 1 for i, image in enumerate(whole.image_mask) if image and not whole.image_mask[i + 1]]
    session = Session(tiny_model)
    for start, end, (_, pixels) in zip([0, *ends], ends, seen, strict=False):
        session.prefill([whole.part(start, end)], [pixels])
    session.prefill([whole.part(ends[-1])])
    fork = watched(tiny_model, seen).fork()
    assert torch.equal(fork._asked([QUESTION]).next_logits, session.next_logits)


@pytest.mark.parametrize("count", [1, 4])
def test_frames_of_one_video_equal_the_video_at_once(tiny_model, count):
    """As a row with a video is trained on: one slot, no text between frames."""
    seen = frames(count)
    video = ImageViews(torch.stack([pixels for _, pixels in seen]))
    message = Message("user", (IMAGE, "\n", QUESTION))
    prompt = render(LLAVA, [message], tiny_model.llm.tokenizer, [tiny_model.image_tokens(video)])
    whole = Session(tiny_model)
    whole.prefill([prompt], [video])
    watcher = Session(tiny_model).watch(seen, LLAVA, as_video=True)
    list(watcher)
    logits = known(tiny_model, watcher.fork()._asked([QUESTION]).next_logits)
    torch.testing.assert_close(logits, known(tiny_model, whole.next_logits), rtol=0, atol=1e-5)
    as_images = known(tiny_model, watched(tiny_model, seen).fork()._asked([QUESTION]).next_logits)
    assert torch.equal(logits, as_images) == (count == 1)


AROUND = Template(user="U: {text}", assistant=" {text}{eos}", image="<{image}{eos}> ")
FITTING = {name: TEMPLATES[name] for name in ("plain", "llava-v1", "vicuna", "short", "cobra", "zephyr")}


@pytest.mark.parametrize("name", [*FITTING, "around"])
def test_the_parts_of_a_prompt_are_those_of_the_template(tiny_model, name):
    template = {**FITTING, "around": AROUND}[name]
    question = "" if name == "plain" else "<image> and {eos}?"
    parts = WatchPrompt(template, tiny_model.llm.tokenizer)
    whole = render(template, [question_about(3, question)], tiny_model.llm.tokenizer, [2, 2, 2])
    image, after = [0, 0], parts.after(question)
    assert parts.before + image + 2 * (parts.between + image) + after.input_ids == whole.input_ids
    assert after.end == whole.end


def test_a_question_before_the_images_is_refused(tiny_model):
    def render_swapped(template, messages, tokenizer, image_tokens):
        (message,) = messages
        *images, question = message.parts
        return render(template, [Message("user", (question, *images))], tokenizer, image_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_core.generation.watch.prompt.render", render_swapped)
        with pytest.raises(UserError, match="the question before the images"):
            WatchPrompt(LLAVA, tiny_model.llm.tokenizer)


def test_images_and_pixels_are_read_alike(tiny_model):
    image = Image.radial_gradient("L").convert("RGB")
    pixels = tiny_model.encoder.transform(image)
    one, other = (watched(tiny_model, [(0, frame)]).fork() for frame in (image, pixels))
    assert torch.equal(one._asked([QUESTION]).next_logits, other._asked([QUESTION]).next_logits)


def test_forks_do_not_disturb_the_watcher(tiny_model):
    """Answers to questions asked between frames, and to the same ones again later."""
    seen = frames(6)
    watcher, answers, forks = Session(tiny_model).watch(seen, LLAVA), [], []
    for _ in watcher:
        forks.append(watcher.fork())
        answers.append(forks[-1].answers(QUESTIONS, SHORT_ANSWER))
    undisturbed = watched(tiny_model, seen)
    for own, other in zip(watcher._session.state, undisturbed._session.state, strict=True):
        assert torch.equal(own.ssm, other.ssm)
        assert torch.equal(own.conv, other.conv)
    assert [fork.answers(QUESTIONS, SHORT_ANSWER) for fork in forks] == answers
    assert [fork.frames for fork in forks] == [1, 2, 3, 4, 5, 6]


def test_an_answer_may_be_left_early(tiny_model):
    watcher = watched(tiny_model, frames(2))
    answer = watcher.fork().ask(QUESTION, SHORT_ANSWER)
    next(answer)
    watcher.append(2.0, frames(3)[2][1])
    rest = "".join(answer)
    assert watcher.frames == 3
    assert "".join(watched(tiny_model, frames(2)).fork().ask(QUESTION, SHORT_ANSWER)).endswith(rest)


def test_a_batch_of_questions_equals_each_alone(tiny_model):
    fork = watched(tiny_model, frames(3)).fork()
    together = fork.answers(QUESTIONS, SHORT_ANSWER)
    assert together == [fork.answers([question], SHORT_ANSWER)[0] for question in QUESTIONS]
    assert together == ["".join(fork.ask(question, SHORT_ANSWER)).strip() for question in QUESTIONS]
    assert fork.answers([]) == []


def test_a_question_before_the_first_frame(tiny_model):
    fork = Session(tiny_model).watch([], LLAVA).fork()
    assert (fork.frames, fork.time, fork.nbytes) == (0, None, 0)
    expected = at_once(tiny_model, [], QUESTION).generate(SHORT_ANSWER)
    assert fork.answers([QUESTION], SHORT_ANSWER) == expected
    assert fork.answers([QUESTION, QUESTION], SHORT_ANSWER) == 2 * expected


def test_a_small_prefill_chunk_is_kept_to(tiny_model, monkeypatch):
    seen, lengths = frames(3), []
    forward = type(tiny_model.llm).forward
    monkeypatch.setattr(
        type(tiny_model.llm),
        "forward",
        lambda self, x, **more: lengths.append(x.shape[1]) or forward(self, x, **more),
    )
    watcher = Session(tiny_model, prefill_chunk=3).watch(seen, LLAVA)
    list(watcher)
    assert max(lengths) == 3
    logits = watcher.fork()._asked([QUESTION]).next_logits
    expected = at_once(tiny_model, seen, QUESTION).next_logits
    torch.testing.assert_close(known(tiny_model, logits), known(tiny_model, expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "jamba"])
def test_transformers_answer_alike_and_say_that_their_state_grows(model_type, tmp_path_factory, caplog):
    """gemma2 allows no padding in between, jamba has recurrent layers."""
    model = on_transformers(tmp_path_factory.mktemp(model_type), model_type)
    with caplog.at_level(logging.WARNING, logger="vlm_core"):
        watcher = Session(model).watch(frames(4), TEMPLATES["short"])
        sizes = [watcher.nbytes for _ in watcher]
    assert sizes == sorted(set(sizes))
    assert [r.getMessage() for r in caplog.records if r.name.startswith("vlm_core")] == [
        f"this model's state grows with the frames, by {sizes[1] - sizes[0]} B with the second one; "
        "max_frames would limit it"
    ]
    fork, whole = watcher.fork(), at_once(model, frames(4), QUESTION, TEMPLATES["short"])
    logits = known(model, fork._asked([QUESTION]).next_logits)
    torch.testing.assert_close(logits, known(model, whole.next_logits), rtol=0, atol=1e-5)
    answers = fork.answers(QUESTIONS, SHORT_ANSWER)
    assert answers[1:2] == whole.generate(SHORT_ANSWER)


def test_a_state_of_constant_size_says_nothing(tiny_model, caplog):
    watcher = Session(tiny_model).watch(frames(5), LLAVA)
    assert len({watcher.nbytes for _ in watcher}) == 1
    assert not caplog.records


def test_the_limit_of_frames(tiny_model):
    watcher = Session(tiny_model).watch(frames(5), LLAVA, max_frames=3)
    with pytest.raises(FrameLimit, match=r"^3 frames have been read, as many as max_frames allows$"):
        list(watcher)
    expected = watched(tiny_model, frames(3)).fork().answers(QUESTIONS, SHORT_ANSWER)
    assert watcher.fork().answers(QUESTIONS, SHORT_ANSWER) == expected


@pytest.mark.parametrize(
    ("time", "image", "message"),
    [
        (0.5, torch.rand(3, 32, 32), "the frame at 00:00:00.50 comes after that at 00:00:01"),
        (float("nan"), torch.rand(3, 32, 32), "nan is no time"),
        (-1, torch.rand(3, 32, 32), "-1 is no time"),
        (2, torch.rand(1, 32, 32), r"a frame is torch.float32 of shape \(1, 32, 32\); expected floats"),
        (2, torch.rand(1, 3, 32, 32), r"of shape \(1, 3, 32, 32\)"),
        (2, torch.zeros(3, 32, 32, dtype=torch.uint8), "a frame is torch.uint8"),
    ],
)
def test_a_bad_frame_is_refused_and_changes_nothing(tiny_model, time, image, message):
    watcher = watched(tiny_model, frames(2))
    before = watcher._session.state
    with pytest.raises(UserError, match=message):
        watcher.append(time, image)
    assert watcher._session.state is before
    assert (watcher.frames, watcher.time) == (2, 1)


def test_wrong_settings_are_refused(tiny_model):
    with pytest.raises(UserError, match="max_frames is 0"):
        Session(tiny_model).watch([], LLAVA, max_frames=0)
    with pytest.raises(UserError, match="the session has read a prompt already"):
        at_once(tiny_model, frames(1), QUESTION).watch([], LLAVA)


def test_rewinding_equals_having_asked_then(tiny_model):
    """Bit by bit: the state that was kept is the one of then."""
    watcher, then = Session(tiny_model).watch(frames(200, 1.0), LLAVA, keep=Keep(every=60)), {}
    for time in watcher:
        then[time] = watcher.fork()
    assert watcher.kept.times == [0, 60, 120, 180]
    for asked, expected in [("00:01:00", 60), ("1:59", 60), (120, 120), (179.5, 120), ("199", 199), (0, 0)]:
        fork = watcher.at(asked)
        assert (fork.time, fork.frames) == (expected, expected + 1)
        logits = [f._asked([QUESTION]).next_logits for f in (fork, then[float(expected)])]
        assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("0:10", "^00:00:10: the oldest kept state is that at 00:01:40$"),
        ("3:21", "^00:03:21 has not come yet: the last frame is at 00:03:20$"),
        ("noon", "'noon' is no time; write 01:12:00"),
    ],
)
def test_a_time_that_cannot_be_gone_back_to(tiny_model, time, message):
    seen = [(100 + t, pixels) for t, pixels in frames(3, 50)]
    with pytest.raises(UserError, match=message):
        watched(tiny_model, seen, keep=Keep(every=10)).at(time)


def test_nothing_is_kept_if_nothing_is_to_be(tiny_model):
    watcher = watched(tiny_model, frames(3), keep=None)
    assert watcher.at(2).frames == 3
    with pytest.raises(UserError, match=r"^00:00:01: no state is kept$"):
        watcher.at(1)
    with pytest.raises(UserError, match="no frame has been read"):
        Session(tiny_model).watch([], LLAVA).at(0)
