"""The state of a stream in a file: what is watched after it has the bits of never having stopped."""

import pytest
import torch
from state_file_cases import manifest_of, rewrite
from watch_cases import LLAVA, QUESTION, frames, on_transformers, watched

from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.session_file import load_session, read_manifest
from vlm_core.generation.watch.kept_states import Keep
from vlm_core.generation.watch.stream_file import load_stream, save_stream
from vlm_core.generation.watch.watcher import FrameLimit
from vlm_core.text.template import TEMPLATES

SHORT_ANSWER = GenerationConfig(max_new_tokens=6)


@pytest.fixture
def model(tiny_model):
    return tiny_model


def read(model, seen, *, as_video=False):
    watcher = Session(model).watch(seen, LLAVA, record=True, as_video=as_video)
    list(watcher)
    return watcher


def logits(watcher):
    return watcher.fork()._asked([QUESTION]).next_logits


@pytest.mark.parametrize("as_video", [False, True])
@pytest.mark.parametrize("split", [1, 3])
def test_a_stream_continues_bit_by_bit(model, tmp_path, as_video, split):
    seen = frames(5)
    save_stream(read(model, seen[:split], as_video=as_video), tmp_path / "s")
    resumed = load_stream(tmp_path / "s", model, LLAVA, seen[split:])
    list(resumed)
    whole = read(model, seen, as_video=as_video)
    assert torch.equal(logits(resumed), logits(whole))
    assert resumed.read == whole.read
    assert (resumed.frames, resumed.time, resumed.as_video) == (5, 4, as_video)
    save_stream(resumed, tmp_path / "resumed")
    save_stream(whole, tmp_path / "whole")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_transformers_cache_continues(tmp_path_factory):
    model, folder = on_transformers(tmp_path_factory.mktemp("llm"), "llama"), tmp_path_factory.mktemp("s")
    seen = frames(3)
    save_stream(read(model, seen[:2]), folder / "s")
    resumed = load_stream(folder / "s", model, LLAVA, seen[2:])
    list(resumed)
    assert torch.equal(logits(resumed), logits(read(model, seen)))


def test_questions_alone(model, tmp_path):
    watcher = read(model, frames(3))
    save_stream(watcher, tmp_path / "s")
    resumed = load_stream(tmp_path / "s", model, LLAVA)
    questions = ["red?", QUESTION]
    assert resumed.fork().answers(questions, SHORT_ANSWER) == watcher.fork().answers(questions, SHORT_ANSWER)


def test_what_the_manifest_says(model, tmp_path):
    watcher = read(model, frames(4, seconds=2.0))
    save_stream(watcher, tmp_path / "s")
    manifest = read_manifest(tmp_path / "s")
    assert manifest.stream.model_dump() == {"frames": 4, "time": 6.0, "as_video": False}
    (piece,) = manifest.read
    assert (piece.kind, piece.tokens) == ("frames", manifest.positions)
    whole = watcher._prompt.whole("", [model.image_tokens(pixels) for _, pixels in frames(4)])
    last = max(i for i, image in enumerate(whole.image_mask) if image)
    assert manifest.positions == last + 1


def test_the_digest_is_that_of_the_frames_in_order(model):
    seen = [pixels for _, pixels in frames(3)]
    digests = [
        read(model, enumerate(images)).read.sha256
        for images in (seen, list(seen), seen[::-1], seen[:2], [*seen[:2], seen[2] + 1])
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_times_kept_states_and_limits_go_on(model, tmp_path):
    save_stream(read(model, frames(3, seconds=10.0)), tmp_path / "s")
    later = [(time + 20.0, pixels) for time, pixels in frames(3, seconds=10.0)]
    resumed = load_stream(tmp_path / "s", model, LLAVA, later, keep=Keep(every=15), max_frames=5)
    assert resumed.kept.times == [20]
    assert resumed.at("0:20").frames == 3
    with pytest.raises(UserError, match=r"the oldest kept state is that at 00:00:20"):
        resumed.at(10)
    with pytest.raises(UserError, match="comes after that at 00:00:20"):
        resumed.append(19, later[0][1])
    with pytest.raises(FrameLimit, match="5 frames have been read"):
        list(resumed)
    assert resumed.kept.times == [20, 30]


def test_what_cannot_be_saved(model, tmp_path):
    with pytest.raises(UserError, match="nothing to save: no frame has been read"):
        save_stream(Session(model).watch([], LLAVA, record=True), tmp_path / "s")
    with pytest.raises(AssertionError, match="record=True"):
        save_stream(watched(model, frames(1)), tmp_path / "s")
    (tmp_path / "photo.png").write_text("precious")
    with pytest.raises(UserError, match="exists and is no state file"):
        save_stream(read(model, frames(1)), tmp_path / "photo.png")


def test_files_of_other_kinds_are_refused(model, tmp_path):
    save_stream(read(model, frames(2)), tmp_path / "stream")
    talk = Conversation(model, LLAVA)
    list(talk.ask("red?", SHORT_ANSWER))
    talk.save(tmp_path / "talk")
    with pytest.raises(UserError, match="talk: the state of a conversation or session, not of a stream"):
        load_stream(tmp_path / "talk", model, LLAVA)
    for load in (load_session, Conversation.load):
        with pytest.raises(UserError, match="stream: the state of a stream, not of a session"):
            load(tmp_path / "stream", model, LLAVA)
    with pytest.raises(UserError, match="template: other patterns"):
        load_stream(tmp_path / "stream", model, TEMPLATES["short"])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"stream": {"frames": 0, "time": 1.0}}, "damaged: stream.frames"),
        ({"stream": {"frames": 2, "time": -1.0}}, "damaged: stream.time"),
        ({"stream": {"frames": 2, "time": 1.0, "more": 1}}, "damaged: stream.more"),
        ({"sequences": 2}, "damaged: a stream has one sequence"),
        ({"ends": [[1]]}, "damaged: a stream has no messages"),
        ({"positions": 7}, "damaged: positions is 7"),
    ],
)
def test_lying_manifests(model, tmp_path, facts, message):
    save_stream(read(model, frames(2)), file := tmp_path / "s")
    rewrite(file, facts=facts)
    with pytest.raises(UserError, match=message):
        load_stream(file, model, LLAVA)


def test_other_tensors(model, tmp_path):
    save_stream(read(model, frames(2)), file := tmp_path / "s")
    rewrite(file, {"image.0": torch.zeros(1)})
    with pytest.raises(UserError, match=r"damaged: unexpected tensor 'image.0'"):
        load_stream(file, model, LLAVA)
    rewrite(file, {"image.0": None, "state.ssm": torch.zeros(2, 2)})
    with pytest.raises(UserError, match="'ssm' has shape"):
        load_stream(file, model, LLAVA)
    assert manifest_of(file)["stream"]["frames"] == 2
